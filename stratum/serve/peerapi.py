"""The peers' API, below ``/_stratum/v1``: what is shared with who asks, and the moves of the tags of a stratum.

::

    GET  /strata               {"strata": [{"name": NAME, "may": "read" | "write"}, ...]}
    GET  /strata/NAME/moves    the moves that this host has of the stratum's tags (``sync``)
    POST /strata/NAME/kept     a manifest's digest and the peer's era: the peer lets go of what that is of, and counts
                               on this host; 404 where it cannot
    DELETE /strata/NAME/kept   likewise: it has that itself, and counts no more on what it was promised before that era
                               (``store.promises``)
    POST /strata/NAME/moves    those that the peer has; the answer has what it lacks. Of one that may only read none is
                               taken
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stratum.api.peers import let_off, promise
from stratum.errors import BusyError, DamagedError, DeniedError, NotFoundError
from stratum.oci.descriptor import is_digest
from stratum.oci.peerclient import MOVES_MAX
from stratum.serve.app import make_app
from stratum.serve.asked import body_of, missing
from stratum.serve.peerlisten import guarded, peers_only
from stratum.serve.refusals import Refusal
from stratum.serve.visibility import asker_of
from stratum.store.promises import parse_era

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from stratum.api.registry import Registry
    from stratum.api.session import Session

_DIGEST_MAX = 256
_MOVES = "application/vnd.stratum.moves"


class Exchange(Protocol):
    """Moves, as a host has them for the peer of that name, and takes them from it. ``writable`` is whether the peer may
    push. Raises ``StratumError``."""

    def offered(self, stratum: str, peer: str, *, writable: bool) -> bytes:
        """Those that the peer is given."""
        ...

    def receive(self, stratum: str, peer: str, data: bytes, *, writable: bool) -> bytes:
        """Take those of the peer; what it is answered."""
        ...


def peer_app(
    session: Session,
    registry: Registry,
    log: Callable[[str], None],
    exchange: Exchange,
    *,
    blob_max: int,
) -> ASGIApp:
    """What a listener of peers answers with: the registry and the peers' API, of what is shared with who asks. No blob
    above ``blob_max`` bytes is taken. The key of this host is made where there is none."""
    book = session.store.peers
    book.own()
    routes = peer_routes(session, registry, exchange)
    return guarded(make_app(registry, peers_only(book), log=log, blob_max=blob_max, peers=routes), book, log)


def peer_routes(session: Session, registry: Registry, exchange: Exchange) -> Sequence[BaseRoute]:
    """The routes, for ``serve.app.make_app``."""
    api = _PeerApi(session, registry, exchange)
    routes = [Route("/strata", api.strata), Route("/strata/{name}/kept", api.keep, methods=["POST", "DELETE"])]
    moves = "/strata/{name}/moves"
    return [*routes, Route(moves, api.offered), Route(moves, api.receive, methods=["POST"])]


class _PeerApi:
    def __init__(self, session: Session, registry: Registry, exchange: Exchange) -> None:
        self._session, self._registry = session, registry
        self._book = session.store.peers
        self._exchange = exchange

    async def strata(self, request: Request) -> Response:
        peer = self._book.now().peers.get(_name(request))
        strata = peer.strata if peer is not None else {}
        found = [{"name": name, "may": "write" if write else "read"} for name, write in sorted(strata.items())]
        return JSONResponse({"strata": found})

    async def offered(self, request: Request) -> Response:
        stratum = self._shared(request)
        with _said(), missing("NAME_UNKNOWN", "there is no such stratum"):
            data = await run_in_threadpool(
                self._exchange.offered, stratum, _name(request), writable=asker_of(request).sees.writes(stratum)
            )
        return Response(data, media_type=_MOVES)

    async def receive(self, request: Request) -> Response:
        stratum = self._shared(request)
        data = await body_of(request, MOVES_MAX)
        with _said(), missing("NAME_UNKNOWN", "there is no such stratum"):
            answer = await run_in_threadpool(
                self._exchange.receive, stratum, _name(request), data, writable=asker_of(request).sees.writes(stratum)
            )
        return Response(answer, media_type=_MOVES)

    async def keep(self, request: Request) -> Response:
        stratum, peer = self._shared(request), self._book.now().peers.get(_name(request))
        digest, _, word = (await body_of(request, _DIGEST_MAX)).decode("ascii", "replace").partition(" ")
        era = parse_era(word)
        with missing("MANIFEST_UNKNOWN", "there is no such manifest"):
            if peer is None or not is_digest(digest) or era is None:
                raise NotFoundError("nothing that can be kept")
            change = promise if request.method == "POST" else let_off
            await run_in_threadpool(change, self._session, self._registry, stratum, peer, digest, era)
        return JSONResponse({"kept": digest})

    def _shared(self, request: Request) -> str:
        stratum = str(request.path_params["name"])
        if not asker_of(request).sees.reads(stratum):
            raise Refusal(404, "there is no such stratum", code="NAME_UNKNOWN")
        return stratum


@contextmanager
def _said() -> Iterator[None]:
    """Tell the peer what is wrong with what it sent."""
    try:
        yield
    except DeniedError as exc:
        raise Refusal(403, exc.message) from None
    except DamagedError as exc:
        raise Refusal(400, exc.message) from None
    except BusyError as exc:
        raise Refusal(503, exc.message) from None


def _name(request: Request) -> str:
    name = asker_of(request).name
    assert name is not None
    return name
