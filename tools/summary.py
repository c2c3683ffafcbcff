#!/usr/bin/env python3
"""Say where the sandbox is, after `make up`; with `--notices`, only what is missing.

Passwords stay in the file. `make info` prints it whole: `--json`.
"""

import json
import sys
from pathlib import Path

if not Path(sys.argv[1]).exists():
    sys.exit(f"there is no sandbox whose state is in {Path(sys.argv[1]).parent}: `make up` makes one")
if "--json" in sys.argv:
    print(Path(sys.argv[1]).read_text(), end="")
    sys.exit()
info = json.loads(Path(sys.argv[1]).read_text())
notices = "".join(f"\n!!! {notice}\n" for notice in info["notices"])
if "--notices" in sys.argv:
    print(notices, end="")
    sys.exit()
print(
    f"""
The platform runs.

  Viewer          {info["url"]}/
  Accounts        {info["url"]}/auth/admin/imaging/console/   (a user with the role admin, who is asked
                  to set up an authenticator app on a phone at the first login)
  Authority       {info["ca_file"]}   (import it into the browser, once)
  Passwords       {info["credentials_file"]}   (mode 0600; `make info` prints it)
  Inbox           {info["container"]}:{info["inbox"]}/<clinic>/<study folder>/

Next: make demo
{notices}"""
)
