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
from benchmarks.tiers import KeptFile, measure_tiers
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import pack_tokens

LONG = 4097  # whole pages and one token: vLLM's prefix-cache hit leaves it the least to compute
LENGTHS = (8000, LONG, 1024, 128)  # of the file that shrinks
NUM_FORKS, OWN_TOKENS = 100, 64
HOST_BYTES = 1 << 30


def run(options: Options) -> Report:
    return run_apart(measure, options.model or "small", options.quick)


def measure(model: str, is_quick: bool) -> Report:
    from vllm_symphony.engine.tier import TierLimits

    lengths = (1500, 1024, 128) if model == "tiny" else LENGTHS[is_quick:]  # tiny: its position limit
    middle = min(LONG, lengths[0])
    report = Report("files")
    with Rig(model, tiers=TierLimits(HOST_BYTES, HOST_BYTES), max_model_len=lengths[0] + 192) as rig:
        say(f"computing a file of {lengths[0]} tokens")
        file = KeptFile(rig, rig.prompt(lengths[0]))
        fork_ms = {}
        for length in lengths:  # computed once: a shorter file is the longer one, cut
            rig.session.call("truncate", calls.Truncate(file.fd, length))
            fork_ms[length] = _forks(rig, report, file, length, 20 if is_quick else 200)
            if length == middle:
                prefill_s = _warm_opens(rig, report, file, length, 3 if is_quick else 11)
                _pages_of_forks(rig, report, file, length, 10 if is_quick else NUM_FORKS)
                measure_tiers(rig, report, file, prefill_s, is_quick)
        report.figures["fork_ms"] = fork_ms[lengths[0]]
        report.figures["fork_long_over_short"] = fork_ms[lengths[0]] / fork_ms[lengths[-1]]
        file.remove()
        measure_edits(rig, report, min(1024, lengths[0] // 2), is_quick)
        report.settings = rig.settings() | {"page_bytes": rig.host.model.page_bytes, "host_bytes": HOST_BYTES}
    return report


def _forks(rig: Rig, report: Report, file: KeptFile, length: int, repeats: int) -> float:
    session = rig.session
    samples = []
    for _ in range(repeats):
        began = time.perf_counter()
        fork = session.call("fork", calls.FdArgs(file.fd)).fd
        samples.append((time.perf_counter() - began) * 1e3)
        session.call("close", calls.FdArgs(fork))
    report.samples[f"fork_ms_{length}"] = samples
    report.compare(f"fork of {length:,} tokens", "ms", median(samples), spread=spread(samples))
    return median(samples)


def _warm_opens(rig: Rig, report: Report, file: KeptFile, length: int, repeats: int) -> float:
    """Open a warm file and have its first token, against a plain request that finds the same tokens in the prefix cache. Returns
    how long plain vLLM took for them the first time."""
    say(f"open and first token of a warm file of {length} tokens")
    session, plain = rig.session, PlainSide(rig)
    tokens = file.tokens[:length]
    prefill_s = plain.decode([tokens], 1).seconds

    def by_file() -> float:
        began = time.monotonic()
        opened = session.call("open", calls.Open(file.path)).fd
        session.call("forward", calls.Forward(opened, top_k=1, keep="none"))
        took = time.monotonic() - began
        session.call("close", calls.FdArgs(opened))
        return took * 1e3

    def by_prefix() -> float:
        return plain.decode([tokens], 1).seconds * 1e3

    pairs = paired(by_file, by_prefix, repeats, warm_up=2)
    report.figures["warm_open_over_prefix_hit"] = pairs.ratio
    report.samples["warm_open_ms"], report.baseline_samples["warm_open_ms"] = pairs.a, pairs.b
    what = f"open and first token, {length:,} tokens"
    report.compare(what, "ms", median(pairs.a), median(pairs.b), pairs.ratio, spread(pairs.a))
    return prefill_s


def _pages_of_forks(rig: Rig, report: Report, file: KeptFile, length: int, num_forks: int) -> None:
    say(f"{num_forks} forks with {OWN_TOKENS} own tokens each")
    session = rig.session
    others = rig.counters()["pages_held"] - rig.host.residency(file.ino).device_pages
    forks = [session.call("fork", calls.FdArgs(file.fd)).fd for _ in range(num_forks)]
    for fork in forks:
        session.call("forward", calls.Forward(fork, pack_tokens(rig.prompt(OWN_TOKENS)), top_k=1, keep="none"))
    used = rig.counters()["pages_held"] - others
    report.figures["pages_100_forks"] = used
    bound = -(-length // rig.host.model.page_size) + num_forks * 3
    report.figures["pages_100_forks_over_bound"] = used / bound
    report.compare(f"{num_forks} forks, {OWN_TOKENS} own tokens each", "pages", used, bound, used / bound)
    for fork in forks:
        session.call("close", calls.FdArgs(fork))
