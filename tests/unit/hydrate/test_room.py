"""Room for what is fetched: when a process is started for it, what that does, and who waits for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stratum.hydrate import room
from stratum.hydrate.room import STEP, Room
from stratum.store.budget import set_budget
from tests.unit.hydrate.test_evict import DIGESTS, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path, store=str(tmp_path / "store"), runtime_dir=str(tmp_path / "run"))
    place.sourced(b"abcdef")
    for name in (b"a", b"b", b"c", b"d", b"e", b"f"):
        place.age(name, 1)
    return place


def made(place: Place, said: list[str]) -> Room:
    return Room(place.store.layout, place.config, said.append)


def ended(made_room: Room) -> None:
    if made_room._evicting is not None:
        made_room._evicting.join(60)
        assert not made_room._evicting.is_alive()


def test_a_process_evicts_where_a_limit_is_passed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    usage = place.store.objects.weigh(DIGESTS[b"a"]).usage  # type: ignore[union-attr]
    monkeypatch.setattr(room, "STEP", usage)
    set_budget(place.store.layout, place.store.transactions, limit=6 * usage, min_free=0)
    keeping = made(place, said)
    keeping(1)
    ended(keeping)
    assert said == []
    assert len(place.here()) == 4
    assert keeping._held == 5 * usage, "what is coming counts"
    keeping(usage)
    ended(keeping)
    assert len(place.here()) == 4, "and there is room for it"


def test_the_limits_are_looked_at_now_and_then(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(room, "spawn", lambda *args, **_: started.append(args) or 1)
    set_budget(place.store.layout, place.store.transactions, min_free=0)
    keeping = made(place, [])
    for _ in range(100):
        keeping(STEP)
    assert started == [], "there is no limit"
    set_budget(place.store.layout, place.store.transactions, limit=10)
    keeping(STEP - 1)
    assert started == []
    keeping(1)
    ended(keeping)
    assert len(started) == 1


def test_what_cannot_be_evicted_is_told_and_not_tried_at_once_again(place: Place) -> None:
    said: list[str] = []
    set_budget(place.store.layout, place.store.transactions, limit=0, min_free=0)
    place.store.layout.commit(place.commit(b"f")).write_bytes(b"x")
    keeping = made(place, said)
    for _ in range(5):
        keeping(STEP)
        ended(keeping)
    assert len(said) == 1
    assert "cannot evict: " in said[0]
    assert place.here() == b"abcdef"


def test_who_fetches_waits_where_the_disk_is_nearly_full(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FLOOR", 1 << 60)
    set_budget(place.store.layout, place.store.transactions, limit=0, min_free=0)
    keeping = made(place, [])
    keeping(1)
    assert place.here() == b""


def test_who_fetches_waits_no_longer_than_that(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FLOOR", 1 << 60)
    monkeypatch.setattr(room, "WAIT", 0.2)
    set_budget(place.store.layout, place.store.transactions, limit=0, min_free=0)
    keeping = made(place, [])
    with place.store.locks.store():
        before = time.monotonic()
        keeping(1)
        assert time.monotonic() - before < 9
    ended(keeping)
