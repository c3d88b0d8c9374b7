"""Installed programs (kernel/registry.py).

    ops/triage    1.2      --sha256--> text       one copy of what is equal, however many names it has
                  1.3-rc1  --sha256--> text
    "ops/triage@1.2", "ops/triage" (the latest that is no pre-release), "triage" (the caller's own)

What stands under a name and a version never changes; its mode may, which says who sees it (r or x), reads its text (r) and runs it
(x). What one may not see does not exist. Uninstalling takes the name away: what runs goes on. The contents lie in memory, because a
spawn must not wait for a disk; `Limits` bound them by principal. The store is told at once, and verifies the hashes when a server
starts: what was damaged is not there, and whoever asks for it hears so.

Invariants (`check`): contents are those that programs have; each is counted as often as it is had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from vllm_symphony.abi.record import ProgramRecord
from vllm_symphony.abi.reference import Reference, version_of
from vllm_symphony.abi.types import Credentials, ProgramInfo
from vllm_symphony.abi.version import Version
from vllm_symphony.errors import AccessDenied, DataCorrupt, FileExists, InvalidArgument, NoSuchFile, QuotaExceeded
from vllm_symphony.kernel.effect import StoreWrite
from vllm_symphony.kernel.fs.node import MAY_PASS, MAY_READ, is_in

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine

MAY_RUN = MAY_PASS


@dataclass(frozen=True, slots=True)
class Content:
    """What runs: the text of a program, or a module."""

    source: str
    code: bytes

    @property
    def sha256(self) -> str:
        return sha256(self.code or self.source.encode()).hexdigest()

    @property
    def size(self) -> int:
        return len(self.code) or len(self.source.encode())


class Registry:
    """All installed programs and their contents."""

    __slots__ = ("_bytes_of", "_m", "_users", "contents", "damaged", "programs")

    def __init__(self, m: Machine) -> None:
        self._m = m
        self.programs: dict[str, dict[Version, ProgramInfo]] = {}  # by "owner/name"
        self.contents: dict[str, Content] = {}  # by sha256
        self.damaged: dict[tuple[str, Version], ProgramInfo] = {}  # whose content was another one when the server started
        self._users: Counter[str] = Counter()  # of each content
        self._bytes_of: Counter[str] = Counter()  # of each owner, equal ones each time

    def __len__(self) -> int:
        return sum(map(len, self.programs.values()))

    # ---- looking

    def visible(self, cred: Credentials) -> Iterator[ProgramInfo]:
        """What the caller may see: by name, the newest version first."""
        for name in sorted(self.programs):
            versions = self.programs[name]
            for number in sorted(versions, reverse=True):
                if is_visible(versions[number], cred):
                    yield versions[number]

    def find(self, wanted: Reference, cred: Credentials, right: int) -> ProgramInfo:
        """The one that is meant: without a version the latest that is no pre-release, of those that the caller has the right on.

        Raises:
            NoSuchFile: there is none that the caller may see.
            AccessDenied: the caller sees it and may not do this.
            DataCorrupt: what the store has is not what was installed.
        """
        versions = self.programs.get(wanted.full_name, {})
        seen = {number: info for number, info in versions.items() if is_visible(info, cred)}
        if wanted.version is None:
            final = {number: info for number, info in seen.items() if not number.is_prerelease}
            allowed = [number for number, info in final.items() if allows(info, cred, right)]
            found = final.get(max(allowed or final, default=None))  # type: ignore[arg-type]
        else:
            found = seen.get(wanted.version)
        if found is None:
            raise self._missing(wanted, seen, cred)
        if not allows(found, cred, right):
            what = "run" if right == MAY_RUN else "read"
            raise AccessDenied(
                f"{cred.principal} may not {what} {label(found)} (mode {found.mode:#o}, owner {found.owner})", program=label(found)
            )
        return found

    def _missing(self, wanted: Reference, seen: dict[Version, ProgramInfo], cred: Credentials) -> DataCorrupt | NoSuchFile:
        name, number = wanted.full_name, wanted.version
        damaged = self.damaged.get((name, number)) if number is not None else None
        if damaged is not None and is_visible(damaged, cred):
            why = f"its content is not that of sha256 {damaged.sha256[:12]}"
            return DataCorrupt(f"{label(damaged)} was damaged on the disk ({why}): install it again", program=label(damaged))
        there = ", ".join(number.text for number in sorted(seen, reverse=True)[:8])
        if not seen:
            return NoSuchFile(f"no such program: {name}", program=name)
        if number is None:
            return NoSuchFile(f"{name} has pre-releases only ({there}): say which", program=name)
        return NoSuchFile(f"no such version: {name}@{number.text} (there are {there})", program=name)

    # ---- changing

    def install(self, info: ProgramInfo, content: Content) -> ProgramInfo:
        """Keep it. The same content again is no change, but for the mode.

        Raises:
            FileExists: the version is there with other content.
            QuotaExceeded: the owner has too many, or too much.
        """
        number = version_of(info.version)
        there = self.programs.get(info.name, {}).get(number)
        if there is not None:
            if (there.sha256, there.runtime, there.entry) != (info.sha256, info.runtime, info.entry):
                raise FileExists(
                    f"{label(there)} is there with other content (sha256 {there.sha256[:12]}, entry {there.entry}): a version is "
                    "never changed, give a new one", program=label(there), sha256=there.sha256,
                )  # fmt: skip
            if there.mode == info.mode:
                return there
            info = replace(there, mode=info.mode)
        else:
            self._demand_room(info)
            self._enter(number, info, content)
        self.programs[info.name][number] = info
        damaged = self.damaged.pop((info.name, number), None)
        gone = ((damaged.name, damaged.version),) if damaged is not None else ()
        self._tell(StoreWrite(programs=(ProgramRecord(info, content.source, content.code),), uninstalled=gone))
        return info

    def _demand_room(self, info: ProgramInfo) -> None:
        limits, owner = self._m.limits, info.owner
        num_programs = sum(len(versions) for name, versions in self.programs.items() if name.rpartition("/")[0] == owner)
        if num_programs >= limits.programs:
            raise QuotaExceeded(f"{owner} has {num_programs} programs, the most that are kept", limit=limits.programs)
        used, limit = self._bytes_of[owner], limits.programs_bytes
        if used + info.size > limit:
            raise QuotaExceeded(
                f"{owner}'s programs have {used} of {limit} bytes, this one has {info.size}", limit=limit, used=used
            )

    def uninstall(self, wanted: Reference, cred: Credentials) -> None:
        """Take a version away. Raises NoSuchFile, InvalidArgument (which version?), AccessDenied."""
        number = wanted.version
        if number is None:
            raise InvalidArgument(f"say which version of {wanted.full_name} goes: {wanted.full_name}@...", program=wanted.full_name)
        damaged = self.damaged.get((wanted.full_name, number))
        if damaged is not None and owns(wanted.owner, cred):
            del self.damaged[wanted.full_name, number]
            self._tell(StoreWrite(uninstalled=((damaged.name, damaged.version),)))
            return
        info = self.find(wanted, cred, MAY_READ | MAY_RUN)
        if not owns(info.owner, cred):
            raise AccessDenied(f"{label(info)} is {info.owner}'s", program=label(info))
        del self.programs[info.name][number]
        if not self.programs[info.name]:
            del self.programs[info.name]
        self._bytes_of[info.owner] -= info.size
        self._users[info.sha256] -= 1
        if not self._users[info.sha256]:
            del self._users[info.sha256], self.contents[info.sha256]
        self._tell(StoreWrite(uninstalled=((info.name, info.version),)))

    def _enter(self, number: Version, info: ProgramInfo, content: Content) -> None:
        self.programs.setdefault(info.name, {})[number] = info
        self.contents.setdefault(info.sha256, content)
        self._users[info.sha256] += 1
        self._bytes_of[info.owner] += info.size

    def _tell(self, write: StoreWrite) -> None:
        if self._m.keep.on:
            self._m.emit(write)

    # ---- the next server

    def restore(self, records: Iterable[ProgramRecord]) -> None:
        """What the store has. A content that is not what its hash says is left out, and remembered."""
        for record in records:
            info, content = record.info, Content(record.source, record.code)
            number = version_of(info.version)
            if content.sha256 != info.sha256:
                self.damaged[info.name, number] = info
            else:
                self._enter(number, info, self.contents.get(info.sha256, content))

    def check(self) -> None:
        """The invariants above."""
        infos = [info for versions in self.programs.values() for info in versions.values()]
        assert all(self.programs.values()), "a name without a version"
        assert Counter(info.sha256 for info in infos) == self._users
        assert self.contents.keys() == set(self._users)
        assert all(count > 0 for count in self._users.values())
        for owner, num_bytes in self._bytes_of.items():
            assert num_bytes == sum(info.size for info in infos if info.owner == owner)


# ---- rights


def label(info: ProgramInfo) -> str:
    """`ops/triage@1.2`."""
    return f"{info.name}@{info.version}"


def owns(owner: str, cred: Credentials) -> bool:
    return cred.principal == owner or cred.is_admin


def allows(info: ProgramInfo, cred: Credentials, right: int) -> bool:
    """Whether the caller has the right (or one of several) by the mode, as of a file; the owner always reads what is its own."""
    bits = info.mode >> 3 if is_in(cred, info.group) else info.mode
    if cred.principal == info.owner:
        bits = info.mode >> 6 | MAY_READ
    return bool(bits & right) or cred.is_admin


def is_visible(info: ProgramInfo, cred: Credentials) -> bool:
    return allows(info, cred, MAY_READ | MAY_RUN)
