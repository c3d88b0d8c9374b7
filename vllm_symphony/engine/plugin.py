"""The entry point of `vllm.general_plugins` (engine/plugin.py): all processes of each vLLM beside which we are installed import it.

So it imports nothing, and unless VLLM_PLUGINS names `symphony` it does nothing: vLLM stays the same, to the bit and the module.
"""

from __future__ import annotations


def register() -> None:
    """Prepare this process of vLLM for a kernel, if the operator named us; may be called again."""
    import os

    if "symphony" in os.environ.get("VLLM_PLUGINS", "").split(","):
        from vllm_symphony.engine import embedded

        embedded.register()
