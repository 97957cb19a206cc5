"""The door: who asks, by HTTP Basic and a file of passwords, and what they may."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import math
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from starlette.requests import HTTPConnection

from stratum.serve.limits import Allowance, network_of
from stratum.serve.passwords import AT_ONCE, Passwords
from stratum.serve.refusals import Refusal, unauthorized
from stratum.serve.visibility import NOTHING, Asker, Everywhere, Visibility

if TYPE_CHECKING:
    from starlette.types import Scope

_WRONG_BURST = 10
_WRONG_SECOND = 0.2
"""Wrong passwords that one address may give at once, and how many more a second."""


class Door:
    """Who may do what: users of ``passwords`` what ``users`` says, anybody else what ``anybody`` says.

    ``names`` are those by which clients reach the server, besides addresses and 'localhost'. Where there are no
    passwords, or there are such names, or only this machine reaches the server (``is_loopback``), a request for any
    other that needs none is refused: a web site whose name leads here would be asking, from a browser. ``each_second``
    requests of one address are answered, and ten times as many at once.
    """

    def __init__(
        self,
        passwords: Passwords | None,
        *,
        users: Everywhere,
        anybody: Everywhere,
        names: Collection[str] = (),
        each_second: int,
    ) -> None:
        self._passwords = passwords
        self._users = users
        self._anybody = anybody
        self._names = {name.lower() for name in names}
        self.is_loopback = False
        self._asking = Allowance(each_second, each_second * 10)
        self._wrong = Allowance(_WRONG_SECOND, _WRONG_BURST)
        self._checking = CapacityLimiter(AT_ONCE)

    @property
    def signs_in(self) -> bool:
        """Whether there are users with passwords."""
        return self._passwords is not None

    async def who(self, connection: HTTPConnection) -> Asker:
        """Who asks. ``Refusal``: 401 for a wrong password, 429 for too many requests, 421 for another's name, 403 where
        a page of another site has a browser push."""
        if connection.scope["path"].startswith("/v2/") and changes(connection) and is_foreign(connection):
            raise Refusal(403, "a page of another site asks for that, by a browser")
        address = network_of(connection.client.host if connection.client else "")
        _turn(self._asking, address, "these are too many requests")
        self._asking.take(address)
        if self._passwords is None:
            self._check_name(connection.headers.get("Host", ""))
            return Asker(None, self._anybody)
        given = parse_basic(connection.headers.get("Authorization"))
        if given is None:
            if self._anybody.read and (self.is_loopback or self._names):
                self._check_name(connection.headers.get("Host", ""))
            return Asker(None, self._anybody, may_sign_in=True)
        user, password = given
        if not self._passwords.remembered(user, password):
            _turn(self._wrong, address, "these are too many wrong passwords")
            self._wrong.take(address)
            # Not in more threads than check at once: those who guess would have all, and others none to read with.
            if not await to_thread.run_sync(self._passwords.right, user, password, limiter=self._checking):
                raise unauthorized("the name or the password is wrong")
            self._wrong.give_back(address)
        return Asker(user, self._users)

    def _check_name(self, host: str) -> None:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.strip("[]").rstrip(".").lower()
        if name == "localhost" or name in self._names:
            return
        try:
            ipaddress.ip_address(name)
        except ValueError:
            raise Refusal(421, "this server has another name; 'stratum serve --name' tells it one") from None

    def user(self, scope: Scope) -> str | None:
        """The user whose name and right password came with a request."""
        asker: Asker = scope["state"]["asker"]
        return asker.name

    def visibility(self, scope: Scope, user: str | None) -> Visibility:
        """What there is for ``user``, who signed in by other means; where that is None, for who sent the request."""
        asker: Asker = scope["state"]["asker"]
        if user is None:
            return asker.sees
        return self._users if self.stamp(user) is not None else NOTHING

    def checks(self, user: str, password: str) -> bool:
        """Whether that is the password of that user. Takes a tenth of a second: for a thread."""
        return self._passwords is not None and self._passwords.right(user, password)

    def stamp(self, user: str) -> bytes | None:
        """What changes whenever the password of a user does; None where there is no such user."""
        line = self._passwords.line(user) if self._passwords is not None else None
        return None if line is None else hashlib.sha256(f"{user}\0{line}".encode()).digest()


def changes(connection: HTTPConnection) -> bool:
    """Whether a request is to do more than look."""
    return connection.scope["method"] not in ("GET", "HEAD", "OPTIONS")


def is_foreign(connection: HTTPConnection) -> bool:
    """Whether a page of another site has a browser send that. No other client says such things."""
    site, origin = connection.headers.get("Sec-Fetch-Site"), connection.headers.get("Origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc != connection.headers.get("Host")


def _turn(allowance: Allowance, asker: str, message: str) -> None:
    wait = allowance.wait(asker)
    if wait > 0:
        raise Refusal(429, message, headers={"Retry-After": str(math.ceil(wait))})


def parse_basic(header: str | None) -> tuple[str, str] | None:
    """The name and the password of ``Authorization: Basic``; None where neither is given. ``Refusal`` (401)."""
    if header is None:
        return None
    scheme, _, word = header.partition(" ")
    if scheme.lower() != "basic":
        raise unauthorized("only 'Authorization: Basic' is known here")
    try:
        text = base64.b64decode(word.strip(), validate=True).decode("utf-8", "surrogateescape")
    except (ValueError, binascii.Error):
        raise unauthorized("that is no 'Authorization: Basic'") from None
    user, _, password = text.partition(":")
    return (user, password) if user or password else None  # some clients send both empty where they have none
