"""A client is light: what it needs, and when."""

import subprocess
import sys

SERVERS = ("msgspec", "numpy", "torch", "vllm", "grpc_health", "grpc_reflection", "tokenizers")


def python(code: str) -> str:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({SERVERS}));"  # None: importing it fails
    return subprocess.run([sys.executable, "-c", blocked + code], capture_output=True, text=True, check=True).stdout


def test_the_client_and_the_library_do_without_what_servers_need():
    modules = "session, session_link, session_transport, sync, progress, follow"

    assert python(
        f"import vllm_symphony.client; from vllm_symphony.client import {modules}; from vllm_symphony import lip; print(1)"
    )


def test_connect_is_there_at_the_top_and_loads_the_client_only_when_it_is_used():
    code = (
        "import vllm_symphony as v; before = 'grpc' in sys.modules; v.connect, v.connect_sync; print(before, 'grpc' in sys.modules)"
    )

    assert python(code) == "False True\n"


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert python("import vllm_symphony as v; print(hasattr(v, 'connekt'))") == "False\n"
