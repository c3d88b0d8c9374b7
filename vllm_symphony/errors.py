"""Errors of the machine: one table, errno-like, the same word in four places.

    reason (ENOENT) = Python class (NoSuchFile) = google.rpc.ErrorInfo.reason = man page

Whatever a program, a client or an operator can cause is one of these; `assert` is kept for our own invariants. A message is lower
case and carries the values that are needed to act: `no such file: /kb/doc1 (3 files there)`. The gRPC code is kept as its name, so
that nothing here imports grpc.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

Value = str | int | float | bool


class SymphonyError(Exception):
    """Root of all typed errors.

    `values` holds what the message speaks of, for programs that act on it. `retry_after_s` is set where waiting may help.
    """

    reason: ClassVar[str] = "EIO"
    grpc_code: ClassVar[str] = "INTERNAL"
    http_code: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: float | None = None, **values: Value) -> None:
        super().__init__(message)
        self.message = message
        self.values: Mapping[str, Value] = values
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class NoSuchFile(SymphonyError):
    """No file has this name."""

    reason, grpc_code, http_code = "ENOENT", "NOT_FOUND", 404


class NoSuchProcess(SymphonyError):
    """No process has this pid, or it was reaped."""

    reason, grpc_code, http_code = "ESRCH", "NOT_FOUND", 404


class FileExists(SymphonyError):
    """The name is taken, and the call asked for a new one."""

    reason, grpc_code, http_code = "EEXIST", "ALREADY_EXISTS", 409


class AccessDenied(SymphonyError):
    """The caller's rights on the object do not allow this call."""

    reason, grpc_code, http_code = "EACCES", "PERMISSION_DENIED", 403


class NotOwner(SymphonyError):
    """Only the owner, or scope `admin`, may do this."""

    reason, grpc_code, http_code = "EPERM", "PERMISSION_DENIED", 403


class Unauthenticated(SymphonyError):
    """The caller said nothing valid of who it is."""

    reason, grpc_code, http_code = "UNAUTHENTICATED", "UNAUTHENTICATED", 401


class InvalidArgument(SymphonyError):
    """An argument is out of its range; the message says which and what the range is."""

    reason, grpc_code, http_code = "EINVAL", "INVALID_ARGUMENT", 400


class BadProgram(SymphonyError):
    """The program does not parse, has no such entry, or its arguments do not fit the entry's signature."""

    reason, grpc_code, http_code = "ENOEXEC", "INVALID_ARGUMENT", 400


class NameTooLong(SymphonyError):
    """A path or a name is longer than the limit."""

    reason, grpc_code, http_code = "ENAMETOOLONG", "INVALID_ARGUMENT", 400


class ContextTooLong(SymphonyError):
    """The tokens would pass the model's position limit."""

    reason, grpc_code, http_code = "EFBIG", "INVALID_ARGUMENT", 400


class BadFile(SymphonyError):
    """The fd is not open in this process, or not open for this kind of call."""

    reason, grpc_code, http_code = "EBADF", "FAILED_PRECONDITION", 409


class NotDirectory(SymphonyError):
    """A part of the path is a file where a directory is needed."""

    reason, grpc_code, http_code = "ENOTDIR", "FAILED_PRECONDITION", 409


class IsDirectory(SymphonyError):
    """The path is a directory where a file is needed."""

    reason, grpc_code, http_code = "EISDIR", "FAILED_PRECONDITION", 409


class NotEmpty(SymphonyError):
    """The directory still holds something."""

    reason, grpc_code, http_code = "ENOTEMPTY", "FAILED_PRECONDITION", 409


class ReadOnly(SymphonyError):
    """Nothing can be changed there: /proc is a view."""

    reason, grpc_code, http_code = "EROFS", "FAILED_PRECONDITION", 409


class NoAttribute(SymphonyError):
    """The file has no extended attribute of this name."""

    reason, grpc_code, http_code = "ENODATA", "NOT_FOUND", 404


