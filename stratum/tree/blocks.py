"""A canonical dump read block by block, so that it need not be in memory as a whole. Pure.

Each line of a dump has its whole path, so a dump can be larger than its tree by as much as paths are long. Where it is
not larger than its lines warrant it is kept whole all the same, since that is faster.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from stratum.errors import DamagedError

DUMP_MAX: Final = 1 << 32
"""Bytes of a dump. No commit with a larger one is made, so none is sent or exported, and a larger one is not read."""
LINE_MAX: Final = 1 << 17
"""Bytes of a line: the longest path twice, each byte escaped, and the longest extended attributes are fewer."""
BLOCK_SIZE: Final = 1 << 20
"""Bytes of a block, about."""
KEPT_FREE: Final = 16 << 20
KEPT_PER_LINE: Final = 512
"""A dump of up to ``KEPT_FREE`` bytes, and this many for each of its lines beyond, is kept in memory."""


class Span(NamedTuple):
    """Bytes ``start`` to ``end`` of a dump: whole lines."""

    start: int
    end: int


def is_short(size: int, lines: int) -> bool:
    """Whether a dump of ``size`` bytes is no larger than its number of lines warrants."""
    return size <= KEPT_FREE + KEPT_PER_LINE * lines


def count_lines(dump: bytes, start: int = 0, end: int | None = None) -> int:
    """How many lines of a dump these are, whole ones. Each begins with a slash, and two bytes are found many times
    faster than one."""
    end = len(dump) if end is None else end
    return dump.count(b"\n/", start, end) + 1 if start < end else 0


class Dump:
    """A dump as blocks of whole lines: ``for block in dump``, as often as one likes.

    ``size`` is in bytes; ``text`` is all of it where it is short (``is_short``), else None.
    """

    __slots__ = ("_again", "size", "text")

    def __init__(
        self,
        again: Callable[[], Iterable[bytes]],
        seen: Callable[[bytes], object] | None = None,
        kept_max: int = DUMP_MAX,
        room: io.BytesIO | None = None,
    ) -> None:
        """``again`` gives the blocks, which are read once here, each shown to ``seen``. One of more than ``kept_max``
        bytes is not short. ``room``: a file in memory that they are written to, whatever is in it. ``DamagedError``
        from ``again``, and where it gives more than ``DUMP_MAX`` bytes."""
        self._again = again
        self.size = lines = 0
        kept: io.BytesIO | None = room or io.BytesIO()  # what is written to this file is not copied again
        for block in again():
            self.size += len(block)
            if self.size > KEPT_FREE:  # lines before have their bytes free
                lines += count_lines(block)
            if self.size > DUMP_MAX:
                raise DamagedError(f"the dump is larger than {DUMP_MAX} bytes")
            if seen is not None:
                seen(block)
            if kept is not None:
                kept.write(block)
                kept = kept if self.size <= kept_max and is_short(self.size, lines) else None
        if kept is not None:
            kept.truncate()
        self.text = None if kept is None else kept.getvalue()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._again() if self.text is None else (self.text,))


Blocks = bytes | Iterable[bytes]
"""A dump, whole or as blocks of whole lines."""


def small_blocks(dump: Blocks) -> Iterator[bytes]:
    """A dump as blocks of about ``BLOCK_SIZE`` bytes, whole lines each, however large the ones given are: what makes an
    object of every line takes many times the block."""
    for block in (dump,) if isinstance(dump, bytes) else dump:
        start = 0
        while start < len(block):
            end = block.find(b"\n", start + BLOCK_SIZE) + 1 or len(block)
            yield block if end - start == len(block) else block[start:end]
            start = end


def blocks_between(dump: bytes, start: int, end: int) -> Iterator[bytes]:
    """``dump[start:end]`` in blocks of whole lines."""
    while start < end:
        cut = min(dump.find(b"\n", min(start + BLOCK_SIZE, end) - 1) + 1 or end, end)
        yield dump[start:cut]
        start = cut


def lines_of(dump: Blocks) -> Iterator[bytes]:
    """The lines of a dump without their newlines."""
    for block in small_blocks(dump):
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        yield from lines


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes in ``pieces``, cut behind line ends; the last may have none. ``DamagedError`` where a line is longer
    than any can be."""
    rest = b""
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if cut:
            yield rest + piece[:cut] if rest else piece[:cut]
            rest = piece[cut:]
        else:
            rest += piece
        if len(rest) > LINE_MAX:
            raise DamagedError(f"the dump has a line of more than {LINE_MAX} bytes")
    if rest:
        yield rest
