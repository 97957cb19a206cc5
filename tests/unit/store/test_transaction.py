from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError, ExistsError, NotFoundError, StratumError
from stratum.store import Store
from stratum.store.objects import Staging
from stratum.store.transaction import Transaction
from tests.support.effort import examples
from tests.support.stores import check, leftovers


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def test_objects_appear_when_they_are_published(store: Store) -> None:
    data = b"some bytes" * 1000
    with store.begin("a test") as tx:
        digest = tx.add_bytes(data)
        assert digest == verity_digest(data)
        assert tx.has(digest, len(data))
        assert not store.objects.has(digest)
        assert not tx.published(digest)
        assert tx.publish_objects() == 1
        assert tx.published(digest)
        assert store.objects.has(digest, len(data))
    path = store.objects.path(digest)
    assert path == store.root / "objects" / digest.hex()[:2] / digest.hex()[2:]
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert store.objects.size(digest) == len(data)
    assert list(store.objects.list()) == [(digest, len(data))]
    assert not leftovers(store)


def test_what_was_not_published_goes(store: Store) -> None:
    with store.begin("a test") as tx:
        digest = tx.add_bytes(b"x")
        tx.write_file(tx.new_path("notes"), b"scratch")
    assert not store.objects.has(digest)
    assert not leftovers(store)


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.begin("a test") as tx:
            tx.add_bytes(b"x")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not leftovers(store)


def test_what_is_there_is_not_written_again(store: Store) -> None:
    with store.begin("a test") as tx:
        digest = tx.add_bytes(b"x" * 100)
        assert tx.add_bytes(b"x" * 100) == digest
        assert tx.add_pieces([b"x" * 40, b"", b"x" * 60], 100) == digest
        assert len(os.listdir(tx.object_staging)) == 1
        tx.publish_objects()
        inode = store.objects.path(digest).stat().st_ino
        assert tx.add_bytes(b"x" * 100) == digest
    with store.begin("a test") as tx:
        assert tx.add_bytes(b"x" * 100) == digest
        assert not os.listdir(tx.object_staging)
        (tx.object_staging / "again").write_bytes(b"x" * 100)
        tx.stage(digest, 100, "again")
        assert tx.publish_objects() == 0
    assert store.objects.path(digest).stat().st_ino == inode


@settings(max_examples=examples(30))
@given(st.lists(st.binary(max_size=9000), max_size=6))
def test_streams(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    store = Store.create(tmp_path_factory.mktemp("streams") / "store")
    with store.begin("a test") as tx:
        for data in contents:
            assert tx.add_pieces([data[:4000], data[4000:]], len(data)) == verity_digest(data)
        tx.publish_objects()
    assert dict(store.objects.list()) == {verity_digest(data): len(data) for data in contents}
    check(store)


@pytest.mark.parametrize(("size", "message"), [(99, "more than the 99 bytes"), (101, "only 100 of the 101 bytes")])
def test_a_stream_of_another_size_is_refused(store: Store, size: int, message: str) -> None:
    with store.begin("a test") as tx:
        with pytest.raises(DamagedError, match=message):
            tx.add_pieces([b"x" * 100], size)
        assert tx.publish_objects() == 0
    assert not list(store.objects.list())


def test_a_short_staged_file_never_becomes_an_object(store: Store) -> None:
    digest = verity_digest(b"x" * 100)
    with store.begin("a test") as tx:
        (tx.object_staging / "part").write_bytes(b"x" * 99)
        tx.stage(digest, 100, "part")
        with pytest.raises(StratumError, match="99 bytes on disk instead of 100"):
            tx.publish_objects()
    assert not store.objects.has(digest)
    assert not leftovers(store)


def test_an_object_of_the_wrong_size_is_replaced(store: Store) -> None:
    with store.begin("a test") as tx:
        digest = tx.add_bytes(b"x" * 100)
        tx.publish_objects()
    store.objects.path(digest).unlink()
    store.objects.path(digest).write_bytes(b"x" * 50)
    with store.begin("a test") as tx:
        tx.add_bytes(b"x" * 100)
        tx.publish_objects()
    assert store.objects.path(digest).read_bytes() == b"x" * 100


def test_something_else_in_place_of_an_object_is_damage(store: Store) -> None:
    digest = verity_digest(b"x" * 100)
    store.objects.path(digest).mkdir(parents=True)
    assert not store.objects.has(digest)
    with store.begin("a test") as tx:
        tx.add_bytes(b"x" * 100)
        with pytest.raises(DamagedError):
            tx.publish_objects()
    with pytest.raises(DamagedError):
        store.objects.open(digest)
    assert not list(store.objects.list())


def test_planted_links_are_not_followed(store: Store, tmp_path: Path) -> None:
    data = b"x" * 100
    digest = verity_digest(data)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / digest.hex()[2:]).write_bytes(data)
    store.objects.path(digest).parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="symbolic link"):
        store.objects.open(digest)
    other = b"y" * 100
    while verity_digest(other)[0] != digest[0]:
        other += b"y"
    with store.begin("a test") as tx:
        tx.add_bytes(other)
        with pytest.raises(DamagedError, match="symbolic link"):
            tx.publish_objects()
    assert len(os.listdir(tmp_path / "elsewhere")) == 1


