"""The contract of an object store: objects by their keys, as ``bucket.open_bucket`` gives them.

Keys are relative to the prefix of the ``Bucket``: parts of letters, digits and ``-_.=+``, with ``/`` between them. All
errors are ``StratumError`` in the other side's words. An object store may be used by several threads at once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from stratum.errors import DamagedError, UsageError, quoted
from stratum.oci.bucketname import Bucket

PIECE = 1 << 20
"""What is read comes in pieces of at most so many bytes."""

_KEY = re.compile(r"(?:[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*/)*[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*")
_KEY_MAX = 500
_StoreT = TypeVar("_StoreT", bound="BucketStore")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object: key, size in bytes, when it was written (seconds since 1970 by the server's clock), version."""

    key: str
    size: int
    modified: float
    version: str


@dataclass(frozen=True, slots=True)
class Always:
    """Whatever is there."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Only where nothing has the key."""


@dataclass(frozen=True, slots=True)
class Match:
    """Only where the object still is this version, as ``get``, ``head`` or ``put`` gave it."""

    version: str


When = Always | Absent | Match
ALWAYS, ABSENT = Always(), Absent()


class BucketStore(ABC):
    """The objects of one bucket below one prefix. Used in a ``with`` block, or closed by ``close``."""

    bucket: Bucket
    located: Bucket
    """``bucket`` as another process finds it: with what of endpoint and region is neither in the settings nor usual."""
    local = False
    """Whether objects are files of this machine: ``file`` gives them."""

    def __enter__(self: _StoreT) -> _StoreT:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and connections. Nothing else may be called then."""
        return

    @abstractmethod
    def get(self, key: str, limit: int) -> tuple[bytes, str]:
        """An object as a whole, and its version. ``NotFoundError``; ``DamagedError`` for more than ``limit`` bytes."""

    @abstractmethod
    def read(self, key: str) -> Iterator[bytes]:
        """An object in pieces of at most ``PIECE`` bytes. ``NotFoundError`` at the first; ``StratumError`` where it
        cannot be read to its end, or becomes another meanwhile."""

    @abstractmethod
    def read_range(self, key: str, start: int, size: int) -> bytes:
        """``size`` bytes of an object from byte ``start`` on; fewer where it ends before. ``NotFoundError``."""

    @abstractmethod
    def head(self, key: str) -> Entry | None:
        """What is known of an object; None where there is none."""

    @abstractmethod
    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """The objects whose keys begin with ``prefix``, the name of a folder with its slash or empty, sorted by their
        keys; with ``after``, a key, only those behind it. What has a key that is none is left out."""

    @abstractmethod
    def put(self, key: str, data: bytes, *, when: When = ALWAYS) -> str:
        """Store an object in one step; its version. ``ChangedError`` where the condition ``when`` is not met."""

    @abstractmethod
    def put_stream(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        """Store an object of ``size`` bytes, sent in parts side by side. It has its key when all of it is there; where
        ``pieces`` raises, or has another size, it never gets it. ``StratumError``, and what ``pieces`` raises."""

    def copy_from(self, prefix: str, key: str) -> bool:
        """Have the object that has ``key`` below another ``prefix`` of the same bucket here as well, without its bytes
        going over the network; whether that worked."""
        return False

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are fine."""

    @abstractmethod
    def server_time(self) -> float:
        """Seconds since 1970 by the clock that ``Entry.modified`` comes from. An object ``clock`` is written for it."""

    def ready_to_write(self) -> None:
        """See to it that conditions are heeded, or need not be. ``UnsupportedError`` otherwise."""
        return

    def file(self, key: str) -> BinaryIO | None:
        """The file that an object lies in, for the caller to close; None where the store is not ``local``.
        ``NotFoundError``."""
        return None


class Exactly:
    """``pieces`` that have to be ``size`` bytes together. ``error`` is what ended them, as it was raised."""

    def __init__(self, pieces: Iterable[bytes], size: int, what: str) -> None:
        self._pieces, self._size, self._what = pieces, size, what
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        given = 0
        try:
            for piece in self._pieces:
                given += len(piece)
                if given > self._size:
                    break
                if piece:
                    yield piece
            if given != self._size:
                raise DamagedError(f"cannot write {self._what}: {given} bytes came instead of {self._size}")
        except Exception as exc:  # whatever it is: it goes through Rust, and comes back as something else
            self.error = exc
            raise


def is_key(text: str) -> bool:
    """Whether ``text`` can be a key."""
    return len(text) <= _KEY_MAX and _KEY.fullmatch(text) is not None


def check_key(key: str) -> str:
    """``key``; ``UsageError`` where it is none."""
    if not is_key(key):
        raise UsageError(f"{quoted(key)} cannot be a key in an object store")
    return key


def check_folder(prefix: str) -> str:
    """The prefix of a listing; ``UsageError`` where it is none."""
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise UsageError(f"{quoted(prefix)} cannot be a folder in an object store")
    return prefix
