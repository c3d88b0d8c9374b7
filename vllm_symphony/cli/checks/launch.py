"""A launch line and its model: what programs will be refused, before minutes are spent on loading (cli/checks/launch.py).

The refusals themselves are in engine/compat.py and speak of vLLM's finished configuration; here they are read off the flags.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vllm_symphony.cli.checks.finding import Finding, Scene
from vllm_symphony.cli.checks.launch_line import LaunchLine

_POOLING = ("embed", "classify", "score", "reward", "pooling")


def model(scene: Scene) -> Iterator[Finding]:
    """The model is there, generates, and has a chat template."""
    if scene.line is None or scene.line.model is None:
        return
    name = scene.line.model
    folder = _folder(scene.env, name)
    if folder is None:
        if name.startswith((".", "/", "~")):
            yield Finding("model", "broken", f"no such folder: {name}", "give a folder with config.json, or a Hugging Face name")
        else:
            yield Finding("model", "hint", f"{name} is not in the Hugging Face cache: it will be downloaded", f"hf download {name}")
        return
    config = _json(folder / "config.json")
    if config is None:
        yield Finding("model", "broken", f"{folder} has no config.json that can be read", "give the folder that holds config.json")
        return
    kinds = [str(kind) for kind in config.get("architectures") or ()]
    if kinds and not any("CausalLM" in kind or "ConditionalGeneration" in kind for kind in kinds):
        detail = f"{', '.join(kinds)} does not look like a model that generates text: programs need one"
        yield Finding("model", "warning", detail, "a model whose architecture ends with ForCausalLM")
    else:
        yield Finding("model", "ok", f"{name}: {', '.join(kinds) or 'unknown architecture'}")
    yield from _chat_template(scene, folder)


def flags(scene: Scene) -> Iterator[Finding]:
    """Flags that refuse programs, or that Symphony answers to itself."""
    if scene.line is None:
        return
    line = scene.line
    found = [*_refused(line.flags), *_speculative(line), *_doubtful(line.flags)]
    yield from found
    if not found:
        yield Finding("launch", "ok", "nothing in the line is in the way")


def _refused(given: Mapping[str, str]) -> Iterator[Finding]:
    if _number(given.get("data-parallel-size")) > 1 or "data-parallel-rank" in given:
        yield Finding(
            "launch",
            "broken",
            "--data-parallel-size: one kernel serves one engine",
            "--data-parallel-size 1; a server for each replica",
        )
    if given.get("runner") == "pooling" or given.get("task") in _POOLING or given.get("convert") in _POOLING:
        yield Finding(
            "launch",
            "broken",
            "the line asks for a pooling model; programs need one that generates",
            "drop --runner, --task, --convert",
        )
    if _number(given.get("api-server-count")) > 1:
        yield Finding("launch", "broken", "--api-server-count: one server process talks to the kernel", "--api-server-count 1")
    for name in ("scheduler-cls", "worker-cls"):
        if name in given and not given[name].startswith("vllm_symphony."):
            detail = f"--{name} {given[name]}: Symphony's own takes this place"
            yield Finding("launch", "broken", detail, f"drop --{name}; the plugin sets it")


def _speculative(line: LaunchLine) -> Iterator[Finding]:
    """Plain requests may be drafted ahead of; a step then has rows that are no position of a file."""
    if "speculative-config" in line.flags:
        alone = line.command == "symphony" and "http" not in line.flags
        detail = "--speculative-config: the model is not called for files and programs" + (
            "" if alone else "; plain requests go on"
        )
        yield Finding(
            "launch", "broken" if alone else "warning", detail, "drop --speculative-config, or serve programs from another server"
        )


def _doubtful(given: Mapping[str, str]) -> Iterator[Finding]:
    for name in ("tensor-parallel-size", "pipeline-parallel-size"):
        if _number(given.get(name)) > 1:
            yield Finding(
                "launch", "warning", f"--{name} {given[name]}: files are not proven on several workers yet", f"--{name} 1"
            )
    if "kv-transfer-config" in given:
        detail = "--kv-transfer-config: files do not use the connector, and plain requests do"
        yield Finding("launch", "warning", detail, "drop --kv-transfer-config")
    if "config" in given:
        yield Finding("launch", "hint", f"--config {given['config']}: the doctor does not read it", "repeat its flags after --")


def _chat_template(scene: Scene, folder: Path) -> Iterator[Finding]:
    assert scene.line is not None
    if "chat-template" in scene.line.flags:
        yield Finding("chat-template", "ok", "given in the line")
        return
    named = [name for name in ("chat_template.jinja", "chat_template.json") if (folder / name).exists()]
    if named or (_json(folder / "tokenizer_config.json") or {}).get("chat_template"):
        yield Finding("chat-template", "ok", named[0] if named else "tokenizer_config.json")
    else:
        detail = "the model has none: chat completions and lip.render_chat are refused, completions work"
        yield Finding("chat-template", "warning", detail, "--chat-template FILE.jinja, or an instruct model")


def _folder(env: Mapping[str, str], name: str) -> Path | None:
    """The model's files: a folder, or the newest snapshot in the Hugging Face cache."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    snapshots = Path(env.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/config.json"), key=os.path.getmtime)
    return found[-1].parent if found else None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 1
