from collections.abc import Iterator

import pytest

from tests.conformance.host import ServerHost
from vllm_symphony.engine.sim import SimDevice


@pytest.fixture
def host(tmp_path) -> Iterator[ServerHost]:
    """The machine behind its socket, over the simulator. At the end its invariants hold and nothing is left."""
    host = ServerHost("sim-server", SimDevice(num_pages=8192), str(tmp_path / "kernel.sock"))
    yield host
    try:
        assert host.reactor.is_alive(), f"the reactor died: {host.reactor.failure!r}"
        host.settle()
    finally:
        host.stop()
