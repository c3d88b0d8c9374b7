"""The simulator: a `Device` without vLLM, torch or a model (engine/sim/).

    kernel --effects--> core (files, jobs, steps) over the engine's own page table --> completions
                          |            |                |
                        pool         model          sampler, grammar        device: a thread in real time, or a driver that leaps

It keeps the engine's contract (kernel/effect.py) with the engine's `PageTable` and `Room`, and makes up the rest: blocks that
remember what was written into them, logits that are a function of the last tokens and their positions, time that is a function of
the batch. So most tests and all experiments of scale need no engine, and a run repeats from its seed.
"""

from vllm_symphony.engine.sim.core import Cost, SimCore
from vllm_symphony.engine.sim.device import SimDevice
from vllm_symphony.engine.sim.model import Model, SimModel

__all__ = ["Cost", "Model", "SimCore", "SimDevice", "SimModel"]
