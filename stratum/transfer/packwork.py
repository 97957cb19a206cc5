"""Taking packs apart, putting them together: what costs a pull or push its processor time.

Done by worker processes (``workers``), or by the caller itself where there is little to do. A worker answers each
request before it reads the next. The messages (``sys.workers``): requests are ``(kind, arguments)``, with the
descriptor of a pack where there is one; answers are any number of
``(PROGRESS, bytes, [(digest, size) of objects staged])`` and then ``(DONE, result)`` or
``(FAILED, name of the error's class, message, hint)``.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from stratum.composefs.verity import VerityHasher, verity_digest
from stratum.errors import DamagedError, StratumError
from stratum.frozen import frozen
from stratum.store.layout import storage_error
from stratum.store.objects import OBJECT_MODE, Objects, Staging
from stratum.sys.atomic import write_all
from stratum.sys.workers import Connection, serve
from stratum.transfer.packs import FRAME_SIZE, Member, PackIndex, PackWriter, hash_piece, unpack

UNPACK, MAKE, SUM = range(3)
PROGRESS, DONE, FAILED = range(3)

_REPORT_BYTES = 4 << 20

Report = Callable[[int, "Member | None"], None]
"""Called with the bytes that were worked through since the last time, and the object that is complete with them."""


@frozen
class Span:
    """A part of a pack to take objects from.

    ``frames`` is [first, last); the first of them begins at byte ``position`` of the file that the pack is in.
    ``wanted`` are positions in ``index.members``. Objects go to the directory ``staging``. ``what`` names the pack in
    errors.
    """

    index: PackIndex
    frames: tuple[int, int]
    position: int
    wanted: Sequence[int]
    staging: str
    what: str


def take_apart(span: Span, fd: int, report: Report) -> None:
    """Write the wanted objects of a span of the file ``fd``; only what has the digest of its name is reported.

    Raises ``DamagedError`` for a pack or an object that is not what the index says, ``StratumError`` where an object
    cannot be written.
    """
    position = span.position

    def read(size: int) -> bytes:
        nonlocal position
        try:
            data = os.pread(fd, size, position)
        except OSError as exc:
            raise storage_error(exc, f"read {span.what}") from None
        position += len(data)
        return data

    def receive(member: Member, pieces: Iterator[bytes]) -> None:
        try:
            _stage(staging, span, member, pieces, report)
        except OSError as exc:
            raise storage_error(exc, "write an object to the store") from None

    members, staging = span.index.members, Staging(span.staging)
    unpack(span.index, span.frames, read, {members[number] for number in span.wanted}, receive, span.what)


def _stage(staging: Staging, span: Span, member: Member, pieces: Iterator[bytes], report: Report) -> None:
    path = staging.place(member.digest)
    if member.size <= FRAME_SIZE:
        data = b"".join(pieces)
        _check(verity_digest(data), member, span)
        with _new_object(path) as file:
            write_all(file.fileno(), data)
        report(member.size, member)
        return
    hasher = VerityHasher()
    with _new_object(path) as file:
        for piece in pieces:
            if hash_piece(hasher, piece):
                file.seek(len(piece), os.SEEK_CUR)
            else:
                write_all(file.fileno(), piece)
            report(len(piece), None)
        file.truncate()
    _check(hasher.digest(), member, span)
    report(0, member)


def _check(digest: bytes, member: Member, span: Span) -> None:
    if digest != member.digest:
        raise DamagedError(f"{span.what}: the bytes of object {member.digest.hex()} do not match its digest")


def _new_object(path: str) -> io.FileIO:
    return io.FileIO(path, "xb", opener=partial(os.open, mode=OBJECT_MODE))


@frozen
class Made:
    """A pack: ``sha256`` in hex, its size in bytes, the (compressed, uncompressed) sizes of its frames, and the hashes
    of the chunks of a large object."""

    sha256: str
    size: int
    frames: tuple[tuple[int, int], ...]
    verity: bytes | None


def make_pack(store: str, members: Sequence[Member], fd: int | None, report: Report, *, raw: bool = False) -> Made:
    """Make the pack of ``members``, objects of the store in the directory ``store``, in the file ``fd`` (None: only
    find out what it would be). ``raw``: of frames that are not compressed.

    Raises ``DamagedError`` and ``NotFoundError`` where the store is damaged, ``StratumError`` where the pack cannot be
    written.
    """
    writer = PackWriter(members, store_opener(Objects.below(store), report), raw=raw)
    sha, size = hashlib.sha256(), 0
    for piece in writer.pieces():
        sha.update(piece)
        size += len(piece)
        if fd is not None:
            try:
                write_all(fd, piece)
            except OSError as exc:
                raise storage_error(exc, "write a pack to the store") from None
    return Made(sha.hexdigest(), size, writer.index.frames, writer.verity)


def store_opener(objects: Objects, report: Report | None = None) -> Callable[[bytes], io.FileIO]:
    """Opens objects for reading; ``report`` is told the size of each."""

    def open_object(digest: bytes) -> io.FileIO:
        file = io.FileIO(objects.open(digest))
        if report is not None:
            report(os.fstat(file.fileno()).st_size, None)
        return file

    return open_object


class _Answer:
    """What a worker sends in answer to one request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bytes = 0
        self._staged: list[tuple[bytes, int]] = []

    def _report(self, size: int, member: Member | None) -> None:
        self._bytes += size
        if member is not None:
            self._staged.append((member.digest, member.size))
        if self._bytes >= _REPORT_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._bytes or self._staged:
            self._connection.send((PROGRESS, self._bytes, self._staged))
            self._bytes, self._staged = 0, []

    def give(self, kind: int, arguments: tuple[Any, ...], fd: int | None) -> None:
        last: tuple[Any, ...]
        try:
            last = (DONE, self._run(kind, arguments, fd))
        except StratumError as exc:
            last = (FAILED, type(exc).__name__, exc.message, exc.hint)
        self._flush()
        self._connection.send(last)

    def _run(self, kind: int, arguments: tuple[Any, ...], fd: int | None) -> Any:
        if kind == UNPACK:
            assert fd is not None, "there is a pack to read"
            frames, members, *rest = arguments
            take_apart(Span(PackIndex(frames, _members(members)), *rest), fd, self._report)
            return None
        store, members = arguments
        made = make_pack(store, _members(members), fd, self._report, raw=kind == SUM)
        return made.sha256, made.size, made.frames, made.verity


def plain_span(span: Span) -> tuple[Any, ...]:
    """A span as a value that marshal takes; ``_run`` makes it one again."""
    members = plain_members(span.index.members)
    return (span.index.frames, members, span.frames, span.position, list(span.wanted), span.staging, span.what)


def plain_members(members: Sequence[Member]) -> tuple[tuple[bytes, int], ...]:
    """The same of members."""
    return tuple((digest, size) for digest, size in members)


def _members(plain: Sequence[tuple[bytes, int]]) -> tuple[Member, ...]:
    return tuple(Member(digest, size) for digest, size in plain)


def main() -> None:
    """Answer the requests of the process that started this one."""

    def answer(connection: Connection, request: Any, fds: list[int]) -> None:
        kind, arguments = request
        _Answer(connection).give(kind, arguments, fds[0] if fds else None)

    serve(answer)
