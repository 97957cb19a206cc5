from __future__ import annotations

import os
import random
from datetime import datetime, timezone
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum import toml
from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError
from stratum.frozen import replace
from stratum.store import Store
from stratum.store.clock import commit_time, rfc3339
from stratum.store.commits import _all_not_below, _changed_files
from stratum.store.metadata import _READ_SLOWLY, METADATA_MAX, CommitMeta, Statistics
from stratum.store.treerecord import decode, encode, join_file, small_whole, split_file
from stratum.tree.dump import read_dump, write_dump
from stratum.tree.merkle import Dumped, MerkleNodes
from stratum.tree.model import Directory, File
from stratum.tree.splice import SplicedDump
from tests.support.effort import examples
from tests.support.stores import check, commit, directory, file, leftovers, snapshot
from tests.support.trees import trees
from tests.unit.tree.test_splice import change, open_dump


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


META = CommitMeta(
    metadata_hash="a" * 64,
    merkle_root="b" * 64,
    timestamp="2025-06-09T10:30:00Z",
    file_count=3,
    total_size=10,
    leaf_count=4,
    tree_depth=2,
)


def test_a_commit_is_written_as_designed(store: Store) -> None:
    when = datetime(2025, 6, 9, 10, 30, tzinfo=timezone.utc)
    parent = commit(store, {})
    with store.begin("a test") as tx:
        hard_link = file(tx, b"x" * 100)
        root = directory(
            {b"a": hard_link, b"b": hard_link, b"c": file(tx, b"small"), b"d": directory({b"e": file(tx, b"")})}
        )
        meta = store.commits.write(tx, root, parent=parent, message="why", origin={"kind": "import"}, timestamp=when)
    path = store.root / "commits" / meta.metadata_hash
    assert set(os.listdir(path.parent)) == {parent, path.name}
    metadata, record = split_file(path.read_bytes(), str(path))
    dump = decode(record, meta.metadata_hash, "it").lines
    assert dump == write_dump(root)
    assert blake3(dump).hexdigest() == meta.metadata_hash
    tables = toml.loads(metadata.decode())
    assert len(tables.pop("check")["sha256"]) == 64
    assert tables == {
        "commit": {
            "merkle_root": meta.merkle_root,
            "metadata_hash": meta.metadata_hash,
            "timestamp": "2025-06-09T10:30:00Z",
            "parent_commit": parent,
            "message": "why",
        },
        "files": {"count": 4, "total_size": 105},
        "merkle": {"leaf_count": 6, "tree_depth": 3},
        "origin": {"kind": "import"},
    }
    assert store.commits.meta(meta.metadata_hash) == meta
    assert write_dump(store.commits.tree(meta.metadata_hash)) == dump
    assert store.commits.root(meta.metadata_hash).metadata() == root.metadata()
    assert not store.commits.root(meta.metadata_hash).children
    assert not leftovers(store)
    check(store)


def test_a_commit_over_an_opened_tree_is_the_one_of_the_whole_tree(store: Store, tmp_path: Path) -> None:
    when = datetime(2025, 6, 9, 10, 30, tzinfo=timezone.utc)
    with store.begin("a test") as tx:
        linked = file(tx, b"l" * 80)
        inner = {b"x": directory({b"a": file(tx, b"a" * 70), b"l": linked}), b"y": directory({b"b": file(tx, b"b")})}
        base = directory({b"in": directory(inner), b"l": linked, b"gone": directory({b"c": file(tx, b"c" * 90)})})
        parent = store.commits.write(tx, base).metadata_hash
        known = store.commits.open_tree(parent)
        children = {name: child for name, child in known.children.items() if name != b"gone"}
        root = known.with_children(children | {b"new": file(tx, b"n" * 75)})
        meta = store.commits.write(tx, root, known=known, timestamp=when)

        plain = store.commits.tree(meta.metadata_hash)
        dump, path = store.commits.dump(meta.metadata_hash).text, store.layout.commit(meta.metadata_hash)
        path.rename(tmp_path / "spliced")
        assert store.commits.write(tx, plain, timestamp=when) == meta
    assert store.commits.dump(meta.metadata_hash).text == dump
    assert (meta.file_count, meta.total_size) == (5, 70 + 80 + 1 + 75)
    check(store)


