"""symphony version (cli/version.py)."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR

EXAMPLE = "symphony version"


def arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def start(args: argparse.Namespace) -> int:
    print(f"symphony {version('vllm-symphony')} (ABI {ABI_MAJOR}.{ABI_MINOR})")
    return 0
