"""Backs the platform up into one archive that proves itself, and restores it.

Read it from `create.py` (the way of a backup) and `restore.py` (the way back); `archive.py` is the format between them.
"""
