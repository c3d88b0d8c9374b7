"""The simulator: traces of programs played by the real kernel on a made-up device that leaps (docs/simulator.md)."""
