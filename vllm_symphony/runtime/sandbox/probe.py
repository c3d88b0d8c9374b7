"""What confinement this machine gives, as a JSON object: `python -m vllm_symphony.runtime.sandbox.probe`.

    {"level": "A", "active": ["seccomp", "landlock 7", ...], "missing": [{"layer": ..., "why": ..., "fix": ...}]}

A process of its own, because it locks up what it runs in. It does what a fork server does at its start (prepare.py), proof
included.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import Any

from vllm_symphony.runtime.sandbox.prepare import prepare_zygote


def found() -> dict[str, Any]:
    """Confine this process as a fork server and say how far that went."""
    with contextlib.suppress(ImportError):
        __import__("numpy")
    plan = prepare_zygote()
    assert plan.slots is not None
    plan.slots.close()
    layers = plan.layers
    return {"level": layers.level, "active": layers.active(), "missing": [asdict(each) for each in layers.missing]}


if __name__ == "__main__":
    print(json.dumps(found()))
