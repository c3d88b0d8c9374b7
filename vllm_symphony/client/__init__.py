"""The Python client: `connect()`, and what it gives.

    from vllm_symphony.client import connect

    async with connect() as symphony:
        run = symphony.run("best_of_n.py", question="What is the capital of France?")
        async for event in run:
            print(event.kind, event.text)
        print((await run.result()).value)

Needs grpcio and protobuf, nothing of the server.
"""

from vllm_symphony.client.address import default_run_dir, default_socket
from vllm_symphony.client.call import ServerUnreachable
from vllm_symphony.client.channel import Tls
from vllm_symphony.client.client import Client, FileText, ServerInfo, connect
from vllm_symphony.client.run import Program, Run, RunResult

__all__ = [
    "Client", "FileText", "Program", "Run", "RunResult", "ServerInfo", "ServerUnreachable", "Tls", "connect",
    "default_run_dir", "default_socket",
]  # fmt: skip
