"""Cases that need an engine of their own, in a process of their own: two engines in one process disturb each other.

A module of cases has `engine_args()` and functions `case_*(dev)`. `outcomes(module)` runs all of them in one child process and
gives for each None or its traceback; after each case the engine must hold nothing. The child's last line of output is JSON.
"""

from __future__ import annotations

import ast
import faulthandler
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def names(module: str) -> list[str]:
    """The cases of a module, without importing it."""
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("case_")]


def outcomes(module: str, timeout_s: float = 240) -> dict[str, str | None]:
    """What each case came to."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.apart", module, str(timeout_s - 10)],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        trouble = done.stderr[-6000:]
        return dict.fromkeys(names(module), f"the process ended with {done.returncode}:\n{trouble}")
    result: dict[str, str | None] = json.loads(lines[-1])
    return result


def _main(module: str, timeout_s: float) -> None:
    faulthandler.dump_traceback_later(timeout_s, exit=True)
    cases = importlib.import_module(module)
    make = getattr(cases, "engine", _engine)
    dev = make(cases.engine_args())
    result: dict[str, str | None] = {}
    for name in names(module):
        if len(sys.argv) > 3 and sys.argv[3] not in name:
            continue
        result[name] = None
        began = time.monotonic()
        try:
            getattr(cases, name)(dev)
            if not getattr(cases, "dies", False):
                dev.assert_nothing_left()
        except BaseException:  # noqa: BLE001  a case may fail as it likes, the others run
            result[name] = traceback.format_exc()
            print(f"{name}\n{result[name]}", file=sys.stderr)
            if dev.died is None:
                dev.clear()
        print(f"{time.monotonic() - began:6.2f} s  {name}", file=sys.stderr, flush=True)
    dev.host.stop()
    print(json.dumps(result), flush=True)


def _engine(args: Any) -> Any:
    from tests.engine.driver import Driver
    from vllm_symphony.engine.own import OwnHost

    return Driver(OwnHost(args))


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
