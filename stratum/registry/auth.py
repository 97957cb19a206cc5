"""Answering a registry's authentication challenges, on top of oras's token backend.

oras finds out what to ask for; here is decided to whom a password goes: to the registry itself, and to its token
server where that is at the registry's own origin, is the one known to serve this registry, or has credentials of its
own in the user's files. A token server anywhere else is asked anonymously.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from urllib.parse import urlencode

import requests
from oras.auth.token import TokenAuth

from stratum.errors import DeniedError, StratumError
from stratum.registry.credentials import identity_token
from stratum.registry.transport import Transport, origin, shown

_TOKEN_MAX = 1 << 20
_SCHEME = re.compile(r"\s*([A-Za-z0-9_-]+)(?:\s+|$)")
_PARAMETER = re.compile(r'([A-Za-z]+)="((?:[^"\\]|\\.)*)"')
_KNOWN_TOKEN_SERVERS = {"registry-1.docker.io": "auth.docker.io", "registry.gitlab.com": "gitlab.com"}

Lookup = Callable[[str], str | None]
"""Finds the base64 ``user:password`` for a host (with port, where not the default one), or None."""


class Auth(TokenAuth):  # type: ignore[misc]  # oras has no types
    """The credentials of one registry. ``header`` is what requests to its origin carry; None before a challenge."""

    def __init__(self, transport: Transport, base_url: str, lookup: Lookup) -> None:
        super().__init__()
        self._transport = transport
        self._origin = origin(base_url)
        self._lookup = lookup
        self._lock = threading.Lock()
        self.header: str | None = None

    def answer(self, response: requests.Response, sent: str | None) -> bool:
        """Get ready for another try after a 401; False where nothing better can be sent than ``sent``."""
        with self._lock:
            if self.header != sent:  # another thread was here first
                return True
            for scheme, parameters in _challenges(response.headers.get("WWW-Authenticate", "")):
                header = (
                    self._basic() if scheme == "basic" else self._bearer(parameters) if scheme == "bearer" else None
                )
                if header is not None and header != sent:
                    self.header = header
                    return True
            return False

    def _basic(self) -> str | None:
        password = self._lookup(_host(self._origin))
        return f"Basic {password}" if password and identity_token(password) is None else None

    def _bearer(self, parameters: dict[str, str]) -> str | None:
        realm = parameters.get("realm", "")
        server = origin(realm)
        if self._origin[0] == "https" and server[0] != "https":
            raise StratumError(f"{self._origin[1]} wants a token from {shown(realm)}, which has no TLS; not asked")
        query: dict[str, str] = {key: parameters[key] for key in ("service", "scope") if key in parameters}
        response = self._ask_for_token(realm, query, self._lookup(self._password_host(server)))
        if response.status_code != 200:
            words = self._transport.words(response)
            raise DeniedError(
                f"{_host(server)} gave no token for {_host(self._origin)}: {words}",
                hint=f"log in with 'stratum login {_host(self._origin)}'",
            )
        body = b"".join(self._transport.body(response, _TOKEN_MAX, "a token"))
        try:
            answer = json.loads(body)
            self.token = answer.get("token") or answer.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            self.token = None
        if not isinstance(self.token, str) or not re.fullmatch(r"[!-~]+", self.token):
            raise StratumError(f"{_host(server)} sent something that is not a token")
        return f"Bearer {self.token}"

    def _ask_for_token(self, realm: str, query: dict[str, str], password: str | None) -> requests.Response:
        """Ask a token server (distribution's token specification; for an identity token its OAuth2 variant)."""
        headers = {"Accept": "application/json"}
        identity = identity_token(password) if password else None
        if identity is not None:
            form = {"grant_type": "refresh_token", "refresh_token": identity, "client_id": "stratum", **query}
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return self._transport.send("POST", realm, headers, data=urlencode(form).encode())
        url = requests.Request("GET", realm, params=query).prepare().url or realm
        return self._transport.send("GET", url, headers, secret=f"Basic {password}" if password else None)

    def _password_host(self, server: tuple[str, str, int]) -> str:
        """Whose password the token server gets: the registry's, or only one that the user stored for that server."""
        if server == self._origin or _KNOWN_TOKEN_SERVERS.get(self._origin[1]) == server[1]:
            return _host(self._origin)
        return _host(server)


def _host(place: tuple[str, str, int]) -> str:
    scheme, name, port = place
    name = f"[{name}]" if ":" in name else name
    return name if port == {"http": 80, "https": 443}[scheme] else f"{name}:{port}"


def _challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """The challenges of a WWW-Authenticate header (RFC 9110 11.6.1) as (scheme in lower case, parameters)."""
    found: list[tuple[str, dict[str, str]]] = []
    for part in re.split(r",\s*(?=[A-Za-z]+\s+[A-Za-z]+=)", header):
        match = _SCHEME.match(part)
        if match:
            parameters = {key.lower(): value for key, value in _PARAMETER.findall(part)}
            found.append((match[1].lower(), parameters))
    return found
