"""The dump of a tree that shares most of its directories with another, made from the other's lines.

A directory that was opened from a dump (``tree.lazy``) and stands in the new tree at the same path has the same lines
there, with all below, as long as it was never looked into and nothing in it has several names: otherwise a change
elsewhere could change a link count or which name comes first. So only the rest is written anew, and of that
not the lines of what was read, is still the same object at the same path, and has and had just that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from stratum.tree.blocks import Span, blocks_between, count_lines, is_short
from stratum.tree.dump import NOTHING_KEPT, Piece, dump_pieces
from stratum.tree.escape import escape
from stratum.tree.model import Directory, File, Region, Source
from stratum.tree.zstdframe import decompress

Kept = Mapping[int, Span]
"""``id(directory)`` -> where its lines, with those of everything below, are in the other dump."""


PLAIN = 32 << 20
"""Bytes of a dump of 200,000 files."""


class _Packed:
    """A piece that is not to take the memory which it would."""

    __slots__ = ("_data", "_size")

    def __init__(self, piece: bytes) -> None:
        from stratum.zstd import compress

        self._data, self._size = compress(piece, 1), len(piece)

    @property
    def text(self) -> bytes:
        return decompress(self._data, self._size, "a piece of a dump")


class SplicedDump:
    """A canonical dump as pieces, as often as one likes; those that are a ``Span`` are bytes of ``source``, in its
    order. ``size`` is in bytes."""

    __slots__ = ("_again", "_kept", "size", "source")

    def __init__(
        self, pieces: Callable[[], Iterable[Piece]] | Sequence[Piece], source: bytes = b"", *, keep: bool = True
    ) -> None:
        """``pieces``, or what makes them, which are kept where they are short (``tree.blocks``), packed beyond
        ``PLAIN``; unless not even then (``keep``)."""
        again = pieces if callable(pieces) else lambda: pieces
        self._again = again
        self.source = source
        self.size = new = lines = 0
        kept: list[Piece | _Packed] | None = [] if keep else None
        for piece in again():
            if isinstance(piece, Span):
                self.size += piece.end - piece.start
            else:
                self.size += len(piece)
                new += len(piece)
                lines += count_lines(piece)
            if kept is not None:
                plain = new <= PLAIN or not callable(pieces)  # those that are given are kept anyway
                kept.append(piece if plain or isinstance(piece, Span) else _Packed(piece))
                kept = kept if is_short(new, lines) else None
        self._kept = kept

    @property
    def pieces(self) -> Iterator[Piece]:
        """The pieces in their order."""
        if self._kept is None:
            return iter(self._again())
        return (piece.text if isinstance(piece, _Packed) else piece for piece in self._kept)

    def buffers(self) -> Iterator[bytes | memoryview]:
        """The dump's bytes, one piece after the other."""
        view = memoryview(self.source)
        for piece in self.pieces:
            yield view[piece.start : piece.end] if isinstance(piece, Span) else piece

    def join(self) -> bytes:
        """The dump."""
        return b"".join(self.buffers())

    def blocks(self) -> Iterator[bytes]:
        """The dump in blocks of whole lines, of bounded size where they are the source's."""
        for piece in self.pieces:
            if isinstance(piece, Span):
                yield from blocks_between(self.source, *piece)
            else:
                yield piece


class DumpText:
    """Bytes of a dump, asked for in ascending order."""

    def __init__(self, dump: SplicedDump) -> None:
        self._buffers = dump.buffers()
        self._buffer: bytes | memoryview = b""
        self._start = 0

    def between(self, start: int, end: int) -> bytes:
        parts = []
        while start < end:
            while start >= self._start + len(self._buffer):
                self._start += len(self._buffer)
                self._buffer = next(self._buffers)
            parts.append(bytes(self._buffer[start - self._start : end - self._start]))
            start += len(parts[-1])
        return b"".join(parts)


def kept_lines(root: Directory, source: Source) -> Kept:
    """The directories of ``root``, topmost ones only, whose lines are those that they have in ``source``."""
    while True:
        kept = _unread(root, source)
        if not any(region.was_read for _, region in kept):
            return {id(directory): Span(region.start, region.end) for directory, region in kept}
        # One of them is in the tree at another place too, and was read there.


def _unread(root: Directory, source: Source) -> list[tuple[Directory, Region]]:
    """The directories that can be kept, as far as is known before others are read, and their regions."""
    found = []
    stack = [(b"/", root)]
    while stack:
        prefix, directory = stack.pop()
        region = directory.region
        if region is not None and region.source is source and region.prefix == prefix and region.is_separate:
            found.append((directory, region))
            continue
        stack.extend(
            (prefix + escape(name) + b"/", child)
            for name, child in directory.children.items()
            if isinstance(child, Directory)
        )
    return found


def splice_dump(root: Directory, source: Source | None, kept: Kept = NOTHING_KEPT) -> SplicedDump:
    """The dump of ``root``, at the cost of what ``root`` does not share with the tree of ``source``, of which
    ``kept_lines`` said what is ``kept``. ``UnsupportedError`` as ``write_dump``."""
    if source is None:
        return SplicedDump(lambda: dump_pieces(root))
    return SplicedDump(lambda: dump_pieces(root, kept, source.read_lines, source.dump), source.dump)


def differing_files(root: Directory, known: Directory) -> tuple[list[File], list[File]] | None:
    """(the files of ``root`` that ``known`` has not, the files of ``known`` that ``root`` has not): one for each name
    that has a file in one of them which is not the same object in the other.

    Directories that both share are passed over, and of those that differ only the names that do are looked at. None
    where that is not all there is to say: where ``known``, which was opened from a dump, has files of several names, or
    a directory of it that nobody looked into is elsewhere in ``root``.
    """
    source = known.region.source if known.region is not None else None
    if source is None or source.link_offsets:
        return None
    new: list[File] = []
    old: list[File] = []
    stack = [(root, known)]
    while stack:
        here, there = stack.pop()
        ours, theirs = here.children.items(), there.children.items()
        gone = dict(theirs - ours)
        for name, inode in ours - theirs:
            if isinstance(inode, Directory):
                below = gone.get(name)
                if isinstance(below, Directory) and not _is_unread(inode, source):
                    stack.append((inode, below))
                    del gone[name]
                elif not _add_files(new, inode, source):
                    return None
            elif isinstance(inode, File):
                new.append(inode)
        for inode in gone.values():
            if isinstance(inode, Directory):
                _add_files(old, inode, None)
            elif isinstance(inode, File):
                old.append(inode)
    return new, old


def _add_files(files: list[File], directory: Directory, unread: Source | None) -> bool:
    """Add the files below ``directory``; False where one was not looked into that is of the source ``unread``."""
    stack = [directory]
    while stack:
        here = stack.pop()
        if _is_unread(here, unread):
            return False
        for child in here.children.values():
            if isinstance(child, Directory):
                stack.append(child)
            elif isinstance(child, File):
                files.append(child)
    return True


def _is_unread(directory: Directory, source: Source | None) -> bool:
    region = directory.region
    return region is not None and region.source is source and not region.was_read
