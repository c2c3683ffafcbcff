"""The forms of ids and names, as regular expressions. tests/unit/policy/test_grammar.py compares all other copies."""

CLINIC_ID = r"[a-z0-9][a-z0-9-]{1,62}"
USERNAME = r"[a-z0-9][a-z0-9._@-]{2,254}"
