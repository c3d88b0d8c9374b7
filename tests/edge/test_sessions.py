"""Remote programs by the SDK against a served simulator: the same as at the server, exactly once over connections that break."""

import asyncio
import json
import signal
from contextlib import asynccontextmanager

import grpc
import pytest

from tests.counts import count, random_for
from tests.edge.relay import relay
from vllm_symphony import lip
from vllm_symphony.abi.calls import Sleep
from vllm_symphony.abi.types import ABI_MAJOR
from vllm_symphony.client import Program, Retry, connect
from vllm_symphony.errors import BadProgram, BrokenPipe, DeviceLost, Interrupted, InvalidArgument, NoSuchProcess
from vllm_symphony.proto.message import call_message
from vllm_symphony.proto.v1 import session_pb2, session_pb2_grpc

HASTY = Retry(tries=100, first_s=0.001, most_s=0.02)
SAMPLED = """
from vllm_symphony import lip

async def main(question: str) -> list:
    async with lip.open(tokens=lip.render_chat(question)) as chat:
        said = await chat.generate(20, temperature=0.9, seed=11)
        streamed = [t async for piece in chat.generate(20, temperature=0.9, seed=12) for t in piece.tokens]
        dist = await chat.forward(entropy=True)
        return [said.tokens, streamed, dist.ids, (await dist.sample(temperature=0.7, seed=5)), dist.logprobs, dist.entropy]
"""
CHILDREN = """
from vllm_symphony import lip

async def square(x: int) -> int:
    return x * x

async def rest() -> None:
    await lip.sleep(600)
"""
SPIN = "from vllm_symphony import lip\n\nasync def main():\n    await lip.sleep(600)\n"


@pytest.fixture(scope="module")
def sim(fresh_server):
    server = fresh_server("--device", "sim")
    yield server
    server.stop()


def talk(sim, work, **settings):
    """Run `work(client)` against the server."""

    async def main():
        async with connect(sim.run_dir / "symphony.sock", **settings) as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(main(), 100))


@asynccontextmanager
async def cut_off(sim, tmp_path, name, **settings):
    """A client behind a relay of its own, the relay, and a client that reaches the server directly."""
    socket = sim.run_dir / "symphony.sock"
    async with (
        relay(socket, tmp_path / "r.sock", random_for(name)) as link,
        connect(tmp_path / "r.sock", **settings) as client,
        connect(socket) as direct,
    ):
        yield client, link, direct


async def ended(client, pid):
    return (await client.wait(pid, timeout_s=60)).exit


def test_a_remote_program_draws_what_the_same_program_draws_at_the_server(sim):
    async def work(client):
        scope = {}
        exec(SAMPLED, scope)
        there = (await client.run(SAMPLED, question="what is a lamp?").result()).value
        here = await client.run_here(scope["main"], question="what is a lamp?")
        return there, json.loads(json.dumps(here))

    there, here = talk(sim, work)

    assert here == there
    assert len(here[0]) == 20


def test_a_session_is_a_process_that_ends_with_its_block(sim):
    async def work(client):
        async with client.session(name="tutor", lease_s=7) as session:
            (stat,) = await client.ps(session.pid)
            assert await lip.getpid() == session.pid
            session.value = {"a": 1}
        return stat, await ended(client, session.pid)

    stat, exit_ = talk(sim, work)

    assert (stat.name, stat.kind, stat.lease_s, stat.connected) == ("tutor", "session", 7, True)
    assert (exit_.code, exit_.reason, json.loads(exit_.value)) == (0, "exit", {"a": 1})


def test_an_error_in_the_block_is_how_the_session_ends(sim):
    async def work(client):
        with pytest.raises(ZeroDivisionError):
            async with client.session() as session:
                _ = 1 / 0
        return await ended(client, session.pid)

    exit_ = talk(sim, work)

    assert (exit_.code, exit_.reason, exit_.error) == (1, "exception", "ZeroDivisionError: division by zero")


