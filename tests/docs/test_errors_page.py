"""docs/errors.md lists all errors, each as it is, and no others."""

import re
from pathlib import Path

from vllm_symphony import errors

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()


def test_the_table_is_that_of_the_code_both_ways():
    rows = [re.split(r" \| ", line.strip("| ")) for line in PAGE.splitlines() if re.match(r"\| `[A-Z]+` \|", line)]

    wanted = [
        [
            f"`{e.reason}`",
            f"`{e.__name__}`",
            e.grpc_code,
            str(e.http_code),
            "yes" if e.retryable else "",
            " ".join(e.__doc__.split()),
        ]
        for e in errors.ALL
    ]
    assert [[cell.strip() for cell in row] for row in rows] == wanted


def test_what_the_client_retries_is_what_may_be_retried():
    (row,) = re.findall(r"^\| Python client, single calls \| ([^|]+) \|", PAGE, re.MULTILINE)

    assert set(re.findall(r"`(\w+)`", row)) == {e.reason for e in errors.ALL if e.retryable}
