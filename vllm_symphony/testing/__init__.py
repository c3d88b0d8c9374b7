"""Run programs in a test, on a simulated machine: no server, no model, no waiting.

from vllm_symphony.testing import Machine, run_program

assert run_program(main, question="Who?") == "..."           one program, one machine
m = Machine(seed=7)                                          many programs, one clock
runs = [m.start(main, question=q) for q in questions]
m.run()
"""

from vllm_symphony.testing.machine import Machine, Run, run_program

__all__ = ["Machine", "Run", "run_program"]
