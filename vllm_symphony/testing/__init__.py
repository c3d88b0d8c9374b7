"""Run programs in a test, on a simulated machine: no server, no model, no waiting (docs/testing.md).

from vllm_symphony.testing import Machine, Script, run_program

assert run_program(main, question="Who?") == "..."           one program, one machine
m = Machine(seed=7, model=Script("It was me."))              many programs, one clock, a model that says what the test wants
runs = [m.start(main, question=q) for q in questions]
m.run()

Under pytest, `machine` (testing/fixture.py) is such a machine, and nothing may be left on it. Loaded when used: pytest imports the
plugin wherever the package is installed, also where a client has neither numpy nor msgspec.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_symphony.engine.sim import Cost, SimModel
    from vllm_symphony.testing.fault import Fault
    from vllm_symphony.testing.machine import Machine, run_program
    from vllm_symphony.testing.run import Run
    from vllm_symphony.testing.script import Script, Unscripted

__all__ = ["Cost", "Fault", "Machine", "Run", "Script", "SimModel", "Unscripted", "run_program"]

_HOMES = {"Cost": "engine.sim", "SimModel": "engine.sim", "Machine": "testing.machine", "run_program": "testing.machine",
          "Fault": "testing.fault", "Run": "testing.run", "Script": "testing.script", "Unscripted": "testing.script"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"vllm_symphony.{_HOMES[name]}"), name)
