"""Reading a tar archive member by member from a stream that is not trusted. Pure: bytes come from a callable.

Memory is bounded whatever the archive claims: headers by ``HEADER_MAX``, data by what the caller asks for at a time.
Sparse members of GNU tar and bsdtar are read with their holes as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from stratum.errors import DamagedError, StratumError
from stratum.tree.tarheader import (
    BLOCK,
    MEMBER_SIZE_MAX,
    REGULAR,
    RawHeader,
    TarHeader,
    padding,
    read_block,
    read_header,
    read_number,
    read_records,
)

HEADER_MAX = 1 << 20
"""Largest pax header or long name that is read, in bytes."""

PIECE = 1 << 20
_SPARSE_MAX = 1 << 16
"""Most pieces of data in a sparse member that are read."""

_GNU_LONG_NAME = b"L"
_GNU_LONG_LINK = b"K"
_GNU_SPARSE = b"S"
_GNU_LABEL = b"V"
_PAX = b"x"
_PAX_GLOBAL = b"g"
_CONTIGUOUS = b"7"
_KINDS = frozenset((b"0", b"1", b"2", b"3", b"4", b"5", b"6"))
_ZERO_BLOCK = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member: its header, and for regular files the ``size`` of the file, holes included.

    ``offset`` is where its data begins in the archive.
    """

    header: TarHeader
    size: int
    offset: int
    holes: tuple[tuple[int, int], ...] | None = None
    """Of a sparse member: (offset in the file, size) of each piece of data, in order."""


