"""Each machine tells of its engine steps, so that calls can be laid beside them."""

SOURCE = """
from vllm_symphony import lip

async def main():
    async with lip.open(tokens=[50, 51, 52]) as f:
        await f.forward()
        await f.generate(5, ignore_eos=True)
"""


def test_the_steps_of_a_call_are_told_and_lie_within_it(host):
    assert host.run(SOURCE).value is None

    told, calls = host.steps_and_calls()
    steps = {s.step: s for s in told}
    forward, generate = [r for r in calls if r.op in ("forward", "generate")][-2:]
    for call in (forward, generate):
        first, last = steps[call.step_first], steps[call.step_last]
        assert call.t_start_ns <= first.t_start_ns < first.t_end_ns and last.t_end_ns <= call.t_end_ns
    assert sum(steps[n].num_tokens for n in range(generate.step_first, generate.step_last + 1) if n in steps) >= 5
