"""How much room content may take that can be fetched again: what is noted, and what follows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.api.maintenance import fsck, fsck_repair
from stratum.api.session import Session
from stratum.config import NO_LIMIT, Config, load_config
from stratum.errors import DamagedError
from stratum.store import Store
from stratum.store.budget import BUDGET, MIN_FREE, Budget, parse_budget, read_budget, set_budget
from stratum.store.tables import write_tables


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def config(**values: str) -> Config:
    return load_config({f"STRATUM_{key.upper()}": value for key, value in values.items()})


def test_settings_come_before_what_is_noted(store: Store) -> None:
    assert read_budget(store.layout, config()) == Budget(NO_LIMIT, MIN_FREE, is_set=False)
    assert read_budget(store.layout, config(cache_min_free="1")) == Budget(NO_LIMIT, 1, is_set=True)
    set_budget(store.layout, store.transactions, limit=10 << 30)
    set_budget(store.layout, store.transactions, min_free=0)
    assert read_budget(store.layout, config()) == Budget(10 << 30, 0, is_set=True)
    assert read_budget(store.layout, config(cache_max="none")) == Budget(NO_LIMIT, 0, is_set=True)
    assert read_budget(store.layout, config(cache_max="5", cache_min_free="2%")) == Budget(5, 2, is_set=True)
    set_budget(store.layout, store.transactions, limit=NO_LIMIT)
    assert read_budget(store.layout, config()).max == NO_LIMIT


def test_what_must_go(store: Store) -> None:
    disk = os.statvfs(store.root)
    size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    assert Budget(100, 0).excess(store.layout, 90) == 0
    assert Budget(100, 0).excess(store.layout, 90, 10) == 0
    assert Budget(100, 0).excess(store.layout, 90, 30) == 20 + 5
    assert Budget(NO_LIMIT, 0).excess(store.layout, 90, size) >= size - free - (64 << 20)
    wanted = size * 99 // 100 * 21 // 20 - free
    assert abs(Budget(NO_LIMIT, 99).excess(store.layout, 0) - wanted) < 64 << 20


@pytest.mark.parametrize(
    "table", [{"max": -1}, {"max": "1"}, {"max": NO_LIMIT + 1}, {"min_free": 100}, {"min_free": True}]
)
def test_a_limit_that_cannot_be_is_damage(table: dict[str, object]) -> None:
    with pytest.raises(DamagedError):
        parse_budget(write_tables({"cache": table}, "x"), "a file")


def test_a_check_of_the_store_reads_the_limits(store: Store, tmp_path: Path) -> None:
    session = Session(load_config({}, store=str(store.root), runtime_dir=str(tmp_path / "run")))
    set_budget(store.layout, store.transactions, limit=10, min_free=3)
    assert fsck(session).damage == []
    file = store.root / BUDGET
    file.write_bytes(file.read_bytes().replace(b"10", b"11"))
    assert [found.kind for found in fsck(session).damage] == ["rules"]
    with pytest.raises(DamagedError):
        read_budget(store.layout, config())
    assert "stratum cache limit" in fsck_repair(session).damage[0].problem
    assert fsck(session).damage == []
    file.write_bytes(b"nonsense")
    set_budget(store.layout, store.transactions, limit=10)
    assert read_budget(store.layout, config()).max == 10
