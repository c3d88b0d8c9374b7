"""The file system of the KV cache (benchmarks/files.py): forks, opens, what edits cost, what tiers move (benchmarks/tiers.py).

Everything runs on one engine with host memory and a disk below it, as `symphony serve` has them. The other side is what plain vLLM
or the plain machine does in the same minute: a prefix-cache hit, a prefill, a copy in memory, a file written and read.
"""

from __future__ import annotations

import time

from benchmarks.apart import run_apart
from benchmarks.edits import measure_edits
from benchmarks.plain import PlainSide
from benchmarks.registry import Options
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import median, paired, spread
from benchmarks.tiers import measure_tiers
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import OpenFlags, pack_tokens

FORK_LENGTHS = (128, 1024, 4096, 8000)
LONG = 4096
NUM_FORKS, OWN_TOKENS = 100, 64
HOST_BYTES = 1 << 30


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    longest = 1500 if model == "tiny" else max(FORK_LENGTHS)  # its position limit
    report = Report("files")
    with Rig(model, host_bytes=HOST_BYTES, disk_bytes=HOST_BYTES, max_model_len=2048 if model == "tiny" else longest + 192) as rig:
        _forks(rig, report, tuple(n for n in FORK_LENGTHS if n <= longest), 20 if is_quick else 200)
        _warm_opens(rig, report, min(LONG, longest), 3 if is_quick else 11)
        _pages_of_forks(rig, report, min(LONG, longest), 10 if is_quick else NUM_FORKS)
        measure_tiers(rig, report, min(LONG, longest), is_quick)
        measure_edits(rig, report, min(1024, longest // 2), is_quick)
        report.settings = rig.settings() | {"page_bytes": rig.host.model.page_bytes, "host_bytes": HOST_BYTES}
    return report


def computed_file(rig: Rig, path: str, tokens: list[int]) -> int:
    """A named file with all its keys and values; gives its fd."""
    session = rig.session
    fd: int = session.call("open", calls.Open(path, pack_tokens(tokens), int(OpenFlags.RDWR | OpenFlags.CREAT))).fd
    session.call("forward", calls.Forward(fd, top_k=1, keep="none"))
    return fd


def _forks(rig: Rig, report: Report, lengths: tuple[int, ...], repeats: int) -> None:
    session = rig.session
    rows = {}
    for length in lengths:
        say(f"fork of {length} tokens")
        fd = computed_file(rig, f"/fork-{length}", rig.prompt(length))
        samples = []
        for _ in range(repeats):
            began = time.perf_counter()
            fork = session.call("fork", calls.FdArgs(fd)).fd
            samples.append((time.perf_counter() - began) * 1e3)
            session.call("close", calls.FdArgs(fork))
        rows[length] = median(samples)
        report.samples[f"fork_ms_{length}"] = samples
        report.rows.append({"what": "fork", "tokens": length, "ms": rows[length], "spread": spread(samples)})
        session.remove(f"/fork-{length}", fd)
    report.figures["fork_ms"] = rows[lengths[-1]]
    report.figures["fork_long_over_short"] = rows[lengths[-1]] / rows[lengths[0]]


def _warm_opens(rig: Rig, report: Report, length: int, repeats: int) -> None:
    """Open a warm file and have its first token, against a plain request that finds the same tokens in the prefix cache."""
    say(f"open and first token of a warm file of {length} tokens")
    session, plain = rig.session, PlainSide(rig)
    tokens = rig.prompt(length)
    fd = computed_file(rig, "/warm", tokens)
    plain.decode([tokens], 1)

    def by_file() -> float:
        began = time.monotonic()
        opened = session.call("open", calls.Open("/warm")).fd
        session.call("forward", calls.Forward(opened, top_k=1, keep="none"))
        took = time.monotonic() - began
        session.call("close", calls.FdArgs(opened))
        return took * 1e3

    def by_prefix() -> float:
        return plain.decode([tokens], 1).seconds * 1e3

    pairs = paired(by_file, by_prefix, repeats, warm_up=2)
    report.figures["warm_open_over_prefix_hit"] = pairs.ratio
    report.samples["warm_open_ms"], report.baseline_samples["warm_open_ms"] = pairs.a, pairs.b
    report.rows.append({"what": "open + first token", "tokens": length, "ms": median(pairs.a), "plain ms": median(pairs.b),
                        "ratio": pairs.ratio, "spread": spread(pairs.a)})  # fmt: skip
    session.remove("/warm", fd)


def _pages_of_forks(rig: Rig, report: Report, length: int, num_forks: int) -> None:
    say(f"{num_forks} forks with {OWN_TOKENS} own tokens each")
    session = rig.session
    fd = computed_file(rig, "/shared", rig.prompt(length))
    before = rig.counters()["pages_held"] - rig.host.residency(session.call("stat", calls.Stat(fd)).file.ino).device_pages
    forks = [session.call("fork", calls.FdArgs(fd)).fd for _ in range(num_forks)]
    for fork in forks:
        session.call("forward", calls.Forward(fork, pack_tokens(rig.prompt(OWN_TOKENS)), top_k=1, keep="none"))
    used = rig.counters()["pages_held"] - before
    page = rig.host.model.page_size
    report.figures["pages_100_forks"] = used
    report.figures["pages_100_forks_over_bound"] = used / (-(-length // page) + num_forks * 3)
    report.rows.append({"what": f"{num_forks} forks", "tokens": length, "pages": used})
    for fork in forks:
        session.call("close", calls.FdArgs(fork))
    session.remove("/shared", fd)
