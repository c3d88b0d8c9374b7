"""The page on testing is a test file, and the examples' tests pass: under a pytest of their own, as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"


def run_pytest(path: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(path), str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_the_pages_blocks_are_tests_that_pass(tmp_path):
    source = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    (tmp_path / "test_page.py").write_text(source)

    assert run_pytest(tmp_path).startswith(
        f"{source.count('def test_') + 2 + 4 + 1} passed"
    )  # three are parametrized, by 3, 5 and 2


def test_the_examples_tests_pass():
    assert re.match(r"\d+ passed in ", run_pytest(ROOT / "examples" / "tests"))
