"""What is in deploy/ fits what the server counts: names, labels, their values; PromQL that parses; alerts with a runbook each."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from vllm_symphony.cli.main import COMMANDS
from vllm_symphony.trace.metrics import METRICS, SAMPLES

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "symphony.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {rule["alert"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']}: {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}
BY_PROMETHEUS = {"instance", "job"}  # labels that a scrape adds


def parsed(expression: str) -> Any:
    return promql.parse(expression.replace("$__rate_interval", "5m").replace("$instance", ".*"))


def selectors(expression: str) -> list[Any]:
    """Each metric that is asked for, with its matchers."""
    found: list[Any] = []

    def look(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        return True

    promql.walk(parsed(expression), look)
    return found


def asked() -> set[str]:
    return {selector.name for expression in EXPRESSIONS.values() for selector in selectors(expression)}


def groupings(expression: str) -> set[str]:
    return {
        label.strip() for found in re.findall(r"\b(?:by|on|ignoring) \(([^)]*)\)", expression) for label in found.split(",")
    } - {""}


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_an_expression_asks_for_metrics_that_there_are_by_labels_that_they_have(where):
    found = selectors(EXPRESSIONS[where])

    assert found
    for selector in found:
        metric = SAMPLES.get(selector.name)
        if metric is None:
            assert selector.name == "up" or selector.name.startswith("vllm:"), selector.name
            continue
        for matcher in selector.matchers.matchers:
            assert matcher.name in {*metric.labels, *BY_PROMETHEUS}, f"{selector.name} has no label {matcher.name}"
            values = metric.labels.get(matcher.name)
            if values is not None:
                unknown = set(matcher.value.split("|")) - set(values)
                assert not unknown, f"{selector.name}: {matcher.name} is never {unknown}"
    ours = [SAMPLES[selector.name] for selector in found if selector.name in SAMPLES]
    if ours:
        assert groupings(EXPRESSIONS[where]) <= {"le", *BY_PROMETHEUS, *(label for metric in ours for label in metric.labels)}


def test_counters_are_asked_for_as_rates_and_gauges_are_not():
    for where, expression in EXPRESSIONS.items():
        for name in re.findall(r"(?:rate|increase)\((symphony:[a-z_:]+)", expression):
            assert SAMPLES[name].kind != "gauge", f"{where}: a rate of {name}"
        for name in re.findall(r"(?<!rate\()(?<!increase\()(symphony:[a-z_:]+)", expression):
            assert SAMPLES[name].kind == "gauge", f"{where}: {name} without a rate"


def test_the_dashboard_and_the_alerts_leave_no_metric_of_ours_out():
    shown = {SAMPLES[name].name for name in asked() if name in SAMPLES}

    assert shown == set(METRICS)


def test_vllms_metrics_that_are_asked_for_are_in_its_source():
    found = find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    source = (Path(found.origin).parent / "v1" / "metrics" / "loggers.py").read_text()
    names = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked() if name.startswith("vllm:")}

    assert names and not {name for name in names if f'"{name}"' not in source}


def test_what_is_no_promql_would_be_found():
    with pytest.raises(ValueError, match="parenthesis"):
        parsed("sum(rate(symphony:calls_total[5m])")


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_is_one_of_prometheus_with_a_runbook_that_is_there(rule):
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^### (.*)$", (ROOT / page).read_text(), re.MULTILINE)

    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    assert rule["annotations"].keys() == {"summary", "runbook"}
    assert f"`{rule['alert']}`" in headings and anchor == rule["alert"].lower()


def test_a_summary_names_labels_that_the_expression_leaves():
    for rule in RULES:
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        left = groupings(rule["expr"]) or BY_PROMETHEUS
        assert named <= left | BY_PROMETHEUS, rule["alert"]


def test_every_alert_has_its_section_and_no_section_is_without_one():
    text = (ROOT / "docs" / "troubleshooting.md").read_text().split("\n## Alerts\n")[1].split("\n## ")[0]

    assert re.findall(r"^### `(\w+)`$", text, re.MULTILINE) == [rule["alert"] for rule in RULES]
    assert text.count("\n- Causes: ") == text.count("\n- Do: ") == len(RULES)
    assert set(re.findall(r"`symphony ([a-z]+)", text)) <= {name for group in COMMANDS.values() for name in group}


def test_prometheus_scrapes_both_ways_of_serving_and_reads_the_rules():
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in PROMETHEUS["scrape_configs"]}

    assert targets == {"symphony-http": ["127.0.0.1:8000"], "symphony": ["127.0.0.1:9464"]}
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_the_dashboard_is_whole():
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]

    assert len(set(ids)) == len(ids) and len(set(places)) == len(places)
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"] and panel["title"]
        position = panel["gridPos"]
        assert position["x"] >= 0 and position["x"] + position["w"] <= 24