class BrokenPipe(SymphonyError):
    """The other side is gone."""

    reason, grpc_code, http_code = "EPIPE", "FAILED_PRECONDITION", 409


class NoChild(SymphonyError):
    """The process is no child of the caller."""

    reason, grpc_code, http_code = "ECHILD", "FAILED_PRECONDITION", 409


class FileBusy(SymphonyError):
    """Another call is writing the file; retry when it ended."""

    reason, grpc_code, http_code, retryable = "EBUSY", "ABORTED", 409, True


class StaleFile(SymphonyError):
    """The file changed, or the row is gone: look again."""

    reason, grpc_code, http_code = "ESTALE", "ABORTED", 409


class WouldBlock(SymphonyError):
    """A queue or a limit of the moment is full; retry."""

    reason, grpc_code, http_code, retryable = "EAGAIN", "UNAVAILABLE", 503, True


class OutOfPages(SymphonyError):
    """No free page and nothing to evict. Retry after `retry_after_s`, or unlink a file."""

    reason, grpc_code, http_code, retryable = "ENOSPC", "RESOURCE_EXHAUSTED", 503, True


class QuotaExceeded(SymphonyError):
    """The caller may not hold or use more of this; `values` say of what, how much it may and has."""

    reason, grpc_code, http_code = "EDQUOT", "RESOURCE_EXHAUSTED", 429


class TooManyFiles(SymphonyError):
    """The process's fd table is full."""

    reason, grpc_code, http_code = "EMFILE", "RESOURCE_EXHAUSTED", 429


class NotSupported(SymphonyError):
    """This model, backend or build cannot do it; the message says why."""

    reason, grpc_code, http_code = "ENOTSUP", "UNIMPLEMENTED", 501


class NoSuchCall(SymphonyError):
    """The server does not know this call."""

    reason, grpc_code, http_code = "ENOSYS", "UNIMPLEMENTED", 501


class Interrupted(SymphonyError):
    """The call was cancelled: by the caller, a signal, or the close of its file."""

    reason, grpc_code, http_code = "EINTR", "CANCELLED", 499


class TimedOut(SymphonyError):
    """The call's own time limit ran out."""

    reason, grpc_code, http_code = "ETIMEDOUT", "DEADLINE_EXCEEDED", 504


class DataCorrupt(SymphonyError):
    """What was stored is not what comes back (a checksum is wrong), or the machine broke a promise of its own: please report
    that."""

    reason, grpc_code, http_code = "EIO", "DATA_LOSS", 500


class DeviceLost(SymphonyError):
    """The engine died or is shutting down; nothing can be computed any more."""

    reason, grpc_code, http_code = "ENODEV", "UNAVAILABLE", 503


ALL: tuple[type[SymphonyError], ...] = (
    NoSuchFile, NoSuchProcess, FileExists, AccessDenied, NotOwner, Unauthenticated, InvalidArgument, BadProgram, NameTooLong,
    ContextTooLong, BadFile, NotDirectory, IsDirectory, NotEmpty, ReadOnly, NoAttribute, BrokenPipe, NoChild, FileBusy, StaleFile,
    WouldBlock, OutOfPages, QuotaExceeded, TooManyFiles, NotSupported, NoSuchCall, Interrupted, TimedOut, DataCorrupt, DeviceLost,
)  # fmt: skip
BY_REASON: Mapping[str, type[SymphonyError]] = {e.reason: e for e in ALL}


def from_reason(
    reason: str, message: str, values: Mapping[str, Value] | None = None, retry_after_s: float | None = None
) -> SymphonyError:
    """Rebuild an error that crossed a wire; an unknown reason becomes the root class with the reason in its message."""
    cls = BY_REASON.get(reason)
    if cls is None:
        return SymphonyError(f"{reason}: {message}", retry_after_s=retry_after_s)
    return cls(message, retry_after_s=retry_after_s, **dict(values or {}))
