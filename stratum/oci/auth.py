"""Answering a registry's authentication challenges (distribution's token specification, and its OAuth2 variant).

What a registry says is taken for what it is: the word of a stranger, who may want the user's other passwords, or
tokens for other repositories. So

- passwords and identity tokens are those of the registry itself, and are sent to its own origin (scheme, host and
  port), or to a token server that is known to be its own: that of Docker Hub, or one that the settings name
  (``token_realms``). A token server anywhere else is asked anonymously; nothing is looked up for its name, and no
  credential helper is started for it.
- a token is asked for with the scope that the request needs: this repository, this verb. The challenge's own scope
  is not looked at.
- a token is sent to the registry's origin only, and for the scope that it was given for.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

import requests

from stratum.errors import DeniedError, StratumError
from stratum.oci.challenge import Challenge, read_challenges
from stratum.oci.credentials import identity_token
from stratum.oci.transport import Asked, Transport, origin, shown

_TOKEN_MAX = 1 << 20
_TOKEN = re.compile(r"[!-~]+")
_HTTPS = 443
_KNOWN_TOKEN_SERVERS = {"registry-1.docker.io": "auth.docker.io", "registry.gitlab.com": "gitlab.com"}

Lookup = Callable[[], str | None]
"""Finds the base64 ``user:password`` of the registry, or None."""
Scopes = Sequence[str]
"""``repository:NAME:ACTION,...`` each; none for what belongs to no repository."""


class FinalAnswerError(Exception):
    """What the registry answered is final: nothing better can be sent. Ends oras's part in it."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Auth:
    """The credentials of the registry at ``base_url``, which the user calls ``name``, for requests to its origin.

    ``token_realm`` is a URL of the token server that the settings name for it.
    """

    def __init__(
        self, transport: Transport, base_url: str, name: str, lookup: Lookup, token_realm: str | None = None
    ) -> None:
        self._transport = transport
        self._origin = origin(base_url)
        self._name = name
        self._lookup = lookup
        self._partner = origin(token_realm) if token_realm is not None else self._known_partner()
        self._lock = threading.Lock()
        self._basic: str | None = None
        self._tokens: dict[tuple[str, ...], str] = {}
        self.stranger: str | None = None
        """The token server that was asked anonymously, as it is no known one."""

    def header(self, scopes: Scopes) -> str | None:
        """What a request in need of ``scopes`` carries as Authorization; None before a challenge."""
        return self._basic or self._tokens.get(tuple(scopes))

    def authenticate_request(
        self, original: requests.Response, headers: Asked, refresh: bool = False
    ) -> tuple[Asked, bool]:
        """What oras asks after a 401 or 403: the headers of another try, and that it is worth one.

        ``FinalAnswerError`` where it is not, ``StratumError`` where no token is to be had. ``refresh`` does not matter.
        """
        scopes = headers.scopes
        try:
            if original.status_code != 401 or scopes is None or not self._answer(original, headers.secret, scopes):
                raise FinalAnswerError(original)
        except StratumError:
            original.close()
            raise
        self._transport.done(original)
        headers.secret = self.header(scopes)
        return headers, True

    def _answer(self, response: requests.Response, sent: str | None, scopes: Scopes) -> bool:
        """Get ready for another try after a 401; False where nothing better can be sent than ``sent``."""
        if origin(response.url) != self._origin:  # somebody's to whom the registry redirected
            return False
        with self._lock:
            if self.header(scopes) != sent:  # another thread was here first
                return True
            for challenge in read_challenges(response.raw.headers.getlist("WWW-Authenticate")):
                if challenge.scheme == "basic" and self._use_password():
                    return self._basic != sent
                if challenge.scheme == "bearer":
                    self._basic = None
                    token = self._tokens[tuple(scopes)] = self._bearer(challenge, scopes)
                    return token != sent
            return False

    @property
    def hint(self) -> str:
        """What to do where the registry does not let the user in."""
        if self.stranger is None:
            return f"log in with 'stratum login {self._name}' as a user who may do this"
        return (
            f"{self._name} leaves its tokens to {self.stranger}, which was asked without a password; if the two belong"
            f' together, say so in the configuration: token_realms = {{ "{self._name}" = "{self.stranger}" }}'
        )

    def _known_partner(self) -> tuple[str, str, int] | None:
        """The origin of another host that is known to have to do with this registry's passwords."""
        known = _KNOWN_TOKEN_SERVERS.get(self._origin[1])
        return ("https", known, _HTTPS) if known and self._origin[::2] == ("https", _HTTPS) else None

    def _use_password(self) -> bool:
        password = self._lookup()
        if not password or identity_token(password) is not None:
            return False
        self._basic = f"Basic {password}"
        return True

    def _bearer(self, challenge: Challenge, scopes: Scopes) -> str:
        realm = challenge.parameters.get("realm", "")
        server = origin(realm)
        if self._origin[0] == "https" and server[0] != "https":
            raise StratumError(f"{self._origin[1]} wants a token from {shown(realm)}, which has no TLS; not asked")
        ours = server in (self._origin, self._partner)
        self.stranger = None if ours else f"{server[0]}://{host_of(server)}"
        service = challenge.parameters.get("service")
        response = self._ask_for_token(realm, service, scopes, self._lookup() if ours else None)
        if response.status_code != 200:
            words = self._transport.words(response)
            message = f"{host_of(server)} gave no token for {host_of(self._origin)}: {words}"
            if response.status_code >= 500 or response.status_code == 429:
                raise StratumError(message)
            raise DeniedError(message, hint=self.hint)
        body = b"".join(self._transport.body(response, _TOKEN_MAX, "a token"))
        try:
            answer = json.loads(body)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise StratumError(f"{host_of(server)} sent something that is not a token")
        return f"Bearer {token}"

    def _ask_for_token(
        self, realm: str, service: str | None, scopes: Scopes, password: str | None
    ) -> requests.Response:
        headers = {"Accept": "application/json"}
        named = {"service": service} if service is not None else {}
        identity = identity_token(password) if password else None
        if identity is not None:
            form = {"grant_type": "refresh_token", "refresh_token": identity, "client_id": "stratum", **named}
            if scopes:
                form["scope"] = " ".join(scopes)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return self._transport.send("POST", realm, headers, data=urlencode(form).encode(), again=True)
        query = [*named.items(), *(("scope", scope) for scope in scopes)]
        url = requests.Request("GET", realm, params=query).prepare().url or realm
        return self._transport.send("GET", url, headers, secret=f"Basic {password}" if password else None)


def host_of(place: tuple[str, str, int]) -> str:
    """HOST[:PORT] of an origin, the port where it is not the scheme's."""
    scheme, name, port = place
    name = f"[{name}]" if ":" in name else name
    return name if port == {"http": 80, "https": 443}[scheme] else f"{name}:{port}"
