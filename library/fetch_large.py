"""Documentation of the action `fetch_large`. Its code runs on the controller: playbooks/action_plugins."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fetch_large
short_description: Bring a file of any size from a host to the controller
description:
  - M(ansible.builtin.fetch) carries a file that only root may read through the memory of both ends, as a whole.
    This module carries it in pieces and compares the SHA-256. It uses the connection and the way of becoming root that
    the inventory says.
  - A file that is at C(dest) already is overwritten.
options:
  src: {type: path, required: true, description: The file on the host.}
  dest: {type: path, required: true, description: "The file on the controller. A new file has the mode 0600."}
attributes:
  check_mode: {support: none}
  diff_mode: {support: none}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Bring a backup to the controller
  fetch_large:
    src: /var/backups/imaging/dicom-backup-2026-05-04T021500Z.tar.zst
    dest: /root/dicom-backup-2026-05-04T021500Z.tar.zst
"""

RETURN = r"""
size: {description: Bytes that were brought., type: int, returned: success}
sha256: {description: Of the file at both ends., type: str, returned: success}
"""
