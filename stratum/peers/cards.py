"""Cards: what one host gives another to be known by, a line of text; and the addresses of peers. Pure.

::

    stratum-peer:NAME:<the certificate (DER) in base64url, without '='>

NAME is what the host calls itself. Whoever adds the card gives it a name of their own.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re

from stratum.errors import UsageError, quoted
from stratum.frozen import frozen
from stratum.refs import is_name

CARD_PREFIX = "stratum-peer"
CARD_MAX = 2048
NAME_MAX = 63

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BASE64 = re.compile(r"[A-Za-z0-9_-]+")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{{1,5}})")


@frozen
class Card:
    """``name`` and ``certificate`` (DER, not looked at)."""

    name: str
    certificate: bytes

    def __str__(self) -> str:
        return f"{CARD_PREFIX}:{self.name}:{encode(self.certificate)}"


def parse_card(text: str) -> Card:
    """The card that a line is. ``UsageError``; what its certificate is worth is ``keys.check_certificate``'s."""
    parts = text.strip().split(":")
    if len(text) > CARD_MAX or len(parts) != 3 or parts[0] != CARD_PREFIX:
        raise UsageError(
            f"{quoted(text[:80])} is not the card of a peer",
            hint="'stratum peer id' on the other host prints its card: stratum-peer:NAME:...",
        )
    return Card(check_peer_name(parts[1]), decode(parts[2]))


def encode(certificate: bytes) -> str:
    """base64url without the '=' at its end."""
    return base64.urlsafe_b64encode(certificate).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """What ``encode`` made a text of. ``UsageError`` for any other text."""
    try:
        if not _BASE64.fullmatch(text):
            raise ValueError(text)
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        raise UsageError("the card is damaged: a part of it is missing, or it was changed") from None
    if encode(data) != text:
        raise UsageError("the card is damaged: a part of it is missing, or it was changed")
    return data


def check_peer_name(text: str) -> str:
    """``text`` if it may name a peer. ``UsageError``."""
    if not is_peer_name(text):
        raise UsageError(
            f"{quoted(text[:80])} is not a valid name of a peer",
            hint="a name starts with a letter or digit and has up to 63 letters, digits, '.', '_' and '-'",
        )
    return text


def is_peer_name(text: str) -> bool:
    """Whether ``text`` may name a peer."""
    return _NAME.fullmatch(text) is not None and is_name(text)


def peer_name_of(host: str) -> str:
    """The name for a host that calls itself ``host``, whatever that is."""
    found = re.sub(r"[^A-Za-z0-9_-]+", "-", host.partition(".")[0]).strip("-_")[:NAME_MAX]
    return found if is_peer_name(found) else "host"


def parse_address(text: str) -> str:
    """HOST:PORT of [https://]HOST:PORT[/]; HOST is a name or an address, IPv6 in brackets. ``UsageError``."""
    address = text.removeprefix("https://").removesuffix("/")
    match = _ADDRESS.fullmatch(address)
    try:
        if match is None or len(address) > 260 or not 0 < int(match["port"]) < 65536:
            raise ValueError(address)
        if match["host"].startswith("["):
            ipaddress.IPv6Address(match["host"][1:-1])
    except ValueError:
        raise UsageError(
            f"{quoted(text[:80])} is not where a peer listens",
            hint="write it as HOST:PORT, as its 'stratum serve --peers' says",
        ) from None
    return address.lower()
