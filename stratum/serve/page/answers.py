"""Answers of the page: HTML from templates, files of its own, errors; and the headers that keep them what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response, StreamingResponse

from stratum import __version__
from stratum.errors import (
    BusyError,
    ConflictError,
    DeniedError,
    NotFoundError,
    StratumError,
    UnsupportedError,
    UsageError,
)
from stratum.serve.page import words

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_HERE = Path(__file__).parent
_STATUS = (
    (NotFoundError, 404),
    (UsageError, 400),
    (DeniedError, 403),
    (BusyError, 503),
    (ConflictError, 409),
    (UnsupportedError, 501),
)
_MINE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "private, no-cache",
    "Vary": "Cookie, Authorization",
}
_ALL = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_THEIRS = {"Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'"}
"""With what users have put into the store: it gets no rights of this server's, whatever it turns out to be."""
_KINDS = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        {name: getattr(words, name) for name in dir(words) if callable(getattr(words, name)) and name[0] != "_"},
        version=__version__,
        style=address_of("style.css"),
        icon=address_of("icon.svg"),
        SHORT=words.SHORT,
        zip=zip,
    )
    return made


@cache
def _own(name: str) -> bytes:
    return (_HERE / "static" / name).read_bytes()


@cache
def own_files() -> frozenset[str]:
    """The names of the page's own files."""
    return frozenset(path.name for path in (_HERE / "static").iterdir() if path.suffix in _KINDS)


def address_of(name: str) -> str:
    """The address of a file of the page's own, which is another whenever the file is."""
    return words.address("static", hashlib.sha256(_own(name)).hexdigest()[:10], name)


def own_file(name: str) -> Response:
    """A file of the page's own. ``NotFoundError``."""
    if name not in own_files():
        raise NotFoundError("there is no such file")
    headers = {**_ALL, "Cache-Control": "public, max-age=31536000, immutable", **_THEIRS}
    return Response(_own(name), 200, headers, _KINDS[Path(name).suffix])


def page(template: str, about: Mapping[str, Any], status: int = 200) -> Response:
    """A page from a template, with what it is about."""
    text = _templates().get_template(template).render(now=datetime.now(timezone.utc), **about)
    return Response(text.encode("utf-8", "backslashreplace"), status, {**_ALL, **_MINE}, "text/html; charset=utf-8")


def status_of(exc: StratumError) -> int:
    """The status of HTTP that says it best; 500 for what is not the visitor's doing."""
    return next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)


def redirect(to: str, cookie: str | None = None) -> Response:
    """On to another page, after something was done; ``cookie`` is a whole Set-Cookie."""
    headers = {**_ALL, "Location": to, "Cache-Control": "no-store"}
    return Response(b"", 303, headers | ({"Set-Cookie": cookie} if cookie is not None else {}))


class Streamed(StreamingResponse):
    """Bytes of users', in pieces that are made as they are taken. ``pieces`` is closed whatever comes."""

    def __init__(
        self,
        pieces: Iterator[bytes],
        media_type: str,
        *,
        size: int | None = None,
        save_as: str | None = None,
        etag: str | None = None,
    ) -> None:
        headers = {**_ALL, **_THEIRS, "Cache-Control": "private, no-cache", "Vary": "Cookie, Authorization"}
        if size is not None:
            headers["Content-Length"] = str(size)
        if save_as is not None:
            headers["Content-Disposition"] = _attachment(save_as)
        if etag is not None:
            headers["ETag"] = etag
        self._pieces = pieces
        super().__init__(pieces, 200, headers, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()


def _attachment(name: str) -> str:
    """RFC 6266: the name for all, with letters that none takes for something else, and for those who read more."""
    from urllib.parse import quote

    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._-+ ") else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name.encode('utf-8', 'replace'), safe='')}"


def unchanged(etag: str) -> Response:
    """What the browser has is still that."""
    return Response(b"", 304, {**_ALL, "ETag": etag, "Cache-Control": "private, no-cache"})
