"""Benchmarks of Symphony: `python -m benchmarks` lists them, `python -m benchmarks NAME [--quick] [--json]` runs one.

Each is one file with `run(options) -> Report`; `registry` says what it shows and which bound each figure must keep.
Two things are compared in one run, interleaved, never from two runs: see `stats.paired`.
"""
