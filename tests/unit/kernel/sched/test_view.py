"""What is seen of the run queue from outside is what is in it."""

from vllm_symphony.abi.types import Pid
from vllm_symphony.kernel.effect import Owner, ProcessBegan
from vllm_symphony.kernel.sched.queue import RunQueue
from vllm_symphony.kernel.sched.runnable import Service
from vllm_symphony.kernel.sched.view import Standing, seen


def test_calls_are_told_by_process_and_by_principal_and_service_by_program():
    queue = RunQueue(rows=2)
    for pid, parent in ((1, None), (2, 1)):
        queue.began(ProcessBegan(Pid(pid), None if parent is None else Pid(parent), "ann", "p", 0), 0.0)
    calls = [
        queue.add(Owner(Pid(pid), 0, principal), 5, 0.0) for pid, principal in ((1, "ann"), (2, "ann"), (2, "ann"), (9, "bob"))
    ]
    queue.claim(calls[1], 0.0)
    queue.charge(calls[1], Service(prefill=5, decode=1), 0.0)

    view = seen(queue)

    assert view.processes == {1: Standing(1, 0, 7.0), 2: Standing(1, 1, 7.0), 9: Standing(1, 0, 0.0)}
    assert view.principals == {"ann": Standing(2, 1, 7.0), "bob": Standing(1, 0, 0.0)}
    assert (view.queued, view.running) == (queue.num_waiting, queue.num_running) == (3, 1)


def test_of_an_empty_queue_nothing_is_told():
    view = seen(RunQueue(rows=2))

    assert (view.processes, view.principals, view.errors, view.queued) == ({}, {}, {}, 0)
