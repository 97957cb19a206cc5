"""Which lines of what is stored a set of commits needs, found in their tree records (``store.treerecord``). Pure.

Of a dump that is stored on another one, its **ground**, the record says which stretches of the ground's lines it has.
So what commits need of a ground is known by their records alone, without a look at any line: the stretches that the
records on it name, and all of it where it is wanted itself. What is needed of a ground that is a delta is passed on to
its own ground, and so down to the frames of dumps that are stored whole. Each needed line is read there once, however
many commits have it, and no other is.

Each commit that is wanted has a **weight**, a number; the weight of a line is the sum of those of the commits that have
it. With 1 for each commit it says how many, with a bit for each it says which: a line comes once in a dump.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.tree.blocks import Span

if TYPE_CHECKING:
    from stratum.store.treerecord import FrameRef, TreeRecord

Stretches = Sequence[tuple[int, int, int]]
"""Some of a text, in order: (where it begins, where it ends, weight)."""
Marks = dict[int, int]
"""Place in a text -> by how much the weight is another one from there on."""
Told = Callable[[int, StratumError], None]
"""Is told what cannot be read, and of what weight it is."""
_LEVELS = 4


class Part(NamedTuple):
    """Some lines of the record of the commit ``of``, which are ``data``, or of ``frame``, which that one names."""

    of: str
    frame: FrameRef | None
    data: bytes
    stretches: Stretches


def _not_told(weight: int, error: StratumError) -> None:
    raise error


class Coverage:
    """What commits need of each other's records. ``record`` reads one; what it raises is raised."""

    def __init__(self, record: Callable[[str], TreeRecord]) -> None:
        self._record = record
        self._marks: dict[str, Marks] = {}
        self._above: dict[str, int] = {}  # of a ground: the lowest level of what is stored on it
        self._placed: set[str] = set()
        self.records: set[str] = set()
        """The commits whose records are needed: those that were added, and, once all parts are read, their grounds."""
        self.frames: dict[bytes, FrameRef] = {}
        """All frames that these records name, likewise."""

    def add(self, commit: str, weight: int = 1) -> Part:
        """All of ``commit`` is wanted. The lines that its own record holds, which ``parts`` only tells of as far as
        others need them."""
        record = self._record(commit)
        self.records.add(commit)
        lines = Part(commit, None, record.lines, [(0, len(record.lines), weight)] if record.lines else [])
        if record.ground is None:
            if record.frames:
                _mark(self._marks.setdefault(commit, {}), 0, record.size, weight)
                self._above.setdefault(commit, _LEVELS)
            return lines
        marks = self._on_ground(record.ground, record.level)
        for step in record.steps:
            if isinstance(step, Span):
                _mark(marks, step.start, step.end, weight)
        return lines

    def _on_ground(self, ground: str, level: int) -> Marks:
        self._above[ground] = min(level, self._above.get(ground, _LEVELS))
        return self._marks.setdefault(ground, {})

    def parts(self, told: Told = _not_told) -> Iterator[Part]:
        """What is needed of grounds and frames, each record and each frame once, once all commits were added. ``told``
        hears of grounds that cannot be used; by default that is raised."""
        framed: dict[bytes, tuple[str, Marks]] = {}
        levels: list[set[str]] = [set() for _ in range(_LEVELS)]
        self._sort_in(list(self._marks), levels, told)
        for level in reversed(range(_LEVELS)):
            for commit in sorted(levels[level]):
                wanted = stretches_of(self._marks[commit])
                try:
                    record = self._record(commit)
                    if wanted and wanted[-1][1] > record.size:
                        raise DamagedError(f"what is stored on the tree of commit {commit} names lines behind its end")
                    own, below = passed_on(record, wanted)
                except (DamagedError, NotFoundError) as exc:
                    told(_weight(wanted), exc)
                    continue
                if record.ground is not None:
                    marks = self._on_ground(record.ground, record.level)
                    for start, end, weight in below:
                        _mark(marks, start, end, weight)
                    if record.ground not in self._placed:
                        self._sort_in([record.ground], levels, told)
                for ref, found in in_frames(record, wanted):
                    _, marks = framed.setdefault(ref.sha256, (commit, {}))
                    for start, end, weight in found:
                        _mark(marks, start, end, weight)
                if own:
                    yield Part(commit, None, record.lines, own)
        for sha256, (of, marks) in framed.items():
            yield Part(of, self.frames[sha256], b"", stretches_of(marks))

    def _sort_in(self, commits: Iterable[str], levels: list[set[str]], told: Told) -> None:
        """Note at which level each of some grounds is, and the frames of those that are whole."""
        for commit in commits:
            try:
                record = self._record(commit)
                if not record.level < self._above[commit]:
                    raise DamagedError(f"the tree of commit {commit} is stored on one that is stored on it")
                for ref in record.frames:
                    self.frames[ref.sha256] = ref
                if len({ref.sha256 for ref in record.frames}) < len(record.frames):
                    raise DamagedError(f"the tree of commit {commit} has the same lines twice")
            except (DamagedError, NotFoundError) as exc:
                told(_weight(stretches_of(self._marks[commit])), exc)
                continue
            self.records.add(commit)
            self._placed.add(commit)
            levels[record.level].add(commit)