def test_a_cancelled_block_is_a_cancelled_session_and_frees_what_it_held(sim):
    async def work(client):
        entered, pid = asyncio.Event(), 0

        async def body():
            nonlocal pid
            async with client.session() as session:
                pid = session.pid
                await lip.open(text="held")
                entered.set()
                await lip.sleep(600)

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(body())
            await entered.wait()
            task.cancel()
        (stat,) = await client.ps(pid)
        return await ended(client, pid), stat

    exit_, stat = talk(sim, work)

    assert (exit_.code, exit_.reason) == (130, "cancelled")
    assert stat.num_files == 0


def test_term_cancels_the_block_which_raises_interrupted(sim):
    pids = []

    async def body(client):
        async with client.session() as session:
            pids.append(session.pid)
            await client.kill(session.pid)
            await lip.sleep(600)

    async def work(client):
        with pytest.raises(Interrupted, match="was told to end"):
            await body(client)
        assert not asyncio.current_task().cancelling()
        return await ended(client, pids[0])

    assert talk(sim, work).code == 130


def test_a_killed_session_says_so_to_its_program(sim):
    async def work(client):
        async with client.session() as session:
            await client.kill(session.pid, "KILL")
            await lip.sleep(600)

    with pytest.raises(NoSuchProcess, match=r"has ended|no open session"):
        talk(sim, work)


def test_outside_of_the_block_nothing_is_bound(sim):
    async def work(client):
        async with client.session():
            late = lip.getpid()
        with pytest.raises(RuntimeError, match="no transport is bound"):
            await late

    talk(sim, work)


def test_children_run_functions_of_the_program_that_was_named(sim):
    scope = {}
    exec(CHILDREN, scope)

    async def work(client):
        async with client.session(program=Program(CHILDREN)):
            value = await (await lip.spawn(scope["square"], 7)).wait()
        async with client.session():
            with pytest.raises(BadProgram, match="program=__file__"):
                await lip.spawn(scope["square"], 7)
        return value

    assert talk(sim, work) == 49


def test_a_call_too_large_to_be_sent_is_refused_and_the_session_goes_on(sim):
    async def work(client):
        async with client.session():
            with pytest.raises(InvalidArgument, match="the most is"):
                await lip.tokenize("x" * (17 << 20))
            return await lip.tokenize("ab", special=False)

    assert talk(sim, work)


def test_threads_of_a_session_are_threads_at_the_kernel(sim):
    async def work(client):
        async with client.session() as session, lip.group() as g:
            g.start(lip.sleep, 0.2)
            g.start(lip.sleep, 0.2)
            await lip.getpid()
            (stat,) = await client.ps(session.pid)
            return stat.num_threads

    assert talk(sim, work) == 3


# ---- connections that break


def test_calls_happen_once_and_answers_come_once_however_often_the_connection_breaks(sim, tmp_path):
    wanted, rounds = count(200, 2000), 40

    async def write(number, file, link):
        """Appends and reads that show each call that was lost, or made twice."""
        expected = [number + i for i in range(rounds)]
        while link.num_cuts < wanted:
            for length, token in enumerate(expected, start=1):
                assert await file.append([token]) == length
            assert await file.read() == expected
            await file.truncate(0)

    async def draw(file, link):
        """Streams whose pieces must add up."""
        while link.num_cuts < wanted:
            running = file.generate(30, ignore_eos=True, temperature=1.0, seed=4)
            pieces = [token async for piece in running for token in piece.tokens]
            assert pieces == (await running).tokens
            await file.truncate(2)

    async def tell(link):
        """Posts: calls without an answer."""
        told = 0
        while link.num_cuts < wanted:
            lip.emit(told)
            told += 1
            if told % 5 == 0:
                await lip.getpid()
        return told

    async def main():
        async with cut_off(sim, tmp_path, "sessions cut", retry=HASTY) as (client, link, direct):
            async with client.session(lease_s=60) as session:
                files = [await lip.open() for _ in range(3)]
                text = await lip.open(tokens=[65, 66])
                link.most_bytes = 6_000
                link.cut()
                async with lip.group() as g:
                    for number, file in enumerate(files):
                        g.start(write, number, file, link)
                    g.start(draw, text, link)
                    telling = g.start(tell, link)
                (stat,) = await direct.ps(session.pid)
            told = [json.loads(e.text) for e in await direct.logs(session.pid) if e.kind == "emit"]
            return link.num_cuts, stat.num_files, told, telling.result, await ended(direct, session.pid)

    num_cuts, num_files, told, num_told, exit_ = asyncio.run(asyncio.wait_for(main(), count(110, 1100)))

    assert num_cuts >= wanted
    assert num_files == 4
    assert told == list(range(num_told))[-len(told) :] and told
    assert (exit_.code, exit_.reason) == (0, "exit")


