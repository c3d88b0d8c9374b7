"""`symphony man`: the list, a page, what a terminal sees of it."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from vllm_symphony import man
from vllm_symphony.abi.table import CALLS
from vllm_symphony.cli.main import main
from vllm_symphony.cli.markdown import BOLD, PLAIN, render

PAGE = """# toy

## NAME

toy - a `page` with **all** there is

## SYNOPSIS

```python
await toy(one,
          two)
```

| field | type | default | |
|---|---|---|---|
| `fd` | int | | The file, [open](open.md) |
| `length` | int \\| str | `3` | How many tokens of it are kept when it is cut |

- a list with a line that is too long for the screen
- another
"""
SHOWN = f"""{BOLD}NAME{PLAIN}
    toy - a page with all there is

{BOLD}SYNOPSIS{PLAIN}
        await toy(one,
                  two)

    fd      int           The file, open
    length  int | str  3  How many tokens of it
                          are kept when it is
                          cut

    - a list with a line that is too long for
      the screen
    - another
"""


def test_a_page_is_text_on_a_terminal():
    assert render(PAGE, 48) == SHOWN


@pytest.mark.parametrize("name", man.names())
@pytest.mark.parametrize("width", [60, 200])
def test_nothing_of_a_page_gets_lost_on_the_way_to_the_terminal(name, width):
    def words(text):
        return "".join(c for c in text.replace(BOLD, "").replace(PLAIN, "") if c.isalnum())

    source = man.page(name).partition("\n")[2].replace("| field | type | default | |\n", "")
    parts = re.split(r"^```\w*$", source, flags=re.MULTILINE)  # text and code, by turns
    parts[::2] = map(_unlinked, parts[::2])

    assert words(render(man.page(name), width)) == words("".join(parts))


def _unlinked(text):
    return re.sub(r"\]\([^)]*\)", "]", text)


def test_without_a_name_all_pages_are_listed_by_kind(capsys):
    assert main(["man"]) == 0

    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in man.names())
    assert out.index("Guides:") < out.index("  forward ") < out.index("  open ") < out.index("  attach ")


def test_the_list_as_json_has_each_call_with_its_kind(capsys):
    main(["man", "--json"])

    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name: spec.kind for name, spec in CALLS.items()} == {
        name: entry["kind"] for name, entry in entries.items() if entry["kind"] != "guide"
    }
    assert entries["fork"]["summary"] == "a copy of a file that shares all that is computed"


def test_into_a_pipe_a_page_goes_as_it_is(capsys):
    assert main(["man", "fork"]) == 0

    assert capsys.readouterr().out == man.page("fork")


def test_a_page_as_json_has_its_text(capsys):
    main(["man", "fork", "--json"])

    assert json.loads(capsys.readouterr().out)["text"] == man.page("fork")


def test_a_name_that_is_almost_right_gets_the_right_one(capsys):
    assert main(["man", "forwrd"]) == 1

    assert "no page for forwrd (did you mean forward" in capsys.readouterr().err


def test_a_name_like_nothing_gets_the_way_to_the_list(capsys):
    assert main(["man", "xyzzy"]) == 1

    assert "symphony man lists them" in capsys.readouterr().err


def on_terminal(*words: str, **environment: str) -> str:
    """What the command writes to a terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "vllm_symphony.cli.main", *words]
    shown = b""
    with subprocess.Popen(command, stdout=slave, env=os.environ | environment):
        os.close(slave)
        with contextlib.suppress(OSError):  # the end, as a terminal says it
            while data := os.read(master, 4096):
                shown += data
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


def test_a_page_that_fits_the_screen_is_printed():
    assert on_terminal("man", "fork", COLUMNS="80", LINES="500", PAGER="tr a-z A-Z") == render(man.page("fork"), 80) + "\n"


def test_a_page_that_is_longer_than_the_screen_goes_through_the_pager():
    shown = on_terminal("man", "fork", COLUMNS="80", LINES="10", PAGER="tr a-z A-Z")

    assert shown == render(man.page("fork"), 80).upper()


def test_where_there_is_no_pager_a_long_page_is_printed():
    assert on_terminal("man", "fork", COLUMNS="80", LINES="10", PAGER="no-such-pager") == render(man.page("fork"), 80) + "\n"
