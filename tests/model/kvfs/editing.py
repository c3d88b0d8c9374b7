"""The model's extract and concat: lists of (token, position) pairs, cut up and put together (tests/model/kvfs/editing.py)."""

from __future__ import annotations

from itertools import pairwise, takewhile
from typing import Any

from tests.model.kvfs.computing import Work
from tests.model.kvfs.keeping import Keeping
from tests.model.kvfs.tree import LINEAGE, File, OpenFile, Process, demand
from vllm_symphony.abi.types import Credentials

Spans = tuple[tuple[int, int], ...]


class Editing(Keeping):
    def extract(self, process: Process, cred: Credentials, fd: int, spans: Spans, positions: str = "keep") -> dict[str, Any] | Work:
        opened = process.get(fd, cred)
        source = opened.file
        self.demand_fresh(source)
        demand(positions in ("keep", "compact") and spans, "EINVAL")
        demand(all(0 <= start < stop <= source.length for start, stop in spans), "EINVAL")
        demand(all(a[1] <= b[0] for a, b in pairwise(spans)), "EINVAL")
        demand(len(process.fds) < self.max_fds, "EMFILE")
        kept = [index for start, stop in spans for index in range(start, stop)]
        entries = [source.entries[index] for index in kept]
        if positions == "compact":
            entries = [(token, position) for position, (token, _) in enumerate(entries)]
        if kept == list(range(len(kept))) and entries == source.entries[: len(kept)]:
            fork = self.clone(source, cred)
            self.cut(fork, len(kept))
            return self._fd(process, cred, fork, True)
        lineage = "approximate" if positions == "compact" else max(source.fidelity, "pruned", key=LINEAGE.index)
        return self._edit(process, cred, entries, lineage, source, kept, (spans[-1][1],))

    def concat(self, process: Process, cred: Credentials, fds: tuple[int, ...], mode: str = "recompute") -> dict[str, Any] | Work:
        demand(fds and mode in ("recompute", "rotate"), "EINVAL")
        files = [process.get(fd, cred).file for fd in fds]
        first, others = files[0], [file for file in files[1:] if file.entries]
        tokens = [token for file in others for token, _ in file.entries]
        demand(first.following + len(tokens) <= self.max_positions, "EFBIG")
        demand(len(process.fds) < self.max_fds, "EMFILE")
        self.demand_fresh(first)
        if mode == "recompute" or not others:
            fork = self.clone(first, cred)
            self.extend(fork, tokens, fork.following)
            return self._fd(process, cred, fork, True)
        for file in others:
            self.demand_fresh(file)
        entries = first.entries + [(token, first.following + i) for i, token in enumerate(tokens)]
        source = first if first.entries else others[0]
        return self._edit(
            process,
            cred,
            entries,
            "approximate",
            source,
            list(range(source.length)),
            tuple(file.length for file in (first, *others)),
        )

    def _edit(
        self, process: Process, cred: Credentials, entries: list[tuple[int, int]], lineage: str, source: File, kept: list[int],
        sources: tuple[int, ...],
    ) -> Work:  # fmt: skip
        """A new file whose keys and values are copied; pages at its beginning that are as in the source, where its first tokens are
        those of the indices `kept`, are shared."""
        stays = takewhile(lambda i: kept[i] == i and entries[i] == source.entries[i], range(len(kept)))
        num_pages = min(len(list(stays)), source.frontier, len(entries) - 1) // self.page_size
        self.demand_room(cred.principal)
        fidelity = lineage if len(entries) > 1 else "exact"  # the last token is always computed
        file = File(cred.principal, cred.principal, 0o600, self.now, self.now, entries=entries, fidelity=fidelity)
        file.pages, file.frontier = source.pages[:num_pages], num_pages * self.page_size
        file.writer = Work("edit", process, -1, file, planned=len(entries), sources=sources)
        limit = self.limit(cred.principal, "device_pages")
        self.works[-1] = file.writer
        held = self.held(cred.principal)
        del self.works[-1]
        demand(limit is None or held <= limit, "EDQUOT")
        return file.writer

    def edited(self, work: Work) -> dict[str, Any]:
        """The device has made it: all but the last token have keys and values."""
        self.compute(work.file, work.file.length - 1)
        demand(len(work.process.fds) < self.max_fds, "EMFILE")
        return {"fd": work.process.add(OpenFile(work.file, True, work.file.owner)), "length": work.file.length}
