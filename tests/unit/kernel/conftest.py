from collections.abc import Iterator

import pytest

from tests.unit.kernel.world import World


@pytest.fixture
def w() -> Iterator[World]:
    """A world whose invariants hold at the end of the test, and in which nothing is left after its client has gone."""
    world = World()
    yield world
    world.check()
    world.disconnect()
    for pid, process in list(world.kernel.processes.items()):
        if process.kind == "program" and not process.has_ended:
            world.exited(pid, 137)
        elif process.kind != "program":
            world.disconnect(pid)
    world.reap()
    world.assert_empty()
