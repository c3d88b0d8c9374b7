import os

from vllm_symphony.runtime.wasm.program import rehearse


def test_a_rehearsal_leaves_no_thread():
    before = set(os.listdir("/proc/self/task"))

    rehearse()

    assert set(os.listdir("/proc/self/task")) <= before
