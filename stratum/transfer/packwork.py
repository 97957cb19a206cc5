"""Taking packs apart, putting them together, describing images: what costs a pull or push its processor time.

Done by worker processes (``workers``), or by the caller itself where there is little to do. A worker reads requests
from its standard input, a socket, and answers each before it reads the next. A message is a header (``HEADER``:
whether a descriptor comes with it, length) and a marshalled value. Requests are ``(kind, arguments)``; answers are any
number of ``(PROGRESS, bytes, [(digest, size) of objects staged])`` and then ``(DONE, result)`` or
``(FAILED, name of the error's class, message, hint)``. Both ends are one version of one program, which is what marshal
asks for.
"""

from __future__ import annotations

import hashlib
import io
import marshal
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stratum.composefs.verity import VerityHasher, verity_digest
from stratum.errors import DamagedError, StratumError
from stratum.store.layout import storage_error
from stratum.store.objects import OBJECT_MODE, Objects, Staging
from stratum.sys.atomic import write_all
from stratum.sys.syscalls import die_with_parent
from stratum.transfer.packs import FRAME_SIZE, Member, PackIndex, PackWriter, hash_piece, unpack

UNPACK, MAKE, DESCRIBE = range(3)
PROGRESS, DONE, FAILED = range(3)
HEADER = struct.Struct("<?Q")

_REPORT_BYTES = 4 << 20
_NEW_OBJECT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Report = Callable[[int, "Member | None"], None]
"""Called with the bytes that were worked through since the last time, and the object that is complete with them."""


@dataclass(frozen=True, slots=True)
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
        with closing(_Output(path)) as output:
            output.write(data)
        report(member.size, member)
        return
    hasher = VerityHasher()
    with closing(_Output(path)) as output:
        for piece in pieces:
            if hash_piece(hasher, piece):
                output.skip(len(piece))
            else:
                output.write(piece)
            report(len(piece), None)
        output.end()
    _check(hasher.digest(), member, span)
    report(0, member)


def _check(digest: bytes, member: Member, span: Span) -> None:
    if digest != member.digest:
        raise DamagedError(f"{span.what}: the bytes of object {member.digest.hex()} do not match its digest")


class _Output:
    """A new file of a transaction."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, _NEW_OBJECT, OBJECT_MODE)

    def write(self, data: bytes) -> None:
        write_all(self._fd, data)

    def skip(self, size: int) -> None:
        """Leave a hole."""
        os.lseek(self._fd, size, os.SEEK_CUR)

    def end(self) -> None:
        """Make the file as long as what was written and skipped."""
        os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR))

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Made:
    """A pack: ``sha256`` in hex, its size in bytes, and the (compressed, uncompressed) sizes of its frames."""

    sha256: str
    size: int
    frames: tuple[tuple[int, int], ...]


def make_pack(store: str, members: Sequence[Member], fd: int | None, report: Report) -> Made:
    """Make the pack of ``members``, objects of the store in the directory ``store``, in the file ``fd`` (None: only
    find out what it would be).

    Raises ``DamagedError`` and ``NotFoundError`` where the store is damaged, ``StratumError`` where the pack cannot be
    written.
    """
    writer = PackWriter(members, store_opener(Objects.below(store), report))
    sha, size = hashlib.sha256(), 0
    for piece in writer.pieces():
        sha.update(piece)
        size += len(piece)
        if fd is not None:
            try:
                write_all(fd, piece)
            except OSError as exc:
                raise storage_error(exc, "write a pack to the store") from None
    return Made(sha.hexdigest(), size, writer.index.frames)


def whole_metadata(store: str, commit: str) -> bytes:
    """The metadata.toml of a commit with its image described (``Commits.whole_meta``)."""
    from stratum.store import Store

    return Store.open(Path(store)).commits.whole_meta(commit).to_toml()


def store_opener(objects: Objects, report: Report | None = None) -> Callable[[bytes], io.FileIO]:
    """Opens objects for reading; ``report`` is told the size of each."""

    def open_object(digest: bytes) -> io.FileIO:
        file = io.FileIO(objects.open(digest))
        if report is not None:
            report(os.fstat(file.fileno()).st_size, None)
        return file

    return open_object


class _Connection:
    """The worker's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._bytes = 0
        self._staged: list[tuple[bytes, int]] = []

    def report(self, size: int, member: Member | None) -> None:
        self._bytes += size
        if member is not None:
            self._staged.append((member.digest, member.size))
        if self._bytes >= _REPORT_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._bytes or self._staged:
            send(self._socket, (PROGRESS, self._bytes, self._staged))
            self._bytes, self._staged = 0, []

    def answer(self, request: Any, fd: int | None) -> None:
        try:
            kind, arguments = request
            result = self._run(kind, arguments, fd)
        except StratumError as exc:
            self._flush()
            send(self._socket, (FAILED, type(exc).__name__, exc.message, exc.hint))
        else:
            self._flush()
            send(self._socket, (DONE, result))

    def _run(self, kind: int, arguments: tuple[Any, ...], fd: int | None) -> Any:
        if kind == UNPACK:
            assert fd is not None, "there is a pack to read"
            take_apart(unflatten_span(*arguments), fd, self.report)
            return None
        if kind == DESCRIBE:
            return whole_metadata(*arguments)
        store, members = arguments
        made = make_pack(store, unflatten_members(members), fd, self.report)
        return made.sha256, made.size, made.frames


