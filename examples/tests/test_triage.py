"""How to test a program with a manifest: what it declares binds it, whatever it is given."""

from pathlib import Path

import pytest

TRIAGE = Path(__file__).parents[1] / "triage.py"


def test_most_votes_decide(machine):
    machine.script({"No light!": {"outage": 0.9, "question": 0.1}})
    run = machine.start(TRIAGE, ticket="No light!", votes=16)

    machine.run()

    assert run.value["queue"] == "outage" and run.value["sure"] > 0.6
    assert run.value["filed"] is False, "there is no such tool"


def test_it_files_the_ticket_with_the_tool_that_it_declares_and_sees_no_other(machine):
    machine.script("billing")
    machine.tool("tickets_file", lambda queue, text: f"filed as {queue}")
    machine.tool("mail_send", "sent")

    run = machine.start(TRIAGE, ticket="Too dear.")
    machine.run()

    assert run.value == {"queue": "billing", "sure": 1.0, "filed": True}
    assert machine.props.calls == [("tickets_file", {"queue": "billing", "text": "Too dear."})]


@pytest.mark.parametrize("path", ["/kb/secret", "/home/bob/notes"])
def test_what_it_does_not_declare_it_cannot_even_name(machine, path):
    spy = TRIAGE.read_text().partition("import numpy")[0] + (
        "from vllm_symphony import lip\n\n"
        f"async def main() -> str:\n    try:\n        await lip.stat({path!r})\n"
        "    except lip.AccessDenied as error:\n        return str(error)\n"
    )

    run = machine.start(spy)
    machine.run()

    assert run.value == f"EACCES: the program may name /home/ann/triage, /tmp and what is below, not {path}"
