"""Traces of a server as a collector gets them, over real sockets."""

import json
import threading
from pathlib import Path

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk")

from tests.edge import otlp
from tests.edge.test_seeing import FAMILY, SimServer
from vllm_symphony.proto.v1 import process_pb2, process_pb2_grpc, session_pb2, session_pb2_grpc

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
MANY = """
from vllm_symphony import lip

async def main():
    for _ in range(400):
        await lip.sleep(0)
"""


@pytest.fixture
def serving(tmp_path: Path):
    """Makes a server that sends its traces there; it is stopped at the end."""
    made = []

    def serve(url: str, *words: str) -> SimServer:
        made.append(SimServer(tmp_path, "--otlp-endpoint", url, *words))
        return made[-1]

    yield serve
    for server in made:
        stop(server)


def stop(server: SimServer) -> None:
    if server.process.poll() is None:
        server.process.terminate()
        assert server.process.wait(60) == 0
        server.log.close()


def spawn(server: SimServer, text: str, metadata: tuple = ()) -> int:
    channel = grpc.insecure_channel(f"unix:{server.folder / 'run' / 'symphony.sock'}")
    with channel:
        stub = process_pb2_grpc.ProcessServiceStub(channel)
        request = process_pb2.SpawnRequest(program=process_pb2.Program(source=text, name="family"))
        pid = stub.Spawn(request, metadata=metadata).pid
        stub.Wait(process_pb2.WaitRequest(pid=pid), timeout=60)
    return pid


def attributes(span) -> dict:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def whole(spans: list) -> dict | None:
    """The family's processes, once the last of them has come."""
    found = {span.name: span for span in spans if span.name.startswith("program ")}
    return found if {"program family", "program child"} <= found.keys() else None


@pytest.mark.parametrize(("protocol", "collector"), [("grpc", otlp.by_grpc), ("http/protobuf", otlp.by_http)])
def test_a_clients_trace_goes_on_in_the_program_its_calls_and_its_children(serving, protocol, collector):
    with collector() as (url, collected):
        server = serving(url, "--otlp-protocol", protocol)
        pid = spawn(server, FAMILY, HEADER)
        processes = collected.wait_for(whole)
        family, child = processes["program family"], processes["program child"]
        stop(server)
        calls = [span for span in collected.spans if span.parent_span_id == family.span_id and span is not child]

        assert (family.trace_id.hex(), family.parent_span_id.hex()) == (TRACE, SPAN)
        assert (child.trace_id, child.parent_span_id) == (family.trace_id, family.span_id)
        assert {span.trace_id.hex() for span in calls} == {TRACE}
        assert {"open", "fork", "forward", "generate", "spawn", "wait"} <= {span.name for span in calls}
        assert len({span.span_id for span in collected.spans}) == len(collected.spans)
        said = attributes(family)
        assert (said["symphony.pid"], said["symphony.exit.reason"], said["symphony.calls"]) == (pid, "exit", len(calls))
        steps = [attributes(span)["symphony.step.first"] for span in calls if span.name == "generate"]
        assert steps and all(step > 0 for step in steps)
        assert collected.resources[0]["service.name"] == "symphony"


def test_no_token_no_text_and_no_argument_leaves_the_server(serving):
    with otlp.by_grpc() as (url, collected):
        server = serving(url)
        spawn(server, FAMILY)
        collected.wait_for(whole)
        stop(server)

        sent = b"".join(span.SerializeToString() for span in collected.spans)
        assert b"wolpertinger" not in sent and b"fd=" not in sent and b"chars=" not in sent


def test_a_session_is_a_span_of_the_trace_that_its_connect_names(serving):
    with otlp.by_grpc() as (url, collected):
        server = serving(url)
        with grpc.insecure_channel(f"unix:{server.folder / 'run' / 'symphony.sock'}") as channel:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            made = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=60, name="desk"), metadata=HEADER)
            stub.EndSession(session_pb2.EndSessionRequest(pid=made.pid, resume=made.resume))
        (desk,) = collected.wait_for(lambda spans: [span for span in spans if span.name == "session desk"])

        assert (desk.trace_id.hex(), desk.parent_span_id.hex()) == (TRACE, SPAN)
        assert attributes(desk)["symphony.kind"] == "session"


def test_a_program_without_a_trace_is_one_of_its_own(serving):
    with otlp.by_grpc() as (url, collected):
        server = serving(url)
        spawn(server, FAMILY, (("traceparent", "00-nonsense"),))
        family = collected.wait_for(whole)["program family"]

        assert family.parent_span_id == b"" and len(family.trace_id) == 16


def test_a_collector_that_hangs_costs_spans_and_nothing_else(serving, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    with otlp.by_grpc() as (url, collected):
        collected.gate = threading.Event()
        server = serving(url)
        spawn(server, MANY)
        spans = {s["labels"]["state"]: s["value"] for s in json.loads(server.run("metrics", "trace_spans", "--json").stdout)}

        assert spans["dropped"] >= 400 - 64 - 2 * 16
        collected.gate.set()
        stop(server)
        assert 0 < len(collected.spans) <= 64 + 2 * 16


@pytest.mark.parametrize("url", ["127.0.0.1:4317", "ftp://x", "http://"])
def test_an_endpoint_that_is_no_url_is_refused_before_anything_starts(tmp_path, url):
    server = SimServer.__new__(SimServer)
    server.folder, server.environment = (
        tmp_path,
        {"PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    process = server.start("serve", "--device", "sim", "--run-dir", str(tmp_path / "run"), "--otlp-endpoint", url)
    _, err = process.communicate(timeout=60)

    assert process.returncode != 0 and "--otlp-endpoint must be like" in err, err


def test_without_opentelemetry_the_line_that_installs_it_is_said(tmp_path):
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ModuleNotFoundError('no', name='opentelemetry')\n")
    server = SimServer.__new__(SimServer)
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    server.folder, server.environment = tmp_path, {"PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": path}
    process = server.start(
        "serve", "--device", "sim", "--run-dir", str(tmp_path / "run"), "--otlp-endpoint", "http://127.0.0.1:4317"
    )
    _, err = process.communicate(timeout=60)

    assert process.returncode != 0 and 'pip install "vllm-symphony[otel]"' in err, err
