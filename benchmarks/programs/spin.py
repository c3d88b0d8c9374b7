"""Burn CPU for ever, in bytecode or inside one call of C (benchmarks/programs)."""

from vllm_symphony import lip


def main(in_c: bool = False) -> None:
    """Say `ready`, then never come back."""
    lip.emit("ready")
    while True:
        if in_c:
            _ = 3**1_000_000
