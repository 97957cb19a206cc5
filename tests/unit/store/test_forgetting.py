"""Histories forget: contents by their age and by a limit, old segments, and what was removed; what is shown stays."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.store import Store
from stratum.store.forgetting import carry_out, carry_over, plan, seal_idle
from stratum.store.fsck import check
from stratum.store.gc import Collected, collect
from stratum.store.layout import NoSpaceError
from stratum.store.retention import Retention
from stratum.store.segments import segment_name
from stratum.store.thinning import Kept, Version, lineage, staying
from stratum.tree.model import Directory, File, content_unknown, lookup, walk
from stratum.tree.operations import operations
from stratum.tree.oplog import Record, entry_of, inode_of, object_of, when_text
from stratum.tree.replay import Replay
from tests.support.effort import examples
from tests.support.stores import commit

APP = ("app", "dev")
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=timezone.utc)
NO_LIMIT = 1 << 62
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def at(age: timedelta) -> str:
    return when_text(int((NOW - age).timestamp() * 1000) * 1_000_000)


def version(n: int, age: timedelta, *, deleted: bool = False) -> Version:
    return Version(n, NOW - age, (b"%032d" % n, 100), deleted)


def test_which_versions_stay() -> None:
    ages = {
        1: 40 * DAY, 2: 31 * DAY, 3: 29 * DAY + 2 * HOUR, 4: 29 * DAY + HOUR, 5: 8 * DAY, 6: 7 * DAY + HOUR,
        7: 6 * DAY + 30 * HOUR / 60, 8: 6 * DAY + 10 * HOUR / 60, 9: 6 * DAY, 10: 2 * HOUR, 11: HOUR, 12: HOUR,
    }  # fmt: skip
    found = [v.n for v in staying([version(n, age) for n, age in ages.items()], NOW)]
    assert found == [12, 11, 10, 9, 8, 6, 5, 4]


def test_the_last_version_before_a_deletion_stays_a_month() -> None:
    versions = [
        version(1, 20 * DAY + 3 * HOUR, deleted=True),
        version(2, 20 * DAY + 2 * HOUR, deleted=True),
        version(3, 20 * DAY + HOUR),
        version(4, 20 * DAY),
    ]
    assert [v.n for v in staying(versions, NOW)] == [4, 2]
    assert staying([version(1, 31 * DAY, deleted=True)], NOW) == []


def test_a_version_of_an_unknown_time_stays() -> None:
    assert staying([Version(1, None, (b"x" * 32, 1), False)], NOW) != []


def named(letter: bytes, size: int = 100) -> bytes:
    return entry_of(File(0o100644, 0, 0, 0, size=size, digest=letter * 32))


def log_of(*operations: tuple[object, ...]) -> list[Record]:
    """(op, path, letter of the content, or the path of link or was)."""
    log = []
    for n, (op, path, *rest) in enumerate(operations, 1):
        what = rest[0] if rest else None
        fields: dict[str, object] = {}
        if op in ("rename", "link"):
            fields["was" if op == "rename" else "link"] = what
        elif op == "base":
            fields["commit"] = "ab" * 32
        elif what is not None:
            fields["entry"] = named(what)  # type: ignore[arg-type]
        log.append(Record(n, at(DAY * (100 - n)), str(op), path, **fields))  # type: ignore[arg-type]
    return log


def lost_and_shown(*operations: tuple[object, ...]) -> tuple[dict[bytes, str], str]:
    found = lineage(log_of(*operations))
    lost = {path: b"".join(v.object[0][:1] for v in versions).decode() for path, versions in found.lost.items()}
    return lost, b"".join(sorted(digest[:1] for digest in found.shown)).decode()


BASE = ("base", None)


def test_what_becomes_of_versions() -> None:
    assert lost_and_shown(BASE, ("create", b"/a", b"A"), ("write", b"/a", b"B")) == ({b"/a": "A"}, "B")
    assert lost_and_shown(BASE, ("create", b"/a", b"A"), ("setattr", b"/a", b"A")) == ({}, "A")
    assert lost_and_shown(BASE, ("create", b"/a", b"A"), ("delete", b"/a")) == ({b"/a": "A"}, "")
    assert lost_and_shown(BASE, ("version", b"/a", b"A"), ("create", b"/a", b"B")) == ({b"/a": "A"}, "B")
    assert lost_and_shown(BASE, ("create", b"/a", b"A"), BASE, ("create", b"/a", b"B")) == ({b"/a": "A"}, "B")


def test_a_renamed_version_is_shown_where_it_went() -> None:
    saves = [
        step
        for letter in (b"A", b"B", b"C")
        for step in (("create", b"/d/.new", letter), ("rename", b"/d/f", b"/d/.new"))
    ]
    assert lost_and_shown(BASE, *saves) == ({b"/d/f": "AB"}, "C")
    moved = [
        ("rename", b"/e/x", b"/d"),
        ("write", b"/e/x/f", b"D"),
        ("create", b"/d/.new", b"E"),
        ("delete", b"/d/.new"),
    ]
    assert lost_and_shown(BASE, *saves, *moved) == ({b"/d/f": "AB", b"/e/x/f": "C", b"/d/.new": "E"}, "D")


def test_a_linked_version_is_shown_while_one_name_has_it() -> None:
    linked = [("create", b"/a", b"A"), ("link", b"/b", b"/a"), ("delete", b"/a")]
    assert lost_and_shown(BASE, *linked) == ({b"/a": "A"}, "A")
    assert lost_and_shown(BASE, *linked, ("write", b"/b", b"B")) == ({b"/a": "A", b"/b": "A"}, "B")


def append(store: Store, log: Sequence[Record], *, seal: bool = True) -> None:
    with store.histories.writing(), store.locks.store():
        writer = store.histories.writer(*APP)
        writer.append(log)
        if seal:
            writer.seal()
        writer.close()


def add(store: Store, data: bytes) -> bytes:
    with store.begin("a version") as tx:
        digest = tx.add_bytes(data)
        tx.publish_objects()
    return entry_of(File(0o100644, os.geteuid(), os.getegid(), 0, size=len(data), digest=digest))


def forget(store: Store, most: int = NO_LIMIT, now: datetime = NOW) -> Collected:
    with store.locks.store():
        wanted = plan(store, most, now=now)
    with store.locks.store():
        dry = collect(store, Retention(timedelta()), {}, dry_run=True, forgotten=wanted)
    with store.locks.store(exclusive=True):
        carry_out(store, wanted)
        done = collect(store, Retention(timedelta()), {})
    assert (dry.objects, dry.objects_kept) == (done.objects, done.objects_kept)
    assert [f.problem for f in check(store).findings] == []
    return done


def begin(store: Store, age: timedelta) -> Directory:
    base = commit(store, {b"f": b"f" * 5000})
    store.worktrees.create("app", "dev", base)
    append(store, [Record(1, at(age), "base", commit=base)])
    return store.commits.tree(base)


def versions(store: Store, path: bytes, ages: Sequence[timedelta]) -> list[Record]:
    """Records by which ``path`` was written at each of these ages, from CHANGE 2 on."""
    return [
        Record(n, at(age), "create" if n == 2 else "write", path, add(store, b"%04d" % n * 1000), by="vim")
        for n, age in enumerate(ages, 2)
    ]


def test_thinned_versions_keep_their_records(store: Store) -> None:
    begin(store, 50 * DAY)
    log = versions(store, b"/v", [40 * DAY, 6 * DAY, 6 * DAY - HOUR / 60, HOUR, HOUR])
    append(store, log)
    done = forget(store)
    found = list(store.histories.records(*APP))[1:]
    assert [r.why for r in found] == ["thinned", "thinned", None, None, None]
    assert found[2:] == log[2:]
    for old, new in zip(log[:2], found[:2], strict=True):
        assert new.entry is not None
        assert old.entry is not None
        inode, before = inode_of(new.entry), inode_of(old.entry)
        assert content_unknown(inode)
        assert (inode.metadata(), inode.size) == (before.metadata(), before.size)  # type: ignore[attr-defined]
        assert (new.n, new.when, new.op, new.path, new.by) == (old.n, old.when, old.op, old.path, old.by)
    assert (done.objects, done.objects_kept) == (2, 4)
    assert forget(store).objects == 0


def test_what_is_shown_stays_however_old_it_is(store: Store) -> None:
    begin(store, 400 * DAY)
    append(store, versions(store, b"/v", [390 * DAY]))
    assert forget(store, 0).objects == 0


def test_a_limit_lets_the_oldest_go(store: Store) -> None:
    begin(store, 50 * DAY)
    append(store, versions(store, b"/v", [5 * HOUR, 4 * HOUR, 3 * HOUR, 2 * HOUR]))
    assert forget(store, 12_000).objects == 1
    assert [r.why for r in store.histories.records(*APP)][1:] == ["thinned", None, None, None]
    assert forget(store, 1).objects == 2
    assert [r.why for r in store.histories.records(*APP)][1:] == ["thinned"] * 3 + [None]


def test_what_is_being_appended_to_is_left_alone(store: Store) -> None:
    begin(store, 50 * DAY)
    append(store, versions(store, b"/v", [5 * HOUR, 4 * HOUR, 3 * HOUR]), seal=False)
    assert forget(store, 1).objects == 0
    with store.locks.store(), store.histories.writing():
        seal_idle(store, now=NOW + 2 * DAY)  # somebody watches
    assert forget(store, 1).objects == 0
    with store.locks.store():
        seal_idle(store, now=NOW)  # it is not a day old
        assert list(store.layout.history(*APP).glob("*.jsonl"))
        seal_idle(store, now=NOW + 2 * DAY)
    assert not list(store.layout.history(*APP).glob("*.jsonl"))
    assert forget(store, 1).objects == 2


def test_a_damaged_log_is_left_as_it_is(store: Store) -> None:
    begin(store, 50 * DAY)
    append(store, versions(store, b"/v", [45 * DAY, 40 * DAY]), seal=False)
    raw = store.layout.history(*APP) / segment_name(2)
    raw.write_bytes(raw.read_bytes().replace(b"create", b"creatE"))
    with store.locks.store():
        wanted = plan(store, 0, now=NOW)
    assert (wanted.going, wanted.rewritten) == (set(), [])


def test_a_full_disk_forgets_nothing_and_stops_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(store, 50 * DAY)
    append(store, versions(store, b"/v", [45 * DAY, HOUR]))
    with store.locks.store():
        wanted = plan(store, NO_LIMIT, now=NOW)
    assert wanted.rewritten

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("stratum.store.forgetting.write_atomic", full)
    with store.locks.store(exclusive=True):
        carry_out(store, wanted)
        assert collect(store, Retention(timedelta()), {}).objects == 0
    assert [r.why for r in store.histories.records(*APP)][1:] == [None, None]
    assert NoSpaceError.id == "failed"


def test_histories_of_removed_worktrees_go_a_month_later(store: Store) -> None:
    begin(store, 50 * DAY)
    append(store, versions(store, b"/v", [HOUR]))
    store.worktrees.remove("app", "dev")
    store.histories.retire(*APP)
    now = datetime.now(timezone.utc)
    assert forget(store, now=now + 29 * DAY).objects == 0
    assert store.histories.each() == [APP]
    done = forget(store, now=now + 31 * DAY)
    assert (done.objects, done.objects_kept, len(done.commits)) == (2, 0, 1)
    assert store.histories.each() == []


def state(store: Store, n: int) -> Directory:
    records = list(store.histories.epoch(*APP, n))
    assert records[0].commit is not None
    replay = Replay(store.commits.tree(records[0].commit))
    for record in records:
        replay.apply(record)
    return replay.root


def shape(root: Directory) -> list[tuple[object, ...]]:
    first: dict[int, bytes] = {}
    return [
        (path, type(inode), inode.metadata(), inode.content_key(), first.setdefault(id(inode), path))
        for path, inode in walk(root)
    ]


def old_log(store: Store, days: int = 100, each: int = 3) -> list[Directory]:
    """A log of a segment a day; the states after each of its records, from CHANGE 1 on."""
    root, states, rng = begin(store, days * DAY), [], random.Random(7)
    states.append(root)
    names = [b"/a", b"/b", b"/c", b"/d/x", b"/d/y"]
    for day in range(days - 1, 0, -1):
        log: list[Record] = []
        for _ in range(each):
            replay, n = Replay(states[-1]), len(states) + 1
            path, when = rng.choice(names), at(day * DAY)
            there = lookup(states[-1], path)
            if path.startswith(b"/d/") and lookup(states[-1], b"/d") is None:
                record = Record(n, when, "mkdir", b"/d", entry_of(Directory(0o40755, 0, 0, 5)))
            elif there is None and rng.random() < 0.2 and lookup(states[-1], b"/f") is not None:
                record = Record(n, when, "link", path, link=b"/f")
            elif there is not None and rng.random() < 0.3:
                record = Record(n, when, "delete", path)
            elif rng.random() < 0.2:
                entry = entry_of(File(0o100600, 0, 0, n, size=n + 100))
                record = Record(n, when, "write" if there else "create", path, entry, why="large")
            else:
                record = Record(n, when, "write" if there else "create", path, add(store, b"%05d" % n * 30))
            replay.apply(record)
            states.append(replay.root)
            log.append(record)
        append(store, log)
    return states


def thinned(now: Directory, before: Directory) -> bool:
    """Whether one tree is the other, but that contents are not known any more."""
    ours, theirs = shape(now), shape(before)
    return len(ours) == len(theirs) and all(
        a[:3] == b[:3] and (a[3] == b[3] or a[3] == (b[3][0], None, None))  # type: ignore[index]
        for a, b in zip(ours, theirs, strict=True)
    )


def test_old_segments_go_and_what_follows_stays_exact(store: Store) -> None:
    states = old_log(store)
    forget(store)
    log = store.histories.log(*APP)
    segments = log.segments()
    first = segments[0]
    assert first.carried > 100
    assert len(segments) < 40
    records = list(store.histories.records(*APP))
    assert records[0].op == "base"
    assert records[0].over != records[0].commit
    assert records[0].why == "what was before went with its age"
    assert shape(state(store, len(states))) == shape(states[-1])
    for n in range(first.carried, len(states) + 1):
        assert thinned(state(store, n), states[n - 1]), n
    assert store.histories.problems(*APP) == []
    assert all(not name.startswith("000000000001") for name in log.files())
    again = log.files()
    forget(store)
    assert log.files() == again
    later = NOW + 20 * DAY
    forget(store, now=later)
    forget(store, now=NOW + 100 * DAY)
    assert store.histories.log(*APP).segments()[0].carried > first.carried
    assert shape(state(store, len(states))) == shape(states[-1])


def test_old_segments_before_a_base_need_no_other(store: Store) -> None:
    root = begin(store, 200 * DAY)
    append(store, versions(store, b"/v", [190 * DAY, 180 * DAY]))
    base = commit(store, {b"g": b"g" * 3000})
    append(store, [Record(4, at(100 * DAY), "base", commit=base, why="reset")])
    forget(store)
    assert [segment.name for segment in store.histories.log(*APP).segments()] == [segment_name(4, sealed=True)]
    assert shape(state(store, 4)) == shape(store.commits.tree(base)) != shape(root)


def test_a_removal_of_old_segments_that_was_cut_off_anywhere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    states = old_log(store, 80)
    directory = store.layout.history(*APP)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    wanted: list[str] = []

    def cut_at(count: int) -> Callable[..., None]:
        def unlink(log: object, name: str) -> None:
            wanted.append(name)
            if len(wanted) > count:
                raise KeyboardInterrupt
            (directory / name).unlink()

        return unlink

    for count in (0, 1, 7, 20):
        for path in directory.iterdir():
            path.unlink()
        for name, data in before.items():
            (directory / name).write_bytes(data)
        wanted.clear()
        with monkeypatch.context() as patch, store.locks.store(exclusive=True):
            patch.setattr("stratum.store.forgetting._unlink", cut_at(count))
            with pytest.raises(KeyboardInterrupt):
                carry_over(store, *APP, NOW)
        assert store.histories.problems(*APP) == []
        assert shape(state(store, len(states))) == shape(states[-1])
        with store.locks.store(exclusive=True):
            carry_over(store, *APP, NOW)
        names = store.histories.log(*APP).files()
        assert [segment.name for segment in store.histories.log(*APP).segments()] == names
        assert len(names) < 45


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), max_size=40), st.integers(0, 5000))
@settings(max_examples=examples(100))
def test_whatever_goes_is_not_shown(steps: list[tuple[int, int, int]], most: int) -> None:
    """Against a replay: all that the tree shows at the end of a log stays, whatever the rules say."""
    root = Directory(0o40755, 0, 0, 0, children={b"d%d" % n: Directory(0o40755, 0, 0, 0) for n in range(3)})
    log = [Record(1, at(99 * DAY), "base", commit="ab" * 32)]
    tree = root
    for what, first, second in steps:
        new = Replay(tree)
        path, other = b"/d%d/f%d" % (first % 3, first), b"/d%d/f%d" % (second % 3, second)
        try:
            if what == 3:
                record = Record(len(log) + 1, at(60 * DAY), "rename", b"/d%d" % (3 + first), was=b"/d%d" % (second % 3))
            elif what == 2:
                record = Record(len(log) + 1, at(60 * DAY), "rename", path, was=other)
            elif what == 1:
                record = Record(len(log) + 1, at(60 * DAY), "delete", path)
            else:
                op = "write" if lookup(tree, path) else "create"
                record = Record(len(log) + 1, at(60 * DAY), op, path, named(bytes((len(log),)), 100 + second))
            new.apply(record)
        except Exception:  # not possible here
            continue
        tree = new.root
        log.append(record)
    kept = Kept()
    kept.add(lineage(log), NOW)
    kept.limit(most)
    shown = {inode.digest for _, inode in walk(tree) if isinstance(inode, File)}
    assert set(kept.shown) == shown
    assert all(digest in kept for digest in shown)
    assert operations(tree, tree) == []
    assert all(object_of(r.entry) for r in log if r.entry)
