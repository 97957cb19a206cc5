"""Edit scripts: a dump as stretches of another one, its ground, and new lines, both in their order. Pure.

A script is made of what is known to be shared (``of_spliced``) or by comparing two dumps (``between``), which are
sorted by path and so are merged. Two scripts, one on what the other makes, are one (``compose``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from stratum.errors import DamagedError
from stratum.tree.blocks import Span, blocks_between
from stratum.tree.escape import unescape
from stratum.tree.splice import SplicedDump

Step = Span | int
"""A stretch of the ground's dump, or how many bytes come next of the new lines."""

_COMPARED = 1 << 16
_COMPARED_FIRST = 1 << 8


class Script(NamedTuple):
    """``steps`` in the order of the dump, spans ascending; ``lines`` are all new ones."""

    steps: tuple[Step, ...]
    lines: bytes

    @property
    def size(self) -> int:
        """Bytes of the dump that it makes."""
        return sum(step if isinstance(step, int) else step.end - step.start for step in self.steps)

    def pieces(self) -> Iterator[Span | memoryview]:
        """The dump as spans of the ground, and new lines."""
        view, at = memoryview(self.lines), 0
        for step in self.steps:
            if isinstance(step, int):
                yield view[at : at + step]
                at += step
            else:
                yield step


def whole(size: int) -> Script:
    """The script that makes of a ground of ``size`` bytes the same."""
    return Script((Span(0, size),) if size else (), b"")


def check_steps(steps: Sequence[Step], lines: int, ground: int) -> int:
    """The size of what the steps make of ``lines`` new bytes and a ground of ``ground``; ``DamagedError`` where they
    do not fit those, or are not in the ground's order."""
    size = used = last = 0
    for step in steps:
        if isinstance(step, int):
            if step <= 0:
                raise DamagedError("a step of it adds nothing")
            used += step
            size += step
        else:
            if not last <= step.start < step.end:
                raise DamagedError("its spans are not in order")
            size += step.end - step.start
            last = step.end
    if used != lines or last > ground:
        raise DamagedError("its steps do not fit what they are made of")
    return size


class Builder:
    """Puts a script together; neighbours that can be one are."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of new lines so far."""
        self._steps: list[Step] = []
        self._lines: list[bytes | memoryview] = []

    def add_span(self, start: int, end: int) -> None:
        """What the ground has from ``start`` to ``end`` comes next."""
        if start == end:
            return
        last = self._steps[-1] if self._steps else 0
        if isinstance(last, Span) and last.end == start:
            self._steps[-1] = Span(last.start, end)
        else:
            self._steps.append(Span(start, end))

    def add_lines(self, lines: bytes | memoryview) -> None:
        """New lines come next."""
        if not lines:
            return
        if self._steps and isinstance(last := self._steps[-1], int):
            self._steps[-1] = last + len(lines)
        else:
            self._steps.append(len(lines))
        self._lines.append(lines)
        self.size += len(lines)

    def script(self) -> Script:
        """All that was added."""
        return Script(tuple(self._steps), b"".join(self._lines))


def compose(upper: Script, lower: Script) -> Script:
    """What ``upper`` makes of that which ``lower`` makes of a ground, as one script on this ground. ``DamagedError``
    where ``upper`` wants more than ``lower`` makes."""
    built, lines = Builder(), memoryview(lower.lines)
    steps = iter(lower.steps)
    begin = end = used = 0  # where the step of ``lower`` in hand begins and ends in what it makes; lines up to its end
    step: Step = 0
    for piece in upper.pieces():
        if not isinstance(piece, Span):
            built.add_lines(piece)
            continue
        at = piece.start
        while at < piece.end:
            while at >= end:
                try:
                    step = next(steps)
                except StopIteration:
                    raise DamagedError("a span goes beyond the dump that it is of") from None
                begin, end = end, end + (step if isinstance(step, int) else step.end - step.start)
                used += step if isinstance(step, int) else 0
            stop = min(piece.end, end)
            if isinstance(step, int):
                built.add_lines(lines[used - step + at - begin : used - step + stop - begin])
            else:
                built.add_span(step.start + at - begin, step.start + stop - begin)
            at = stop
    return built.script()


def after(script: Script, start: int) -> Script:
    """What makes the same dump without its first ``start`` bytes."""
    built, at = Builder(), 0
    for piece in script.pieces():
        size = piece.end - piece.start if isinstance(piece, Span) else len(piece)
        left_out = min(max(start - at, 0), size)
        at += size
        if isinstance(piece, Span):
            built.add_span(piece.start + left_out, piece.end)
        else:
            built.add_lines(piece[left_out:])
    return built.script()


def relative(new: Script, old: Script, text: Callable[[int, int], bytes]) -> Script:
    """What makes the dump of ``new`` of that of ``old``, where both scripts are on one ground. ``text`` gives bytes of
    the new dump, of which is asked in ascending order."""
    built = Builder()
    where, spans = _layout(old)
    number = at = last = 0
    for piece in new.pieces():
        if not isinstance(piece, Span):
            for line in bytes(piece).splitlines(keepends=True):
                start = where.get(line, -1)
                if start >= last:
                    last = start + len(line)
                    built.add_span(start, last)
                else:
                    built.add_lines(line)
            at += len(piece)
            continue
        done, moved = piece.start, at - piece.start
        while done < piece.end:
            while number < len(spans) and spans[number][0].end <= done:
                number += 1
            kept, place = spans[number] if number < len(spans) else (Span(piece.end, piece.end), last)
            start, stop = max(done, min(kept.start, piece.end)), min(kept.end, piece.end)
            if place + start - kept.start < last:  # only where a dump is not sorted
                start = stop
            if start > done:
                built.add_lines(text(done + moved, start + moved))
            if stop > start:
                last = place + stop - kept.start
                built.add_span(place + start - kept.start, last)
            done = max(start, stop)
        at += piece.end - piece.start
    return built.script()


