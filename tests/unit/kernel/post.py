"""Channels in few words, for their tests: who opens what, who sends, who receives."""

from typing import Any

from tests.unit.kernel.world import World
from vllm_symphony.abi.types import Credentials, Message, OpenFlags, Pid, SendFd

CREAT, EXCL = int(OpenFlags.CREAT), int(OpenFlags.EXCL)


class End:
    """A handle of a process."""

    def __init__(
        self, w: World, name: str, access: str = "rw", *, by: int | None = None, create: bool = False, **args: Any
    ) -> None:
        self.w = w
        self.pid = w.pid if by is None else by
        self.ch = w("channel_open", by=self.pid, name=name, access=access, flags=CREAT if create else 0, **args).ch

    def send(self, data: bytes | str, *, fds: tuple[int | SendFd, ...] = (), wait: bool = False) -> Any:
        """At once, or WouldBlock."""
        return self.w("send", by=self.pid, ch=self.ch, data=packed(data), fds=sent(fds), wait=wait)

    def start_send(self, data: bytes | str, fds: tuple[int | SendFd, ...] = (), timeout_s: float | None = None) -> int:
        return self.w.start("send", by=self.pid, ch=self.ch, data=packed(data), fds=sent(fds), timeout_s=timeout_s)

    def recv(self) -> Message:
        """At once, or WouldBlock."""
        message: Message = self.w("recv", by=self.pid, ch=self.ch, wait=False).message
        return message

    def start_recv(self, timeout_s: float | None = None) -> int:
        return self.w.start("recv", by=self.pid, ch=self.ch, timeout_s=timeout_s)

    def ask(self, data: bytes | str, fds: tuple[int | SendFd, ...] = (), timeout_s: float | None = None) -> int:
        return self.w.start("request", by=self.pid, ch=self.ch, data=packed(data), fds=sent(fds), timeout_s=timeout_s)

    def respond(self, token: int, data: bytes | str = b"", fds: tuple[int | SendFd, ...] = ()) -> Any:
        return self.w("respond", by=self.pid, token=token, data=packed(data), fds=sent(fds))

    def close(self) -> None:
        self.w("channel_close", by=self.pid, ch=self.ch)

    def is_open(self, call: int) -> bool:
        return self.w.is_open(call, self.pid)

    def result(self, call: int) -> Any:
        return self.w.result(call, self.pid)

    def got(self, call: int) -> bytes:
        """What a `recv` or a `request` that has ended was given."""
        data: bytes = self.result(call).message.data
        return data

    def drain(self) -> list[bytes]:
        """All that waits."""
        found = []
        while self.w.kernel.processes[Pid(self.pid)].handles.handles[self.ch].queue.letters:  # type: ignore[union-attr]
            found.append(self.recv().data)
        return found


def packed(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


def sent(fds: tuple[int | SendFd, ...]) -> tuple[SendFd, ...]:
    return tuple(fd if isinstance(fd, SendFd) else SendFd(fd) for fd in fds)


def client(w: World, cred: Credentials) -> int:
    """A connection of somebody."""
    return w.kernel.connect(cred, "client", w.now_ns)


def pair(w: World, **args: Any) -> tuple[End, End]:
    """A channel of the client's that a program of it has open too: its sender, and the program's receiver."""
    sender = End(w, "post", "w", create=True, **args)
    return sender, End(w, "post", "r", by=w.program())
