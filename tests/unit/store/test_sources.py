"""Sources: what a commit says of where its objects can be fetched from, and the marker that some may be missing."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stratum.errors import DamagedError, NotFoundError, UsageError
from stratum.frozen import replace
from stratum.store import Store
from stratum.store.catalogchange import write_change
from stratum.store.fsck import check
from stratum.store.sources import (
    PARTIAL,
    SOURCES,
    SOURCES_MAX,
    WHOLE,
    CommitSource,
    joined,
    not_listed,
    read_sources,
    write_sources,
)
from stratum.store.tables import write_tables
from tests.support.stores import catalog, commit, partial_commit, source

FILES = {b"a": b"a" * 100, b"b": b"b" * 200}
LATER = "2026-02-02T00:00:00Z"


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def test_what_is_recorded_is_read_again(store: Store) -> None:
    there = commit(store, FILES)
    assert store.sources.of(there) == []
    one = replace(source(FILES), plain_http=True, ca_file="/etc/ca.pem", tag=None)
    two = source(FILES, "oci:/some/dir", "push")
    with store.begin("a test") as tx:
        store.sources.record(tx, there, one, catalog(FILES))
        store.sources.record(tx, there, two, catalog(FILES))
        assert store.sources.of(there) == [two, one]
        again = replace(one, seen=LATER, tag="v2", plain_http=False)
        store.sources.record(tx, there, again, None)
    assert store.sources.of(there) == [again, two], "the same place and manifest is one source"
    assert not store.sources.is_partial(there)
    assert sorted(store.sources.manifests()) == sorted([one.manifest, two.manifest])
    found = store.sources.catalog(one.manifest)
    found.check()
    assert {size for _, size in found.digests()} == {100, 200}
    assert list(store.sources.commits()) == [there]
    assert again.place == "reg.example/app"


def test_a_source_is_seen_gone_and_forgotten(store: Store) -> None:
    there, one = commit(store, FILES), source(FILES)
    with store.begin("a test") as tx:
        store.sources.record(tx, there, one, catalog(FILES))
        store.sources.seen(tx, there, one.reference, LATER, gone=True)
        store.sources.seen(tx, there, one.reference, "2026-03-03T00:00:00Z", gone=True)
        assert store.sources.of(there) == [replace(one, gone=LATER)], "since when it is gone, and when it was seen"
        store.sources.seen(tx, there, one.reference, "2026-04-04T00:00:00Z")
        assert store.sources.of(there) == [replace(one, seen="2026-04-04T00:00:00Z")]
        store.sources.forget(tx, there, one.reference)
    assert store.sources.of(there) == []


def test_the_mark_is_set_and_cleared(store: Store) -> None:
    there = commit(store, FILES)
    with store.begin("a test") as tx:
        store.sources.set_partial(tx, there)
        store.sources.set_partial(tx, there)
        assert store.sources.is_partial(there)
        assert store.sources.any_partial()
        store.sources.clear_partial(there)
        store.sources.clear_partial(there)
    assert not store.sources.is_partial(there)
    assert not store.sources.any_partial()
    assert not store.sources.is_partial("0" * 64)


def test_a_catalog_that_is_not_what_it_should_be_is_written_anew(store: Store) -> None:
    there, one = commit(store, FILES), source(FILES)
    path = store.sources.catalog_path(one.manifest)
    for spoil in (lambda: path.write_bytes(b"x"), path.unlink, lambda: (path.unlink(), path.symlink_to("/etc/passwd"))):
        with store.begin("a test") as tx:
            store.sources.record(tx, there, one, catalog(FILES))
        store.sources.catalog(one.manifest).check()
        assert not path.is_symlink()
        spoil()
        with pytest.raises((DamagedError, NotFoundError)):
            store.sources.catalog(one.manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"reference": None},
        {"reference": "reg.example/app@sha256:" + "0" * 64},
        {"reference": "reg.example/\x1b[31m@{manifest}"},
        {"reference": "x" * 9000 + "@{manifest}"},
        {"manifest": "../../../etc"},
        {"manifest": 3},
        {"tag": ""},
        {"seen": "yesterday"},
        {"gone": "2026-01-01"},
        {"kind": "magic"},
        {"plain_http": "yes"},
        {"ca_file": "relative.pem"},
    ],
)
def test_what_no_writer_wrote_is_damage(change: dict[str, object]) -> None:
    good = source(FILES)
    table = {"reference": good.reference, "manifest": good.manifest, "seen": good.seen, "kind": good.kind}
    assert read_sources(write_tables({"source": [table | {"later": 1}]}, "x"), "a file") == [replace(good, tag=None)]
    for key, value in change.items():
        if value is None:
            del table[key]
        else:
            table[key] = value.replace("{manifest}", good.manifest) if isinstance(value, str) else value  # type: ignore[assignment]
    with pytest.raises(DamagedError, match="a file is damaged"):
        read_sources(write_tables({"source": [table]}, "x"), "a file")


def test_a_file_that_is_no_list_of_sources_is_damage() -> None:
    for table in ({"source": 1}, {"source": [1]}, {"source": [{}]}):
        with pytest.raises(DamagedError):
            read_sources(write_tables(table, "x"), "a file")
    one = write_sources([source(FILES)])
    for spoiled in (one[:-1] + b"x", one.replace(b"pull", b"push"), one[:60]):
        with pytest.raises(DamagedError):
            read_sources(spoiled, "a file")
    with pytest.raises(UsageError):
        write_sources([replace(source(FILES), reference="oci:/\udcff")])


def test_a_damaged_list_is_begun_anew(store: Store) -> None:
    there, one = commit(store, FILES), source(FILES)
    path = store.layout.beside(there, SOURCES)
    path.write_bytes(b"source = [")
    with pytest.raises(DamagedError):
        store.sources.of(there)
    with store.begin("a test") as tx:
        store.sources.record(tx, there, one, catalog(FILES))
    assert store.sources.of(there) == [one]
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(DamagedError):
        store.sources.of(there)


def test_of_too_many_sources_the_longest_unseen_go() -> None:
    def numbered(number: int) -> CommitSource:
        seen = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        return replace(source(FILES, f"reg.example/app{number}"), seen=seen)

    many = [numbered(number) for number in range(SOURCES_MAX + 2)]
    many[-1] = replace(many[-1], gone=LATER)
    assert joined(many, many) == many[1:-1]
    assert len(read_sources(write_sources(many[1:-1]), "a file")) == SOURCES_MAX
    with pytest.raises(DamagedError):
        read_sources(write_sources(many), "a file")


def test_a_catalog_is_a_change_of_anothers(store: Store) -> None:
    """It shares the file of that, whatever becomes of the other, and is a change of the same when it is changed."""
    there, one, two, three = commit(store, FILES), source(FILES), source(FILES, "reg.example/b"), source(FILES, "c")
    sources = store.sources
    with store.begin("a test") as tx:
        sources.record(tx, there, one, catalog(FILES))
        with pytest.raises(NotFoundError):
            sources.put_catalog(tx, three.manifest, b"", two.manifest)
        sources.record(tx, there, two, write_change(sources.catalog(one.manifest), {0: 0}, [], {}), one.manifest)
        shutil.rmtree(sources.catalog_path(one.manifest).parent)
        sources.put_catalog(tx, three.manifest, write_change(sources.catalog(two.manifest), {}, [], {}), two.manifest)
    for manifest in (two.manifest, three.manifest):
        sources.catalog(manifest).check()
        assert [size for _, size in sources.catalog(manifest).digests()] == [200]
        assert sources.catalog_path(manifest).with_name(WHOLE).read_bytes() == catalog(FILES)
    sources.catalog_path(two.manifest).with_name(WHOLE).unlink()
    for damage in (None, catalog({b"x": b"x" * 300})):  # that of another
        if damage is not None:
            sources.catalog_path(two.manifest).with_name(WHOLE).write_bytes(damage)
        with pytest.raises(DamagedError):
            sources.catalog(two.manifest)
        assert [found.path for found in check(store).findings if found.kind == "catalog"]
    with store.begin("a test") as tx:
        sources.put_catalog(tx, two.manifest, catalog(FILES))
    assert len(sources.catalog(two.manifest)) == 2
    assert os.listdir(sources.catalog_path(two.manifest).parent) == ["catalog"]


def test_a_catalog_lists_objects_of_their_size(store: Store) -> None:
    many = {b"%d" % number: b"%d" % number * 100 for number in range(100)}
    data = catalog(many)
    listed = dict(store_digests(data))
    one = next(iter(listed))
    for objects in (listed, {one: listed[one]}):
        assert not_listed(objects, data) == {}
        assert not_listed(objects | {bytes(32): 5}, data) == {bytes(32): 5}
        assert not_listed(objects | {one: 5}, data) == {one: 5}


def store_digests(data: bytes) -> list[tuple[bytes, int]]:
    from stratum.store.catalog import Catalog

    return list(Catalog(data).digests())


def test_a_partial_commit_has_its_files_from_the_beginning(store: Store) -> None:
    there = partial_commit(store, FILES)
    assert sorted(os.listdir(store.layout.commits)) == [there, f"{there}.{PARTIAL}", f"{there}.{SOURCES}"]
    assert store.layout.beside(there, PARTIAL).read_bytes() == b""
    assert store.sources.of(there) == [source(FILES)]


def test_many_who_record_at_once_forget_nothing(store: Store) -> None:
    there = commit(store, FILES)
    places = [f"reg.example/app{number}" for number in range(12)]

    def record(place: str) -> None:
        mine = Store.open(store.root)
        with mine.begin("a test") as tx:
            mine.sources.record(tx, there, source(FILES, place), catalog(FILES))

    with ThreadPoolExecutor(len(places)) as pool:
        list(pool.map(record, places))
    assert {found.place for found in store.sources.of(there)} == set(places)


def test_a_planted_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    there = commit(store, FILES)
    (tmp_path / "theirs").mkdir()
    store.layout.sources.symlink_to(tmp_path / "theirs")
    with store.begin("a test") as tx, pytest.raises(DamagedError, match="is not a directory"):
        store.sources.record(tx, there, source(FILES), catalog(FILES))
    with pytest.raises(DamagedError):
        store.sources.manifests()
    assert os.listdir(tmp_path / "theirs") == []
