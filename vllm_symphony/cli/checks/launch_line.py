"""A launch line, read as far as the doctor has to know it (cli/checks/launch_line.py).

    VLLM_PLUGINS=symphony vllm serve Qwen/Qwen3-0.6B --port 8000 -tp 2
    -------- env --------  command      model        ------ flags -----

vLLM's own parser would have to be imported, and would end the process at the first wrong word; so flags are taken by their form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SHORT = {
    "tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size", "dpr": "data-parallel-rank",
    "dpn": "data-parallel-rank", "dpl": "data-parallel-size-local", "sc": "speculative-config", "dc": "diffusion-config",
    "n": "nnodes", "q": "quantization", "ep": "enable-expert-parallel",
}  # fmt: skip
_MODULE = re.compile(r"(vllm|vllm_symphony)\.[\w.]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_NUMBER = re.compile(r"-\d")


@dataclass(frozen=True, slots=True)
class LaunchLine:
    """`command`: `vllm` for its console script, `symphony`, a module's name, or empty. `flags`: name -> value, '' where none."""

    env: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    model: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        """One of these is given, and not as its --no-... form."""
        return any(name in self.flags for name in names)


def read_line(words: Sequence[str]) -> LaunchLine:
    """Read the words of a shell line; what it cannot tell apart is taken for a flag's value."""
    rest = list(words)
    env: dict[str, str] = {}
    while rest and ((found := _ASSIGNMENT.fullmatch(rest[0])) or rest[0] in ("env", "exec")):
        if found:
            env[found[1]] = found[2]
        rest.pop(0)
    command = _take_command(rest)
    flags: dict[str, str] = {}
    model = None
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            model = model or word
            continue
        name, has_value, value = word.lstrip("-").partition("=")
        name = name.partition(".")[0].replace("_", "-")
        name = name if word.startswith("--") else _SHORT.get(name, name)
        if not has_value and rest and (not rest[0].startswith("-") or _NUMBER.match(rest[0])):
            value = rest.pop(0)
        flags[name] = value
    return LaunchLine(env, command, flags.get("model") or model, flags)


def _take_command(rest: list[str]) -> str:
    """Take the words before the model off the line."""
    command = ""
    if rest and rest[0].rpartition("/")[2] in ("vllm", "symphony"):
        command = rest.pop(0).rpartition("/")[2]
    elif len(rest) > 2 and "python" in rest[0] and rest[1] == "-m" and _MODULE.fullmatch(rest[2]):
        command = rest[2]
        del rest[:3]
    if command and rest and rest[0] == "serve":
        rest.pop(0)
    return command
