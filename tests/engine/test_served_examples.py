"""The examples of programs as processes, as a user has them: `symphony serve` on the small model with the example's tools, and
`symphony run`. The model is too small to be right; what is looked at is that everything around it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
START_S = 240
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(START_S + 120),
    pytest.mark.keeps("children"),  # of the server, until it stops: a fork server for each image, MCP servers
]


class Served:
    """A server, and the command line against it."""

    def __init__(self, run_dir: Path) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("SYMPHONY_")}
        kept = {name: os.environ[name] for name in ("SYMPHONY_CACHE", "SYMPHONY_MODEL_WHEEL") if name in os.environ}
        self.env = {**ours, **kept, "SYMPHONY_RUN_DIR": str(run_dir), "SYMPHONY_STATE_DIR": str(run_dir / "state")}
        self.log = run_dir / "serve.log"
        tools = str(EXAMPLES / "tools" / "tools.toml")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*self.words("serve"), "--tools", tools, "--max-model-len", "2048", "--kv-cache-memory-bytes", str(1 << 28)],
                env=self.env | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "vllm_symphony.cli.main", *words]

    def run(self, *words: str, timeout_s: float = 120, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*words), env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False, **kwargs
        )

    def value(self, *words: str, **kwargs: Any) -> Any:
        """What the program returned."""
        done = self.run("run", *words, "--json", **kwargs)
        assert done.returncode == 0, done.stdout + done.stderr + self.log.read_text()[-2000:]
        return json.loads(done.stdout.strip().splitlines()[-1])["value"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("examples"))
    done = served.run("info", "--wait", str(START_S), "--json", timeout_s=START_S + 10)
    assert done.returncode == 0, done.stderr + served.log.read_text()[-4000:]
    yield served
    served.process.terminate()
    assert served.process.wait(60) == 0, served.log.read_text()[-4000:]


def test_an_agent_uses_the_tools_that_it_was_given(served: Served) -> None:
    value = served.value("--tool", "calculate", "examples/react_agent.py", "--max-tokens", "32", "--steps", "2")

    assert value["answer"] and set(value["used"]) <= {"calculate"}


def test_generated_code_runs_as_a_child(served: Served) -> None:
    value = served.value("examples/code_act.py", "--max-tokens", "48", "--turns", "2")

    assert value["answer"] is not None or len(value["errors"]) == 2


def test_children_summarise_parts_and_the_parent_the_whole(served: Served) -> None:
    value = served.value("examples/map_reduce.py")

    assert value["read"] == 3 and value["lost"] == [] and value["summary"]


def test_two_agents_debate(served: Served) -> None:
    value = served.value("examples/debate.py", "--rounds", "2", "--max-tokens", "16")

    assert [line.partition(":")[0] for line in value] == ["For", "Against"] * 2
    assert any(len(line) > len("Against: ") for line in value)


def test_an_mcp_client_finds_what_it_noted(served: Served) -> None:
    fact = "The boat comes on Monday."
    value = served.value("--tool", "notes_*", "examples/mcp_notes.py", "--fact", fact, "--max-tokens", "16")

    assert fact in value["notes"] and value["answer"]


def test_a_supervisor_starts_a_failing_child_again(served: Served) -> None:
    value = served.value("examples/supervisor.py")

    assert value["ends"] == ["exception", "exception", "exit"] and value["answer"]


def test_a_wasm_filter_asks_the_model_about_each_line_of_its_input(served: Served) -> None:
    done = served.run("run", "examples/wasm/filter.wasm", input="The sea is calm.\nTwo and two.\n")

    assert done.returncode == 0, done.stderr
    *kept, last = done.stdout.strip().splitlines()
    assert json.loads(last) == {"lines": 2, "kept": len(kept)}
    assert set(kept) <= {"The sea is calm.", "Two and two."}


def test_an_installed_program_runs_within_what_it_declares(served: Served) -> None:
    done = served.run("install", "examples/triage.py", "--name", "triage@1.2")
    assert done.returncode == 0, done.stderr

    value = served.value("triage@1.2", "--ticket", "The lamp is broken.", "--votes", "3")

    assert value["queue"] in ("billing", "outage", "question") and value["filed"] is False
