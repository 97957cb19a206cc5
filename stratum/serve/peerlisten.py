"""Connections of peers: TLS 1.3 with known certificates only, and out as soon as somebody is not known any more.

Whose certificates count is looked up in the book of peers for each handshake. After it the certificate is in the scope
of each request (``scope["state"]["peer_certificate"]``, DER, by ``stratum.serving``), and whose it is is looked up
again for each request, and for each piece of a body that comes or goes (``guarded``).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from stratum.errors import StratumError
from stratum.peers.tls import server_context
from stratum.serve.refusals import Refusal
from stratum.serve.visibility import Asker, Who

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from stratum.store.peerbook import Peer, PeerBook

CERTIFICATE = "peer_certificate"


class Shared:
    """What a peer sees (``serve.visibility.Visibility``)."""

    def __init__(self, peer: Peer) -> None:
        self._strata = peer.strata

    def reads(self, repository: str) -> bool:
        return repository in self._strata

    def writes(self, repository: str) -> bool:
        return self._strata.get(repository, False)

    def deletes(self, repository: str) -> bool:
        return False


def peers_only(book: PeerBook) -> Who:
    """Who asks, where only known peers may: told by the certificate of the connection, each time anew."""

    async def who(connection: HTTPConnection) -> Asker:
        peer = book.now().by_certificate(connection.scope["state"][CERTIFICATE])
        if peer is None:
            raise Refusal(403, "you are not known here", headers={"Connection": "close"})
        return Asker(peer.name, Shared(peer))

    return who


def listening_context(book: PeerBook, log: Callable[[str], None]) -> ssl.SSLContext:
    """TLS for a listener of peers: each connection gets a context with the certificates that are known then.

    The host has a key (``PeerBook.own``). ``log`` is told where the book cannot be read: nobody is let in then.
    """
    kept: list[tuple[object, ssl.SSLContext]] = []

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        try:
            signature = book.signature()
            if not kept or kept[0][0] != signature:
                known = [peer.certificate for peer in book.now().peers.values()]
                kept[:] = [(signature, server_context(book.key_file, known))]
        except StratumError as exc:
            log(exc.told)
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = kept[0][1]
        return None

    first = server_context(book.key_file, ())  # nobody
    first.sni_callback = choose  # called for every connection, be there a name or not
    return first


class _CutError(ConnectionAbortedError):
    """Something was taken from the peer of this request."""


def guarded(app: ASGIApp, book: PeerBook, log: Callable[[str], None]) -> ASGIApp:
    """``app`` for peers, each for as long as nothing is taken from it: what goes to and fro is cut off then, in the
    middle of a body too. ``log`` is told so."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        before = book.now().by_certificate(scope["state"][CERTIFICATE])
        if before is None:  # it was removed after its handshake: ``peers_only`` says so
            await app(scope, receive, send)
            return
        seen = book.signature()
        cut = False

        def check() -> None:
            nonlocal seen, cut
            signature = book.signature()
            if signature != seen:
                cut = _is_less(before, book.now().by_certificate(before.certificate))
                seen = signature
            if cut:
                raise _CutError(before.name)

        async def receiving() -> Message:
            message = await receive()
            check()
            return message

        async def sending(message: Message) -> None:
            check()
            await send(message)

        try:
            await app(scope, receiving, sending)
        except Exception:  # whatever became of _CutError on its way: the answer is not finished, so uvicorn hangs up
            if not cut:
                raise
        if cut:
            log(f"a request of peer {before.name} was cut off: something was taken from it")

    return guard


def _is_less(before: Peer, after: Peer | None) -> bool:
    """Whether a peer may do less than it might before."""
    if after is None:
        return True
    return any(name not in after.strata or write > after.strata[name] for name, write in before.strata.items())
