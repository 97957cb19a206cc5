"""Requests to one registry, carried by oras, with credentials where they belong.

``oras.provider.Registry.do_request`` sends a request and, when the registry asks who is there, has its ``auth`` find
better headers and sends it again. What it sends through is ours, ``Transport``: bounded in time and size, and no secret
leaves its origin. Whom it asks is ours, ``Auth``, which believes nothing that a challenge says. Nothing else of oras is
called: its methods read answers whole, follow what they are told and wait without end.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import unwrap
from typing import cast

import oras.provider
import requests

from stratum.errors import StratumError
from stratum.oci.access import Access
from stratum.oci.auth import Auth, FinalAnswerError
from stratum.oci.deadline import Pace
from stratum.oci.target import Target, is_loopback
from stratum.oci.transport import Asked, Transport, failure, origin, resolve, shown

_ACTIONS = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}


_do_request = unwrap(oras.provider.Registry.do_request)
"""Without oras's own tries, which know no deadline and send twice what must not be; ``Transport`` has its own."""


def scheme_for(target: Target, access: Access) -> str:
    """``http`` or ``https``: plain HTTP only where it was asked for, or on loopback (unless a CA was given)."""
    assert target.host is not None
    if target.scheme is not None:
        return target.scheme
    if access.plain_http or target.host in access.insecure_registries:
        return "http"
    return "http" if is_loopback(target.host) and access.ca_file is None else "https"


class Carrier:
    """What carries requests for the repository of ``target``, for several threads.

    ``host`` is HOST[:PORT] as people call the registry, ``api_host`` as its API is reached.
    """

    def __init__(self, target: Target, access: Access) -> None:
        self.target = target
        self.scheme, self.host, self.api_host, self.transport = self._reached(target, access)
        self.base = f"{self.scheme}://{self.api_host}/v2/"
        self._origin = origin(self.base)

        def lookup() -> str | None:
            return access.credentials(self.api_host, target.repository)

        self.auth = Auth(self.transport, self.base, self.host, lookup, access.token_realms.get(self.host))
        self._oras = oras.provider.Registry(self.api_host, insecure=self.scheme == "http")
        self._oras.session, self._oras.auth = self.transport, self.auth

    def _reached(self, target: Target, access: Access) -> tuple[str, str, str, Transport]:
        """``scheme``, ``host``, ``api_host`` and ``transport``."""
        assert target.host is not None
        assert target.api_host is not None
        return scheme_for(target, access), target.host, target.api_host, Transport(access)

    def send(
        self,
        url: str,
        method: str = "GET",
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        other: str | None = None,
        again: bool = False,
        pace: Pace | None = None,
    ) -> requests.Response:
        """A request, with credentials where ``url`` is the registry's own, and once more after a 401.

        ``other`` is a repository that is read from besides. ``again`` and ``pace`` are ``Transport.send``'s, and so is
        what is raised.
        """
        asked = Asked(headers or {}, again, pace)
        if self.is_home(url):
            asked.scopes = self._scopes(url, method, other)
            asked.secret = self.auth.header(asked.scopes)
        try:
            response = _do_request(self._oras, url, method, data=data, headers=asked, stream=True)
        except FinalAnswerError as final:
            response = final.response
        return cast("requests.Response", response)

    def _scopes(self, url: str, method: str, other: str | None) -> tuple[str, ...]:
        """What a token for this request has to allow."""
        if url == self.base:
            return ()
        if url.startswith(f"{self.base}_catalog?"):
            return ("registry:catalog:*",)
        scopes = (f"repository:{self.target.repository}:{_ACTIONS.get(method, 'pull,push')}",)
        return scopes if other is None else (*scopes, f"repository:{other}:pull")

    def is_home(self, url: str) -> bool:
        """Whether ``url`` is of the registry's own origin. ``StratumError`` where it is no HTTP URL."""
        return origin(url) == self._origin

    def expect(self, response: requests.Response, statuses: tuple[int, ...], doing: str) -> requests.Response:
        """``response`` where it has one of the ``statuses``, else what went wrong with ``doing`` this."""
        if response.status_code not in statuses:
            raise failure(self.transport.words(response), response.status_code, doing, self.host, self.auth.hint)
        return response

    def location(self, response: requests.Response, doing: str) -> str:
        """The URL at which an upload goes on."""
        place = response.headers.get("Location")
        if not place:
            raise StratumError(f"cannot {doing}: the registry named no place to send it to")
        url = resolve(response.url, place)
        if self._origin[0] == "https" and origin(url)[0] != "https":
            raise StratumError(f"cannot {doing}: the registry wants it without TLS at {shown(url)}")
        return url