def test_damage_is_found_by_reading(store: Store) -> None:
    with store.begin("a test") as tx:
        digest = tx.add_bytes(b"x" * 100)
        tx.publish_objects()
    assert store.objects.verify(digest) == 100
    store.objects.path(digest).chmod(0o644)
    store.objects.path(digest).write_bytes(b"x" * 99 + b"y")
    with pytest.raises(DamagedError, match=digest.hex()):
        store.objects.verify(digest)
    with pytest.raises(NotFoundError):
        store.objects.verify(bytes(32))


def _stage(directory: Path, number: int) -> tuple[bytes, int, str]:
    data = b"%d" % number * 1000
    name = f"worker-{number}"
    (directory / name).write_bytes(data)
    return verity_digest(data), len(data), name


def test_workers_write_side_by_side(store: Store) -> None:
    with store.begin("a test") as tx:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            staged = pool.starmap(_stage, [(tx.object_staging, number) for number in range(20)])
        for digest, size, name in staged:
            tx.stage(digest, size, name)
        assert tx.publish_objects() == 20
    check(store)
    assert not leftovers(store)


def _stage_in_shards(store: Store, tx: Transaction, numbers: range) -> list[bytes]:
    digests = []
    for number in numbers:
        data = b"%d" % number * 100
        digest = verity_digest(data)
        Path(Staging(str(tx.object_staging)).place(digest)).write_bytes(data)
        tx.stage(digest, len(data))
        digests.append(digest)
    return digests


@pytest.mark.parametrize("complete", [False, True])
def test_shards_that_the_store_lacks_and_has(store: Store, complete: bool) -> None:
    with store.begin("a test") as tx:
        digests = _stage_in_shards(store, tx, range(100))
        assert tx.publish_objects(complete=complete) == 100
        digests += _stage_in_shards(store, tx, range(50, 200))
        assert tx.publish_objects(complete=complete) == 100
    assert {digest for digest, _ in store.objects.list()} == set(digests)
    for path in (store.root / "objects").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o444)
    check(store)


def test_what_is_not_staged_does_not_come_along(store: Store) -> None:
    with store.begin("a test") as tx:
        digests = _stage_in_shards(store, tx, range(100))
        for directory in tx.object_staging.iterdir():
            (directory / ("0" * 62)).write_text("half an obj")
        assert tx.publish_objects(complete=True) == 100
    assert {digest for digest, _ in store.objects.list()} == set(digests)
    assert len(list((store.root / "objects").glob("??/*"))) == 100


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "ab/", "ab/cd"])
def test_names_that_no_staged_object_has(store: Store, name: str) -> None:
    with store.begin("a test") as tx, pytest.raises(ValueError, match="staged"):
        tx.stage(bytes(32), 1, name)


def test_a_forked_child_that_leaves_the_block_changes_nothing(store: Store) -> None:
    with store.begin("a test") as tx:
        digest = tx.add_bytes(b"x")
        child = os.fork()
        if child == 0:
            tx.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert tx.publish_objects() == 1
    assert store.objects.has(digest)


def _killed_in_a_transaction(root: Path) -> None:
    with Store.open(root).begin("being killed") as tx:
        tx.add_bytes(b"lost")
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_dead_are_collected_and_the_living_are_not(store: Store) -> None:
    for _ in range(2):
        process = multiprocessing.get_context("fork").Process(target=_killed_in_a_transaction, args=(store.root,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        process.close()
    dead = leftovers(store)
    assert len(dead) >= 1
    with store.begin("living") as living:
        digest = living.add_bytes(b"kept")
        assert leftovers(store) == [living.directory.name]
        with Store.open(store.root).begin("another") as another:
            assert leftovers(store) == sorted([living.directory.name, another.directory.name])
        assert leftovers(store) == [living.directory.name]
        living.publish_objects()
    assert store.objects.has(digest)
    assert not leftovers(store)


def test_the_owner_is_named(store: Store) -> None:
    with store.begin("importing /srv") as tx:
        assert (tx.directory / "owner").read_text() == f"process {os.getpid()}: importing /srv\n"


def test_files_links_and_directories_are_placed_in_one_step(store: Store) -> None:
    target = store.root / "refs" / "thing"
    with store.begin("a test") as tx:
        tx.place_file(b"one", target)
        tx.place_file(b"two", target)
        assert target.read_bytes() == b"two"
        tx.place_symlink("nowhere", target)
        assert os.readlink(target) == "nowhere"
        store.transactions.discard(target)
        assert not os.path.lexists(target)
        for content in (b"first", b"second"):
            source = tx.new_path("directory")
            tx.make_directory(source)
            tx.write_file(source / "file", content)
            if content == b"first":
                tx.place(source, target)
                continue
            with pytest.raises(ExistsError):
                tx.place(source, target)
            assert (target / "file").read_bytes() == b"first"
            tx.exchange(source, target)
            assert (target / "file").read_bytes() == b"second"
    assert (target / "file").read_bytes() == b"second"
    assert not leftovers(store)


def test_nothing_is_placed_through_a_planted_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "old").write_text("mine")
    (store.root / "refs" / "app").symlink_to(tmp_path / "elsewhere")
    target = store.root / "refs" / "app" / "new"
    with store.begin("a test") as tx:
        source = tx.new_path("directory")
        tx.make_directory(source)
        for place in (
            lambda: tx.place_file(b"x", target),
            lambda: tx.place_symlink("x", target),
            lambda: tx.place(source, target),
            lambda: tx.exchange(source, target),
            lambda: store.transactions.discard(target.parent / "old"),
        ):
            with pytest.raises(DamagedError, match="symbolic link"):
                place()
    assert os.listdir(tmp_path / "elsewhere") == ["old"]
