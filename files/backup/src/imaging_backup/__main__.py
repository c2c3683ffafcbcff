"""`python3 -m imaging_backup` is the command."""

import sys

from imaging_backup.cli import main

sys.exit(main())
