"""HTTP to a peer: TLS with its key alone (``peers.tls``), no proxies, no redirects, no passwords.

A peer that does not know this host closes the connection before it answers anything; so does one that is not a server
of peers. It is told once, and not tried again.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import requests
from urllib3.connectionpool import HTTPSConnectionPool

from stratum.errors import DeniedError, NotFoundError, StratumError, UnreachableError, os_error_text
from stratum.oci.access import Access
from stratum.oci.carrier import Carrier
from stratum.oci.deadline import Adapter, Pace, TLSConnection
from stratum.oci.target import Target
from stratum.oci.transport import POOL, PlainSession, Transport
from stratum.peers.link import Link
from stratum.peers.tls import check_shown, client_context, wrong_key


def carrier_to(target: Target, access: Access) -> Carrier:
    """What carries requests to the registry or the peer that has ``target``."""
    return PeerCarrier(target, access) if target.peer is not None else Carrier(target, access)


def _connection_to(link: Link) -> type[TLSConnection]:
    """Connections to that peer, and nobody else."""
    context = client_context(link.key_file, link.certificate)

    class Connection(TLSConnection):
        _answered = False

        def connect(self) -> None:
            """Connect, and make sure who answers. ``UntrustedError``."""
            plain = self._new_conn()
            try:
                self.sock = context.wrap_socket(plain)
                check_shown(self.sock, link.certificate, link.name)
            except ssl.SSLCertVerificationError:
                plain.close()
                raise wrong_key(link.name) from None
            except (ssl.SSLError, ConnectionError) as exc:
                plain.close()
                raise UnreachableError(
                    f"peer {link.name} at {link.address} speaks no TLS 1.3: {os_error_text(exc)}",
                    hint="is it what its 'stratum serve --peers' listens at?",
                ) from None
            except BaseException:
                plain.close()
                raise
            self.is_verified = True

        def send(self, data: Any) -> None:
            """Send some of the request. ``DeniedError`` as ``getresponse``: the other side may be quicker."""
            try:
                super().send(data)
            except ssl.SSLError:
                if self._answered:
                    raise
                raise _closed(link) from None

        def getresponse(self) -> Any:
            """The answer. ``DeniedError`` where the other side closes without ever having answered here."""
            try:
                response = super().getresponse()
            except (ConnectionError, http.client.RemoteDisconnected, ssl.SSLError):
                if self._answered:
                    raise
                raise _closed(link) from None
            self._answered = True
            return response

    return Connection


def _closed(link: Link) -> DeniedError:
    return DeniedError(
        f"peer {link.name} at {link.address} closes the connection without an answer",
        hint="it may not know this host; there: stratum peer add NAME CARD, the card that"
        " 'stratum peer id' prints here",
    )


class _PeerAdapter(Adapter):
    """An adapter whose connections are all to one peer."""

    def __init__(self, link: Link) -> None:
        self._pool = type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": _connection_to(link)})
        super().__init__(**POOL)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"https": self._pool}

    def cert_verify(self, *_args: Any) -> None:
        """Nothing: the connection does it."""


class PeerTransport(Transport):
    """Requests to one peer."""

    def __init__(self, link: Link, access: Access) -> None:
        self._link = link
        super().__init__(replace(access, proxies={}, ca_file=None, authorities=()))

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], secret: str | None, data: bytes | None, pace: Pace
    ) -> requests.Response:
        response = self._once(method, url, {"Accept-Encoding": "identity", **headers}, data, pace)
        if 300 <= response.status_code < 400:
            self.done(response)
            raise StratumError(f"peer {self._link.name} sends this host elsewhere; that is not followed")
        return response

    def _connected(self) -> tuple[requests.Session, str | bool]:
        return PlainSession(_PeerAdapter(self._link)), True


class PeerCarrier(Carrier):
    """What carries requests to the peer of ``target``."""

    def _reached(self, target: Target, access: Access) -> tuple[str, str, str, Transport]:
        assert target.peer is not None
        link = access.peer(target.peer)
        return "https", f"peer {link.name}", link.reachable(), PeerTransport(link, replace(access, credentials=_nobody))

    def expect(self, response: requests.Response, statuses: tuple[int, ...], doing: str) -> requests.Response:
        if response.status_code not in statuses:
            message = f"cannot {doing}: {self.host} answered {self.transport.words(response)}"
            if response.status_code == 404:
                raise NotFoundError(message, hint=shown_by(self.target.peer))
            if response.status_code in (401, 403):
                raise DeniedError(
                    message,
                    hint="it may share this for reading alone; there: stratum share "
                    f"{self.target.repository} --with NAME --write",
                )
            raise StratumError(message)
        return response


def shown_by(peer: str | None) -> str:
    """The hint on what a peer shares."""
    return f"what peer {peer} shares with this host: stratum list --remote peer://{peer}"


def _nobody(_host: str, _repository: str) -> None:
    """No passwords."""
