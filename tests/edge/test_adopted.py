"""The edge beside vLLM's own launch line (`serve --adopt`): it ends when the kernel is gone, whichever it hears of first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commanded import environment


class Adopted:
    """An edge, and the kernel host that it was told of, which is a child of ours."""

    def __init__(self, run_dir: Path, *flags: str) -> None:
        """`flags`: what vLLM's user has in SYMPHONY_SERVE_FLAGS."""
        self.env = environment(run_dir)
        self.edge = self.python("vllm_symphony.cli.main", "serve", "--adopt", "--no-state", *flags, stdin=subprocess.PIPE)
        assert self.edge.stdin is not None and self.edge.stdout is not None
        words = json.loads(self.edge.stdout.readline())["words"]
        self.host = self.python("vllm_symphony.engine.main", *words, "--device", "sim", "--status-fd", "1")
        assert self.host.stdout is not None
        for line in self.host.stdout:
            if line.startswith("{"):
                self.edge.stdin.write(line)
                self.edge.stdin.flush()
            if line.startswith('{"ready"'):
                break
        self.symphony("info", "--wait", "60")

    def python(self, module: str, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", module, *words]
        return subprocess.Popen(command, env=self.env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def symphony(self, *words: str) -> str:
        command = [sys.executable, "-m", "vllm_symphony.cli.main", *words]
        return subprocess.run(command, env=self.env, check=True, capture_output=True, timeout=90, text=True).stdout

    def end(self) -> None:
        for process in (self.edge, self.host):
            process.kill()
            process.wait(60)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def adopted(tmp_path: Path) -> Iterator[Adopted]:
    made = Adopted(tmp_path)
    yield made
    made.end()


def test_it_ends_when_the_kernel_is_gone_though_its_parent_lives(adopted: Adopted) -> None:
    adopted.host.terminate()

    assert adopted.edge.wait(60) == 0


def test_it_ends_when_its_parent_is_gone_though_the_kernel_lives(adopted: Adopted) -> None:
    assert adopted.edge.stdin is not None
    adopted.edge.stdin.close()

    assert adopted.edge.wait(60) == 0


def test_its_flags_choose_the_policies_of_the_kernel_that_vllm_starts(tmp_path: Path) -> None:
    made = Adopted(tmp_path, "--sched-policy", "plas:quantum=64", "--memory-policy=ttl")

    try:
        policies = {p["level"]: (p["policy"], p["source"]) for p in json.loads(made.symphony("sched", "--json"))["policies"]}
    finally:
        made.end()

    assert (policies["process"], policies["memory"]) == (("plas", "flag"), ("ttl", "flag"))