def test_a_run_is_attached_again_and_no_event_is_missing_or_twice(sim, tmp_path):
    loud = "async def main(n: int) -> int:\n    for i in range(n):\n        print(str(i) + ' ' * 200, flush=True)\n    return n\n"

    async def main():
        async with cut_off(sim, tmp_path, "runs cut", retry=HASTY) as (client, link, _):
            link.most_bytes = 120_000
            run = client.run(loud, n=3000)
            events = [event async for event in run]
            return link.num_cuts, events, (await run.result()).value

    num_cuts, events, value = asyncio.run(asyncio.wait_for(main(), 100))

    assert num_cuts > 2
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert "".join(e.text for e in events if e.kind == "stdout").split() == [str(i) for i in range(3000)]
    assert value == 3000


def test_a_spawn_that_was_tried_again_has_happened_once(sim, tmp_path):
    async def main():
        async with cut_off(sim, tmp_path, "spawns cut", retry=HASTY) as (client, link, direct):
            await client.ping()
            link.most_bytes = 3_000
            link.cut()
            pids = [await client.spawn(Program("async def main():\n    return 1\n", name="once")) for _ in range(count(60, 600))]
            shown = {p.pid for p in await direct.ps() if p.name == "once"}
            return link.num_cuts, pids, shown

    num_cuts, pids, shown = asyncio.run(asyncio.wait_for(main(), count(100, 1000)))

    assert num_cuts > 5
    assert len(set(pids)) == len(pids)
    assert shown == set(pids[-len(shown) :])


def test_a_session_that_nobody_comes_back_to_ends_with_its_children(sim, tmp_path):
    scope = {}
    exec(CHILDREN, scope)

    pids = []

    async def body(client, link):
        async with client.session(lease_s=0.5, program=Program(CHILDREN)) as session:
            child = await lip.spawn(scope["rest"])
            pids.extend((session.pid, child.pid))
            link.is_open = False
            link.cut()
            await lip.sleep(600)

    async def main():
        async with cut_off(sim, tmp_path, "lease", retry=HASTY) as (client, link, direct):
            with pytest.raises(DeviceLost) as lost:
                await body(client, link)
            return lost.value, *[await ended(direct, pid) for pid in pids]

    error, exit_, of_child = asyncio.run(asyncio.wait_for(main(), 60))

    assert "no connection for its lease of 0.5 s" in str(error)
    assert (exit_.code, exit_.reason) == (129, "lease")
    assert of_child.reason == "lease"


def test_a_session_whose_lease_ran_out_learns_it_when_it_comes_back(sim, tmp_path):
    async def main():
        async with cut_off(sim, tmp_path, "late", retry=HASTY) as (client, link, direct), client.session(lease_s=0.3) as session:
            session._link.lease_s = 60  # as one whose clock is wrong
            link.is_open = False
            link.cut()
            await ended(direct, session.pid)
            link.is_open = True
            await lip.sleep(600)

    with pytest.raises(NoSuchProcess, match="no open session"):
        asyncio.run(asyncio.wait_for(main(), 60))


