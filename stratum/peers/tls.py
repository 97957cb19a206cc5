"""TLS between peers: version 1.3 alone, both sides show a certificate, and only certificates that are known count.

The trust anchors of a context are these certificates and nothing else: no authority, no system store. Names in them
say nothing, so none is compared. What a side shows is compared once more, byte by byte, by whoever accepts it
(``check_shown``, ``serve.peerlisten``). There are no session tickets: who is not known any
more cannot come back by one.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path

from stratum.errors import DamagedError, UntrustedError, os_error_text


def server_context(key_file: Path, known: Iterable[bytes]) -> ssl.SSLContext:
    """The context of a host that accepts clients with one of the ``known`` certificates (DER). ``DamagedError`` where
    its own key cannot be used."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, key_file, known)
    context.num_tickets = 0
    return context


def client_context(key_file: Path, peer: bytes) -> ssl.SSLContext:
    """The context of a host that speaks to the one with the certificate ``peer`` (DER). ``DamagedError``."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, key_file, (peer,))


def check_shown(connection: ssl.SSLSocket, peer: bytes, name: str) -> None:
    """``UntrustedError`` where the other side of a connection is not ``name``, whose certificate is ``peer``."""
    if connection.getpeercert(binary_form=True) != peer:
        raise wrong_key(name)


def wrong_key(name: str) -> UntrustedError:
    """What is said of somebody who has not the key of the peer ``name``."""
    return UntrustedError(
        f"who answers for peer {name} has another key than the one that is known here",
        hint=f"another host listens there, or {name} has a new key; if it has, ask for its card: stratum peer remove "
        f"{name}, then stratum peer add {name} CARD HOST:PORT",
    )


def _context(protocol: int, key_file: Path, known: Iterable[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        context.load_cert_chain(key_file)
    except OSError as exc:  # also what ssl raises
        raise DamagedError(f"cannot use the key of this host, {key_file}: {os_error_text(exc)}") from None
    anchors = b"".join(known)
    if anchors:
        context.load_verify_locations(cadata=anchors)
    return context
