"""Every call with any values: the kernel answers each with a result or a listed error, and its invariants hold after it."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.counts import count
from tests.unit.kernel.world import ADMIN, ME, OTHER, World
from tests.wire.fuzz import args_of, ints
from vllm_symphony.abi.codec import error_frame, part_frame, reply_frame
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import OpenFlags
from vllm_symphony.errors import SymphonyError

OPS = tuple(CALLS)
WHO = ("client", "session", "edge", "program", "through")


@st.composite
def steps(draw):
    """A call: op, arguments, whose, for whom, thread, request id."""
    op = draw(st.sampled_from(OPS))
    cred, request_id = draw(st.sampled_from([ME, OTHER, ADMIN])), draw(st.sampled_from(["", "", "r", "r2"]))
    return op, draw(args_of(op)), draw(st.sampled_from(WHO)), cred, draw(ints), request_id


@settings(max_examples=count(150, 10_000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps(), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_any_values_get_an_answer_and_change_nothing_that_they_may_not(calls, rng):
    w = World(fds=8, files=30, threads=4, calls=40, requests=2, requesters=2, ended=3, event_count=10, log_records=50)
    edge = w.kernel.connect(ME, "edge", 0)
    session = w.kernel.connect(ME, "client", 0, lease_s=5.0)
    pids = {"client": w.pid, "session": session, "edge": edge, "program": w.program(), "through": edge}
    for by in (None, session):
        w.file([1, 2, 3], by=by)
        w("open", by=by, path=f"/{by}", flags=int(OpenFlags.CREAT | OpenFlags.RDWR))
    asked = []

    for op, args, who, cred, tid, request_id in calls:
        w.num_calls += 1
        by = pids[who]
        w.kernel.call(
            by, w.num_calls, tid if rng.random() < 0.2 else 0, op, args, w.now_ns, cred,
            session=session if who == "through" else 0, request_id=request_id,
        )  # fmt: skip
        w.drain()
        asked.append((by, w.num_calls))
        if rng.random() < 0.5:
            w.reap()
            if w.jobs:
                w.step() if rng.random() < 0.7 else w.fail()
        if rng.random() < 0.3:
            w.pass_time(rng.choice([0.001, 1.0, 6.0, 1e6]))
        if rng.random() < 0.1:
            w.disconnect(session)
        w.check()

    for by, call_id in asked:
        reply = w.replies.get((by, call_id))
        assert not isinstance(reply, SymphonyError) or len(error_frame(call_id, reply)) < 1 << 20
        assert reply is None or isinstance(reply, SymphonyError) or reply_frame(call_id, reply, 1)
        for part in w.stream(call_id, by):
            assert part_frame(call_id, part)
    _end(w)


def _end(w: World) -> None:
    """Everybody leaves; then nothing is left."""
    for pid, process in list(w.kernel.processes.items()):
        if process.kind == "session":
            w.kernel.end_session(pid, "over", w.now_ns)
            w.drain()
        elif process.kind != "program":
            w.disconnect(pid)
    while running := [pid for pid, p in w.kernel.processes.items() if p.kind == "program" and not p.has_ended]:
        w.exited(running[0], 137)
    while w.jobs:
        w.fail()
    w.assert_empty()