def flatten_span(span: Span) -> tuple[Any, ...]:
    """A span as a value that marshal takes."""
    index = (span.index.frames, flatten_members(span.index.members))
    return (*index, span.frames, span.position, list(span.wanted), span.staging, span.what)


def unflatten_span(
    sizes: tuple[tuple[int, int], ...],
    members: tuple[tuple[bytes, int], ...],
    frames: tuple[int, int],
    position: int,
    wanted: Sequence[int],
    staging: str,
    what: str,
) -> Span:
    return Span(PackIndex(sizes, unflatten_members(members)), frames, position, wanted, staging, what)


def flatten_members(members: Sequence[Member]) -> tuple[tuple[bytes, int], ...]:
    return tuple((member.digest, member.size) for member in members)


def unflatten_members(members: Sequence[tuple[bytes, int]]) -> tuple[Member, ...]:
    return tuple(Member(digest, size) for digest, size in members)


def send(connection: socket.socket, value: Any, fd: int | None = None) -> None:
    """Send a message."""
    body = marshal.dumps(value)
    socket.send_fds(connection, [HEADER.pack(fd is not None, len(body))], [] if fd is None else [fd])
    connection.sendall(body)


def receive(connection: socket.socket) -> tuple[Any, int | None] | None:
    """(value, descriptor) of the next message, or None at the end."""
    head, fds, _, _ = socket.recv_fds(connection, HEADER.size, 1, socket.MSG_CMSG_CLOEXEC)
    head += _exactly(connection, HEADER.size - len(head)) if head else b""
    if len(head) < HEADER.size:
        return None
    has_fd, length = HEADER.unpack(head)
    body = _exactly(connection, length)
    if len(body) < length or has_fd != bool(fds):
        return None
    return marshal.loads(body), fds[0] if fds else None  # noqa: S302  (the other end is this program)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def main() -> None:
    """Answer requests on the socket that is standard input until the other end closes it."""
    die_with_parent()
    os.umask(0o022)
    try:
        with socket.socket(fileno=0) as connection:
            served = _Connection(connection)
            while (message := receive(connection)) is not None:
                request, fd = message
                served.answer(request, fd)
                if fd is not None:
                    os.close(fd)
    except ConnectionError:
        return  # whoever started this is gone
    except MemoryError:
        raise SystemExit(1) from None  # whoever started this says what that may mean
