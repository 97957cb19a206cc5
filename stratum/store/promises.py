"""What peers count on: commits that this host has promised to keep whole, as a peer let go of what it had of them; and
what this host's own word to peers is worth.

::

    peers/promises.toml   [promise.COMMIT]   key ID of a peer = "STRATUM ERA": that it has the commit of, and its era
                          [check]            tells changed bytes (``store.tables``)
    peers/era             of this host: a number, one more each time it lets peers off what they promised

Two hosts that each take the other for the place to fetch from again must not both let go. So who asks to let go is
promised it under the store's lock, while all is here, and from then on nothing of the commit is evicted here
(``hydrate.evictable``), also not because somebody else has it. A promise ends when the peer lets this host off, and is
void when the peer is not known any more, the stratum not shared with it, or the commit gone.

Who asks for a promise says in which of its eras, and lets off what was promised before the present one: so what one of
its processes gives back is not relied upon by another, and what arrives late ends no later promise.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from stratum.errors import DamagedError
from stratum.refs import is_hash
from stratum.store.layout import Layout, signature_of
from stratum.store.peerbook import ERA, PEERS, PROMISES
from stratum.store.tables import read_tables, write_tables

if TYPE_CHECKING:
    from stratum.store.peerbook import Book, PeerBook

_MAX = 16 << 20

_ERA = re.compile(r"[0-9]{1,18}")

Promised = dict[str, dict[str, str]]
"""Commit -> key ID of a peer -> stratum and era."""


def parse_era(text: str) -> int | None:
    """The era that a peer names; None where that is none."""
    return int(text) if _ERA.fullmatch(text) else None


class Promises:
    """The promises of one store."""

    def __init__(self, layout: Layout, book: PeerBook) -> None:
        self._layout = layout
        self._book = book
        self._path = layout.root / PEERS / PROMISES

    def commits(self) -> frozenset[str]:
        """The commits that a peer counts on; some of them may be gone. ``DamagedError``."""
        return frozenset(_valid(self._read(), self._book.now()))

    def stamp(self) -> object:
        """Another one when ``commits`` may be others."""
        return signature_of(self._path), self._book.signature(), self.era()

    def era(self) -> int:
        """The era of this host. What peers have promised in another one is not relied upon."""
        data = self._layout.content_of(self._path.with_name(ERA), 64)
        return (parse_era(data.decode("ascii", "replace")) or 0) if data is not None else 0

    def begin_era(self) -> int:
        """Begin a new era, durably, and return it. The caller holds the store's lock, and then lets peers off what they
        promised before it, of what has been here whole since it took the lock."""
        with self._book.changing():
            new = self.era() + 1
            self._book.write(ERA, b"%d" % new)
            return new

    def add(self, commit: str, key_id: str, stratum: str, era: int, exists: Callable[[str], bool]) -> None:
        """Promise a peer to keep a commit, durably; void promises are dropped, and those whose commit does not exist.

        The caller holds the store's lock, and has seen since then that the commit is here whole.
        """
        with self._book.changing():
            kept = {each: by for each, by in _valid(self._read(), self._book.now()).items() if exists(each)}
            new = {**kept, commit: {**kept.get(commit, {}), key_id: f"{stratum} {era}"}}
            if new != kept:
                self._book.write(PROMISES, write_tables({"promise": new}, "what peers count on"))

    def drop(self, commit: str, key_id: str, era: int) -> None:
        """End the promise that the peer got of a commit before that era, as it has all of that itself."""
        with self._book.changing():
            kept = _valid(self._read(), self._book.now())
            told = parse_era(kept.get(commit, {}).get(key_id, "").rpartition(" ")[2])
            if told is not None and told < era:
                del kept[commit][key_id]
                left = {each: by for each, by in kept.items() if by}
                self._book.write(PROMISES, write_tables({"promise": left}, "what peers count on"))

    def check(self) -> None:
        """``DamagedError`` where the file cannot be read."""
        self._read()

    def _read(self) -> Promised:
        data = self._layout.content_of(self._path, _MAX)
        if data is None:
            return {}
        return parse_promises(data, str(self._path))


def parse_promises(data: bytes, where: str) -> Promised:
    """What such a file says. ``DamagedError`` names ``where``."""
    found = read_tables(data, where).get("promise", {})
    if not isinstance(found, dict) or not all(
        is_hash(commit) and isinstance(by, dict) and all(isinstance(each, str) and " " in each for each in by.values())
        for commit, by in found.items()
    ):
        raise DamagedError(f"{where} does not say what peers count on", hint="bring it back from a backup")
    return found


def _valid(promised: Promised, book: Book) -> Promised:
    """Those that count by what the book says."""
    shared = {peer.key_id: peer.strata for peer in book.peers.values()} if promised else {}
    found = {
        commit: {key: each for key, each in by.items() if each.rpartition(" ")[0] in shared.get(key, {})}
        for commit, by in promised.items()
    }
    return {commit: by for commit, by in found.items() if by}
