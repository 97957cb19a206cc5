"""One path in many commits: whether it is there, and whether it is the same in two of them; and all that differs.

The dump of a commit that differs in little from another one's has mostly its frames (``store.frames``). What the frames
around a path say is the same where these are the same bytes, and is not even unpacked then. Otherwise those that differ
are, as far as they have to do with the path. So a line of a thousand commits costs what changed in it, and not a
thousand dumps.

The dump's hash is not checked: that would be the whole dump. What is found here tells people where to look, and proves
nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise, zip_longest

from stratum.errors import DamagedError
from stratum.frozen import frozen, replace
from stratum.tree.blocks import LINE_MAX, whole_lines
from stratum.tree.cutting import split_dump
from stratum.tree.escape import escape, unescape

_LINKS = 3
"""The column of a line that says how many names the inode has: a name elsewhere is no change of this one."""
_PIECE = 1 << 20
_BEHIND = b"\xff" * 300
"""Behind every name that there can be."""


@frozen
class _Stored:
    """A stored dump, the places of its frames, and which of them have the path's lines.

    ``first`` also has a whole line before them, or is the beginning of the dump. ``last`` also has the path of a line
    behind them; it is the number of frames where the dump ends with them.
    """

    data: bytes
    frames: list[tuple[int, int]]
    first: int = 0
    last: int = 0

    def packed(self, number: int) -> bytes:
        """A frame as it is stored."""
        start, end = self.frames[number]
        return self.data[start:end]

    def unpacked(self, first: int, last: int, size: int = _PIECE) -> Iterator[tuple[int, bytes]]:
        """(number, piece) of what some frames hold."""
        for number in range(first, min(last + 1, len(self.frames))):
            packed = self.packed(number)
            for at in range(0, len(packed), size):
                yield number, packed[at : at + size]

    def has_line_end(self, number: int) -> bool:
        return any(b"\n" in piece for _, piece in self.unpacked(number, number))


class Subtree:
    """What is at ``path`` (from the root, raw bytes) and below it, in commits. ``read`` gives a commit's dump as it is
    stored; what that raises is raised, and ``DamagedError``."""

    def __init__(self, read: Callable[[str], bytes], path: bytes) -> None:
        self._read = read
        self._path = escape(path)
        self._own = (self._path + b" ", self._path.rstrip(b"/") + b"/")
        """What the path's own line begins with, and what those of all below it do."""
        self._order = _order(self._path)
        self._kept: dict[str, _Stored] = {}

    def is_in(self, commit: str) -> bool:
        """Whether the commit has the path."""
        with _reading(commit):
            stored = self._open(commit)
            return next(self._lines(stored, stored.first, stored.last), None) is not None

    def is_same(self, old: str, new: str) -> bool:
        """Whether the path is in both as it is in the other, with all that is below it, or in neither."""
        with _reading(old):
            before = self._open(old)
        with _reading(new):
            after = self._kept.get(new) or _stored(self._read(new))
        ahead, behind = _shared(before, after)
        moved = len(after.frames) - len(before.frames)
        ends = len(before.frames) - behind, len(after.frames) - behind
        if before.last < ahead or before.first >= ends[0]:
            shift = 0 if before.last < ahead else moved
            self._keep(new, replace(after, first=before.first + shift, last=before.last + shift))
            return True
        with _reading(new):
            after = self._keep(new, self._located(after))
            sides = [self._between(side, ahead, end) for side, end in zip((before, after), ends, strict=True)]
            return all(
                a == b or (a is not None and b is not None and told(a) == told(b)) for a, b in zip_longest(*sides)
            )

    def _open(self, commit: str) -> _Stored:
        return self._kept.get(commit) or self._keep(commit, self._located(_stored(self._read(commit))))

    def _keep(self, commit: str, stored: _Stored) -> _Stored:
        """Have it at hand for the next question, and only one other."""
        self._kept.pop(commit, None)
        self._kept[commit] = stored
        while len(self._kept) > 2:
            del self._kept[next(iter(self._kept))]
        return stored

    def _located(self, stored: _Stored) -> _Stored:
        """The same dump with ``first`` and ``last``."""
        numbers = range(len(stored.frames))
        first = max(0, bisect_right(numbers, self._order, key=lambda number: _path_in(stored, number)[1]) - 1)
        while first > 0 and _path_in(stored, first)[1] >= self._order:
            first -= 1
        last = first
        while last < len(stored.frames):
            seen, path = _path_in(stored, last)
            if path[: len(self._order)] > self._order:
                last = seen
                break
            last += 1
        return replace(stored, first=first, last=last)

    def _between(self, stored: _Stored, ahead: int, end: int) -> Iterator[bytes]:
        """The path's lines that are, if only in part, in the frames from ``ahead`` to before ``end``; what is around
        these is the same in another dump."""
        return self._lines(stored, *_around(stored, ahead, end))

    def _lines(self, stored: _Stored, first: int, last: int) -> Iterator[bytes]:
        """The path's lines in some frames, the last one as far as it is there."""
        for block in _blocks(stored, first, last):
            lines = b"\n" + block
            own, inside = (lines.find(b"\n" + beginning) for beginning in self._own)
            start = own if own >= 0 else inside
            if start >= 0:  # they are one stretch
                last_one = lines.rfind(b"\n" + self._own[1]) if inside >= 0 else start
                end = lines.find(b"\n", last_one + 1)
                yield from lines[start + 1 : end if end >= 0 else None].split(b"\n")


