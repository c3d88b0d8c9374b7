"""The smallest program that a user can see (benchmarks/programs)."""


def main() -> None:
    """Print a line."""
    print("hello")
