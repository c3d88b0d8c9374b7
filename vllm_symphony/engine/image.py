"""What programs find where they run (engine/image.py): Python, its library, a few packages; nothing is installed for one program.

The kernel compares a program's `dependencies` with it (kernel/program.py). The list is that of what the sandbox lets a program read
(runtime/sandbox/image.py); a test compares them.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("numpy",)


def image() -> dict[str, str]:
    """Distributions that programs may import, and `python`: name -> version."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
