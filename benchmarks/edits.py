"""What editing costs and what it changes (benchmarks/edits.py): extract and concat against a prefill of the same tokens.

    source [head | middle | tail]  --extract keep/compact-->  [head | tail]       against a prefill of head + tail
    [first] + [second]             --concat rotate-------->  [first | second]     against a prefill of both

An edit is a copy, so it is fast; except for exact modes it is not what a prefill gives. So beside the speed stands the error, over
the tokens of a continuation that both sides read: how often the best token is the same, and the divergence (KL in nats).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.report import Report
from benchmarks.rig import ROOT, Rig, say
from benchmarks.stats import median, spread
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import OpenFlags, Span, pack_tokens, unpack_floats, unpack_tokens

HEAD = 32
READ = 64  # tokens of the continuation
TOP_K = 20


def measure_edits(rig: Rig, report: Report, length: int, is_quick: bool) -> None:
    """Adds rows and figures: `length` tokens are left after each edit."""
    text = _text(rig, 3 * length + READ)
    source, more = text[: 2 * length], text[2 * length : 2 * length + READ]
    head = source[:HEAD]
    tail = source[2 * length - (length - HEAD) :]
    spans = (Span(0, HEAD), Span(2 * length - (length - HEAD), 2 * length))
    half = length // 2
    edits: tuple[tuple[str, Callable[[list[int]], int], list[int]], ...] = (
        ("extract keep", lambda fds: _extract(rig, fds[0], spans, "keep"), head + tail),
        ("extract compact", lambda fds: _extract(rig, fds[0], spans, "compact"), head + tail),
        ("concat rotate", lambda fds: _concat(rig, fds[1:], "rotate"), source[:length]),
        ("concat recompute", lambda fds: _concat(rig, fds[1:], "recompute"), source[:length]),
    )
    for name, edit, prefilled in edits:
        say(name)
        fds = [_computed(rig, source), _computed(rig, source[:half]), _computed(rig, source[half:length])]
        _measure(rig, report, name, partial(edit, fds), prefilled, more, 1 if is_quick else 5)
        for fd in fds:
            rig.session.call("close", calls.FdArgs(fd))


def _measure(
    rig: Rig, report: Report, name: str, edit: Callable[[], int], tokens: list[int], more: list[int], repeats: int
) -> None:
    edited_ms, prefill_ms = [], []
    for i in range(repeats):
        began = time.perf_counter()
        fd = edit()
        _first(rig, fd)
        edited_ms.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        fresh = _computed(rig, [*rig.prompt(1), *tokens[1:]])  # another first token: the prefix cache knows nothing of it
        prefill_ms.append((time.perf_counter() - began) * 1e3)
        if i == repeats - 1:
            same = _computed(rig, tokens)
            agreement, divergence = _compare(_read(rig, fd, more), _read(rig, same, more))
            rig.session.call("close", calls.FdArgs(same))
        for one in (fd, fresh):
            rig.session.call("close", calls.FdArgs(one))
    speedup = median([b / a for a, b in zip(edited_ms, prefill_ms, strict=True)])
    key = name.replace(" ", "_")
    report.samples[f"{key}_ms"], report.baseline_samples[f"{key}_ms"] = edited_ms, prefill_ms
    report.figures |= {f"{key}_speedup": speedup, f"{key}_top1_agreement": agreement, f"{key}_kl_nats": divergence}
    ms, plain_ms = median(edited_ms), median(prefill_ms)
    report.compare(f"{name}, {len(tokens):,} tokens", "ms", ms, plain_ms, ms / plain_ms, spread(edited_ms))


def _compare(edited: list[Any], fresh: list[Any]) -> tuple[float, float]:
    """Share of equal best tokens; mean KL(fresh || edited) over fresh's top tokens, the rest as one."""
    same, total = 0, 0.0
    for a, b in zip(edited, fresh, strict=True):
        ids_a, ids_b = unpack_tokens(a.ids), unpack_tokens(b.ids)
        same += ids_a[0] == ids_b[0]
        known = dict(zip(ids_a, unpack_floats(a.logprobs), strict=True))
        floor = min(known.values())
        rest_p, rest_q = 1.0, 1.0
        for token, logprob in zip(ids_b, unpack_floats(b.logprobs), strict=True):
            other = known.get(token, floor)  # below the edited side's top: at most its last one
            total += math.exp(logprob) * (logprob - other)
            rest_p -= math.exp(logprob)
            rest_q -= math.exp(other)
        if rest_p > 1e-6 and rest_q > 1e-6:
            total += rest_p * math.log(rest_p / rest_q)
    return same / len(fresh), total / len(fresh)


def _text(rig: Rig, num_tokens: int) -> list[int]:
    """Real text, so that a model's certainty is what it is in use: this project's own docs."""
    words = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    tokens = unpack_tokens(rig.session.call("tokenize", calls.Tokenize(words[: num_tokens * 12])).tokens)
    if len(tokens) < num_tokens:
        tokens = (tokens * (num_tokens // len(tokens) + 1))[:num_tokens]
    return tokens[:num_tokens]


def _computed(rig: Rig, tokens: list[int]) -> int:
    fd: int = rig.session.call("open", calls.Open(None, pack_tokens(tokens), int(OpenFlags.RDWR | OpenFlags.TMPFILE))).fd
    _first(rig, fd)
    return fd


def _first(rig: Rig, fd: int) -> None:
    rig.session.call("forward", calls.Forward(fd, top_k=1, keep="none"))


def _read(rig: Rig, fd: int, tokens: list[int]) -> list[Any]:
    args = calls.Forward(fd, pack_tokens(tokens), outputs="all", top_k=TOP_K, keep="none")
    return list(rig.session.call("forward", args).distributions)


def _extract(rig: Rig, fd: int, spans: tuple[Span, ...], positions: str) -> int:
    new: int = rig.session.call("extract", calls.Extract(fd, spans, positions)).fd
    return new


def _concat(rig: Rig, fds: list[int], mode: str) -> int:
    new: int = rig.session.call("concat", calls.Concat(tuple(fds), mode)).fd
    return new