class Differing:
    """The lines of dumps that differ from those of others; ``read`` is as for ``Subtree``."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read

    def lines(self, commit: str) -> Iterator[bytes]:
        """All lines of the commit's dump."""
        with _reading(commit):
            stored = _stored(self._read(commit))
            for block in _blocks(stored, 0, len(stored.frames)):
                yield from block.removesuffix(b"\n").split(b"\n")

    def between(self, old: str, new: str) -> tuple[set[bytes], set[bytes]]:
        """(lines of the old dump, lines of the new one) that the other does not have."""
        with _reading(old):
            before = _stored(self._read(old))
        with _reading(new):
            after = _stored(self._read(new))
        ahead, behind = _shared(before, after)
        left, right = (self._side(commit, stored, ahead, behind) for commit, stored in ((old, before), (new, after)))
        return left - right, right - left

    def _side(self, commit: str, stored: _Stored, ahead: int, behind: int) -> set[bytes]:
        """The lines that are, if only in part, in the frames that the other dump does not have."""
        lines = set[bytes]()
        with _reading(commit):
            whole = replace(stored, last=len(stored.frames))
            for block in _blocks(stored, *_around(whole, ahead, len(stored.frames) - behind)):
                lines.update(block.removesuffix(b"\n").split(b"\n"))
        return lines


def told(line: bytes) -> list[bytes]:
    """What a line says of its inode, but for how many names it has."""
    fields = line.split(b" ")
    del fields[_LINKS : _LINKS + 1]
    return fields


def _around(stored: _Stored, ahead: int, end: int) -> tuple[int, int]:
    """(the first, the last frame) of those that have whole lines of what is in the frames from ``ahead`` to before
    ``end``, within those that the dump is about."""
    start = ahead
    while start > stored.first and (start == ahead or not stored.has_line_end(start)):
        start -= 1
    while end < min(stored.last, len(stored.frames) - 1) and not stored.has_line_end(end):
        end += 1
    return max(start, stored.first), min(end, stored.last)


def _blocks(stored: _Stored, first: int, last: int) -> Iterator[bytes]:
    """Whole lines in blocks, but for the last one, which is as far as it is there."""
    is_begun = first > 0  # with the end of a line
    for block in whole_lines(piece for _, piece in stored.unpacked(first, last)):
        yield block.partition(b"\n")[2] if is_begun else block
        is_begun = False


def _path_in(stored: _Stored, number: int) -> tuple[int, list[bytes]]:
    """(the frame where its path ends, its path as ``_order`` has it) of the first line that begins in a frame or behind
    it. Where there is no more line: the number of frames, and what is behind all paths."""
    seen = b"\n" if number == 0 else b""
    for at, piece in stored.unpacked(number, len(stored.frames), LINE_MAX):
        seen += piece
        start = seen.find(b"\n") + 1
        end = seen.find(b" ", start) if start else -1
        if end >= 0:
            return at, _order(seen[start:end])
        if len(seen) > 3 * LINE_MAX:
            raise DamagedError("a line of it is too long")
    return len(stored.frames), [_BEHIND]


@contextmanager
def _reading(commit: str) -> Iterator[None]:
    """Have errors say which commit they are of."""
    try:
        yield
    except DamagedError as exc:
        if commit in exc.message:
            raise
        raise DamagedError(f"the tree of commit {commit}: {exc.message}", hint="run 'stratum fsck'") from None


def _stored(data: bytes) -> _Stored:
    ends = list(accumulate(map(len, split_dump(data))))
    return _Stored(data, list(pairwise([0, *ends])))


def _shared(before: _Stored, after: _Stored) -> tuple[int, int]:
    """How many frames two dumps share at their beginning, and how many of the others at their end."""
    most = min(len(before.frames), len(after.frames))
    ahead = 0
    while ahead < most and before.packed(ahead) == after.packed(ahead):
        ahead += 1
    behind = 0
    while behind < most - ahead and before.packed(-1 - behind) == after.packed(-1 - behind):
        behind += 1
    return ahead, behind


def _order(path: bytes) -> list[bytes]:
    """What lines are sorted by."""
    return [unescape(name) for name in path.split(b"/")] if path != b"/" else []
