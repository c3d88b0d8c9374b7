"""What a client of 1.5 says in its transcript beside the rest: who decides who computes, and principals' parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import Hello, NoArgs, Setsched, Setweight
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR

if TYPE_CHECKING:
    from tests.abi.record import Recorder

USED = ("policies", "service", "num_running", "num_queued", "tokens", "calls", "cost", "gap")  # and errors of predictions


def choosing(r: Recorder, on: int = 10) -> None:
    r.hello(Hello(ABI_MAJOR, ABI_MINOR), on)
    r.note("policies of all levels, and what is refused")
    r.call("getsched", NoArgs(), on, varying=USED)
    r.call("setsched", Setsched("process", "plas", {"quantum": 64.0}), on)
    r.call("setsched", Setsched("memory", "lru"), on)
    for args in (Setsched("process", "best"), Setsched("none", "fcfs"), Setsched("process", "plas", {"quantum": 0.0})):
        r.call("setsched", args, on)
    r.call("setsched", Setsched("batch", "rate"), on)
    r.note("weights and caps")
    r.call("setweight", Setweight("ann", 2.0, 8), on)
    r.call("setweight", Setweight("ann", cap=-1), on)
    r.call("setweight", Setweight("ann", 0.0), on)
    r.call("getsched", NoArgs(), on, varying=USED)
    r.note("as at the start")
    r.call("setsched", Setsched("process"), on)
    r.call("setsched", Setsched("memory"), on)
    r.call("setweight", Setweight("ann", 1.0), on)
