"""What vLLM's control calls do where files are (engine/control.py).

    pause, sleep         no job of a file is aborted: they wait, as new requests do, and go on after `resume` or `wake_up`
    asleep               what the kernel sends waits too: there is no cache that it could touch
    the prefix cache is  every page leaves the device: what tokens can give again is dropped, what was edited goes below; where it
    reset, sleep 1, 2    finds no room there the call is refused
    new weights          as a start with another model: no page of before is used again, here, below or on disk. Exact files are
                         computed again when they are used, edited ones are stale (ESTALE) until they are rebuilt

Adapters (LoRA) are of plain requests and change nothing of files. All on the engine thread, between two steps.
Source: vllm/v1/engine/core.py `pause_scheduler`, `sleep`, `collective_rpc`; vllm/v1/core/sched/scheduler.py
`reset_prefix_cache` (0.32).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vllm.v1.request import Request, RequestStatus

from vllm_symphony.abi.types import Ino
from vllm_symphony.engine import salt
from vllm_symphony.engine.device import FileDevice
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.errors import StaleFile
from vllm_symphony.kernel.effect import JobFailed

EMPTY_S = 30.0  # for pages to get below
LOOK_S = 0.002

_Base: Any = object
if TYPE_CHECKING:
    from vllm_symphony.engine.scheduler import SymphonyMixin as _Base


class ControlMixin(_Base):
    """In front of SymphonyMixin."""

    is_ending: Callable[[], bool] = staticmethod(lambda: False)  # the engine ends for good: nothing waits for anything
    is_asleep: Callable[[], bool] = staticmethod(lambda: False)

    def has_requests(self) -> bool:
        if self.device is not None and self.is_asleep():
            return False
        return bool(super().has_requests())

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        if request_ids is None and self.device is not None and not self.is_ending():
            self.put_back()
            request_ids = [rid for rid in self.requests if rid not in self.device.jobs]
        finished: list[Request] = super().finish_requests(request_ids, finished_status)
        return finished

    def put_back(self) -> None:
        """Jobs of files that run wait again, without pages of theirs on the device; files at rest have theirs back."""
        device = self.device
        assert device is not None
        device.retire_all()
        self.unpark()
        now = time.monotonic()
        for request in [r for r in self.running if r.request_id in device.jobs]:
            self.running.remove(request)
            self._preempt_request(request, now, drop_stale_output=True)
            self.prev_step_scheduled_req_ids.discard(request.request_id)

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        device = self.device
        if device is None or (not reset_running_requests and (self.running or self.parked or self.returning)):
            return bool(super().reset_prefix_cache(reset_running_requests, reset_connector))
        self.put_back()
        if kept := clear(device):
            raise RuntimeError(f"the cache is not empty: {kept}")
        return bool(super().reset_prefix_cache(reset_running_requests, reset_connector))


def clear(device: FileDevice) -> str:
    """Take all files' pages off the device, as far as that loses nothing; what stays and why, "" if nothing does."""
    device.retire_all()
    deadline = time.monotonic() + EMPTY_S
    while time.monotonic() < deadline:
        left = [f for f in device.table.files.values() if f.blocks]
        given = [_give(device, f) for f in left]
        if not any(f.blocks for f in left):
            return ""
        if not (any(given) or device.tiers.moves):
            break
        time.sleep(LOOK_S)
        device.tiers.poll()
    names = ", ".join(f"ino {f.ino}" for f in left[:3]) + (", ..." if len(left) > 3 else "")
    return (
        f"{len(left)} edited files ({names}) have pages that cannot be computed again, and there is no room for them below: "
        "serve with a larger --host-cache, or remove them"
    )


def _give(device: FileDevice, f: PagedFile) -> bool:
    """One file's pages leave, or begin to."""
    tiers = device.tiers
    if f.move is not None:
        return True
    missing = tiers.num_missing(f) if f.edited else 0
    if not missing:
        device.table.evict(f)
        return not f.blocks
    for tier, takes in (("host", tiers.host_takes), ("disk", tiers.disk_takes)):
        if takes(f, missing):
            tiers.carrier.demote(f, tier, None)
            return True
    return False


def forget(scheduler: ControlMixin) -> list[PagedFile]:
    """The weights are others: no file has pages any more, here or below. Gives those that were edited; their jobs have failed."""
    device = scheduler.device
    assert device is not None
    scheduler.put_back()
    _stop_moves(device)
    edited = [f for f in device.table.files.values() if f.edited]
    for f in edited:
        if (job := device.job_of(f)) is not None:
            device.fail(job, _stale(f.ino))
        f.fixed = 0
    for f in device.table.files.values():
        device.table.forget_copies(f, 0)
        if f.blocks:
            device.table.evict(f)
        f.hashes, f.private = [], f.has_gaps
        device.table.forget_rows(f)
    device.rows.sweep()
    salt.begin_generation()
    for job in device.jobs.values():
        request = job.request
        if request._block_hasher is not None:
            request.cache_salt = salt.of_domain(job.file.domain)
            request.block_hashes.clear()
            request.update_block_hashes()
    device.flush()
    return edited


def refuse(device: FileDevice, stale: Iterable[PagedFile]) -> None:
    """Fail what the kernel sent for these files before it knew that they are stale."""
    inos = {f.ino for f in stale}
    for e in list(device.mail):
        ino, job = getattr(e, "ino", None), getattr(e, "job", None)
        if ino in inos and job is not None:
            device.mail.remove(e)
            device.out.append(JobFailed(job, _stale(ino)))
    device.flush()


def _stale(ino: Ino) -> StaleFile:
    return StaleFile(f"the model has other weights now, and the file was edited (ino {ino})", ino=ino)


def _stop_moves(device: FileDevice) -> None:
    """Nothing is copied any more that was computed before."""
    for move in list(device.tiers.moves.values()):
        device.tiers.carrier.stop(move)
    deadline = time.monotonic() + EMPTY_S
    while device.tiers.moves:
        assert time.monotonic() < deadline, device.tiers.moves
        time.sleep(LOOK_S)
        device.tiers.carrier.take_ended()
