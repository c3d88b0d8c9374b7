"""How far programs are confined on this machine, and what is demanded (engine/confinement.py).

Found once, at the start, by a process that confines itself and tries what is denied (runtime/sandbox/probe.py): it is started first
and asked last, for it runs while the model loads. Fails closed: a probe that says nothing means C. The levels: abi/confinement.py.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vllm_symphony.abi.confinement import UNCONFINED, Missing
from vllm_symphony.engine import beside

_TIMEOUT_S = 60.0
_COMMAND = beside.command("vllm_symphony.runtime.sandbox.probe")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What was found. `active`: the layers that hold, for people."""

    level: str
    active: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()

    def meets(self, demand: str) -> bool:
        return self.level <= demand

    def shortfall(self, demand: str) -> str:
        """What to say when it does not meet the demand, in one line."""
        return f"programs would be confined at level {self.level} only, {demand} is demanded: {self.lacks()}; or serve --unconfined"

    def lacks(self) -> str:
        """All that is missing, in a line."""
        return "; ".join(f"{each.layer}: {each.why}, fix: {each.fix}" for each in self.missing)

    def told(self) -> dict[str, Any]:
        """For `info` and the ready line."""
        missing = [asdict(each) for each in self.missing]
        return {"level": self.level, "active": list(self.active), "missing": missing, "lacks": self.lacks()}

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Confinement:
        """The other way. Raises KeyError, TypeError."""
        return cls(told["level"], tuple(told["active"]), tuple(Missing(**each) for each in told["missing"]))


NONE = Confinement(UNCONFINED)


class Probe:
    """The process that finds out. Start it early, ask it once."""

    def __init__(self) -> None:
        self._process = beside.start(_COMMAND, {"OPENBLAS_NUM_THREADS": "1"}, stdout=subprocess.PIPE)

    def result(self) -> Confinement:
        """Waits for it."""
        try:
            output, _ = self._process.communicate(timeout=_TIMEOUT_S)
            return Confinement.read(json.loads(output))
        except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as e:
            self._process.kill()
            self._process.wait()
            why = f"the probe said nothing of use ({type(e).__name__}, exit code {self._process.returncode})"
            return Confinement(UNCONFINED, missing=(Missing("probe", why, "see the server's log"),))
