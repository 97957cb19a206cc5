"""The C4M text of a tree that Stratum holds, and its ID, made a directory at a time. Pure.

The line of a directory has its size and ID, which follow from what is in it: so each directory's listing of one level
is made once, from the deepest up, and kept in a spool that the caller gives; the text is put together from it. In
memory is what directories say, and a part of the listings that are being made.

A symbolic link has the ID of what it points to, a file or directory. The path is what the link's directory and the
target make by their text; links on it are followed, the last one is not. What points to a link, to nothing or out of
the tree has none, and so has what leads back to where it is: an ID would be part of itself.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from stratum.c4.ids import C4Id, hasher, id_of_digest
from stratum.c4.names import in_order, written_name, written_target
from stratum.c4.times import FIRST, LAST, written_time
from stratum.c4.writer import INDENT, mode_text
from stratum.tree.model import Directory, File, Inode, Special, Symlink

SECOND = 1_000_000_000
LINKS_MAX = 40
"""Links on the way to a target; the kernel gives up there."""

_KINDS = {
    stat.S_IFREG: "-", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFSOCK: "s", stat.S_IFBLK: "b",
    stat.S_IFCHR: "c",
}  # fmt: skip
_FLUSH = 4096
"""Lines of one listing that are kept in memory."""
_PIECE = 1 << 20

OWNERS = "owner"
XATTRS = "extended attributes"
FRACTIONS = "fraction of a second of the time"
FAR_TIMES = "time outside of the years 1 to 9999"
DEVICES = "number of the device"
LINKS = "hard link of what is no regular file"
ROOT = "mode, owner, time and attributes of the root directory"

Path = tuple[bytes, ...]


class Spool(Protocol):
    """Bytes that are written once, one behind the other, and read again."""

    def write(self, data: bytes) -> int:
        """Where ``data`` begins."""

    def read(self, start: int, size: int) -> bytes: ...


class Listed:
    """What is known of a directory, and where its listing is in the spool: the lines of ``files``, and behind them
    those of ``directories``, which are ``inside`` in the same order."""

    __slots__ = ("c4id", "directories", "files", "inside", "size", "time")

    def __init__(self, time: int | None) -> None:
        self.c4id: C4Id | None = None
        self.size: int | None = 0
        self.time = time
        self.files: list[tuple[int, int]] = []
        self.directories: list[tuple[int, int]] = []
        self.inside: list[Listed] = []


class _Frame:
    """A directory whose listing is being made."""

    __slots__ = (
        "directory", "extents", "found", "hash", "length", "lines", "names", "newest", "path", "place", "unknown_time",
    )  # fmt: skip

    def __init__(self, directory: Directory, path: Path, found: Listed) -> None:
        self.directory = directory
        self.path = path
        self.found = found
        self.extents = found.files
        self.names = _in_order(directory)
        self.place = 0
        self.lines: list[str] = []
        self.length = 0
        self.hash = hasher()
        self.newest: int | None = None
        self.unknown_time = False


def nothing_there(path: bytes) -> C4Id | None:
    """What ``outside`` says where links are not followed out of a tree."""
    return None


class Lister:
    """Lists the directory at ``start`` in the tree ``root``. ``ids`` says the ID of a file's content. ``top`` is the
    absolute path that the tree has, where absolute links can lead into it; ``outside`` says the ID of what is at an
    absolute path that is not in the tree. With ``groups`` files with several names are hard link groups, numbered in
    the order of the text."""

    def __init__(
        self,
        root: Directory,
        ids: Callable[[File], C4Id | None],
        spool: Spool,
        *,
        start: Path = (),
        groups: bool = False,
        top: bytes | None = None,
        outside: Callable[[bytes], C4Id | None] = nothing_there,
    ) -> None:
        self._root = root
        self._start = start
        self._ids = ids
        self._spool = spool
        self._top = None if top is None else _clean(top.split(b"/"))
        self._outside = outside
        self._groups: dict[int, int] = dict.fromkeys(_with_several_names(root), 0) if groups else {}
        self._next_group = 1
        self._done: dict[int, Listed] = {}
        self.entries = 0
        self.lost: Counter[str] = Counter()
        """What the text does not say -> of how many entries."""
        self._met: set[int] = set()

    def run(self) -> Listed:
        """List the directory and all that is below it: what is known of it."""
        self.lost[ROOT] += 1
        stack: list[_Frame] = []
        self._begin(stack, self.directory, self._start)
        while stack:
            frame = stack[-1]
            if self._go_on(frame, stack):
                self._finish(frame)
                stack.pop()
        return self._done[id(self.directory)]

    @property
    def directory(self) -> Directory:
        """The directory at ``start``."""
        directory = self._root
        for name in self._start:
            inside = directory.children[name]
            assert isinstance(inside, Directory)
            directory = inside
        return directory

    def _begin(self, stack: list[_Frame], directory: Directory, path: Path) -> None:
        stack.append(_Frame(directory, path, Listed(_seconds(directory.mtime))))

    def _go_on(self, frame: _Frame, stack: list[_Frame]) -> bool:
        """Add lines to a listing until it is whole; False where another one is needed first, which is begun."""
        children = frame.directory.children
        while frame.place < len(frame.names):
            name = frame.names[frame.place]
            inode = children[name]
            c4id: C4Id | None = None
            size: int | None = 0
            time = _seconds(inode.mtime)
            group = ""
            if isinstance(inode, File):
                c4id, size, group = self._ids(inode), inode.size, self._group(inode)
            elif isinstance(inode, Directory):
                below = self._done.get(id(inode))
                if below is None:
                    self._begin(stack, inode, (*frame.path, name))
                    return False
                c4id, size, time = below.c4id, below.size, below.time
                frame.found.inside.append(below)
            elif isinstance(inode, Symlink):
                size = len(inode.target)
                found = self._target(frame.path, inode.target)
                if isinstance(found, tuple):
                    below = self._done.get(id(found[0]))
                    if below is None and not _is_around(found[1], stack):
                        self._begin(stack, *found)
                        return False
                    found = None if below is None else below.c4id
                c4id, group = found, " -> " + written_target(inode.target)
            self._add(frame, name, inode, size, time, group, c4id)
            frame.place += 1
        return True

    def _add(
        self, frame: _Frame, name: bytes, inode: Inode, size: int | None, time: int | None, link: str, c4id: C4Id | None
    ) -> None:
        kind = _KINDS[stat.S_IFMT(inode.mode)]
        mode, slash = mode_text(kind, inode.mode & 0o7777), "/" if kind == "d" else ""
        length = "-" if size is None else size
        written = written_name(name)
        if slash and frame.extents is frame.found.files:
            self._flush(frame)
            frame.extents = frame.found.directories
        frame.lines.append(f"{mode} {written_time(time)} {length} {written}{slash}{link} {c4id or '-'}\n")
        found = frame.found
        found.size = None if size is None or found.size is None else found.size + size
        if time is None:
            frame.unknown_time = True
        elif frame.newest is None or time > frame.newest:
            frame.newest = time
        if frame.path[: len(self._start)] == self._start:
            self.entries += 1
            self._count_lost(inode)
        if len(frame.lines) >= _FLUSH:
            self._flush(frame)

    def _flush(self, frame: _Frame) -> None:
        if not frame.lines:
            return
        text = "".join(frame.lines).encode()
        frame.lines.clear()
        frame.hash.update(text)
        frame.length += len(text)
        frame.extents.append((self._spool.write(text), len(text)))

    def _finish(self, frame: _Frame) -> None:
        self._flush(frame)
        found = frame.found
        found.c4id = id_of_digest(frame.hash.digest())
        found.size = None if found.size is None else found.size + frame.length
        if found.time is None and not frame.unknown_time:
            found.time = frame.newest
        self._done[id(frame.directory)] = found

    def _group(self, file: File) -> str:
        number = self._groups.get(id(file))
        if number is None:
            return ""
        if not number:
            number = self._groups[id(file)] = self._next_group
            self._next_group += 1
        return f" ->{number}"

    def _count_lost(self, inode: Inode) -> None:
        lost = self.lost
        lost[OWNERS] += 1
        if inode.xattrs:
            lost[XATTRS] += 1
        if inode.mtime % SECOND:
            lost[FRACTIONS] += 1
        if not FIRST <= inode.mtime // SECOND <= LAST:
            lost[FAR_TIMES] += 1
        if isinstance(inode, Special) and inode.rdev:
            lost[DEVICES] += 1
        if isinstance(inode, (Special, Symlink)):
            if id(inode) in self._met:
                lost[LINKS] += 1
            self._met.add(id(inode))

    def _target(self, path: Path, target: bytes) -> C4Id | tuple[Directory, Path] | None:
        """What a link in the directory at ``path`` points to: the ID of a file, or a directory and where it is."""
        parts = target.split(b"/")
        if self._top is None:
            place: Path | None = None if target.startswith(b"/") else _clean([*path, *parts])
            full = None
        else:
            full = _clean(parts if target.startswith(b"/") else [b"", *self._top, *path, *parts])
            place = self._below_top(full)
        found = None if place is None or place[:1] == (b"..",) else self._walk(place)
        if found is None:
            return None if full is None else self._outside(b"/" + b"/".join(full))
        inode, real = found
        if isinstance(inode, File):
            return self._ids(inode)
        return (inode, real) if isinstance(inode, Directory) else None

    def _below_top(self, place: Path) -> Path | None:
        """A path from the root of the file system, as one in the tree."""
        if self._top is None or place[: len(self._top)] != self._top:
            return None
        return place[len(self._top) :]

    def _walk(self, place: Path) -> tuple[Inode, Path] | None:
        """What is at ``place``, and the path that leads there without links; None where nothing is, or the way leads
        out of the tree."""
        todo = list(reversed(place))
        here: list[tuple[bytes, Directory]] = []
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                if not here:
                    return None
                here.pop()
            if name in {b"", b".", b".."}:
                continue
            inode = (here[-1][1] if here else self._root).children.get(name)
            if isinstance(inode, Directory):
                here.append((name, inode))
            elif inode is None:
                return None
            elif all(part in {b"", b"."} for part in todo):
                return inode, (*(name for name, _ in here), name)
            elif isinstance(inode, Symlink) and links < LINKS_MAX:
                links += 1
                parts: Path | None = tuple(inode.target.split(b"/"))
                if inode.target.startswith(b"/"):
                    parts = self._below_top(_clean([*inode.target.split(b"/")]))
                    here.clear()
                if parts is None:
                    return None
                todo += reversed(parts)
            else:
                return None
        return (here[-1][1] if here else self._root), tuple(name for name, _ in here)

    def text(self) -> Iterator[bytes]:
        """The text of the whole tree in pieces, indented by two; after ``run``."""
        stack: list[tuple[Iterator[bytes], Iterator[Listed]]] = []

        def enter(found: Listed) -> Iterator[bytes]:
            indent = INDENT.encode() * len(stack)
            yield from _indented(self._pieces(found.files), indent)
            stack.append((_lines(self._pieces(found.directories)), iter(found.inside)))

        yield from enter(self._done[id(self.directory)])
        while stack:
            lines, inside = stack[-1]
            line = next(lines, None)
            if line is None:
                stack.pop()
                continue
            yield INDENT.encode() * (len(stack) - 1) + line
            yield from enter(next(inside))

    def listings(self) -> Iterator[tuple[C4Id, list[tuple[int, int]]]]:
        """The listing of each directory: its ID, and where it is in the spool."""
        for found in self._done.values():
            assert found.c4id is not None
            yield found.c4id, [*found.files, *found.directories]

    def _pieces(self, extents: list[tuple[int, int]]) -> Iterator[bytes]:
        for start, size in extents:
            for place in range(start, start + size, _PIECE):
                yield self._spool.read(place, min(_PIECE, start + size - place))


def _seconds(mtime: int) -> int | None:
    """The time of a line: None for the epoch itself, and for what no line can say."""
    seconds = mtime // SECOND
    return seconds if mtime and FIRST <= seconds <= LAST else None


def _clean(parts: list[bytes]) -> Path:
    """A path without what it need not have, by its text alone; ``..`` stays at the start, but not under a root."""
    rooted = parts[:1] == [b""]
    found: list[bytes] = []
    for part in parts:
        if part == b".." and found and found[-1] != b"..":
            found.pop()
        elif part == b".." and rooted:
            continue
        elif part not in {b"", b"."}:
            found.append(part)
    return tuple(found)


def _in_order(directory: Directory) -> list[bytes]:
    children = directory.children
    inside = [name + b"/" for name, inode in children.items() if isinstance(inode, Directory)]
    if len(inside) == len(children):
        return [key[:-1] for key in in_order(inside)]
    files = in_order([name for name, inode in children.items() if not isinstance(inode, Directory)])
    return files + [key[:-1] for key in in_order(inside)]


def _with_several_names(root: Directory) -> set[int]:
    """``id`` of the files that have more than one name."""
    once: set[int] = set()
    several: set[int] = set()
    todo = [root]
    while todo:
        for inode in todo.pop().children.values():
            if isinstance(inode, Directory):
                todo.append(inode)
            elif isinstance(inode, File):
                (several if id(inode) in once else once).add(id(inode))
    return several


def _is_around(path: Path, stack: list[_Frame]) -> bool:
    """Whether a directory whose listing is being made is at ``path`` or below."""
    return any(frame.path[: len(path)] == path for frame in stack)


def _indented(pieces: Iterator[bytes], indent: bytes) -> Iterator[bytes]:
    start = True
    for piece in pieces:
        if not indent:
            yield piece
            continue
        ends = piece.endswith(b"\n")
        body = piece[:-1] if ends else piece
        yield (indent if start else b"") + body.replace(b"\n", b"\n" + indent) + (b"\n" if ends else b"")
        start = ends


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a text that comes in pieces, each with its line feed."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line + b"\n"