@settings(max_examples=examples(100), deadline=None)
@given(trees, st.integers(0, 1 << 32), st.integers(1, 6))
def test_what_changed_of_an_opened_tree_is_all_that_has_to_be_counted(tree: Directory, seed: int, changes: int) -> None:
    known, rng = open_dump(write_dump(tree)), random.Random(seed)
    root = known
    for _ in range(changes):
        root = change(root, rng)
    found, before, after = _changed_files(root, known), Statistics(known), Statistics(root)
    if found is None:
        return
    new, old, count = found
    assert after.count - before.count == count
    assert after.total_size - before.total_size == sum(f.size for f in new.values()) - sum(f.size for f in old.values())
    assert list(map(id, new.values())) == list(new)
    assert set(new) == set(map(id, _all_not_below(root, known)))


def test_an_equal_tree_is_the_same_commit_and_leaves_it_untouched(store: Store) -> None:
    with store.begin("a test") as tx:
        first = store.commits.write(tx, directory({b"a": file(tx, b"x" * 100)}), message="first")
    before = snapshot(store.root / "commits")
    with store.begin("a test") as tx:
        assert store.commits.write(tx, directory({b"a": file(tx, b"x" * 100)}), message="second") == first
    assert snapshot(store.root / "commits") == before


def test_writing_an_existing_commit_restores_its_lost_objects(store: Store) -> None:
    commit(store, {b"a": b"x" * 100})
    digest = verity_digest(b"x" * 100)
    store.objects.path(digest).unlink()
    commit(store, {b"a": b"x" * 100})
    check(store)
    assert store.objects.has(digest, 100)


@pytest.mark.parametrize("size", [99, 100])
def test_no_commit_without_its_objects(store: Store, size: int) -> None:
    with store.begin("a test") as tx:
        digest = tx.add_bytes(b"x" * 100)
        tx.publish_objects()
    if size == 100:
        store.objects.path(digest).unlink()
    root = directory({b"d": directory({b"a": File(0o100644, 0, 0, 0, size=size, digest=digest)})})
    with store.begin("a test") as tx, pytest.raises(DamagedError, match=digest.hex()):
        store.commits.write(tx, root)
    assert store.commits.list() == []
    assert not leftovers(store)


def test_objects_of_known_subtrees_are_not_looked_for(store: Store) -> None:
    base = store.commits.tree(commit(store, {b"a": b"x" * 100}))
    base_root = directory({b"d": base})
    with store.begin("a test") as tx:
        store.commits.write(tx, base_root)
    lost = store.objects.path(verity_digest(b"x" * 100))
    lost.rename(lost.with_suffix(".away"))
    with store.begin("a test") as tx:
        changed = directory({b"d": base, b"new": file(tx, b"y" * 100)})
        store.commits.write(tx, changed, known=base_root)
    lost.with_suffix(".away").rename(lost)
    check(store)


def test_lookups(store: Store) -> None:
    made = [commit(store, {b"%d" % number: b""}) for number in range(5)]
    assert store.commits.list() == sorted(made)
    assert store.commits.exists(made[0])
    assert not store.commits.exists("0" * 64)
    assert not store.commits.exists("../commits/" + made[0])
    assert store.commits.find(made[0]) == [made[0]]
    assert store.commits.find(made[0][:7]) == [made[0]]
    assert store.commits.find(made[0][:6]) == []
    assert store.commits.find("0" * 64) == []
    for call in (store.commits.meta, store.commits.tree, store.commits.dump, store.images.ensure):
        with pytest.raises(NotFoundError, match="no commit"):
            call("0" * 64)


def test_damage_is_named(store: Store) -> None:
    made, other = commit(store, {b"a": b"1"}), commit(store, {b"a": b"2"})
    path = store.root / "commits" / made
    metadata, good = split_file(path.read_bytes(), "it")
    strange, record = split_file((store.root / "commits" / other).read_bytes(), "it")
    lying = encode(small_whole(b"/ 0\n"), made)
    for bad in (b"", b"x", good[:-1], good + b"x", record, lying):
        path.write_bytes(join_file(metadata, bad))
        with pytest.raises(DamagedError, match=made):
            store.commits.tree(made)
        assert store.commits.meta(made).metadata_hash == made
    for content in (b"", b"\xff", metadata.replace(b"count", b"cuont"), strange):
        path.write_bytes(join_file(content, good))
        with pytest.raises(DamagedError, match=made):
            store.commits.meta(made)
    path.write_bytes(metadata)
    for read in (store.commits.meta, store.commits.tree):
        with pytest.raises(DamagedError, match=f"{made} is damaged: it is cut short"):
            read(made)


def test_metadata_and_dump_are_not_read_through_links(store: Store, tmp_path: Path) -> None:
    made = commit(store, {b"a": b"1"})
    path = store.root / "commits" / made
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(DamagedError, match="symbolic link"):
        store.commits.meta(made)
    with pytest.raises(DamagedError, match="symbolic link"):
        store.trees.record(made)
    assert not store.commits.exists(made)


