"""Which lines commits need, by their records alone: the same as by writing every dump out."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.store.coverage import Coverage, Part, Read, lines_in
from stratum.store.treerecord import FrameRef, TreeRecord
from stratum.tree.blocks import Span
from tests.support.effort import examples

Lines = tuple[bytes, ...]


class Records:
    """Dumps that are stored on one another, written by hand: each the lines of numbers, in order."""

    def __init__(self) -> None:
        self.dumps: dict[str, Lines] = {}
        self.records: dict[str, TreeRecord] = {}
        self.frames: dict[bytes, bytes] = {}
        self.asked = Counter[bytes]()

    def record(self, commit: str) -> TreeRecord:
        if commit not in self.records:
            raise NotFoundError(f"there is no commit {commit}")
        return self.records[commit]

    def frame(self, ref: FrameRef) -> bytes:
        self.asked[ref.sha256] += 1
        return self.frames[ref.sha256]

    def add(self, commit: str, numbers: set[int], ground: str | None, framed: bool) -> None:
        lines = tuple(b"%d is a line of its own\n" % number for number in sorted(numbers))
        self.dumps[commit] = lines
        size = sum(map(len, lines))
        if ground is None:
            pieces = [b"".join(lines[at : at + 5]) for at in range(0, len(lines), 5)] if framed else []
            refs = tuple(FrameRef(sha256(piece).digest(), len(piece)) for piece in pieces)
            self.frames.update({ref.sha256: piece for ref, piece in zip(refs, pieces, strict=True)})
            self.records[commit] = TreeRecord(size, 0, None, (), refs, b"" if framed else b"".join(lines))
            return
        places, at = dict[bytes, int](), 0
        for line in self.dumps[ground]:
            places[line] = at
            at += len(line)
        steps: list[Span | int] = []
        new = b""
        for line in lines:
            start, last = places.get(line), steps[-1] if steps else None
            if start is None:
                new += line
                steps[-1:] = [last + len(line)] if isinstance(last, int) else [*steps[-1:], len(line)]
            elif isinstance(last, Span) and last.end == start:
                steps[-1] = Span(last.start, start + len(line))
            else:
                steps.append(Span(start, start + len(line)))
        level = self.records[ground].level + 1
        self.records[commit] = TreeRecord(size, level, ground, tuple(steps), (), new)


def made(seed: int, count: int) -> Records:
    """Trees that are made of others by small changes, and stored on any of a lower level, or whole."""
    rng, records = random.Random(seed), Records()
    for number in range(count):
        grounds = [commit for commit, record in records.records.items() if record.level < 3]
        ground = rng.choice(grounds) if grounds and rng.random() < 0.8 else None
        like = ground or (rng.choice(list(records.dumps)) if records.dumps else None)
        numbers = {int(line.split()[0]) for line in records.dumps[like]} if like else set(rng.sample(range(60), 30))
        for _ in range(rng.randrange(5)):
            numbers ^= {rng.randrange(60)}
        records.add(f"c{number}", numbers, ground, framed=rng.random() < 0.7)
    return records


def weighed(records: Records, coverage: Coverage, parts: list[Part]) -> dict[bytes, int]:
    """Line -> the bits of the commits that have it."""
    found: dict[bytes, int] = {}
    for part in (*parts, *coverage.parts()):
        data = part.data if part.frame is None else records.frame(part.frame)
        for lines, weight in lines_in(part, data):
            for line in lines.splitlines(keepends=True):
                found[line] = found.get(line, 0) | weight
    return found


@settings(max_examples=examples(200))
@given(st.integers(0, 1 << 32), st.integers(1, 12), st.data())
def test_each_line_is_of_those_that_have_it(seed: int, count: int, data: st.DataObject) -> None:
    records = made(seed, count)
    wanted = data.draw(st.lists(st.sampled_from(sorted(records.dumps)), unique=True))
    coverage = Coverage(records.record)
    parts = [coverage.add(commit, 1 << number) for number, commit in enumerate(wanted)]
    expected: dict[bytes, int] = {}
    for number, commit in enumerate(wanted):
        for line in records.dumps[commit]:
            expected[line] = expected.get(line, 0) | 1 << number
    assert weighed(records, coverage, parts) == expected
    assert set(records.asked.values()) <= {1}, "a frame was read twice"
    needed = set[str]()
    for commit in wanted:
        at: str | None = commit
        while at is not None:
            needed.add(at)
            at = records.records[at].ground
    assert coverage.records == needed
    assert coverage.frames.keys() == {ref.sha256 for commit in needed for ref in records.records[commit].frames}


@settings(max_examples=examples(100))
@given(st.integers(0, 1 << 32), st.integers(1, 12), st.data())
def test_what_was_read_is_not_read_again(seed: int, count: int, data: st.DataObject) -> None:
    records, read = made(seed, count), Read()
    times = Counter[tuple[str | bytes, int]]()
    found = set[bytes]()
    for wanted in data.draw(st.lists(st.sets(st.sampled_from(sorted(records.dumps))), min_size=2, max_size=3)):
        coverage = Coverage(records.record)
        parts = [coverage.add(commit) for commit in sorted(wanted)]
        for part in (*parts, *coverage.parts()):
            text = part.data if part.frame is None else records.frame(part.frame)
            key = part.of if part.frame is None else part.frame.sha256
            fresh = read.fresh(part)
            times.update((key, place) for start, end, _ in fresh.stretches for place in range(start, end))
            found.update(line for lines, _ in lines_in(fresh, text) for line in lines.splitlines(keepends=True))
        assert found >= {line for commit in wanted for line in records.dumps[commit]}
    assert set(times.values()) <= {1}


def chain() -> Records:
    """b, c and d are stored on a, e on d, and f alone."""
    records = Records()
    records.add("a", set(range(20)), None, True)
    records.add("b", {1, 2, 30}, "a", False)
    records.add("c", {1, 2, 31}, "a", False)
    records.add("d", {3, 32}, "a", False)
    records.add("e", {3, 32, 33}, "d", False)
    records.add("f", {99}, None, False)
    return records


def damaged_by(records: Records, wanted: str) -> tuple[int, list[str]]:
    """The bits of those whose trees cannot be read, and what is told."""
    coverage, found, told = Coverage(records.record), 0, list[str]()

    def hear(weight: int, error: StratumError) -> None:
        nonlocal found
        found |= weight
        told.append(error.message)

    for number, commit in enumerate(wanted):
        coverage.add(commit, 1 << number)
    list(coverage.parts(hear))
    with pytest.raises(StratumError):
        list(coverage.parts())
    return found, told


def test_what_cannot_be_read_is_told_of_those_that_need_it() -> None:
    records = chain()
    del records.records["d"]
    assert damaged_by(records, "bef") == (0b010, ["there is no commit d"])
    del records.records["a"]
    assert damaged_by(records, "bcf")[0] == 0b011
    records = chain()
    records.records["d"] = records.records["d"]._replace(ground="e")
    assert damaged_by(records, "be") == (0b10, ["the tree of commit e is stored on one that is stored on it"])
    records = chain()
    records.records["a"] = records.records["a"]._replace(size=40, frames=records.records["a"].frames[:1])
    assert damaged_by(records, "bd") == (0b11, ["what is stored on the tree of commit a names lines behind its end"])
    records = chain()
    records.records["a"] = records.records["a"]._replace(frames=records.records["a"].frames[:1] * 4)
    assert damaged_by(records, "b") == (1, ["the tree of commit a has the same lines twice"])
    coverage = Coverage(records.record)
    with pytest.raises(NotFoundError):
        coverage.add("x")
    assert not coverage.records


def test_a_stretch_is_of_whole_lines() -> None:
    part = Part("a", None, b"", [(0, 3, 1)])
    with pytest.raises(DamagedError, match="not cut where its lines end"):
        list(lines_in(part, b"1\n22\n"))
    assert list(lines_in(part._replace(stretches=[(2, 5, 1)]), b"1\n22\n")) == [(b"22\n", 1)]
