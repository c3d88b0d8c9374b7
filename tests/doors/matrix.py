"""The matrix of bad input: what comes in, and what each door answers. docs/security.md shows the same table (test_page.py)."""

from dataclasses import dataclass

SAME = "as others"  # it is answered like any request


@dataclass(frozen=True)
class Row:
    """What comes in, and how each door answers; `-`: the door has no such thing."""

    what: str
    grpc: str
    http: str


ROWS = (
    Row("a name of a program that is not there", "NOT_FOUND ENOENT", "404 ENOENT"),
    Row("a name of a model that is not there", "-", "404"),
    Row("a file that is not there", "NOT_FOUND ENOENT", "404 ENOENT"),
    Row("a file of somebody else", "PERMISSION_DENIED EACCES", "403 EACCES"),
    Row("a program without the scope to run one", "PERMISSION_DENIED EPERM", "403 EPERM"),
    Row("no token", "UNAUTHENTICATED UNAUTHENTICATED", "401 UNAUTHENTICATED"),
    Row("a token that is cut off, unknown, revoked or expired", "UNAUTHENTICATED UNAUTHENTICATED", "401 UNAUTHENTICATED"),
    Row("a token twice, or in another header", "UNAUTHENTICATED UNAUTHENTICATED", "401 UNAUTHENTICATED"),
    Row("more requests than the rate allows", "RESOURCE_EXHAUSTED EDQUOT", "429 EDQUOT"),
    Row("more requests at once than are allowed", "RESOURCE_EXHAUSTED EDQUOT", "429 EDQUOT"),
    Row("a body that cannot be read", "INVALID_ARGUMENT EINVAL", "400"),
    Row("text that is no UTF-8", "INVALID_ARGUMENT EINVAL", "400"),
    Row("numbers below their range, or NaN", "INVALID_ARGUMENT EINVAL", "400"),
    Row("JSON ten thousand deep", "INVALID_ARGUMENT EINVAL", "400"),
    Row("a key twice", "OK", "200"),
    Row("a body that is too large", "RESOURCE_EXHAUSTED", "413 EFBIG"),
    Row("a small body that unpacks to a large one", "RESOURCE_EXHAUSTED", "400"),
    Row("another content type", "OK", "400"),
    Row("a route or a method that is not there", "UNIMPLEMENTED", "404"),
    Row("headers that are too large", "hung up", "400"),
    Row("bytes of no protocol", "hung up", "400"),
    Row("a connection that says nothing", "hung up", "hung up"),
    Row("headers that do not end", "hung up", "hung up"),
    Row("a body that does not end", "hung up", "408 ETIMEDOUT"),
    Row("a body that does not end, of who answers pings", "waits", "-"),
    Row("chunks that are none", "-", "400"),
    Row("a stream that nobody reads", "waits", "waits"),
    Row("a peer that vanishes", "cancelled", "cancelled"),
    Row("a request that is cancelled", "cancelled", "cancelled"),
    Row("500 connections that say nothing", "served", "served"),
    Row("500 connections with a request each", "OK", "200"),
    Row("more connections than there is room for", "hung up", "hung up"),
    Row("more requests in one connection than are allowed", "refused", "one by one"),
    Row("requests that are reset at once", "served", "-"),
    Row("a flood of pings or settings", "served", "-"),
    Row("a Host of another server", "-", "403 EACCES"),
    Row("an Origin of another site", "-", "403 EACCES"),
)


def of(what: str) -> Row:
    """The row of that name."""
    (row,) = [r for r in ROWS if r.what == what]
    return row
