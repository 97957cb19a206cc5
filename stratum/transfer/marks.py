"""What a garbage collection of an object store found that nothing names, and since when: kept there for the next one.

::

    gc/marks/<id>-<n>      sorted: KEY SIZE MODIFIED SINCE, one a line; the last line is the SHA-256 of those before

MODIFIED and SINCE are seconds by the server's clock: when the object was written, and when a collection first saw that
nothing names it. All with one ID belong together; the record of the collection says which ID counts, and others are
left by collections that died.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from stratum.errors import NotFoundError
from stratum.oci.bucketstore import ALWAYS, BucketStore
from stratum.oci.descriptor import MalformedError
from stratum.oci.sweeprecord import KEYS_MAX

MARKS = "gc/marks/"
CHUNK_MAX = 8 << 20
_KEY_MAX = 300
_NAME = re.compile(r"gc/marks/([0-9a-f]{32})-[0-9]{6}")
_LINE = re.compile(r"([\x21-\x7e]+) ([0-9]{1,19}) ([0-9]{1,12}(?:\.[0-9]{1,9})?) ([0-9]{1,12}(?:\.[0-9]{1,9})?)")


@dataclass(frozen=True, slots=True)
class Mark:
    """An object that nothing names: its key and size, when it was written, and since when that is known."""

    key: str
    size: int
    modified: float
    since: float


class MarkWriter:
    """Writes marks, which come sorted by their keys, under ``run``. ``chunks`` is how many objects they are in."""

    def __init__(self, store: BucketStore, run: str) -> None:
        self._store = store
        self.run = run
        self._marks: list[Mark] = []
        self.chunks = 0

    def add(self, mark: Mark) -> None:
        self._marks.append(mark)
        if len(self._marks) == KEYS_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what is left."""
        if self._marks:
            self._store.put(_key(self.run, self.chunks), write_chunk(self._marks), when=ALWAYS)
            self.chunks += 1
            self._marks = []


def read_marks(store: BucketStore, run: str, chunks: int) -> Iterator[Mark]:
    """The marks of a run. ``MalformedError`` where some are damaged or gone."""
    for number in range(chunks):
        try:
            data, _ = store.get(_key(run, number), CHUNK_MAX)
        except NotFoundError:
            raise MalformedError("some of them are gone") from None
        yield from read_chunk(data)


def write_chunk(marks: list[Mark]) -> bytes:
    """One object with marks."""
    lines = [f"{mark.key} {mark.size} {_time(mark.modified)} {_time(mark.since)}\n" for mark in marks]
    body = "".join(lines).encode()
    return body + sha256(body).hexdigest().encode() + b"\n"


def read_chunk(data: bytes) -> list[Mark]:
    """The marks in one object. ``MalformedError``."""
    body, last = data[:-65], data[-65:]
    if sha256(body).hexdigest().encode() + b"\n" != last:
        raise MalformedError("they do not match their checksum")
    marks = []
    for line in body.decode("ascii", "replace").split("\n")[:-1]:
        match = _LINE.fullmatch(line)
        if match is None or len(match[1]) > _KEY_MAX:
            raise MalformedError("a line is none")
        marks.append(Mark(match[1], int(match[2]), float(match[3]), float(match[4])))
    return marks


def run_of(key: str) -> str | None:
    """The ID that is in the key of an object with marks; None for another key."""
    match = _NAME.fullmatch(key)
    return match[1] if match else None


def _key(run: str, number: int) -> str:
    return f"{MARKS}{run}-{number:06}"


def _time(seconds: float) -> str:
    return f"{max(seconds, 0):.3f}"
