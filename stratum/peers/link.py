"""What is needed to speak to a peer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stratum.errors import NotFoundError, UsageError
from stratum.frozen import frozen


@frozen
class Link:
    """A known peer: what we call it, its certificate (DER), where it listens (HOST:PORT; None where that is not known),
    and the file with our own key."""

    name: str
    certificate: bytes
    address: str | None
    key_file: Path

    def reachable(self) -> str:
        """``address``. ``UsageError`` where there is none."""
        if self.address is None:
            raise UsageError(
                f"it is not known where peer {self.name} listens",
                hint=f"where it does: stratum peer add {self.name} CARD HOST:PORT; else it has to ask this host",
            )
        return self.address


FindPeer = Callable[[str], Link]
"""The peer of a name; ``NotFoundError`` where none is known. Any thread may call it."""


def no_peer(name: str) -> Link:
    """No peers at all."""
    raise NotFoundError(f"peer {name} is not known here", hint="'stratum peer list' shows those that are")
