"""What is told of one path is what carrying out all records gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.tree.model import Directory, Inode, lookup, walk
from stratum.tree.operations import operations
from stratum.tree.oplog import Record, entry_of
from stratum.tree.replay import Replay
from stratum.tree.tracing import WholeTreeError, traced
from tests.support.trees import trees
from tests.unit.tree.test_operations import recorded
from tests.unit.tree.tree_changes import Changes, changes


def bears_on(records: Sequence[Record], path: bytes) -> list[Record]:
    def at_or_above(above: bytes | None, below: bytes) -> bool:
        return above is not None and (above == below or below.startswith(above.rstrip(b"/") + b"/"))

    return [
        record
        for record in records
        if any(at_or_above(path, found) for found in (record.path, record.was) if found is not None)
        or (record.op == "rename" and (at_or_above(record.path, path) or at_or_above(record.was, path)))
    ]


def told(inode: Inode | None) -> object:
    return None if inode is None else entry_of(inode)


@given(trees, st.lists(changes, min_size=1, max_size=3), st.booleans())
def test_of_any_history(old: Directory, steps: list[Changes], hinted: bool) -> None:
    records: list[Record] = []
    tree = old
    for step in steps:
        new, moved = step.applied(tree)
        for operation in operations(tree, new, moved=moved if hinted else None):
            records.append(recorded(len(records) + 1, operation))
        tree = new
    replay, states = Replay(old), [old]
    for record in records:
        replay.apply(record)
        states.append(replay.root)
    paths = {path for state in (old, *states[-3:]) for path, _ in walk(state)} | {b"/never"}
    paths |= {record.path for record in records if record.path is not None}
    for n in {len(records), len(records) // 2, 0}:
        for path in paths:
            try:
                found = traced(lambda asked: bears_on(records, asked), old, path, 1, n)
            except WholeTreeError:
                continue
            there = lookup(states[n], path)
            assert not isinstance(there, Directory)
            assert told(found) == told(there), (path, n)


def test_files_need_no_other_records() -> None:
    def file(time: int) -> Inode:
        from stratum.tree.model import File

        return File(0o100644, 0, 0, time)

    def record(n: int, op: str, path: bytes, **more: bytes) -> Record:
        return Record(n, "2026-11-29T00:00:00.000Z", op, path, **more)

    records = [
        record(1, "create", b"/a", entry=entry_of(file(1))),
        record(2, "link", b"/b", link=b"/a"),
        record(3, "write", b"/a", entry=entry_of(file(3))),
        record(4, "write", b"/b", link=b"/a"),
        record(5, "rename", b"/e", was=b"/d"),
        record(6, "delete", b"/a"),
        record(7, "rename", b"/a", was=b"/b"),
    ]
    ground = Directory(0o40755, 0, 0, 0, children={b"d": Directory(0o40755, 0, 0, 0, children={b"x": file(9)})})

    def at(path: bytes, n: int) -> int | None:
        found = traced(lambda asked: bears_on(records, asked), ground, path, 1, n)
        return None if found is None else found.mtime

    assert [at(b"/a", n) for n in range(8)] == [None, 1, 1, 3, 3, 3, None, 3]
    assert [at(b"/b", n) for n in range(8)] == [None, None, 1, 1, 3, 3, 3, None]
    assert (at(b"/d/x", 4), at(b"/d/x", 5), at(b"/e/x", 4), at(b"/e/x", 5)) == (9, None, None, 9)
    with pytest.raises(WholeTreeError):
        at(b"/d", 0)
    with pytest.raises(WholeTreeError):
        at(b"/", 7)
