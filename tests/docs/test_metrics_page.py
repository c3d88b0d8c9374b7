"""docs/metrics.md has each metric of the registry as it is, and queries that parse and ask for what there is."""

import re
from pathlib import Path

import promql_parser as promql

from vllm_symphony.cli.main import COMMANDS, main
from vllm_symphony.trace.metrics import METRICS, SAMPLES

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
REFERENCE = PAGE.split("\n## Reference\n")[1]


def test_the_reference_has_every_metric_with_its_kind_its_labels_and_its_help():
    rows = re.findall(r"^\| `([\w:]+)` \| (\w+) \| ([^|]*)\| (.*) \|$", REFERENCE, re.MULTILINE)
    told = {name: (kind, re.findall(r"`(\w+)`", labels), text) for name, kind, labels, text in rows}

    assert told == {
        name + ("_total" if metric.kind == "counter" else ""): (metric.kind, list(metric.labels), metric.help)
        for name, metric in METRICS.items()
    }


def test_every_label_is_told():
    table = PAGE.split("\n## Labels\n")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))

    assert told == {label for metric in METRICS.values() for label in metric.labels} - set(METRICS["symphony:build_info"].labels)


def test_the_questions_are_queries_of_metrics_that_there_are():
    queries = re.findall(r"^\| [^|`]+ \| `(.+)` \|$", PAGE.split("\n## Questions\n")[1].split("\n## ")[0], re.MULTILINE)

    assert len(queries) >= 5
    for query in queries:
        promql.parse(query)
        assert set(re.findall(r"symphony:[a-z_]+", query)) <= SAMPLES.keys(), query


def test_commands_and_flags_of_the_page_are_there(capsys):
    main(["serve", "--help"])
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    names = {name for group in COMMANDS.values() for name in group}

    assert set(re.findall(r"`symphony ([a-z]+)", PAGE)) <= names
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - {"--config"} <= flags | {"--json"}
