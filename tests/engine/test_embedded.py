"""The seam of host (b): a kernel inside vLLM's own EngineCore process computes what the own host and plain vLLM compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.driver import ids, logprobs
from tests.engine.embedded_main import NUM_TOKENS, PROGRAM_PROMPT

ROOT = Path(__file__).parents[2]
CLOSE = 1e-4


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """What the program and the plain requests in vLLM's process gave. The plugin is found by an entry point of its own, so that
    the test does not depend on how the package was installed."""
    folder = tmp_path_factory.mktemp("embedded")
    info = folder / "symphony_seam-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: symphony-seam\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nsymphony = vllm_symphony.engine.embedded:register\n")
    env = {**os.environ, "VLLM_PLUGINS": "symphony", "PYTHONPATH": f"{folder}:{ROOT}", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    command = [sys.executable, "-m", "tests.engine.embedded_main", str(folder / "s")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_kernel_lives_in_vllms_engine_process(embedded):
    assert embedded["attached"]["pid"] != embedded["pid"]
    assert embedded["program"]["info"]["kernel"]["files"] == 0


def test_its_forwards_are_plain_vllms_tokens(embedded):
    assert embedded["program"]["tokens"] == embedded["reference"] == embedded["program"]["fused"]


def test_plain_requests_beside_it_are_undisturbed(embedded):
    assert embedded["beside"] == embedded["before"]


def test_a_job_that_waits_only_for_a_file_to_become_stale_is_woken(embedded):
    assert embedded["after_waiting"] == 1


def test_its_forwards_are_the_own_hosts(embedded, dev):
    f, new = dev.create(), PROGRAM_PROMPT

    for token, theirs in zip(embedded["program"]["tokens"], embedded["program"]["logprobs"], strict=True):
        (d,) = dev.forward(f, new, top_k=5)
        assert logprobs(d) == pytest.approx(theirs, abs=CLOSE)
        assert ids(d)[0] == token
        new = [token]

    assert dev.lengths[f] == len(PROGRAM_PROMPT) + NUM_TOKENS - 1
    dev.drop(f)
