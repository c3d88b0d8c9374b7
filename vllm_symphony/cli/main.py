"""`symphony`: which commands there are (cli/main.py).

Only the module of the command that runs is imported, so that help and `ps` stay instant. How a command looks and how it ends is
told in command.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from vllm_symphony.cli.command import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, complain, run

COMMANDS = {
    "Server": {
        "serve": "start a server on a model",
        "metrics": "show all that a running server counts",
        "info": "show versions, model, memory and counters of a running server",
        "token": "make, list and revoke tokens: who may talk to the server",
        "audit": "show who did what at the server, and who was not let in",
        "doctor": "look for what would keep a server from working here",
    },
    "Programs": {
        "run": "run a program at the server and show what it prints",
        "attach": "look at a process as run does",
        "install": "keep a program at the server under a name and a version",
        "uninstall": "take installed programs away",
        "programs": "list installed programs",
        "ps": "list processes",
        "top": "show what processes use, again and again",
        "logs": "show what a process printed",
        "wait": "wait until processes have ended",
        "why": "tell what a process waits for",
        "strace": "show the system calls of a process",
        "trace": "draw a process's calls and the engine's steps, for Perfetto",
        "kill": "end processes, hold them or let them go on",
        "limits": "show or set what programs may use",
    },
    "Talking": {
        "channels": "list, make and remove channels",
        "send": "send a message to a channel",
        "recv": "receive messages from a channel",
        "tools": "list the tools that programs may be given",
    },
    "Files": {
        "ls": "list directories and files",
        "stat": "show one file or directory",
        "cat": "print a file's text or tokens",
        "put": "make a file of text",
        "cp": "copy files: no work, no new pages until one is written",
        "mv": "move or rename files and directories",
        "ln": "give a file a further name",
        "rm": "take names away",
        "mkdir": "make directories",
        "rmdir": "take empty directories away",
        "find": "look for files by what they are and what they say",
        "watch": "tell what happens to files",
        "lock": "lock a file, while a command runs",
    },
    "Rights and attributes": {
        "chmod": "set the rights of files and directories",
        "chown": "give files another owner or group",
        "setfattr": "set or take away extended attributes",
        "getfattr": "show extended attributes",
        "chattr": "say how files are kept, and how long",
    },
    "Room": {
        "df": "show the room on the device and below it",
        "du": "show what files and directories take",
        "quota": "show or set what a principal may hold",
        "pin": "keep files' pages on the device",
        "unpin": "let them go again",
        "advise": "say which files' pages will be needed",
    },
    "Keeping": {
        "sync": "wait until files are on disk",
        "fsck": "prove what is kept, and mend it",
        "gc": "remove what has expired or is referred to by nobody",
        "export": "pack a file of the server into one of yours",
        "import": "make a file of what export packed",
    },
    "Scheduling": {
        "sched": "show and choose who decides who computes",
        "simulate": "play a trace of programs under scheduling policies, on a simulated device",
    },
    "Other": {"man": "show the manual: a page for each system call", "version": "print the version"},
}
_MODULES = {"import": "import_file"}  # where the command's name is none for a module
SUMMARIES = {name: summary for group in COMMANDS.values() for name, summary in group.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Gives the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core prints what we say better
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(_overview())
            return 0 if words else EXIT_USAGE
        if words[0] in ("--version", "-V"):
            words[0] = "version"
        name = words.pop(0)
        if name not in SUMMARIES:
            return complain(f"no such command: {name} (symphony --help lists them)", EXIT_USAGE)
        return run(import_module(f"vllm_symphony.cli.{_MODULES.get(name, name)}"), name, SUMMARIES[name], words)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `symphony ps | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_ERROR


def _overview() -> str:
    lines = ["usage: symphony COMMAND [options]", "", "An operating system for LLM inference programs, on vLLM.", ""]
    for group, commands in COMMANDS.items():
        lines += [f"{group}:", *(f"  {name:<9} {summary}" for name, summary in commands.items()), ""]
    lines += [
        "Example:",
        "  symphony serve &",
        '  symphony run examples/best_of_n.py --question "What is the capital of France?"',
        "",
        "symphony COMMAND --help tells more of each.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
