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
from vllm_symphony.client.client import Client, ServerInfo, connect
from vllm_symphony.client.display import FileList, Process, ProcessList
from vllm_symphony.client.files import FileText
from vllm_symphony.client.retry import Retry
from vllm_symphony.client.run import Program, Run, RunResult
from vllm_symphony.client.session import Session
from vllm_symphony.client.sync import SyncClient, SyncRun, connect_sync

__all__ = [
    "Client", "FileList", "FileText", "Process", "ProcessList", "Program", "Retry", "Run", "RunResult", "ServerInfo",
    "ServerUnreachable", "Session", "SyncClient", "SyncRun", "Tls", "connect", "connect_sync", "default_run_dir", "default_socket",
]  # fmt: skip
