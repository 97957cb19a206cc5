"""Profiles of commits: written whole, read where they can be, collected with their commits."""

from __future__ import annotations

from pathlib import Path

from stratum.store import Store
from stratum.store.gc import collect
from stratum.store.profiles import PROFILE_MAX
from stratum.store.retention import Retention
from tests.support import stores


def test_what_is_written_is_read_and_damage_is_no_profile(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    commit = stores.commit(store, {b"a": b"x" * 5000})
    assert store.profiles.read(commit) is None
    store.profiles.write(commit, b"one")
    store.profiles.write(commit, b"two")
    assert store.profiles.read(commit) == b"two"
    assert list(store.profiles.commits()) == [commit]
    path = store.profiles.path(commit)
    path.write_bytes(bytes(PROFILE_MAX + 1))
    assert store.profiles.read(commit) is None
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert store.profiles.read(commit) is None
    store.profiles.remove(commit)
    store.profiles.remove(commit)
    assert not list(store.profiles.commits())


def test_a_profile_goes_with_its_commit(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    kept, gone = (stores.commit(store, {name: name * 5000}) for name in (b"k", b"g"))
    store.profiles.write(kept, b"kept")
    store.profiles.write(gone, b"gone")
    with store.locks.store(exclusive=True):
        collect(store, Retention(), {kept: "mounted"})
    assert list(store.profiles.commits()) == [kept]
