"""Program-level attained service (kernel/sched/plas.py).

A program's place is the sum of what its ended calls have computed, least first; a call that runs adds its own. For programs whose
calls follow each other; where they run side by side atlas.py sees better how far the program is.
Bound: levels.py's.
Source: Luo et al., "Autellix" (arXiv 2502.13965), section 4.2.1.
"""

from __future__ import annotations

from vllm_symphony.kernel.sched.levels import Attained, Levels, Place


class AttainedService(Levels):
    name = "plas"
    help = "programs that have computed least go first (Autellix PLAS)"

    def add_up(self, attained: Attained, place: Place, tokens: float) -> None:
        attained.tokens += tokens
