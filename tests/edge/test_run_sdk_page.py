"""Each block of the SDK's page is a script that runs, against a served simulator."""

import re
import subprocess
import sys

import pytest

from tests import commanded
from tests.commanded import ROOT

PAGE = ROOT / "docs" / "sdk.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def environment(fresh_server):
    server = fresh_server("--device", "sim")
    yield commanded.environment(server.run_dir)
    server.stop()


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_a_block_of_the_page_is_a_script_that_runs(environment, tmp_path, block):
    script = tmp_path / "page.py"
    script.write_text(BLOCKS[block])

    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_page_has_its_blocks():
    assert len(BLOCKS) == 5
