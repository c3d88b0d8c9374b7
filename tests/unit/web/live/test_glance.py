"""A glance: bounded, and one for all pages of a principal."""

import asyncio
import json
from typing import Any

from vllm_symphony.abi.calls import InfoResult, PsResult, StatfsResult
from vllm_symphony.abi.types import Credentials, ExitStatus, FsStat, ProcessStat, Quota, Usage
from vllm_symphony.web.live.glance import FRESH_S, MAX_CHARS, MAX_ENDED, MAX_ERROR_CHARS, MAX_RUNNING, Glances, processes_shown

ANN, BOB = Credentials("ann"), Credentials("bob")
ROOM = FsStat(16, 128, 64, 60, 0, 0, 0, 0, 0, 0, 9, "x", Quota("ann"))


def process(pid: int, *, ended: bool = False, **more: Any) -> ProcessStat:
    known = {
        "parent": None, "name": "p", "principal": "ann", "state": "zombie" if ended else "running", "started_ns": 1,
        "ended_ns": pid if ended else None, "num_threads": 1, "num_files": 0, "num_pages": 0, "waiting": (), "usage": Usage(),
        "exit": ExitStatus(1, "exception", value="v" * 9000, error="e" * 9000) if ended else None,
    }  # fmt: skip
    return ProcessStat(pid=pid, **{**known, **more})


class Kernel:
    """Answers, and remembers who looked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def call(self, op: str, args: Any, cred: Credentials) -> Any:
        self.asked.append((op, cred.principal))
        info = InfoResult(json.dumps({"pid": 5, "started_s": 1.5, "engine": {"jobs": 2}, "kernel": {"calls_ended": 9}}))
        return {"ps": PsResult((process(1),)), "statfs": StatfsResult(ROOM), "info": info}[op]


def test_of_many_processes_the_newest_are_shown_and_all_are_counted():
    running, ended = [process(i) for i in range(1, 1001)], [process(2000 + i, ended=True) for i in range(200)]

    told = processes_shown([*ended, *running])
    pids = [p["pid"] for p in told["processes"]]

    assert pids == [*range(1001 - MAX_RUNNING, 1001), *range(2200 - MAX_ENDED, 2200)]
    assert (told["running"], told["ended"]) == (1000, 200)


def test_long_words_are_cut_and_what_main_returned_is_not_shown():
    (row,) = processes_shown([process(1, ended=True, name="n" * 9000, program="")])["processes"]

    assert len(row["name"]) == MAX_CHARS and len(row["exit"]["error"]) == MAX_ERROR_CHARS
    assert "vvv" not in json.dumps(row)


def test_an_installed_program_goes_by_its_name_there():
    (row,) = processes_shown([process(1, name="main", program="ann/tool@1.0")])["processes"]

    assert row["name"] == "ann/tool@1.0"


def test_all_pages_of_a_principal_share_a_look():
    kernel, now_s = Kernel(), 100.0
    glances = Glances(kernel, lambda: now_s)

    async def looks() -> list[dict[str, Any]]:
        return [await glances.at(ANN), await glances.at(ANN), await glances.at(BOB)]

    first, again, other = asyncio.run(looks())

    assert first is again and other is not first
    assert kernel.asked.count(("ps", "ann")) == 1 and kernel.asked.count(("ps", "bob")) == 1
    assert first["boot"] == "5-1.5" and first["room"]["device_pages"] == 64


def test_an_old_look_is_not_shown_again_and_is_forgotten():
    kernel, now_s = Kernel(), [100.0]
    glances = Glances(kernel, lambda: now_s[0])

    async def looks() -> None:
        await glances.at(ANN)
        now_s[0] += FRESH_S
        await glances.at(ANN)
        now_s[0] += 1000
        await glances.at(BOB)

    asyncio.run(looks())

    assert kernel.asked.count(("ps", "ann")) == 2
    assert set(glances._last) == {BOB}
