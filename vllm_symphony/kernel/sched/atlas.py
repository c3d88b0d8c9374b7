r"""Adaptive thread-level attained service (kernel/sched/atlas.py): by the critical path.

    a ---- b (50) ---- d        a call's place is the longest path of computed tokens that leads to it:
      \--- c (10) --/           d comes after 50, not after 60, for b and c ran side by side

As one number: when a call ends, its program's becomes max(program's, what the call came with + its own), and new calls come with
that.
Bound: levels.py's.
Source: Luo et al., "Autellix" (arXiv 2502.13965), section 4.2.2.
"""

from __future__ import annotations

from vllm_symphony.kernel.sched.levels import Attained, Levels, Place


class CriticalPath(Levels):
    name = "atlas"
    help = "programs whose longest path of calls is shortest go first (Autellix ATLAS)"

    def add_up(self, attained: Attained, place: Place, tokens: float) -> None:
        attained.tokens = max(attained.tokens, place.inherited + tokens)
