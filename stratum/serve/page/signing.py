"""Who is signed in: cookies that say so, and what a form says to be one of ours.

A cookie is ``EXPIRES.USER.MAC``; the MAC is over both and over what the door says of the user's password, so that it
ends with that, and with the server, whose key it is made with. Nothing is kept.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stratum.serve.door import Door

COOKIE = "stratum"
LASTS = 12 * 3600
"""Seconds that somebody is signed in."""
_COOKIE_MAX = 600


class Signing:
    """Makes and reads cookies and tokens of one server."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._key = os.urandom(32)

    def cookie(self, user: str, now: float) -> str | None:
        """What tells that ``user`` is signed in; None where there is no such user."""
        expires = str(int(now) + LASTS)
        name = urlsafe_b64encode(user.encode("utf-8", "surrogatepass")).decode()
        mac = self._mac("cookie", expires, user)
        return f"{expires}.{name}.{mac}" if mac is not None else None

    def user(self, cookie: str, now: float) -> str | None:
        """Who is signed in by a cookie; None where nobody is."""
        expires, _, rest = cookie.partition(".")
        name, _, told = rest.partition(".")
        if len(cookie) > _COOKIE_MAX or not (expires.isascii() and expires.isdecimal()) or int(expires) < now:
            return None
        try:
            user = urlsafe_b64decode(name.encode("ascii")).decode("utf-8", "surrogatepass")
        except ValueError:
            return None
        mac = self._mac("cookie", expires, user)
        return user if mac is not None and hmac.compare_digest(mac.encode(), told.encode("utf-8", "replace")) else None

    def token(self, user: str) -> str | None:
        """What a form of ``user`` carries, and nobody else's can."""
        return self._mac("form", "", user)

    def is_token(self, user: str, told: str) -> bool:
        """Whether a form has it."""
        token = self.token(user)
        return token is not None and hmac.compare_digest(token.encode(), told.encode("utf-8", "replace"))

    def _mac(self, what: str, more: str, user: str) -> str | None:
        stamp = self._door.stamp(user)
        if stamp is None:
            return None
        said = b"\0".join((what.encode(), more.encode(), user.encode("utf-8", "surrogatepass"), stamp))
        return hmac.new(self._key, said, sha256).hexdigest()
