from collections.abc import Iterator

import pytest

from tests.dropin.server import TOOL_FLAGS, Served, serve


@pytest.fixture(scope="session")
def server_b(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The session's one server with the kernel in vLLM's engine process."""
    served = serve(tmp_path_factory.mktemp("b"), *TOOL_FLAGS, "--enable-prompt-tokens-details")
    served.wait_ready()
    yield served
    served.stop()
