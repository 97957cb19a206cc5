"""What the commits of a store need, and what it means for them where an object is.

A commit is **real** where every object that it needs is here. What is not here is **missing**: nothing in the store
brings it back, so that is damage for whoever checks, and to be fetched for whoever repairs or pulls. Nobody else
decides that: what makes, checks, sends and fetches commits asks here, and leaves objects to ``store.objects``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.store.objects import Objects, State

if TYPE_CHECKING:
    from stratum.store.frames import StoredDump
    from stratum.tree.blocks import Dump

Sized = tuple[bytes, int]
"""An object that a commit needs: digest, size in bytes."""


class Residence:
    """Of one store. Whoever relies on what is said here holds the store's lock."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def lacking(self, needed: Iterable[Sized]) -> Iterator[Sized]:
        """Those of the objects without which the commits that need them are not real. Raises ``StratumError``."""
        state = self._objects.state
        return (item for item in needed if state(*item) is not State.HERE)

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


class Needed:
    """The objects (digests of 32 bytes) that ``commits`` need, and the ``frames`` of their dumps, which they share."""

    def __init__(self) -> None:
        self.commits: set[str] = set()
        self.objects: set[bytes] = set()
        self.frames: set[bytes] = set()

    def add(self, commit: str, dump: Dump, stored: StoredDump) -> None:
        """``commit``, whose dump is ``dump`` and ``stored`` so, is needed as well."""
        from stratum.store.frames import unseen_lines
        from stratum.tree.contents import object_lines

        parts = (dump,) if dump.text is None else unseen_lines(dump.text, stored, self.frames)
        for lines in parts:
            self.objects.update(digest for digest, _, _ in object_lines(lines))
        self.commits.add(commit)
