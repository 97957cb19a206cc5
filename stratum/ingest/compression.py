"""Compressed streams, told by their first bytes and read without trust.

gzip (RFC 1952), xz and zstd (RFC 8878), of any number of members or frames; anything else is passed through. Memory is
bounded by ``WINDOW_MAX``. A stream that grows out of all proportion is a bomb and is refused: ``EXPANSION_MAX`` is what
gzip can reach at most.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from stratum.errors import DamagedError, StratumError

Read = Callable[[int], bytes]
"""Gives at most so many bytes, and none at the end."""

WINDOW_MAX = 27
"""Base-2 logarithm of the largest zstd window, in bytes; xz gets twice as much memory."""

EXPANSION_MAX = 1100
EXPANSION_FREE = 1 << 30
"""A stream may grow to this many bytes whatever its compressed size, and beyond that ``EXPANSION_MAX``-fold."""

_CHUNK = 256 << 10
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


class _Decoder(Protocol):
    """The interface that ``lzma`` and ``zstd`` share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def decompressed(read: Read, what: str) -> Read:
    """What ``read`` gives, decompressed where it is compressed. ``DamagedError`` names ``what``."""
    start = b""
    while len(start) < 6 and (piece := read(6 - len(start))):
        start += piece
    found = _format_of(start)
    rest = _Pushback(start, read)
    return _Decompressed(rest.read, found, what).read if found is not None else rest.read


def reader_of(pieces: Iterator[bytes]) -> Read:
    """The ``read`` of a stream that comes in pieces."""
    left = memoryview(b"")

    def read(size: int) -> bytes:
        nonlocal left
        while not left:
            piece = next(pieces, None)
            if piece is None:
                return b""
            left = memoryview(piece)
        data = left[:size]
        left = left[size:]
        return bytes(data)

    return read


def check_expansion(size: int, source: int, what: str) -> None:
    """Refuse ``size`` bytes that came out of ``source`` bytes where they are too many."""
    if size > EXPANSION_FREE + EXPANSION_MAX * source:
        raise StratumError(
            f"{what} grows from {source} to more than {size} bytes, which looks like a decompression bomb",
            hint="unpack it yourself, if it is none, and import the directory",
        )


class _Format(NamedTuple):
    """How to decode, and what a decoder raises."""

    make: Callable[[], _Decoder]
    error: type[Exception]


def _format_of(start: bytes) -> _Format | None:
    if start.startswith(b"\x1f\x8b"):
        return _Format(_Gzip, zlib.error)
    if start == b"\xfd7zXZ\x00":
        import lzma

        return _Format(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 << WINDOW_MAX), lzma.LZMAError)
    if start.startswith(b"\x28\xb5\x2f\xfd") or _SKIPPABLE.match(start):
        from stratum import zstd

        option: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_MAX}
        return _Format(lambda: zstd.ZstdDecompressor(options=option), zstd.ZstdError)
    return None


class _Gzip:
    """One gzip member; zlib checks its header and checksum."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class _Pushback:
    """A stream of which the first bytes were read already."""

    def __init__(self, start: bytes, read: Read) -> None:
        self._start = start
        self._read = read

    def read(self, size: int) -> bytes:
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._read(size)


class _Decompressed:
    """The members or frames of a compressed stream, one after the other."""

    def __init__(self, read: Read, found: _Format, what: str) -> None:
        self._read = read
        self._format = found
        self._what = what
        self._decoder: _Decoder | None = found.make()
        self._pending = b""
        self._taken = self._given = 0

    def read(self, size: int) -> bytes:
        while self._decoder is not None:
            if self._decoder.eof:
                self._next_member()
                continue
            data = self._decompress(self._decoder, size)
            self._given += len(data)
            check_expansion(self._given, self._taken, self._what)
            if data:
                return data
        return b""

    def _decompress(self, decoder: _Decoder, size: int) -> bytes:
        data, self._pending = self._pending, b""
        if not data and decoder.needs_input:
            data = self._more()
            if not data:
                raise DamagedError(f"{self._what} is cut short")
        try:
            return decoder.decompress(data, size)
        except (self._format.error, EOFError) as exc:
            raise DamagedError(f"{self._what} cannot be decompressed: {exc}") from None

    def _next_member(self) -> None:
        """Go on with what follows a member; zero bytes between members and at the end mean nothing."""
        assert self._decoder is not None
        data = self._decoder.unused_data.lstrip(b"\0")
        while not data:
            more = self._more()
            if not more:
                self._decoder = None
                return
            data = more.lstrip(b"\0")
        self._pending, self._decoder = data, self._format.make()

    def _more(self) -> bytes:
        data = self._read(_CHUNK)
        self._taken += len(data)
        return data
