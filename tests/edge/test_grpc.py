"""The gRPC door: health, reflection, errors as google.rpc.Status, cancel and deadline, slow readers; and the SDK on it."""

import asyncio
import json
import random
import time

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.edge.relay import relay
from vllm_symphony.client import Program, ServerUnreachable, connect
from vllm_symphony.errors import BadProgram, InvalidArgument, NoSuchFile, NoSuchProcess, SymphonyError, TimedOut
from vllm_symphony.proto.v1 import file_pb2, file_pb2_grpc, process_pb2, process_pb2_grpc, system_pb2, system_pb2_grpc

HELLO = "from vllm_symphony import lip\n\nasync def main(who: str) -> str:\n    print('hello', who)\n    return who\n"
SPIN = "from vllm_symphony import lip\n\nasync def main():\n    print('spinning', flush=True)\n    await lip.sleep(600)\n"
LOUD = "async def main(n: int):\n    for i in range(n):\n        print('x' * 1000)\n"


def talk(server, work):
    """Run `work(client)` against the server."""

    async def main():
        async with connect(server.run_dir / "symphony.sock") as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(main(), 60))


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(f"unix:{server.run_dir / 'symphony.sock'}") as channel:
        yield channel


def status_of(error: grpc.RpcError) -> Status:
    trailer = dict(error.trailing_metadata())
    return Status.FromString(trailer["grpc-status-details-bin"])


def health(channel, service: str = "") -> int:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service)).status


def test_health_serves_when_the_kernel_answers(channel):
    assert health(channel) == health_pb2.HealthCheckResponse.SERVING
    assert health(channel, "symphony.v1.ProcessService") == health_pb2.HealthCheckResponse.SERVING


def test_health_does_not_serve_while_the_host_starts(fresh_server):
    server = fresh_server("slow", ready=False)
    with grpc.insecure_channel(f"unix:{server.run_dir / 'symphony.sock'}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        answer = check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=20)

        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as failed:
            system_pb2_grpc.SystemServiceStub(channel).Ping(system_pb2.PingRequest())

    status = status_of(failed.value)
    retry = RetryInfo()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert any(d.Unpack(retry) for d in status.details) and retry.retry_delay.ToNanoseconds() > 0
    server.stop()


def test_reflection_lists_the_services(channel):
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))

    names = {s.name for s in answer.list_services_response.service}
    assert {f"symphony.v1.{n}Service" for n in ("Process", "File", "Model", "System")} < names
    assert "grpc.health.v1.Health" in names


def test_an_error_is_a_status_with_reason_domain_and_values(channel):
    with pytest.raises(grpc.RpcError) as failed:
        file_pb2_grpc.FileServiceStub(channel).Stat(file_pb2.StatRequest(path="/nowhere"))

    info = ErrorInfo()
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    assert status_of(failed.value).details[0].Unpack(info)
    assert (info.reason, info.domain, info.metadata["path"]) == ("ENOENT", "symphony", "/nowhere")


def test_errors_come_back_as_their_classes(server):
    async def work(client):
        with pytest.raises(NoSuchFile) as failed:
            await client.stat("/nowhere")
        assert failed.value.values == {"path": "/nowhere"}
        with pytest.raises(NoSuchProcess):
            await client.wait(999_999)
        with pytest.raises(BadProgram):
            await client.spawn(Program("  "))
        with pytest.raises(InvalidArgument):
            await client.kill(1, "HUP")
        with pytest.raises(InvalidArgument):
            await client.rm("no slash")

    talk(server, work)


def test_no_server_is_its_own_error(tmp_path):
    async def work():
        async with connect(tmp_path / "none.sock") as client:
            await client.ping()

    with pytest.raises(ServerUnreachable):
        asyncio.run(work())


def test_a_server_that_is_slow_to_answer_is_waited_for(server, tmp_path):
    async def work():
        async with relay(server.run_dir / "symphony.sock", tmp_path / "r.sock", random.Random(1)) as link:
            link.goes_on.clear()
            async with connect(tmp_path / "r.sock") as client:
                asked = asyncio.create_task(client.ping())
                done, _ = await asyncio.wait([asked], timeout=0.5)
                assert not done, asked.exception()
                link.goes_on.set()
                await asked

    asyncio.run(work())


