"""vLLM's own serving benchmark runs against us, by the line of docs/benchmarks.md, and no request fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dropin.server import TINY, Served

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.xdist_group("engine_b"), pytest.mark.timeout(400)]
NUM_PROMPTS, NUM_TOKENS = 12, 8
(LINE,) = re.findall(r"^python -m benchmarks.vllm_bench (.*)$", (ROOT / "docs" / "benchmarks.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("backend", "path"), [("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")])
def test_vllms_serving_benchmark_finds_no_failed_request(server_b: Served, tmp_path: Path, backend: str, path: str) -> None:
    theirs = LINE.replace("http://127.0.0.1:8000", server_b.http).replace("--model m", "--model tiny").replace("MODEL", str(TINY))
    words = (
        *theirs.replace("--num-prompts 200", f"--num-prompts {NUM_PROMPTS}").split(), "--backend", backend, "--endpoint", path,
        "--random-input-len", "40", "--random-output-len", str(NUM_TOKENS), "--ignore-eos", "--max-concurrency", "4",
        "--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json",
    )  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.vllm_bench", *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (NUM_PROMPTS, 0)
    assert result["total_output_tokens"] == NUM_PROMPTS * NUM_TOKENS
    assert result["mean_ttft_ms"] > 0 and result["mean_tpot_ms"] > 0
