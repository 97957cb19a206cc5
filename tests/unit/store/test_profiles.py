"""Profiles in a store: a file a commit, which a check knows and nobody leads elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.store import Store
from stratum.store.fsck import check

COMMIT = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def test_what_was_written_is_read_and_is_no_stranger_to_a_check(store: Store) -> None:
    assert store.profiles.read(COMMIT) is None
    store.profiles.write(COMMIT, b"first")
    store.profiles.write(COMMIT, b"second")
    assert store.profiles.read(COMMIT) == b"second"
    assert list(store.profiles.commits()) == [COMMIT]
    assert not check(store).findings
    (store.layout.profiles / "strange").write_bytes(b"")
    assert [finding.path for finding in check(store).findings] == ["profiles/strange"]
    store.profiles.remove(COMMIT)
    assert store.profiles.read(COMMIT) is None


def test_a_link_in_its_place_leads_nowhere(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store.layout.profiles.symlink_to(elsewhere)
    with pytest.raises(DamagedError):
        store.profiles.write(COMMIT, b"data")
    assert not list(elsewhere.iterdir())
    assert [finding.kind for finding in check(store).findings] == ["symlink"]
