"""Links lead somewhere, the README's program is short and loads, the README's commands exist."""

import ast
import re
from pathlib import Path

import pytest

from vllm_symphony.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())

    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]

    assert missing == []


def test_the_readmes_program_is_under_15_lines_and_uses_what_the_library_has():
    from vllm_symphony import lip

    source, _ = blocks(ROOT / "README.md", "python")

    tree = ast.parse(source)
    assert len(source.splitlines()) < 15
    used = {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "lip"
    }
    assert used <= set(lip.__all__)


def test_the_readmes_client_runs(sim_server):
    _, source = blocks(ROOT / "README.md", "python")

    done = sim_server.python(source)

    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100  # two answers of the babbling model


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_on_the_page_exist(page):
    known = {name for group in COMMANDS.values() for name in group}

    named = set(re.findall(r"(?:^|`)symphony ([a-z]+)", page.read_text(), re.MULTILINE))

    assert named <= known


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = {t for page in PAGES for t in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)}

    assert named <= targets