@given(
    st.builds(
        replace,
        st.just(META),
        file_count=st.integers(0, 2**63 - 1),
        total_size=st.integers(0, 2**63 - 1),
        parent_commit=st.none() | st.just("d" * 64),
        message=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        origin=st.none() | st.dictionaries(st.text("abc", min_size=1), st.text("xyz") | st.integers(0, 9)),
    )
)
def test_metadata_round_trips(meta: CommitMeta) -> None:
    data = meta.to_toml()
    for _ in range(_READ_SLOWLY + 1):  # then it is read another way
        assert CommitMeta.from_toml(data, "here") == meta
    with pytest.raises(DamagedError):
        CommitMeta.from_toml(data.replace(b"2025", b"2024"), "here")


def test_metadata_that_toml_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="message or origin"):
        replace(META, message="\udc80").to_toml()
    with pytest.raises(UsageError, match="message or origin"):
        replace(META, origin={"a": None}).to_toml()


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("commit", "metadata_hash", "a" * 63),
        ("commit", "metadata_hash", 1),
        ("commit", "merkle_root", "B" * 64),
        ("commit", "timestamp", 5),
        ("commit", "parent_commit", "../../etc"),
        ("commit", "message", ["x"]),
        ("files", "count", -1),
        ("files", "count", True),
        ("files", "total_size", 1.5),
    ],
)
def test_metadata_of_the_wrong_form_is_damage(table: str, key: str, value: object) -> None:
    tables = META.to_table()
    tables[table][key] = value
    with pytest.raises(DamagedError, match=rf"here: \[{table}\] {key}"):
        CommitMeta.from_toml(toml.dumps(tables).encode(), "here")


@given(st.binary())
def test_any_bytes_are_metadata_or_damage(data: bytes) -> None:
    with pytest.raises(DamagedError):
        CommitMeta.from_toml(data, "here")


def test_a_dump_that_could_not_be_read_again_is_not_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stratum.tree.blocks.DUMP_MAX", 100)
    with store.begin("a test") as tx, pytest.raises(StratumError, match="too large"):
        store.commits.write(tx, directory({b"a" * 100: Directory(0o40755, 0, 0, 0)}))
    assert store.commits.list() == []


def test_metadata_that_could_not_be_pulled_are_not_written(store: Store) -> None:
    with store.begin("a test") as tx:
        short = store.commits.write(tx, directory({}), message="")
    most = METADATA_MAX - len(short.to_toml())
    with store.begin("a test") as tx, pytest.raises(UsageError, match=f"message and origin need {METADATA_MAX + 1} b"):
        store.commits.write(tx, directory({}, mtime=1), message="x" * (most + 1))
    assert store.commits.list() == [short.metadata_hash]
    with store.begin("a test") as tx:
        made = store.commits.write(tx, directory({}, mtime=1), message="x" * most)
    assert len(made.to_toml()) == METADATA_MAX


def test_a_tree_that_was_read_from_a_dump_is_not_dumped_again(store: Store, tmp_path: Path) -> None:
    other, when = Store.create(tmp_path / "other"), datetime(2025, 6, 9, tzinfo=timezone.utc)
    files = {b"%d" % number: file_of(number) for number in range(40_000)}
    with store.begin("a test") as tx:
        meta = store.commits.write(tx, directory(files), timestamp=when)
    text = store.commits.dump(meta.metadata_hash).text
    assert text is not None
    dump = SplicedDump([text])
    with other.begin("a test") as tx:
        read_from = Dumped(dump, MerkleNodes.of([text]))
        assert other.commits.write(tx, read_dump(text), timestamp=when, read_from=read_from) == meta
    assert list(store.trees.frames()) == list(other.trees.frames()) != []
    first, second = (each.layout.commit(meta.metadata_hash).read_bytes() for each in (store, other))
    assert first == second


def file_of(number: int) -> File:
    return File(0o100644, 0, 0, number, size=5, content=b"%05d" % number)


def test_times() -> None:
    assert commit_time({"SOURCE_DATE_EPOCH": "0"}) == datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert rfc3339(commit_time({"SOURCE_DATE_EPOCH": "1749465000"})) == "2025-06-09T10:30:00Z"
    assert rfc3339(commit_time({"SOURCE_DATE_EPOCH": "-62135596800"})) == "0001-01-01T00:00:00Z"
    assert commit_time({}).tzinfo is timezone.utc
    for bad in ("soon", "1.5", "1" * 30):
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
            commit_time({"SOURCE_DATE_EPOCH": bad})
