"""The Prometheus door and `symphony metrics`, against a server on the simulator."""

import json
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from tests.edge.test_seeing import SimServer
from vllm_symphony.trace.metrics import METRICS, SAMPLES

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimServer]:
    server = SimServer(tmp_path_factory.mktemp("metrics"), "--metrics", "127.0.0.1:0", "--log-format", "json")
    assert server.run("run", "prog.py").returncode == 0
    yield server
    server.process.terminate()
    assert server.process.wait(60) == 0
    server.log.close()


def log_of(sim: SimServer) -> list[dict]:
    return [json.loads(line) for line in (sim.folder / "serve.log").read_text().splitlines()]


def scrape(sim: SimServer, accept: str = "", path: str = "") -> str:
    (address,) = {found for line in log_of(sim) for found in re.findall(r"http://127\.0\.0\.1:\d+/metrics", line["message"])}
    with urllib.request.urlopen(urllib.request.Request(address + path, headers={"Accept": accept} if accept else {})) as answer:
        return answer.read().decode()


def test_both_formats_are_read_by_prometheuss_own_parsers(sim: SimServer) -> None:
    for text, parse in ((scrape(sim), plain), (scrape(sim, OPENMETRICS), openmetrics)):
        families = {family.name.removesuffix("_total"): family for family in parse(text)}
        always = {
            name for name, metric in METRICS.items() if metric.by == "server" and (metric.kind != "counter" or not metric.labels)
        }

        assert always <= families.keys() <= METRICS.keys()
        for name, family in families.items():
            assert (family.type, family.documentation) == (METRICS[name].kind, METRICS[name].help)
            known = [s for s in family.samples if not s.name.endswith("_created")]
            assert all(SAMPLES[s.name] is METRICS[name] for s in known), name


def test_what_a_program_did_is_counted(sim: SimServer) -> None:
    found = {(s.name, *s.labels.values()): s.value for family in plain(scrape(sim)) for s in family.samples}

    assert found["symphony:tokens_total", "generated"] >= 10
    assert found["symphony:processes_ended_total", "program", "exit"] >= 2
    assert found["symphony:engine_rows_total", "programs"] >= 10
    assert found["symphony:engine_steps_total",] == found["symphony:engine_step_seconds_count",]
    assert found["symphony:queue_seconds_count",] >= 4
    assert found["symphony:pages_capacity", "device"] == 1024
    assert found["symphony:pool_ready", "python"] == 1
    assert found["symphony:store_transactions_total", "ok"] >= 0
    assert found["symphony:requests_total", "OK", "grpc"] >= 2
    assert found["symphony:uptime_seconds",] > 0


def test_no_series_names_a_process_a_principal_or_a_path(sim: SimServer) -> None:
    labels = {label for family in plain(scrape(sim)) for s in family.samples for label in s.labels}

    versions = {"version", "abi", "vllm", "torch", "python"}
    assert labels <= {"call", "reason", "tier", "state", "kind", "policy", "door", "code", "le"} | versions


def test_a_scrape_may_ask_for_some_names_only(sim: SimServer) -> None:
    found = {s.name for family in plain(scrape(sim, path="?name[]=symphony:uptime_seconds")) for s in family.samples}

    assert found == {"symphony:uptime_seconds"}


def test_the_command_shows_the_same_numbers(sim: SimServer) -> None:
    text = sim.run("metrics", "tokens", "processes_started").stdout
    data = json.loads(sim.run("metrics", "--json").stdout)

    assert 'symphony:processes_started_total{kind="program"} 2' in text and "calls_total" not in text
    assert {s["name"] for s in data} <= SAMPLES.keys()
    assert any(s["name"] == "symphony:calls_total" and s["labels"] == {"call": "fork", "reason": "ok"} for s in data)


def test_the_log_is_one_json_object_a_line_with_whose_request_it_was(sim: SimServer) -> None:
    lines = log_of(sim)
    access = [line for line in lines if line["logger"] == "symphony.access"]

    assert all({"ts", "level", "logger", "process", "message"} <= line.keys() for line in lines)
    assert access and all({"method", "code", "seconds", "principal"} <= line.keys() for line in access)


@pytest.mark.parametrize(
    ("address", "said"),
    [("0.0.0.0:9464", "can be reached from outside"), ("nowhere", "no address"), ("127.0.0.1:{taken}", "the port is taken")],
)
def test_an_address_that_cannot_be_is_refused_before_anything_starts(sim: SimServer, address: str, said: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        words = ("--metrics", address.format(taken=other.getsockname()[1]), "--run-dir", str(sim.folder / "second"))
        process = sim.start("serve", "--device", "sim", *words)
        _, err = process.communicate(timeout=60)

    assert process.returncode != 0 and said in err, err


def test_a_scrape_of_a_host_that_does_not_answer_is_answered(tmp_path) -> None:
    server = SimServer(tmp_path, "--metrics", "127.0.0.1:0", "--log-format", "json")
    try:
        (host,) = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout.split()
        subprocess.run(["kill", "-STOP", host], check=True)
        found = scrape(server)
        subprocess.run(["kill", "-CONT", host], check=True)
    finally:
        server.process.terminate()
        server.process.wait(60)
        server.log.close()

    assert "symphony:requests_total" in found and "symphony:calls_total" not in found
