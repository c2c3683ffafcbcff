"""Shared by all tests."""

from __future__ import annotations

import os

# `make test` would hand its options down, and the make that a test runs would print its directory among its answers.
for name in ("MAKEFLAGS", "MAKELEVEL"):
    os.environ.pop(name, None)
