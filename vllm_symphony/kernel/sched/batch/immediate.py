"""A step begins when the device is idle and somebody is ready (kernel/sched/batch/immediate.py): vLLM's own loop."""

from __future__ import annotations

from vllm_symphony.kernel.sched.batch.policy import BatchPolicy


class Immediate(BatchPolicy):
    name = "immediate"
    help = "a step begins as soon as a call is ready"
