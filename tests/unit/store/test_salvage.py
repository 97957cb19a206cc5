"""What killed and interrupted transactions had staged: kept for the next one that does the same, trusted by nobody."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.errors import StratumError
from stratum.store import Store
from stratum.store.objects import Staging
from stratum.store.salvage import KEPT, take_object
from stratum.store.transaction import Transaction
from tests.support.stores import check, leftovers

FIRST, SECOND = b"first" * 900, b"second" * 900


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def stage(tx: Transaction, data: bytes) -> bytes:
    """Stage an object under the name that workers and pulls give it."""
    digest = verity_digest(data)
    path = Path(Staging(str(tx.object_staging)).place(digest))
    path.write_bytes(data)
    path.chmod(0o444)
    tx.stage(digest, len(data))
    return digest


def take(tx: Transaction, data: bytes) -> bool:
    """Take the object from what the transaction has of dead ones, as an import does."""
    digest = verity_digest(data)
    left = [Staging(str(dead / "objects")).path(digest) for dead in tx.dead]
    if not take_object(left, digest, len(data), Staging(str(tx.object_staging)).place(digest)):
        return False
    tx.stage(digest, len(data))
    return True


def killed(store: Store, what: str, *contents: bytes, resumable: bool = True) -> None:
    """A transaction that stages ``contents`` and is killed."""

    def body() -> None:
        with Store.open(store.root).begin(what, resumable=resumable) as tx:
            for data in contents:
                stage(tx, data)
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()


def dead_objects(store: Store) -> list[Path]:
    return [path for path in (store.root / "tmp").glob("*/objects/*/*") if path.is_file()]


def test_objects_of_a_killed_transaction_serve_the_next_that_does_the_same(store: Store) -> None:
    killed(store, "importing /srv", FIRST)
    with store.begin("importing /srv", resumable=True) as tx:
        assert take(tx, FIRST)
        assert not take(tx, SECOND)
        assert tx.publish_objects() == 1
    assert [digest for digest, _ in store.objects.list()] == [verity_digest(FIRST)]
    check(store)
    assert not leftovers(store)


def test_what_was_killed_several_times_adds_up(store: Store) -> None:
    killed(store, "importing /srv", FIRST)
    killed(store, "importing /srv", SECOND)
    killed(store, "importing /srv")
    with store.begin("importing /srv", resumable=True) as tx:
        assert take(tx, FIRST)
        assert take(tx, SECOND)
        tx.publish_objects()
    check(store)
    assert not leftovers(store)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 100),
        lambda path: path.write_bytes(bytes(len(FIRST))),
        lambda path: path.write_bytes(FIRST[:-1] + b"?"),
        lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["cut", "zeros", "bit", "link", "directory", "fifo"],
)
def test_what_is_not_whole_is_not_taken(store: Store, damage: Callable[[Path], object]) -> None:
    killed(store, "importing /srv", FIRST)
    (path,) = dead_objects(store)
    path.chmod(0o644)
    damage(path)
    with store.begin("importing /srv", resumable=True) as tx:
        assert not take(tx, FIRST)
        stage(tx, FIRST)
        tx.publish_objects()
    check(store)
    assert not leftovers(store)


def test_other_transactions_leave_it_alone(store: Store) -> None:
    killed(store, "importing /srv", FIRST)
    before = leftovers(store)
    with store.begin("setting a tag"), store.begin("importing /home", resumable=True):
        pass
    assert leftovers(store) == before
    with store.begin("importing /srv", resumable=True) as tx:
        assert take(tx, FIRST)


def test_it_does_not_wait_for_ever(store: Store) -> None:
    killed(store, "importing /srv", FIRST)
    (mark,) = (store.root / "tmp").glob("*/resume")
    long_ago = mark.stat().st_mtime - KEPT - 60
    os.utime(mark, (long_ago, long_ago))
    with store.begin("setting a tag"):
        pass
    assert not leftovers(store)


def test_what_nobody_can_take_up_goes_at_once(store: Store) -> None:
    killed(store, "committing app+dev", FIRST, resumable=False)
    with store.begin("setting a tag"):
        pass
    assert not leftovers(store)


def test_an_interruption_deletes_nothing(store: Store) -> None:
    def interrupt() -> None:
        with store.begin("importing /srv", resumable=True) as tx:
            stage(tx, FIRST)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert len(dead_objects(store)) == 1
    with store.begin("importing /srv", resumable=True) as tx:
        assert take(tx, FIRST)


def test_a_failure_does(store: Store) -> None:
    def fail() -> None:
        with store.begin("importing /srv", resumable=True) as tx:
            stage(tx, FIRST)
            raise StratumError("the disk is full")

    with pytest.raises(StratumError):
        fail()
    assert not leftovers(store)
