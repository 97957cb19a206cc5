"""What a peer says besides being a registry: what it shares with this host, and the moves of tags."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

from stratum.errors import DamagedError, DeniedError, NotFoundError, StratumError
from stratum.oci.peerlink import PeerTransport, shown_by
from stratum.oci.target import is_shared_name

if TYPE_CHECKING:
    from stratum.oci.access import Access

MOVES_MAX = 16 << 20
"""Bytes of moves in an answer or a request."""
_SHARED_MAX = 4 << 20
_PREFIX = "/_stratum/v1"


class PeerClient:
    """The peer of that name, reached by ``access``; ``NotFoundError`` where none is known, ``UsageError`` where it is
    not known where it listens. Methods raise ``StratumError``: ``UnreachableError`` and ``DeniedError`` besides."""

    def __init__(self, name: str, access: Access) -> None:
        link = access.peer(name)
        self.name = link.name
        self._origin = f"https://{link.reachable()}"
        self._transport = PeerTransport(link, access)

    def close(self) -> None:
        """Let go of the connections."""
        self._transport.close()

    def shared(self) -> dict[str, bool]:
        """The strata that the peer shares with this host, and whether it may push to each. ``DamagedError``."""
        data = self._ask("GET", "/strata", None, _SHARED_MAX, f"list what peer {self.name} shares")
        return read_shared(data, f"peer {self.name}")

    def moves(self, stratum: str) -> bytes:
        """The moves that the peer has of the tags of a stratum. ``NotFoundError`` where it shares none of that name."""
        return self._ask("GET", _moves(stratum), None, MOVES_MAX, f"get the moves of {stratum} from peer {self.name}")

    def send_moves(self, stratum: str, data: bytes) -> bytes:
        """Give the peer moves; what it answers."""
        return self._ask("POST", _moves(stratum), data, MOVES_MAX, f"send moves of {stratum} to peer {self.name}")

    def keep(self, stratum: str, manifest: str, era: int) -> bool:
        """Whether the peer promises to keep whole what the manifest (a digest) is of, as this host lets it go; ``era``
        is that of this host (``store.promises``)."""
        try:
            self._ask(
                "POST",
                _kept(stratum),
                f"{manifest} {era}".encode(),
                _SHARED_MAX,
                f"have peer {self.name} keep {stratum}",
            )
        except NotFoundError:
            return False
        return True

    def let_off(self, stratum: str, manifest: str, era: int) -> None:
        """Tell the peer that it need not keep what it promised before that era: this host has all of it.
        ``NotFoundError`` where it has no such manifest."""
        self._ask(
            "DELETE", _kept(stratum), f"{manifest} {era}".encode(), _SHARED_MAX, f"tell peer {self.name} of {stratum}"
        )

    def _ask(self, method: str, path: str, data: bytes | None, limit: int, doing: str) -> bytes:
        headers = {} if data is None else {"Content-Type": "application/octet-stream"}
        # Moves are a set: who is sent some again has them.
        response = self._transport.send(method, f"{self._origin}{_PREFIX}{path}", headers, data=data, again=True)
        if response.status_code != 200:
            message = f"cannot {doing}: it answered {self._transport.words(response)}"
            kind = {404: NotFoundError, 401: DeniedError, 403: DeniedError}.get(response.status_code, StratumError)
            raise kind(message, hint=shown_by(self.name) if kind is NotFoundError else "")
        with closing(response):
            return b"".join(self._transport.body(response, limit, "an answer"))


def read_shared(data: bytes, who: str) -> dict[str, bool]:
    """The list of strata that ``who`` sent. ``DamagedError``."""
    try:
        found = {each["name"]: each["may"] == "write" for each in json.loads(data)["strata"]}
        if all(isinstance(name, str) and is_shared_name(name) for name in found):
            return found
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DamagedError(f"{who} sent something that is no list of strata")


def _kept(stratum: str) -> str:
    return f"/strata/{quote(stratum, safe='')}/kept"


def _moves(stratum: str) -> str:
    return f"/strata/{quote(stratum, safe='')}/moves"