def test_run_gives_events_then_the_result(server):
    async def work(client):
        run = client.run(HELLO, who="you")
        events = [e async for e in run]
        result = await run.result()
        return run.pid, events, result

    pid, events, result = talk(server, work)

    assert [(e.kind, e.text) for e in events[:2]] == [("started", ""), ("stdout", "hello you\n")]
    assert events[-1].kind == "exit"
    assert result.value == "you"
    assert result.process.pid == pid


def test_leaving_a_run_ends_the_program(server):
    async def work(client):
        run = client.run(SPIN)
        async for event in run:
            if event.kind == "stdout":
                break
        await run.aclose()
        return (await client.wait(run.pid, timeout_s=60)).exit

    assert talk(server, work).reason == "cancelled"


def test_a_deadline_ends_the_program(server, channel):
    request = process_pb2.RunRequest(program=process_pb2.Program(source=SPIN))
    responses = process_pb2_grpc.ProcessServiceStub(channel).Run(request, timeout=1.0)

    pid = next(responses).pid
    with pytest.raises(grpc.RpcError) as failed:
        list(responses)

    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert talk(server, lambda client: client.wait(pid, timeout_s=60)).exit.reason == "cancelled"


def test_a_spawned_program_outlives_its_client_and_is_attached_again(server):
    pid = talk(server, lambda client: client.spawn(SPIN))

    async def work(client):
        events = client.attach(pid)
        seen = [(await anext(events)).kind for _ in range(2)]
        await events.aclose()  # leaving an attach does nothing to it
        with pytest.raises(TimedOut):
            await client.wait(pid, timeout_s=0.1)
        await client.kill(pid)
        result = await client.wait(pid)
        replayed = [e.kind async for e in client.attach(pid, from_seq=2)]
        return seen, result, replayed

    seen, result, replayed = talk(server, work)

    assert seen == ["started", "stdout"]
    assert result.exit.reason == "cancelled"
    assert replayed[0] == "stdout" and replayed[-1] == "exit"


def test_a_reader_that_stops_reading_delays_nobody(server):
    async def work(client):
        loud = client.run(LOUD, n=3_000)
        await anext(loud)
        began = time.monotonic()
        for _ in range(20):
            await client.ping()
        pings_s = time.monotonic() - began
        size, gaps = 0, 0
        async for event in loud:
            size += len(event.text) if event.kind == "stdout" else 0
            gaps += int(event.text) if event.kind == "gap" else 0
        return pings_s, size, gaps, (await loud.result()).exit.code

    pings_s, size, gaps, code = talk(server, work)

    assert pings_s < 5
    assert code == 0
    assert size == 3_000 * 1001 or gaps > 0


def test_runs_at_once_all_answer(server):
    async def work(client):
        results = await asyncio.gather(*(client.run(HELLO, who=str(i)).result() for i in range(20)))
        return [r.value for r in results]

    assert talk(server, work) == [str(i) for i in range(20)]


def test_the_model_and_its_tokenizer(server):
    async def work(client):
        model = await client.model()
        tokens = await client.tokenize("ab")
        return model, tokens, await client.detokenize(tokens), await client.ping(), await client.info()

    model, tokens, text, ping_s, info = talk(server, work)

    assert (model.name, model.eos_tokens, model.page_size) == ("fake", (0,), 16)
    assert (tokens, text) == ([97, 98], "ab")
    assert 0 < ping_s < 5
    assert json.loads(json.dumps(info.detail))["kernel"]["programs"] == 0


def test_rename_replaces_the_name(server):
    keep = "from vllm_symphony import lip\n\nasync def main():\n    await (await lip.open(tokens=[1, 2])).link('/old')\n"

    async def work(client):
        await client.run(keep).result()
        await client.mv("/old", "/new")
        found = [f.path for f in await client.ls("/")]
        await client.rm("/new")
        return found

    assert talk(server, work) == ["/new"]


def test_a_message_that_is_too_large_is_refused_and_the_server_goes_on(server):
    async def work(client):
        with pytest.raises(SymphonyError, match="larger than max"):  # gRPC's limit
            await client.spawn(Program("#" * (65 << 20)))
        with pytest.raises(InvalidArgument):  # the kernel's
            await client.spawn(Program("#" * (17 << 20)))
        await client.ping()

    talk(server, work)
