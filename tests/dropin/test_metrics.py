"""/metrics of vLLM's server with the kernel in its engine: vLLM's numbers and ours, of the same steps."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from tests.dropin.server import Served
from vllm_symphony.abi.calls import Generate, Open
from vllm_symphony.abi.types import pack_tokens
from vllm_symphony.trace.metrics import METRICS, SAMPLES

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
NUM = 12


def numbers(served: Served) -> dict[tuple[str, ...], float]:
    """By name and the values of labels, in the order of their names."""
    answer = served.ask("/metrics")
    assert answer.status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in plain(answer.body)
        for sample in family.samples
    }


def total(found: dict[tuple[str, ...], float], name: str) -> float:
    return sum(value for (metric, *_), value in found.items() if metric == name)


def test_ours_are_beside_vllms_in_both_formats(server_b: Served) -> None:
    for parse, accept in ((plain, "text/plain"), (openmetrics, OPENMETRICS)):
        families = {f.name.removesuffix("_total"): f for f in parse(server_b.ask("/metrics", Accept=accept).body)}
        ours = {name: family for name, family in families.items() if name.startswith("symphony:")}

        assert any(name.startswith("vllm:") for name in families)
        assert {name for name, m in METRICS.items() if m.by == "server" and (m.kind != "counter" or not m.labels)} <= ours.keys()
        assert all(s.name in SAMPLES for family in ours.values() for s in family.samples if not s.name.endswith("_created"))


def test_steps_count_plain_requests_and_programs_apart(server_b: Served) -> None:
    before = numbers(server_b)
    server_b.tokens([5, 6, 7], NUM)
    with server_b.client() as client:
        fd = client.ask("open", Open(tokens=pack_tokens([5, 6, 7]), flags=1 | 16)).fd
        client.ask("generate", Generate(fd, NUM, ignore_eos=True, stream=False))
    after = numbers(server_b)

    grown = {key: after[key] - before.get(key, 0.0) for key in after}
    assert grown["symphony:engine_tokens_total", "plain"] >= NUM + 2
    assert grown["symphony:engine_tokens_total", "programs"] >= NUM + 2
    assert grown["symphony:engine_rows_total", "plain"] >= NUM <= grown["symphony:engine_rows_total", "programs"]
    assert grown["symphony:tokens_total", "generated"] == NUM
    assert total(grown, "vllm:generation_tokens_total") >= NUM
    assert grown["symphony:calls_total", "generate", "ok"] == 1
    assert grown["symphony:requests_total", "2xx", "http"] >= 2


def test_one_look_shows_the_grpc_door_too(server_b: Served) -> None:
    assert numbers(server_b)["symphony:processes", "edge", "running"] >= 2, "vLLM's server, and the gRPC edge"
