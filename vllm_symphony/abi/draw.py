"""Keyed randomness (abi/draw.py): a draw is a function of (seed, position, draw), never of who asked or in which step.

The program's library and the kernel compute the same uniform, so a token drawn at the program from the mass that it knows is the
token that the server would have drawn. Counter-based in the manner of Salmon et al., "Parallel random numbers: as easy as
1, 2, 3" (SC '11); a hash stands in for the cipher.
"""

from __future__ import annotations

import struct
from hashlib import blake2b


def key64(seed: int, position: int, draw: int = 0) -> int:
    """64 bits that depend on all three; `seed` may be any integer."""
    data = struct.pack("<QqQ", seed & 0xFFFF_FFFF_FFFF_FFFF, position, draw)
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def uniform(seed: int, position: int, draw: int = 0) -> float:
    """A float in [0, 1), 53 bits."""
    return (key64(seed, position, draw) >> 11) * 2.0**-53
