"""The form of a clinic's id and of a UID, as regular expressions."""

# A test compares every other copy with this one (tests/unit/policy/test_grammar.py).
CLINIC = r"[a-z0-9][a-z0-9-]{1,62}"
# PS3.5 9.1: digits and dots, at most 64. Leading zeros are accepted, because some scanners write them. The group is
# atomic: a rule that does not fit fails at once, and does not try the UID again with one digit less each time. It is
# not possessive: Python 3.11.2, which Debian 12 has, lets a possessive group take "1.2.".
UID = r"(?=[0-9.]{1,64}(?![0-9.]))(?>[0-9]+(?:\.[0-9]+)*)"
