"""Whose server this is (abi/user.py): the principal of the user that runs it."""

from __future__ import annotations

import getpass
import os


def own_user() -> str:
    """The user's name; a number where it has none, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())
