"""What a clinic's id and a UID look like, as regular expressions."""

# Every other place that says it is compared with this one (tests/unit/policy/test_grammar.py).
CLINIC = r"[a-z0-9][a-z0-9-]{1,62}"
# PS3.5 9.1: digits and dots, at most 64. Leading zeros are taken, since some scanners write them. Possessive, so that a
# rule that does not fit gives up at once, instead of trying the UID again with every digit less.
UID = r"(?=[0-9.]{1,64}(?![0-9.]))[0-9]++(?:\.[0-9]++)*+"
