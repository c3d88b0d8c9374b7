"""Quotas and what is held (kernel/syscall/quota.py); how it is counted: kernel/fs/account.py.

statfs    the device, the tiers and the caller's part of them
du        a file, or a directory with all in it that the caller may see; each file once, however many names it has
quotas    anybody sees its own; scope admin sees and sets all
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from vllm_symphony.abi.calls import Done, DuResult, FileArgs, Getquota, NoArgs, QuotaResult, Setquota, StatfsResult
from vllm_symphony.abi.record import QuotaRecord
from vllm_symphony.abi.types import FileStat, FsStat
from vllm_symphony.errors import InvalidArgument, NotOwner
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs.directory import Directory
from vllm_symphony.kernel.fs.node import MAY_READ
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import target
from vllm_symphony.kernel.syscall.view import demand_door

MAX_PRINCIPAL = 255  # characters
_SUMMED = {"length": 0, "num_pages": 0, "charge": 0.0, "device_pages": 0, "host_pages": 0, "disk_pages": 0}


def statfs(m: Machine, call: Call, a: NoArgs) -> StatfsResult:
    """The file system, and the caller's part of it."""
    room, model = m.capacity(), m.model
    return StatfsResult(
        FsStat(
            page_size=model.page_size,
            page_bytes=model.page_bytes,
            device_pages=room.device_pages,
            device_pages_free=room.device_pages_free,
            host_bytes=room.host_bytes,
            host_bytes_used=room.host_bytes_used,
            disk_bytes=room.disk_bytes,
            disk_bytes_used=room.disk_bytes_used,
            disk_bytes_free=room.disk_bytes_free,
            files=len(m.files),
            max_files=m.limits.files,
            fingerprint=model.fingerprint,
            quota=m.account.usage(call.cred.principal),
        )
    )


def du(m: Machine, call: Call, a: FileArgs) -> DuResult:
    """What it takes. Of a directory: all below it, and for each directory the sum of what is in it."""
    found, path = target.node(m, call, a.fd, a.path, looking=True)
    if path is not None:
        target.demand_visible(found, call, path)
    if not isinstance(found, Directory):
        file = target.shown(m, found, path, call.cred)
        return DuResult((file,), file.charge, file.length)
    assert path is not None, "directories have no fds"
    found.demand(call.cred, MAY_READ, path)
    files = _with_sums(m, call, found, path)
    return DuResult(tuple(files), files[-1].charge, files[-1].length)


def _with_sums(m: Machine, call: Call, top: Directory, path: str) -> list[FileStat]:
    """All below `top` and itself, each directory after what is in it and as the sum of that."""
    done: list[FileStat] = []
    open_: list[_Sum] = [_Sum(target.shown(m, top, path))]
    counted: set[int] = set()
    for at, node in m.files.below(top, path, call.cred):
        while not at.startswith(open_[-1].prefix):
            _close(open_, done)
        stat = target.shown(m, node, at)
        if isinstance(node, Directory):
            open_.append(_Sum(stat))
        elif node.ino not in counted:
            counted.add(node.ino)
            done.append(stat)
            open_[-1].add(stat)
    while open_:
        _close(open_, done)
    return done


class _Sum:
    """A directory and what the files in it take together."""

    __slots__ = ("_counts", "_stat", "prefix")

    def __init__(self, stat: FileStat) -> None:
        self._stat = stat
        self._counts: dict[str, Any] = dict(_SUMMED)
        self.prefix = f"{(stat.path or '').rstrip('/')}/"

    def add(self, stat: FileStat) -> None:
        """Something in it."""
        for name in _SUMMED:
            self._counts[name] += getattr(stat, name)

    def stat(self) -> FileStat:
        """The directory, with the sums in place of its own numbers."""
        return replace(self._stat, **self._counts)


def _close(open_: list[_Sum], done: list[FileStat]) -> None:
    stat = open_.pop().stat()
    done.append(stat)
    if open_:
        open_[-1].add(stat)


def setquota(m: Machine, call: Call, a: Setquota) -> Done:
    """Set limits: below 0 none, None as it is."""
    demand_door(call)
    if not call.cred.is_admin:
        raise NotOwner(f"only scope admin sets quotas, not {call.cred.principal}", principal=a.principal)
    if not 0 < len(a.principal) <= MAX_PRINCIPAL:
        raise InvalidArgument(f"a principal has 1..{MAX_PRINCIPAL} characters", principal=a.principal)
    old = m.account.quotas.get(a.principal, QuotaRecord(a.principal))
    given = {name: value for name, value in asdict(a).items() if name != "principal" and value is not None}
    new: dict[str, Any] = {name: None if value < 0 else value for name, value in given.items()}
    m.account.set_quota(replace(old, **new))
    return Done()


def getquota(m: Machine, call: Call, a: Getquota) -> QuotaResult:
    """The limits, and what is held."""
    principal = a.principal or call.cred.principal
    if principal != call.cred.principal and not call.cred.is_admin:
        raise NotOwner(f"only scope admin sees what {principal} has", principal=principal)
    return QuotaResult(m.account.usage(principal))
