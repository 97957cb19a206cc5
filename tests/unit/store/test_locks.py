from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from stratum.errors import BusyError, DamagedError
from stratum.store import Store
from stratum.store.locks import StoreLocks


@pytest.fixture
def locks(store_dir: Path) -> StoreLocks:
    return Store.create(store_dir).locks


def other(locks: StoreLocks) -> StoreLocks:
    """The locks of the same store as another process would hold them."""
    return StoreLocks(locks._layout)


def test_adding_goes_together_and_keeps_removal_out(locks: StoreLocks) -> None:
    with locks.store(), other(locks).store():
        with pytest.raises(BusyError) as caught, other(locks).store(exclusive=True, timeout=0):
            pass
        assert str(os.getpid()) in caught.value.message


def test_removal_keeps_everybody_out(locks: StoreLocks) -> None:
    with locks.store(exclusive=True):
        for exclusive in (False, True):
            with pytest.raises(BusyError), other(locks).store(exclusive=exclusive, timeout=0):
                pass
    with other(locks).store(exclusive=True, timeout=0):
        pass


def test_threads_exclude_one_another(locks: StoreLocks) -> None:
    errors: list[Exception] = []

    def take() -> None:
        try:
            with locks.ref("a", timeout=0):
                pass
        except BusyError as exc:
            errors.append(exc)

    with locks.ref("a"):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_locks_are_reentrant_in_a_thread(locks: StoreLocks) -> None:
    with locks.ref("a"), locks.store(), locks.ref("a"), pytest.raises(BusyError), other(locks).ref("a", timeout=0):
        pass
    with locks.store(exclusive=True), locks.store(), locks.ref("a"):
        pass
    with locks.ref("a"), other(locks).ref("b", timeout=0):
        pass


def test_the_order_is_kept(locks: StoreLocks, store_dir: Path) -> None:
    (store_dir / "refs" / "a" / "worktrees").mkdir(parents=True)
    with locks.worktree("a", "main"), locks.ref("a"):
        pass
    with locks.ref("a"), pytest.raises(RuntimeError, match="must be locked before"), locks.worktree("a", "main"):
        pass
    with locks.ref("a"), pytest.raises(RuntimeError, match="must be locked before"), locks.ref("b"):
        pass
    for name in ("main", "other"):
        (store_dir / "refs" / "a" / "worktrees" / name).touch()
    with locks.worktree("a", "main"), locks.worktree("a", "other"), locks.ref("a"):
        pass
    with (
        locks.worktree("a", "other"),
        pytest.raises(RuntimeError, match="must be locked before"),
        locks.worktree("a", "main"),
    ):
        pass
    with locks.store(), pytest.raises(RuntimeError, match="cannot be upgraded"), locks.store(exclusive=True):
        pass
    with locks.store(exclusive=True, timeout=0):
        pass


def test_no_lock_file_is_made_through_a_planted_link(locks: StoreLocks, store_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (store_dir / "refs" / "a").mkdir()
    (store_dir / "refs" / "a" / "worktrees").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError), locks.worktree("a", "main"):
        pass
    assert not os.listdir(tmp_path / "elsewhere")
