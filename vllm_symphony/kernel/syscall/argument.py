"""Arguments of model calls, checked before the device sees them (kernel/syscall/argument.py).

What passes here cannot fail on the device for being malformed; a refused argument changes nothing, and the message says the range.
Only what needs the model's own code (does the schema compile, does the regex parse) is left to the device, which answers EINVAL.
"""

from __future__ import annotations

import json
from math import inf, isfinite

from vllm_symphony.abi.types import Grammar, Predicate, Sampler, unpack_tokens
from vllm_symphony.errors import ContextTooLong, InvalidArgument, StaleFile
from vllm_symphony.kernel.fs.inode import Inode

MAX_TOKENS = 1 << 20  # of one list
MAX_DRAWS = 1024
MAX_DRAW = 1 << 53
MAX_GRAMMAR_BYTES = 1 << 16
MAX_STOPS, MAX_STOP_CHARS = 64, 1024
MAX_DEPTH, MAX_NODES = 8, 64
GRAMMARS = ("json", "regex", "ebnf", "choice")
THRESHOLDS = ("entropy", "top1", "margin", "mass")


def tokens(packed: bytes, vocab_size: int, what: str = "tokens", context: int | None = None) -> list[int]:
    """Token ids from their wire form; too many are refused before they cost anything.

    Raises:
        InvalidArgument: with the first bad one, or there are more than `MAX_TOKENS`.
        ContextTooLong: more than `context`, where they are for a file.
    """
    if len(packed) & 3:
        raise InvalidArgument(f"{what} has {len(packed)} bytes, no multiple of 4")
    num_tokens = len(packed) >> 2
    if context is not None and num_tokens > context:
        raise ContextTooLong(f"{num_tokens} tokens pass the model's limit of {context}", limit=context)
    if context is None and num_tokens > MAX_TOKENS:
        raise InvalidArgument(f"{what} has {num_tokens} tokens, the most is {MAX_TOKENS}", limit=MAX_TOKENS)
    ids = unpack_tokens(packed)
    if ids and max(ids) >= vocab_size:
        index, token = next((i, t) for i, t in enumerate(ids) if t >= vocab_size)
        raise InvalidArgument(f"{what}[{index}] is {token}, the vocabulary has {vocab_size}", index=index, token=token)
    return ids


def demand_at(at: int | None, inode: Inode) -> None:
    """Raises StaleFile with the actual length when it is not the expected one."""
    if at is not None and at != len(inode.tokens):
        raise StaleFile(f"the file has {inode.length} tokens, not {at}", length=inode.length, at=at)


def start_position(start: int | None, inode: Inode, num_tokens: int, max_positions: int) -> int:
    """Where the next tokens go. Raises InvalidArgument (back), ContextTooLong (past the end)."""
    following = inode.next_position
    if start is None:
        start = following
    elif start < following:
        raise InvalidArgument(f"start is {start}, the next position is {following}", start=start, next_position=following)
    if start + num_tokens > max_positions:
        raise ContextTooLong(
            f"{num_tokens} tokens from position {start} pass the model's limit of {max_positions}", start=start, limit=max_positions
        )
    return start


def demand_timeout(timeout_s: float | None) -> None:
    """Raises InvalidArgument for a time limit that is no positive number."""
    if timeout_s is not None and not 0 < timeout_s < inf:
        raise InvalidArgument(f"timeout_s must be positive and finite, not {timeout_s}", timeout_s=timeout_s)


def demand_sampler(s: Sampler, vocab_size: int) -> None:
    """Raises InvalidArgument with the first value that is out of its range."""
    _range("temperature", s.temperature, 0 <= s.temperature < inf, "0 or more")
    _range("top_k", s.top_k, s.top_k >= 0, "0 or more")
    _range("top_p", s.top_p, 0 < s.top_p <= 1, "in (0, 1]")
    _range("min_p", s.min_p, 0 <= s.min_p <= 1, "in [0, 1]")
    _range("presence_penalty", s.presence_penalty, -2 <= s.presence_penalty <= 2, "in [-2, 2]")
    _range("frequency_penalty", s.frequency_penalty, -2 <= s.frequency_penalty <= 2, "in [-2, 2]")
    _range("repetition_penalty", s.repetition_penalty, 0 < s.repetition_penalty < inf, "above 0 and finite")
    for token, bias in (s.logit_bias or {}).items():
        _range("a token of logit_bias", token, 0 <= token < vocab_size, f"in 0..{vocab_size - 1}")
        _range("a value of logit_bias", bias, isfinite(bias), "finite")
    if s.allowed is not None and not tokens(s.allowed, vocab_size, "allowed"):
        raise InvalidArgument("allowed is empty: no token could be drawn")


def _range(name: str, value: float, ok: bool, words: str) -> None:
    if not ok:
        raise InvalidArgument(f"{name} must be {words}, not {value}", argument=name)


def demand_grammar(grammar: Grammar | None) -> None:
    """Raises InvalidArgument for an unknown kind, a text too large, or JSON that is none. The device compiles it."""
    if grammar is None:
        return
    if grammar.kind not in GRAMMARS:
        raise InvalidArgument(f"grammar.kind must be one of {', '.join(GRAMMARS)}, not {grammar.kind!r}")
    if not grammar.text or len(grammar.text.encode(errors="surrogatepass")) > MAX_GRAMMAR_BYTES:
        raise InvalidArgument(f"grammar.text must have 1..{MAX_GRAMMAR_BYTES} bytes", size=len(grammar.text))
    if grammar.kind in ("json", "choice"):
        try:
            value = json.loads(grammar.text)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"grammar.text is no JSON: {error}") from None
        if grammar.kind == "choice" and not (isinstance(value, list) and value and all(v and isinstance(v, str) for v in value)):
            raise InvalidArgument("grammar.text of kind choice must be a JSON list of strings, none empty")


def demand_predicate(root: Predicate | None, vocab_size: int) -> None:
    """Raises InvalidArgument for a tree that the device could not evaluate."""
    if root is None:
        return
    nodes = 0
    level = [root]
    for depth in range(MAX_DEPTH + 1):
        if not level:
            return
        nodes += len(level)
        if depth == MAX_DEPTH or nodes > MAX_NODES:
            raise InvalidArgument(f"until is deeper than {MAX_DEPTH} or larger than {MAX_NODES} nodes")
        for node in level:
            _demand_node(node, vocab_size)
        level = [part for node in level for part in node.parts]


def _demand_node(node: Predicate, vocab_size: int) -> None:
    op = node.op
    if op in ("and", "or"):
        if not node.parts:
            raise InvalidArgument(f"until: {op!r} needs parts")
        return
    if op not in (*THRESHOLDS, "top1_in", "after", "every"):
        raise InvalidArgument(f"until: unknown op {op!r}")
    if node.parts:
        raise InvalidArgument(f"until: {op!r} takes no parts")
    if not isfinite(node.value):
        raise InvalidArgument(f"until: the value of {op!r} must be finite, not {node.value}")
    if (op == "after" and node.value < 0) or (op == "every" and node.value < 1):
        raise InvalidArgument(f"until: {op!r} counts tokens, not {node.value}")
    if op in ("top1_in", "mass") and not tokens(node.tokens, vocab_size, "until.tokens"):
        raise InvalidArgument(f"until: {op!r} needs tokens")


def demand_stops(stop: tuple[str, ...]) -> None:
    """Raises InvalidArgument for too many stop strings, empty or overlong ones."""
    if len(stop) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_CHARS for text in stop):
        raise InvalidArgument(f"stop takes up to {MAX_STOPS} strings of 1..{MAX_STOP_CHARS} characters")
