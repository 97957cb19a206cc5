"""What a content store is: bytes go in and are named by an ID that follows from them; by that ID they come out again.

The contract, which ``tests/contracts/content.py`` holds each store to:

- ``put`` stores a content, and has returned its ID only when that is durable; it counts one reference. What is there
  already is not stored twice.
- ``get`` gives the bytes that the ID was made of and no others: they are compared with it as they are read, and the
  last of them are given out only when all are right. ``DamagedError`` says that they are not, ``NotFoundError`` that
  there are none.
- ``has`` says whether the content is there, without reading it.
- ``delete`` takes one reference away, and the content with the last one. ``NotFoundError`` where there is none.
- Every method may be called by any thread, and by several processes at once.

``Id`` is what IDs are: C4 IDs (``str``) for the stores of this room. The objects of a commit, those that are here and
those that are not, have the same contract by their digests (``bytes``): ``hydrate.content``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, BinaryIO, Generic, TypeVar

from stratum.errors import StratumError, foreseen

Id = TypeVar("Id", bound=Hashable)
_SourceT = TypeVar("_SourceT", bound="ContentSource[Any]")

Stream = BinaryIO | bytes
"""What is stored: a file open for reading bytes, from where it is to its end, or the bytes themselves."""

Done = Callable[[StratumError | None], object]
"""Told None when something is done, or why it could not be; by any thread."""


Entry = tuple[Id, int, float]
"""A content that a store has: its ID, its size in bytes, and when it was last used (seconds since 1970)."""


class ContentSource(ABC, Generic[Id]):
    """Where contents can be read. A context manager, which closes it at the end."""

    def __enter__(self: _SourceT) -> _SourceT:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections, where there are any; nothing else may be called then."""
        return

    @abstractmethod
    def get(self, content_id: Id) -> BinaryIO:
        """The content, to be read from its beginning to its end and closed. ``NotFoundError`` where it is not there,
        ``UsageError`` for what is no ID; ``DamagedError``, here or while it is read, where it is not what its ID
        says."""

    @abstractmethod
    def size(self, content_id: Id) -> int | None:
        """The bytes of the content as far as that is known without reading it; None where it is not there."""

    def has(self, content_id: Id) -> bool:
        """Whether the content is there. ``UsageError`` for what is no ID."""
        return self.size(content_id) is not None

    def bring(self, content_id: Id, into: KeptStore[Id], done: Done, who: object = None) -> None:
        """Have the content in the store ``into``, and tell ``done``. Raises nothing.

        Here that is done before this returns. A source that can bring it later, or more at once, does. ``who`` waits
        for it, which matters to a source that keeps accounts.
        """
        try:
            with self.get(content_id) as stream:
                into.keep(stream)
        except Exception as exc:  # also of a defect: somebody waits
            done(foreseen(exc))
        else:
            done(None)


class ContentStore(ContentSource[Id]):
    """Where contents can be stored as well."""

    @abstractmethod
    def put(self, stream: Stream) -> Id:
        """Store what the stream has left, count one reference, and return its ID."""

    @abstractmethod
    def delete(self, content_id: Id) -> None:
        """Count one reference less, and remove the content with the last one. ``NotFoundError`` where it is not
        there."""

    def put_all(self, streams: Iterable[Stream]) -> Iterator[Id]:
        """``put`` each stream and return the IDs in the same order. A store that can make many durable at once is
        faster by that: all are when the iterator has ended, and an ID that was given before may not be yet."""
        return map(self.put, streams)


class KeptStore(ContentStore[Id]):
    """A store that is near and of a known size: what ``CachedStore`` keeps its copies in."""

    @abstractmethod
    def keep(self, stream: Stream) -> Id:
        """``put`` without counting a reference, where the content is there already."""

    @abstractmethod
    def discard(self, content_id: Id) -> None:
        """Remove the content, whatever refers to it; no error where it is not there."""

    @abstractmethod
    def touch(self, content_id: Id) -> None:
        """The content was of use now. No error where it is not there."""

    @abstractmethod
    def entries(self) -> Iterator[Entry[Id]]:
        """All that is there, in no order."""
