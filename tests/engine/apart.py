"""Cases that need an engine of their own, in a process of their own: two engines in one process disturb each other.

A module of cases has `engine_args()` and functions `case_*(dev)`. `outcomes(module)` runs all of them in one child process and
gives for each None or its traceback; after each case the engine must hold nothing. `python -m tests.engine.apart MODULE [PART]`
runs those whose names have that part.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.engine.warm import Ended, run_apart

ROOT = Path(__file__).parents[2]


def names(module: str) -> list[str]:
    """The cases of a module, without importing it."""
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("case_")]


def outcomes(module: str, timeout_s: float = 240) -> dict[str, str | None]:
    """What each case came to."""
    try:
        return run_apart(_run, module, timeout_s=timeout_s)
    except Ended as e:
        return dict.fromkeys(names(module), str(e))


def _run(module: str, part_of_name: str = "") -> dict[str, str | None]:
    """Run its cases, those with that in their names, and tell on stderr how long each took."""
    cases = importlib.import_module(module)
    make = getattr(cases, "engine", _engine)
    dev = make(cases.engine_args())
    result: dict[str, str | None] = {}
    for name in names(module):
        if part_of_name not in name:
            continue
        result[name] = None
        began = time.monotonic(), time.process_time()
        try:
            getattr(cases, name)(dev)
            if not getattr(cases, "dies", False):
                dev.assert_nothing_left()
        except BaseException:  # noqa: BLE001  a case may fail as it likes, the others run
            result[name] = traceback.format_exc()
            print(f"{name}\n{result[name]}", file=sys.stderr)
            if dev.died is None:
                dev.clear()
        wall_s, cpu_s = time.monotonic() - began[0], time.process_time() - began[1]
        print(f"{wall_s:6.2f} s, CPU {cpu_s:6.2f} s  {name}", file=sys.stderr, flush=True)
    dev.host.stop()
    return result


def _engine(args: Any) -> Any:
    from tests.engine.driver import Driver
    from vllm_symphony.engine.own import OwnHost

    return Driver(OwnHost(args))


if __name__ == "__main__":
    print(json.dumps(_run(*sys.argv[1:]), indent=1))
