"""How an edited file was made, so that it can be made again (kernel/fs/recipe.py).

    recipe   length 96: append 4096 tokens, extract [0:4] [4000:4092] compact     and what follows index 96 is in the file's tokens

Keys and values of an edited file do not follow from its tokens; they follow from what was done. The recipe covers the *base*, what
the last edit made of it, and grows only with edits and with cuts into the base: a file that is appended to needs no more. When it
gets too long it is given up (`NONE`): such a file lives as long as its pages do. An exact file has none and needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from vllm_symphony.abi.types import Span, pack_tokens

if TYPE_CHECKING:
    from vllm_symphony.kernel.fs.inode import Inode

NONE = b""  # there was one and it grew too long
MAX_BYTES, MAX_OPS = 1 << 20, 256


class Add(msgspec.Struct, tag="add", array_like=True, frozen=True):
    """Tokens (packed); `runs`: (index among them, position) where positions jump."""

    tokens: bytes
    runs: tuple[tuple[int, int], ...]


class Cut(msgspec.Struct, tag="cut", array_like=True, frozen=True):
    """Forget tokens from `length` on."""

    length: int


class Take(msgspec.Struct, tag="take", array_like=True, frozen=True):
    """An extract of what is there."""

    spans: tuple[tuple[int, int], ...]
    compact: bool


class Join(msgspec.Struct, tag="join", array_like=True, frozen=True):
    """What these make, copied and rotated behind what is there."""

    others: tuple[tuple[Op, ...], ...]


Op = Add | Cut | Take | Join
Ops = tuple[Op, ...]


class Recipe(msgspec.Struct, array_like=True, frozen=True):
    """`ops` begin with an empty file and make `length` tokens."""

    length: int
    ops: Ops


def of_extract(source: Inode, spans: Sequence[Span], compact: bool) -> bytes:
    """The recipe of an extract of what `source` is now."""
    ops = ops_of(source, spans[-1].stop)
    take = Take(tuple((s.start, s.stop) for s in spans), compact)
    return NONE if ops is None else _written(sum(s.stop - s.start for s in spans), (*ops, take))


def of_concat(sources: Sequence[Inode]) -> bytes:
    """The recipe of a concat by rotation of what `sources` are now."""
    parts = [ops_of(source, source.length) for source in sources]
    first, *others = parts
    known = tuple(ops for ops in others if ops is not None)
    if first is None or len(known) < len(others):
        return NONE
    return _written(sum(source.length for source in sources), (*first, Join(known)))


def cut(recipe: bytes, length: int) -> bytes:
    """The recipe of a file that is cut to `length`."""
    if recipe == NONE:
        return NONE
    made = read(recipe)
    return recipe if length >= made.length else _written(length, (*made.ops, Cut(length)))


def ops_of(inode: Inode, length: int) -> Ops | None:
    """What makes the first `length` tokens of a file, with its keys and values; None: nobody knows any more."""
    if inode.recipe is None:
        return (_add(inode, 0, length),)
    if inode.recipe == NONE:
        return None
    made = read(inode.recipe)
    if length > made.length:
        return (*made.ops, _add(inode, made.length, length))
    return made.ops if length == made.length else (*made.ops, Cut(length))


def read(recipe: bytes) -> Recipe:
    """From its bytes, which are our own."""
    return _decode(recipe)


def _add(inode: Inode, start: int, stop: int) -> Add:
    runs = [(max(at, start), position + max(0, start - at)) for at, position in inode.runs if at < stop]
    while len(runs) > 1 and runs[1][0] <= start:
        del runs[0]
    return Add(pack_tokens(inode.tokens[start:stop]), tuple((at - start, position) for at, position in runs))


def _written(length: int, ops: Ops) -> bytes:
    if _count(ops) > MAX_OPS:
        return NONE
    data = _encode(Recipe(length, ops))
    return data if len(data) <= MAX_BYTES else NONE


def _count(ops: Iterable[Op]) -> int:
    return sum(1 + (sum(map(_count, op.others)) if isinstance(op, Join) else 0) for op in ops)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Recipe).decode