def test_who_hears_that_the_server_stops_does_not_wait_for_the_lease(fresh_server):
    server = fresh_server("--device", "sim", "--grace", "600")

    async def work(client):
        async with client.session(lease_s=3600):
            server.process.send_signal(signal.SIGTERM)
            while True:
                await lip.getpid()

    with pytest.raises(DeviceLost):
        talk(server, work)
    assert server.process.wait(60) == 0


def test_who_comes_second_takes_a_session_over_and_the_first_is_told(sim):
    async def work(client):
        async with client.session() as session, grpc.aio.insecure_channel(f"unix:{sim.run_dir / 'symphony.sock'}") as channel:
            stream = session_pb2_grpc.SessionServiceStub(channel).Connect()
            hello = session_pb2.Hello(abi_major=ABI_MAJOR, pid=session.pid, resume=session._link.resume)
            await stream.write(session_pb2.ConnectRequest(hello=hello))
            assert (await stream.read()).hello.pid == session.pid
            await lip.sleep(600)

    with pytest.raises(BrokenPipe, match="another connection took the session over"):
        talk(sim, work)


# ---- what is given up


async def answers(client, pid, op):
    return [record.result.split(":")[0] async for part in client.strace(pid) for record in part.records if record.op == op]


def test_a_cancelled_call_ends_at_the_kernel(sim):
    async def work(client):
        async with client.session() as session:
            sleeping = asyncio.ensure_future(lip.sleep(600))
            await lip.getpid()
            sleeping.cancel()
            await lip.getpid()
            return await answers(client, session.pid, "sleep")

    assert talk(sim, work) == ["EINTR"]


def test_a_forward_that_was_cancelled_leaves_the_file_as_it_was(sim):
    async def work(client):
        async with client.session() as session:
            for _ in range(100):  # it may be done before the cancel comes
                file = await lip.open(text="once upon a time")
                before = file.length
                computing = asyncio.ensure_future(file.forward([65] * 2000))
                await asyncio.sleep(0)
                computing.cancel()
                while (stat := await file.stat()).busy:
                    pass
                last = (await answers(client, session.pid, "forward"))[-1]
                assert stat.length - before == {"EINTR": 0, "ok": 2000}[last]
                if last == "EINTR":
                    return (await file.forward([66])).position == before

    assert talk(sim, work)


def test_a_deadline_ends_a_sessions_call_at_the_kernel(sim):
    async def work(client):
        async with client.session() as session, grpc.aio.insecure_channel(f"unix:{sim.run_dir / 'symphony.sock'}") as channel:
            request = session_pb2.CallRequest(pid=session.pid, resume=session._link.resume)
            call_message("sleep", Sleep(600.0), request.call)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await session_pb2_grpc.SessionServiceStub(channel).Call(request, timeout=0.3)
            while not (ends := await answers(client, session.pid, "sleep")):
                await lip.sleep(0.01)
            return failed.value.code(), ends

    code, ends = talk(sim, work)

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ends == ["EINTR"]


def test_a_client_that_leaves_ends_its_runs_but_not_those_it_has_detached(sim):
    async def work(client):
        ours, given = client.run(SPIN), client.run(SPIN)
        for run in (ours, given):
            await anext(run)
        assert given.detach() == given.pid
        return ours, given

    async def after(client):
        (stat,) = await client.ps(given.pid)
        await client.kill(given.pid, "KILL")
        return await ended(client, ours.pid), stat.exit

    ours, given = talk(sim, work)
    exit_, still_runs = talk(sim, after)

    assert exit_.reason == "cancelled"
    assert still_runs is None


def test_a_client_that_has_left_has_nothing_under_way(sim):
    """gRPC has one queue for all loops: what comes for a loop that is closed spoils the next one's calls."""

    async def main():
        for _ in range(20):
            async with connect(sim.run_dir / "symphony.sock") as client:
                run = client.run(SPIN)
                await anext(run)
                looking = client.attach(run.pid)
                await anext(looking)
                await looking.aclose()
                async with client.session():
                    sleeping = asyncio.ensure_future(lip.sleep(600))
                    await lip.getpid()
                await asyncio.wait([sleeping])
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
