"""What the sources of a commit have: each with its catalog, and the remote that is asked.

Sources are tried in their order, peers first: they are near, where they are there at all. Those that are known to be
gone come last, for a place may have things again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import StratumError
from stratum.hydrate.frames import Seams
from stratum.hydrate.readahead import ReadAhead
from stratum.hydrate.remote import Remote
from stratum.store.catalog import CatalogMember

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.store import Store
    from stratum.store.catalog import Catalog, CatalogPack
    from stratum.store.sources import CommitSource

_MEMO_MAX = 1024
_NEXT = 3


class Supply:
    """One source: ``number`` counts the commit's sources, ``base`` the objects of those before it. ``complete`` has a 1
    for each frame of which all that is needed has come."""

    def __init__(self, number: int, base: int, catalog: Catalog, remote: Remote) -> None:
        self.number, self.base = number, base
        self.catalog, self.remote = catalog, remote
        self.complete = bytearray(max((pack.frames[1] for pack in catalog.packs), default=0) + 1)
        self.seams = Seams()
        self.ahead = ReadAhead()
        self.asked = range(0)
        """The numbers of the objects in the frame that was asked for last."""

    def pack(self, member: CatalogMember) -> CatalogPack:
        """The pack that the object is in."""
        return self.catalog.packs[member.pack]


class Place(NamedTuple):
    """Where an object can be had."""

    supply: Supply
    member: CatalogMember


class Supplies:
    """All sources of ``commit`` whose catalogs can be read; ``problems`` says of the others why not.

    ``access`` says how a source is reached. ``DamagedError`` where it is not known which sources there are.
    """

    def __init__(self, store: Store, commit: str, access: Callable[[CommitSource], Access], scratch: Path) -> None:
        self.problems: list[str] = []
        self._all: list[Supply] = []
        self._memo: dict[bytes, Place | None] = {}
        self._last: Place | None = None
        base = 0
        for source in sorted(
            store.sources.of(commit), key=lambda source: (source.gone is not None, not source.at_peer)
        ):
            try:
                catalog = store.sources.catalog(source.manifest)
            except StratumError as exc:
                self.problems.append(exc.message)
                continue
            remote = Remote(source, partial(access, source), scratch)
            self._all.append(Supply(len(self._all), base, catalog, remote))
            base += len(catalog)

    def __iter__(self) -> Iterator[Supply]:
        return iter(self._all)

    def close(self) -> None:
        for supply in self._all:
            supply.remote.close()

    def find(self, digest: bytes) -> Place | None:
        """Where the object can be had in the first place, if anywhere."""
        try:
            return self._memo[digest]
        except KeyError:
            place = self._next(digest) or next(self.places(digest), None)
            if len(self._memo) >= _MEMO_MAX:
                self._memo.clear()
            self._memo[digest] = self._last = place
            return place

    def _next(self, digest: bytes) -> Place | None:
        """The object, where it is the next but a few after the last one: files are mostly read in their order."""
        if self._last is None or self._last.supply.number:
            return None
        supply, number = self._last.supply, self._last.member.number
        for other in range(number + 1, min(number + 1 + _NEXT, len(supply.catalog))):
            if supply.catalog.digest(other) == digest:
                return Place(supply, supply.catalog.member(other))
        return None

    def places(self, digest: bytes, start: int = 0) -> Iterator[Place]:
        """Where the object can be had, of the sources from the number ``start`` on, in their order."""
        for supply in self._all[start:]:
            number = supply.catalog.find(digest)
            if number is not None:
                yield Place(supply, supply.catalog.member(number))

    def digest_of(self, number: int) -> tuple[bytes, int]:
        """The object (digest, size) that has the number ``base`` of its supply and its own in the catalog together."""
        supply = next(supply for supply in reversed(self._all) if supply.base <= number)
        member = supply.catalog.member(number - supply.base)
        return member.digest, member.size