class TarReader:
    """The members of one archive, in order.

    ``read(n)`` gives at most ``n`` bytes, and none at the end. ``skip(n)`` (optional) moves on by ``n`` bytes that
    nobody needs, without telling whether they are there. ``what`` names the archive in errors. ``strict`` refuses an
    archive without its end marker, or with something behind it, which is how a damaged or a joined one looks.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        what: str,
        *,
        skip: Callable[[int], None] | None = None,
        strict: bool = True,
    ) -> None:
        self._read = read
        self._skip = skip
        self._strict = strict
        self._what = what
        self._globals: dict[bytes, bytes] = {}
        self._left = 0
        self._padding = 0
        self.position = 0

    def __iter__(self) -> Iterator[TarMember]:
        while (member := self._next()) is not None:
            yield member

    def data(self, member: TarMember) -> Iterator[bytes]:
        """The content of the member that was read last, in pieces, holes as zeros."""
        if member.holes is None:
            yield from self._pieces(member.size)
            return
        position = 0
        for offset, size in member.holes:
            yield from _zeros(offset - position)
            yield from self._pieces(size)
            position = offset + size
        yield from _zeros(member.size - position)

    # Members

    def _next(self) -> TarMember | None:
        self._drop(self._left + self._padding)
        self._left = self._padding = 0
        records: dict[bytes, bytes] = {}
        while True:
            where = f"{self._what}: what is at byte {self.position}"
            block = self._block()
            if block is None or block == _ZERO_BLOCK:
                if records:
                    raise DamagedError(f"{self._what} ends after a header without a member")
                self._end(marked=block is not None)
                return None
            raw = read_block(block, where)
            if raw.kind == _PAX:
                records.update(read_records(self._extension(raw.size), where))
            elif raw.kind == _PAX_GLOBAL:
                self._globals.update(read_records(self._extension(raw.size), where))
            elif raw.kind == _GNU_LONG_NAME:
                records[b"path"] = self._extension(raw.size).partition(b"\0")[0]
            elif raw.kind == _GNU_LONG_LINK:
                records[b"linkpath"] = self._extension(raw.size).partition(b"\0")[0]
            elif raw.kind == _GNU_LABEL:
                self._drop(raw.size + padding(raw.size))
            else:
                return self._member(raw, {**self._globals, **records}, where)

    def _member(self, raw: RawHeader, records: dict[bytes, bytes], where: str) -> TarMember:
        header = read_header(raw, records, where)
        if raw.kind == _CONTIGUOUS:
            header = replace(header, kind=REGULAR)
        elif raw.kind == _GNU_SPARSE:
            return self._old_sparse(raw, replace(header, kind=REGULAR), where)
        elif raw.kind not in _KINDS:
            raise StratumError(f"{where} is a member of a type that is not known here ({ascii(raw.kind)[1:]})")
        if header.kind != REGULAR:
            if header.size:  # some writers give a hard link its file's size, without data
                header = replace(header, size=0)
            return TarMember(header, 0, self.position)
        self._left, self._padding = header.size, padding(header.size)
        if any(keyword.startswith(b"GNU.sparse.") for keyword in header.records):
            return self._pax_sparse(header, where)
        return TarMember(header, header.size, self.position)

    # Sparse members

    def _old_sparse(self, raw: RawHeader, header: TarHeader, where: str) -> TarMember:
        """GNU tar's own format: four entries in the header, 21 in each block that follows."""
        numbers = [raw.block[at : at + 12] for at in range(386, 386 + 96, 12)]
        more = raw.block[482:483] == b"\1"
        while more:
            block = self._whole_block()
            numbers += [block[at : at + 12] for at in range(0, 504, 12)]
            more = block[504:505] == b"\1"
            if len(numbers) > 2 * _SPARSE_MAX:
                raise StratumError(f"{where} is a sparse file with more than {_SPARSE_MAX} pieces")
        values = [read_number(number, where) for number in numbers]
        pieces = [pair for pair in zip(values[::2], values[1::2], strict=True) if pair != (0, 0)]
        self._left, self._padding = header.size, padding(header.size)
        return self._sparse(header, pieces, read_number(raw.block[483:495], where), where)

    def _pax_sparse(self, header: TarHeader, where: str) -> TarMember:
        """Version 1.0, with the map before the data, and 0.1, with the map in a record."""
        records = header.records
        header = replace(header, name=records.get(b"GNU.sparse.name", header.name))
        size = _decimal(records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size", b"")), where)
        if records.get(b"GNU.sparse.major") == b"1":
            numbers = self._sparse_map(where)
        elif b"GNU.sparse.map" in records:
            numbers = [_decimal(text, where) for text in records[b"GNU.sparse.map"].split(b",") if text]
        else:
            raise StratumError(f"{where} is a sparse file in a form that is not known here")
        if len(numbers) % 2:
            raise DamagedError(f"{where} has a malformed sparse map")
        return self._sparse(header, list(zip(numbers[::2], numbers[1::2], strict=True)), size, where)

    def _sparse_map(self, where: str) -> list[int]:
        text = self._take(BLOCK)
        count = _decimal(text.partition(b"\n")[0], where)
        if count > _SPARSE_MAX:
            raise StratumError(f"{where} is a sparse file with more than {_SPARSE_MAX} pieces")
        while text.count(b"\n") < 2 * count + 1:
            if len(text) > HEADER_MAX * 4:
                raise DamagedError(f"{where} has a malformed sparse map")
            text += self._take(BLOCK)
        return [_decimal(line, where) for line in text.split(b"\n")[1 : 2 * count + 1]]

    def _sparse(self, header: TarHeader, pieces: list[tuple[int, int]], size: int, where: str) -> TarMember:
        position = 0
        for offset, length in pieces:
            if offset < position or length < 0:
                raise DamagedError(f"{where} has a malformed sparse map")
            position = offset + length
        if not position <= size <= MEMBER_SIZE_MAX or sum(length for _, length in pieces) != self._left:
            raise DamagedError(f"{where} has a malformed sparse map")
        return TarMember(header, size, self.position, tuple(piece for piece in pieces if piece[1]))

    # Bytes

    def _block(self) -> bytes | None:
        """The next block; None at the end of the stream."""
        data = self._up_to(BLOCK)
        if data and len(data) < BLOCK:
            raise self._cut()
        return data or None

    def _whole_block(self) -> bytes:
        block = self._block()
        if block is None:
            raise self._cut()
        return block

    def _extension(self, size: int) -> bytes:
        if not 0 <= size <= HEADER_MAX:
            raise DamagedError(f"{self._what} has a header of {size} bytes; {HEADER_MAX} is the limit")
        self._left, self._padding = size, padding(size)
        data = b"".join(self._pieces(size))
        self._drop(self._padding)
        self._left = self._padding = 0
        return data

    def _take(self, size: int) -> bytes:
        """``size`` bytes of the member's data."""
        return b"".join(self._pieces(size))

    def _pieces(self, size: int) -> Iterator[bytes]:
        if size > self._left:
            raise self._cut()
        while size:
            piece = self._read(min(PIECE, size))
            if not piece:
                raise self._cut()
            self.position += len(piece)
            self._left -= len(piece)
            size -= len(piece)
            yield piece

    def _drop(self, size: int) -> None:
        if self._skip is not None and size:
            self._skip(size)
            self.position += size
            return
        while size:
            piece = self._read(min(PIECE, size))
            if not piece:
                raise self._cut()
            self.position += len(piece)
            size -= len(piece)

    def _up_to(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self._read(size - len(data))):
            data += piece
        self.position += len(data)
        return data

    def _end(self, *, marked: bool) -> None:
        """Read what follows the members: zeros only, in a strict archive."""
        if self._strict and not marked:
            raise self._cut()
        while piece := self._read(PIECE):
            self.position += len(piece)
            if self._strict and piece.strip(b"\0"):
                raise DamagedError(f"{self._what} goes on after its end")

    def _cut(self) -> DamagedError:
        return DamagedError(f"{self._what} is cut short at byte {self.position}")


def _zeros(size: int) -> Iterator[bytes]:
    whole = bytes(min(size, PIECE))
    while size > 0:
        yield whole[:size]
        size -= len(whole)


def _decimal(text: bytes, where: str) -> int:
    if not text.isdigit() or len(text) > 19:
        raise DamagedError(f"{where} has a malformed sparse map")
    return int(text)
