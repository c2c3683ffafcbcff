"""Documentation of the action `inventory_check`. Its code runs on the controller: playbooks/action_plugins."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inventory_check
short_description: Refuse an inventory that cannot work, before any host is touched
description:
  - Compares the variables of every host of the play with C(vars/schema.yml) and with each role's specification.
  - Finds missing, misspelt and unknown variables, and wrong types and choices. Also finds mistakes that only the
    platform knows, such as a bad domain, a user of a clinic that does not exist, or directories inside each other.
  - Fails with all problems at once. Each names the variable, where it was set, its value (never a secret) and what it
    takes.
  - Runs on the controller and connects to nothing.
options: {}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Check the variables of the platform
  inventory_check:
  run_once: true
"""

RETURN = r"""
msg: {description: What is wrong, one problem a line., type: str, returned: failure}
"""
