"""`python3 -m imaging_importer` is the command."""

import sys

from imaging_importer.cli import main

sys.exit(main())
