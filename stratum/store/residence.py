"""What the commits of a store need, and what it means for them where an object is.

An object that a commit needs is **real** where it is here; **unreal** where it is missing and a source of the commit
lists it (``store.sources``), so that it can be fetched; **lost** where it is missing and none does, or where every one
that does is gone. Unreal objects are what a partial commit is made of; a lost one is damage for whoever checks. Nobody
else decides that: what makes, checks, sends and fetches commits asks here, and leaves objects to ``store.objects``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.frozen import frozen, replace
from stratum.store.objects import Objects, State
from stratum.store.sources import CommitSource, Sources, not_listed

if TYPE_CHECKING:
    from stratum.store.catalog import Catalog
    from stratum.tree.blocks import Dump

Sized = tuple[bytes, int]
"""An object that a commit needs: digest, size in bytes."""


class Condition(Enum):
    """What it means for a commit where an object is."""

    REAL = "real"
    UNREAL = "unreal"
    LOST = "lost"


@frozen
class ResidenceCounts:
    """How many of the objects that a commit needs are real, unreal and lost, and how many bytes those have."""

    real: int = 0
    real_bytes: int = 0
    unreal: int = 0
    unreal_bytes: int = 0
    lost: int = 0
    lost_bytes: int = 0


class Residence:
    """Of one store. Whoever relies on what is said here holds the store's lock. ``dump`` reads that of a commit."""

    def __init__(self, objects: Objects, sources: Sources, dump: Callable[[str], Dump]) -> None:
        self._objects = objects
        self._sources = sources
        self._dump = dump

    def lacking(self, needed: Iterable[Sized]) -> Iterator[Sized]:
        """Those of the objects without which the commits that need them are not real. Raises ``StratumError``."""
        state = self._objects.state
        return (item for item in needed if state(*item) is not State.HERE)

    def missing(
        self, needed: Mapping[bytes, int], known: Callable[[bytes], bool] = lambda digest: False
    ) -> dict[bytes, int]:
        """The same of many objects (digest -> size), most of which may be missing, but for those that are ``known`` to
        be here."""
        absent = set(self._objects.many(len(needed)).absent(item for item in needed.items() if not known(item[0])))
        seen = (item for item in needed.items() if item[0] not in absent and not known(item[0]))
        absent.update(digest for digest, _ in self.lacking(seen))
        return {digest: size for digest, size in needed.items() if digest in absent} if absent else {}

    def condition(self, commit: str, digest: bytes, size: int) -> Condition:
        """What an object that the commit needs is for it."""
        if self._objects.has(digest, size):
            return Condition.REAL
        return Condition.LOST if self.lost([commit], {digest: size}) else Condition.UNREAL

    def counts(self, commit: str) -> ResidenceCounts:
        """What the objects of the commit are for it, each counted once; at a glance, as sizes are not looked at, and
        all of a commit that is not partial is taken to be real. ``NotFoundError``, ``DamagedError``."""
        from stratum.tree.contents import objects_of

        needed = objects_of(self._dump(commit))
        missing = dict[bytes, int]()
        if self._sources.is_partial(commit):
            has = self._objects.many(len(needed)).has
            missing = {digest: size for digest, size in needed.items() if not has(digest, size)}
        lost = self.lost([commit], missing) if missing else {}
        total, gone, lost_bytes = sum(needed.values()), sum(missing.values()), sum(lost.values())
        return ResidenceCounts(
            len(needed) - len(missing),
            total - gone,
            len(missing) - len(lost),
            gone - lost_bytes,
            len(lost),
            lost_bytes,
        )

    def lost(self, commits: Iterable[str], missing: Mapping[bytes, int]) -> dict[bytes, int]:
        """Those of the missing objects that no source of any of ``commits`` has. What cannot be read lists nothing."""
        rest = dict(missing)
        for _, catalog in self._catalogs(commits, gone=False) if rest else ():
            rest = _without(rest, catalog)
            if not rest:
                break
        return rest

    def listing(
        self, objects: Mapping[bytes, int], commits: Iterable[str] | None = None
    ) -> tuple[list[CommitSource], dict[bytes, int]]:
        """Sources of ``commits``, of all by default, that list ``objects`` together, be they gone or not, and those
        that none lists."""
        rest, found = dict(objects), []
        among = self._sources.commits() if commits is None else commits
        for source, catalog in self._catalogs(among) if rest else ():
            less = _without(rest, catalog)
            if len(less) < len(rest):
                found.append(source)
                rest = less
            if not rest:
                break
        return found, rest

    def sources_of(self, digest: bytes, commits: Iterable[str] | None = None) -> list[CommitSource]:
        """The sources of ``commits``, of all by default, that list the object; those that are gone come last."""
        among = self._sources.commits() if commits is None else commits
        found = [source for source, catalog in self._catalogs(among) if _lists(catalog, digest)]
        return sorted(found, key=lambda source: source.gone is not None)

    def inherited(self, commit: str) -> list[CommitSource]:
        """The sources that a commit made of this one has of it; none where they cannot be read."""
        try:
            return [replace(source, kind="inherited") for source in self._sources.of(commit)]
        except DamagedError:
            return []

    def _catalogs(self, commits: Iterable[str], *, gone: bool = True) -> Iterator[tuple[CommitSource, Catalog]]:
        """Each source of the commits once, with its catalog; ``gone`` ones too, where asked for. What is damaged or
        missing is left out."""
        seen = set()
        for commit in commits:
            try:
                sources = self._sources.of(commit)
            except DamagedError:
                continue
            for source in sources:
                if source.reference in seen or (source.gone is not None and not gone):
                    continue
                seen.add(source.reference)
                try:
                    yield source, self._sources.catalog(source.manifest)
                except (DamagedError, NotFoundError):
                    continue

    def has_all(self, needed: Collection[Sized]) -> bool:
        """Whether none of many objects is lacking, at a glance: their sizes may or may not be looked at."""
        return self._objects.many(len(needed)).has_all(needed)

    def verify(self, digest: bytes, size: int) -> int:
        """Read all of an object that a commit needs, as ``Objects.verify`` does; ``DamagedError`` also where it is
        lacking."""
        try:
            return self._objects.verify(digest, size)
        except NotFoundError as exc:
            raise DamagedError(exc.message, hint=exc.hint) from None


def _without(objects: dict[bytes, int], catalog: Catalog) -> dict[bytes, int]:
    """Those that the catalog does not list; all where it is damaged."""
    try:
        return not_listed(objects, catalog)
    except DamagedError:
        return objects


def _lists(catalog: Catalog, digest: bytes) -> bool:
    try:
        return catalog.find(digest) is not None
    except DamagedError:
        return False
