"""The one application: the registry at ``/v2/``, peers' API at ``/_stratum/v1/``, pages at ``/``.

Who asks is found out before any route is reached, and put into ``request.state.asker`` (``serve/visibility.py``). A
``Refusal`` that any route raises is answered as the distribution API answers errors.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Router

from stratum.errors import BusyError, ConflictError, RefusedError, StratumError, foreseen
from stratum.serve.refusals import CODES_OF_STATUS, Refusal, refused
from stratum.serve.registry import registry_routes
from stratum.serve.visibility import Who
from stratum.store.layout import NoSpaceError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from stratum.api.registry import Registry

PEERS_PREFIX = "/_stratum/v1"
"""Where the peers' API is. Its routes have paths from here on: ``/strata``."""

BLOB_MAX = 1 << 40

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}
"""With every answer that does not say it otherwise: what others have pushed is never a page of this server."""


def make_app(
    registry: Registry,
    who: Who,
    *,
    log: Callable[[str], None],
    blob_max: int = BLOB_MAX,
    web: Sequence[BaseRoute] = (),
    peers: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """The application over ``registry``. ``web`` are the routes of the pages, with paths from ``/`` on, ``peers`` those
    of the peers' API, with paths from ``PEERS_PREFIX`` on; none where these are not served. No blob above ``blob_max``
    bytes is taken.

    ``log`` is told a line of each failure; who asked is told that there was one.
    """
    routes: list[BaseRoute] = list(registry_routes(registry, blob_max))
    if peers:
        routes.append(Mount(PEERS_PREFIX, routes=list(peers)))
    router = Router([*routes, *web], redirect_slashes=False)

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        connection.state.asker = await who(connection)
        await router(scope, receive, send)

    def failed(_request: Request, exc: Exception) -> Response:
        return _answer(exc, log)

    handled = ExceptionMiddleware(asked, handlers={HTTPException: failed, Exception: failed})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["app"] = app  # so that what no route has is an exception too
        try:
            await handled(scope, receive, _sending(send))
        except Exception as exc:  # after the answer had begun: it ends here, and the connection with it
            if not isinstance(_cause(exc), ConnectionError):
                log(foreseen(_cause(exc)).told)

    return app


def _sending(send: Send) -> Send:
    """``send`` with what belongs to every answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SAFE.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def _cause(exc: Exception) -> Exception:
    """What was raised first."""
    while isinstance(exc.__cause__, Exception):
        exc = exc.__cause__
    return exc


def _answer(exc: Exception, log: Callable[[str], None]) -> Response:
    if isinstance(exc, Refusal):
        return exc.response()
    if isinstance(exc, HTTPException):  # starlette's own
        code = CODES_OF_STATUS.get(exc.status_code, "UNSUPPORTED")
        return refused(exc.status_code, code, exc.detail, exc.headers)
    if isinstance(exc, RefusedError):
        return refused(400, exc.code, exc.told)
    if isinstance(exc, ConflictError) and not isinstance(exc, BusyError):
        return refused(409, "DENIED", exc.message)
    if not isinstance(exc, ConnectionError):  # who asked is gone
        log(foreseen(exc).told)
    if isinstance(exc, BusyError):  # which names who it is that works there
        return refused(503, "TOOMANYREQUESTS", "somebody else is at work there", {"Retry-After": "5"})
    if isinstance(exc, NoSpaceError) or (isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)):
        return refused(507, "DENIED", "the server has no room left for that")
    words = "the server cannot do that; its log says why" if isinstance(exc, StratumError) else "the server failed"
    return refused(500, "UNKNOWN", words)