def _layout(script: Script) -> tuple[dict[bytes, int], list[tuple[Span, int]]]:
    """Where its lines, and where its spans begin in what the script makes."""
    lines, spans, at = dict[bytes, int](), list[tuple[Span, int]](), 0
    for piece in script.pieces():
        if isinstance(piece, Span):
            spans.append((piece, at))
            at += piece.end - piece.start
            continue
        for line in bytes(piece).splitlines(keepends=True):
            lines[line] = at
            at += len(line)
    return lines, spans


def of_pieces(dump: SplicedDump, limit: int) -> Script | None:
    """The script that makes ``dump`` of its ``source``, just as it is; None where it has more than ``limit`` bytes of
    new lines."""
    built = Builder()
    for piece in dump.pieces:
        if isinstance(piece, Span):
            built.add_span(*piece)
        elif built.size + len(piece) <= limit:
            built.add_lines(piece)
        else:
            return None
    return built.script()


def of_spliced(dump: SplicedDump, limit: int) -> Script | None:
    """The script that makes ``dump`` of its ``source``, with no line that is the same in both among the new ones; None
    where these have more than ``limit`` bytes."""
    built, source = Builder(), dump.source
    done, waiting = 0, list[bytes]()
    for piece in (*dump.pieces, Span(len(source), len(source))):
        if not isinstance(piece, Span):
            waiting.append(piece)
            continue
        if waiting:
            if not _merge(built, waiting, blocks_between(source, done, piece.start), done, limit):
                return None
            waiting = []
        built.add_span(*piece)
        done = piece.end
    return built.script()


def between(new: Iterable[bytes], ground: Iterable[bytes], limit: int) -> Script | None:
    """The script that makes the dump ``new`` of the dump ``ground``, each given in blocks of whole lines; None where
    the lines that are only in the new one have more than ``limit`` bytes."""
    built = Builder()
    return built.script() if _merge(built, new, ground, 0, limit) else None


def _merge(built: Builder, new: Iterable[bytes], ground: Iterable[bytes], offset: int, limit: int) -> bool:
    """Add to ``built`` what makes the lines ``new`` of the lines ``ground``, which begin at ``offset`` in their dump;
    whether the new lines are within the limit."""
    ours, theirs = _Lines(new), _Lines(ground)
    while built.size <= limit and ours.more():
        if not theirs.more():
            built.add_lines(ours.take(len(ours.block)))
            continue
        equal = _equal(ours.block, ours.at, theirs.block, theirs.at)
        if equal:
            start = offset + theirs.done + theirs.at
            built.add_span(start, start + equal)
            ours.at += equal
            theirs.at += equal
            continue
        left, right = ours.path(), theirs.path()
        if left == right:
            built.add_lines(ours.take(ours.next()))
            theirs.at = theirs.next()
        elif (order := _order(left)) < (other := _order(right)):
            built.add_lines(ours.take(ours.first_from(other)))
        else:
            theirs.at = theirs.first_from(order)
    return built.size <= limit


class _Lines:
    """Where one is in a dump that comes in blocks of whole lines: at a line's beginning, ``at``, of ``block``, which
    begins at ``done`` of all."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self.block = b""
        self.at = 0
        self.done = 0

    def more(self) -> bool:
        """Whether anything is left; goes on to the next block where this one is done."""
        while self.at >= len(self.block):
            self.done += len(self.block)
            self.at = 0
            self.block = next(self._blocks, b"")
            if not self.block:
                return False
        return True

    def take(self, end: int) -> bytes:
        """What there is up to ``end`` of the block."""
        found = self.block[self.at : end]
        self.at = end
        return found

    def path(self) -> bytes:
        """The path of this line."""
        return _path(self.block, self.at)

    def next(self) -> int:
        """Where this line ends."""
        return self.block.find(b"\n", self.at) + 1 or len(self.block)

    def first_from(self, order: list[bytes]) -> int:
        """Where the first line of the block begins that is not before ``order``; this one is. The block's end where
        there is none."""
        block, low, high = self.block, self.next(), len(self.block)
        while low < high:
            middle = block.rfind(b"\n", low, (low + high) // 2) + 1 or low
            if _order(_path(block, middle)) < order:
                low = block.find(b"\n", middle) + 1 or len(block)
            else:
                high = middle
        return low


def _path(block: bytes, at: int) -> bytes:
    end = block.find(b" ", at)
    return block[at : end if end >= 0 else None]


def _order(path: bytes) -> list[bytes]:
    """What lines are sorted by."""
    return [unescape(name) for name in path.split(b"/")] if path != b"/" else []


def _equal(left: bytes, at: int, right: bytes, other: int) -> int:
    """How many bytes, of whole lines, are the same in both from there on."""
    size = min(len(left) - at, len(right) - other)
    done, step, growth = 0, _COMPARED_FIRST, 2
    while done < size and step:
        step = min(step, size - done)
        if left[at + done : at + done + step] == right[other + done : other + done + step]:
            done += step
            step = min(growth * step, _COMPARED)
        else:  # from here on smaller ones, until it is known which byte differs
            step, growth = step // 2, 1
    if done == size and (left[at + size - 1 : at + size] == b"\n"):
        return size
    return left.rfind(b"\n", at, at + done) + 1 - at if b"\n" in left[at : at + done] else 0
