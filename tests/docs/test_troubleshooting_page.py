"""docs/troubleshooting.md has an entry for each error and each finding, in order, and means by errors what docs/errors.md means."""

import re
from pathlib import Path

import pytest

from vllm_symphony.cli.checks.finding import NAMES
from vllm_symphony.errors import ALL

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text()
CHECKS = Path(__file__).parents[2] / "vllm_symphony" / "cli" / "checks"


def entries(section: str) -> dict[str, str]:
    """Heading -> text of what stands below `## section`."""
    text = re.split(r"^## ", PAGE.split(f"\n## {section}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    parts = re.split(r"^### (.*)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


ERRORS, FINDINGS = entries("Errors"), entries("Findings")


def test_every_error_has_its_entry_and_there_is_no_other():
    assert list(ERRORS) == [f"`{e.reason}` {e.__name__}" for e in ALL]


def test_an_errors_meaning_is_that_of_the_table():
    table = re.findall(r"^\| `[A-Z]+` \| `(\w+)` \|.*\| ([^|]+) \|$", (DOCS / "errors.md").read_text(), re.MULTILINE)

    told = [(title.split()[-1], " ".join(text.strip().split("\n\n")[0].split())) for title, text in ERRORS.items()]

    assert told == [(name, meaning) for name, meaning in table]


def test_every_finding_of_the_doctor_has_its_entry_and_there_is_no_other():
    assert list(FINDINGS) == [f"`{name}`" for name in NAMES]


def test_the_checks_find_nothing_by_another_name_and_no_name_is_idle():
    source = "".join(path.read_text() for path in [*CHECKS.glob("*.py"), CHECKS.parent / "doctor.py"])
    used = set(re.findall(r'Finding\(\s*"([\w-]+)"', source)) | set(re.findall(r'_usable\("([\w-]+)"', source))

    assert used | {"torchvision", "torchaudio", "torchcodec", "protobuf", "grpcio"} == set(NAMES)


@pytest.mark.parametrize("title", [*ERRORS, *FINDINGS])
def test_an_entry_says_meaning_causes_and_what_to_do(title):
    text = {**ERRORS, **FINDINGS}[title].strip()

    assert re.fullmatch(r"[^-].+\n\n- Causes: .+\n- Do: .+", text, re.DOTALL)


def test_the_page_leads_to_headings_that_are_there():
    for page, anchor in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", PAGE):
        text = (DOCS / page).read_text() if page else PAGE
        headings = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
        assert anchor in headings, f"{page}#{anchor}"
