"""symphony man: the manual (cli/man.py). A page for each system call, and guides; it needs no server.

A terminal gets a page as text, in a pager where it is longer than the screen; everything else gets it as it is.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shlex
import shutil
import subprocess
import sys

from vllm_symphony import man
from vllm_symphony.abi.table import CALLS
from vllm_symphony.cli.command import complain
from vllm_symphony.cli.markdown import render

EXAMPLE = "symphony man forward"
KINDS = {
    "guide": "Guides",
    "model": "Calls that wait for the device",
    "text": "Calls that wait for the tokenizer",
    "wait": "Calls that wait for an event",
    "control": "Calls that are answered at once",
    "edge": "Calls of clients",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("page", nargs="?", metavar="CALL", help="a system call, or a guide (default: list them all)")
    parser.add_argument("--json", action="store_true", help="a JSON object, or of the list an array")


def start(args: argparse.Namespace) -> int:
    if args.page is None:
        return _list(as_json=args.json)
    if args.page not in man.names():
        close = difflib.get_close_matches(args.page, man.names(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "symphony man lists them"
        return complain(f"no page for {args.page} ({hint})")
    text = man.page(args.page)
    if args.json:
        print(json.dumps({**_entry(args.page), "text": text}, indent=2))
    elif sys.stdout.isatty():
        size = shutil.get_terminal_size()
        _show(render(text, size.columns), size.lines)
    else:
        sys.stdout.write(text)
    return 0


def _list(*, as_json: bool) -> int:
    entries = [_entry(name) for name in man.names()]
    if as_json:
        print(json.dumps(entries, indent=2))
        return 0
    for kind, title in KINDS.items():
        print(f"{title}:")
        for entry in entries:
            if entry["kind"] == kind:
                print(f"  {entry['name']:<12}  {entry['summary']}")
        print()
    print("symphony man CALL shows a page.")
    return 0


def _entry(name: str) -> dict[str, str]:
    return {"name": name, "kind": CALLS[name].kind if name in CALLS else "guide", "summary": man.summary(name)}


def _show(text: str, num_lines: int) -> None:
    """Print it, through the user's pager if the screen is too short and there is one."""
    words = shlex.split(os.environ.get("PAGER", "less -R"))
    if text.count("\n") < num_lines or not words or shutil.which(words[0]) is None:
        print(text)
        return
    subprocess.run(words, input=text.encode(), check=False)
