"""Certificates for doors with TLS; a fixture for the whole suite."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """A folder made by the recipe of docs/security.md, and beside it a CA that signed nothing of it."""
    (recipe,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "security.md").read_text(), re.DOTALL | re.MULTILINE)
    ours, theirs = tmp_path_factory.mktemp("tls"), tmp_path_factory.mktemp("tls")
    for folder in (ours, theirs):
        subprocess.run(["sh", "-ec", recipe], cwd=folder, check=True, capture_output=True)
    for name in ("ca.crt", "alice.crt", "alice.key"):
        shutil.copy(theirs / name, ours / f"other-{name}")
    return ours