def passed_on(record: TreeRecord, wanted: Stretches) -> tuple[Stretches, Stretches]:
    """Where the ``wanted`` stretches of a record's dump are: (in the lines that the record holds, in the dump of its
    ground). Those that are in frames are in neither."""
    if record.ground is None:
        return ([], []) if record.frames else (wanted, [])
    own: list[tuple[int, int, int]] = []
    below: list[tuple[int, int, int]] = []
    at = mine = number = 0
    for step in record.steps:
        into, place, size = (below, step.start, step.end - step.start) if isinstance(step, Span) else (own, mine, step)
        mine += 0 if into is below else size
        while number < len(wanted) and wanted[number][0] < at + size:
            start, end, weight = wanted[number]
            first, last = max(start, at), min(end, at + size)
            into.append((place + first - at, place + last - at, weight))
            if end > at + size:
                break
            number += 1
        at += size
    return own, below


def in_frames(record: TreeRecord, wanted: Stretches) -> Iterator[tuple[FrameRef, Stretches]]:
    """The frames of a record of whose lines any are ``wanted``, each with which of its lines are."""
    start = number = 0
    for ref in record.frames:
        end, found = start + ref.size, list[tuple[int, int, int]]()
        while number < len(wanted) and wanted[number][0] < end:
            first, last, weight = wanted[number]
            found.append((max(first, start) - start, min(last, end) - start, weight))
            if last > end:
                break
            number += 1
        if found:
            yield ref, found
        start = end


def _mark(marks: Marks, start: int, end: int, weight: int) -> None:
    marks[start] = marks.get(start, 0) + weight
    marks[end] = marks.get(end, 0) - weight


def _weight(stretches: Stretches) -> int:
    """The weights of all, where each is the bits of some commits."""
    found = 0
    for _, _, weight in stretches:
        found |= weight
    return found


def stretches_of(marks: Marks) -> Stretches:
    """The stretches that have any weight; no two neighbours have the same."""
    found: list[tuple[int, int, int]] = []
    weight = begin = 0
    for place in sorted(marks):
        change = marks[place]
        if change:
            if weight:
                found.append((begin, place, weight))
            weight += change
            begin = place
    return found


def lines_in(part: Part, data: bytes) -> Iterator[tuple[bytes, int]]:
    """The lines of each stretch, and its weight; ``data`` are those of the record or the frame. ``DamagedError`` where
    a stretch does not begin and end as lines do."""
    for start, end, weight in part.stretches:
        if (start and data[start - 1 : start] != b"\n") or data[end - 1 : end] != b"\n":
            raise DamagedError(f"the tree of commit {part.of} is not cut where its lines end")
        yield (data if end - start == len(data) else data[start:end]), weight


class Read:
    """What was read before of records and frames, so that no line is read twice."""

    def __init__(self) -> None:
        self._read: dict[str | bytes, list[tuple[int, int]]] = {}

    def fresh(self, part: Part) -> Part:
        """The part without what was read before; what is left is read from now on."""
        key = part.of if part.frame is None else part.frame.sha256
        before = self._read.get(key, [])
        left = part.stretches if not before else list(without(part.stretches, before))
        if left:
            marks: Marks = {}
            for start, end in before:
                _mark(marks, start, end, 1)
            for start, end, _ in left:
                _mark(marks, start, end, 1)
            self._read[key] = [(start, end) for start, end, _ in stretches_of(marks)]
        return part._replace(stretches=left)


def without(stretches: Stretches, others: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """What of the stretches is in none of the ``others``, places that begin and end in order."""
    for start, end, weight in stretches:
        number, at = max(0, bisect_right(others, (start, start)) - 1), start
        while at < end and number < len(others) and others[number][0] < end:
            if others[number][0] > at:
                yield at, others[number][0], weight
            at = max(at, others[number][1])
            number += 1
        if at < end:
            yield at, end, weight
