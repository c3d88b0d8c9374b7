"""The page's own files, and what a browser is told about them (web/live/page.py).

The page shows what programs call themselves and print, which may be anything. So it makes text of all it shows, and by the policy
below nothing else would work: scripts and styles come from here only, none stands in the page, no string becomes markup (trusted
types), nobody frames it, and it talks to nobody but this server.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

PREFIX = "/symphony"
_FOLDER = "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
GUARDS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def routes() -> list[Route]:
    """A route for each file of the page; nothing else in the package can be asked for."""
    found = [Route(PREFIX, _to_page)]
    for file in sorted(files(__package__).joinpath(_FOLDER).iterdir(), key=lambda f: f.name):
        if kind := _TYPES.get(f".{file.name.rpartition('.')[2]}"):
            path = f"{PREFIX}/" if file.name == "index.html" else f"{PREFIX}/{_FOLDER}/{file.name}"
            found.append(Route(path, _File(file.read_bytes(), kind).answer))
    return found


class _File:
    """One file, kept in memory, and sent when the browser has another."""

    def __init__(self, body: bytes, kind: str) -> None:
        self._body = body
        self._tag = f'"{sha256(body).hexdigest()[:32]}"'
        self._headers = {
            **GUARDS,
            "Content-Security-Policy": POLICY,
            "Content-Type": f"{kind}; charset=utf-8",
            "Cache-Control": "no-cache",
            "ETag": self._tag,
        }

    async def answer(self, request: Request) -> Response:
        """The file, or that the browser has it."""
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers=self._headers)


async def _to_page(request: Request) -> Response:
    """Without the last slash the page's files would be looked for beside it."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}{PREFIX}/", status_code=308, headers=dict(GUARDS))
