"""The bytes that go into content stores and come out of them: read in pieces, hashed, compared with their ID."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from stratum.content.base import Stream
from stratum.errors import DamagedError, UsageError
from stratum.store.layout import storage_error

if TYPE_CHECKING:
    from typing_extensions import Buffer

PIECE = 1 << 20
"""Bytes that are read, hashed and written at once."""


class Hasher(Protocol):
    """What a content's bytes go through to be compared with its ID."""

    def update(self, data: bytes | memoryview, /) -> object:
        """More bytes."""


def pieces_of(stream: Stream) -> Iterator[bytes | memoryview]:
    """What the stream has left, in pieces of at most ``PIECE`` bytes. ``UsageError`` where it does not give bytes."""
    if isinstance(stream, (bytes, bytearray, memoryview)):
        view = memoryview(stream).cast("B")
        yield from (view[start : start + PIECE] for start in range(0, len(view), PIECE))
        return
    read = getattr(stream, "read", None)
    if read is None:
        raise UsageError(f"a {type(stream).__name__} cannot be stored: give bytes, or a file open for reading bytes")
    while piece := read(PIECE):
        if not isinstance(piece, bytes):
            raise UsageError("a file of text cannot be stored: open it for reading bytes")
        yield piece


def file_pieces(file: io.FileIO, doing: str) -> Iterator[bytes]:
    """The file, from where it is to its end. ``StratumError`` says that what could not be done was ``doing``."""
    while True:
        try:
            piece = file.read(PIECE)
        except OSError as exc:
            raise storage_error(exc, doing) from None
        if not piece:
            return
        yield piece


def verified(
    pieces: Iterable[bytes | memoryview], hasher: Hasher, is_right: Callable[[], bool], what: str
) -> Iterator[bytes | memoryview]:
    """The pieces, each hashed. The last one is given only where ``is_right`` after all are: else ``DamagedError`` that
    names ``what``. So what has one piece is never given wrong, and nobody comes to the end of what is wrong."""
    held: bytes | memoryview = b""
    for piece in pieces:
        hasher.update(piece)
        if held:
            yield held
        held = piece
    if not is_right():
        raise DamagedError(f"{what} is damaged: its bytes do not match its ID", hint="store the content again")
    if held:
        yield held


def open_stream(pieces: Iterator[bytes | memoryview], closed: Callable[[], object] | None = None) -> BinaryIO:
    """The pieces as a file that is open for reading; ``closed`` is called once, when it is closed or forgotten."""
    return cast("BinaryIO", io.BufferedReader(_Pieces(pieces, closed), 1 << 16))


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes | memoryview], closed: Callable[[], object] | None) -> None:
        self._pieces = pieces
        self._when_closed = closed
        self._rest: memoryview = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        room = memoryview(buffer)
        count = min(len(room), len(self._rest))
        room[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def readall(self) -> bytes:
        rest, self._rest = self._rest, memoryview(b"")
        return b"".join([rest, *self._pieces])

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        closed, self._when_closed = self._when_closed, None
        if closed is not None:
            closed()
