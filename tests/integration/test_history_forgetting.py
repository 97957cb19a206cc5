"""Histories that forget while somebody watches and writes: what is shown stays exact, also for who starts to watch."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from stratum.store.forgetting import carry_out, plan
from stratum.store.fsck import check
from stratum.store.gc import Collected, collect, read_ahead
from stratum.store.retention import Retention
from tests.integration.overlay_ops import KINDS, lines
from tests.support.recorded import Recorded, begun

pytestmark = pytest.mark.root

DAY = timedelta(days=1)
NONE = Retention(timedelta())


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """Whose segments have some thirty records, and are small enough to go one by one."""
    monkeypatch.setattr("stratum.store.logwriter.SEAL_SIZE", 8_000)
    monkeypatch.setattr("stratum.store.forgetting.CARRY_SIZE", 1)
    yield from begun(tmp_path)


def collect_at(app: Recorded, now: datetime, most: int) -> Collected:
    """A collection as ``stratum gc`` makes it, at another time."""
    store = app.store
    with store.locks.store():
        needed = read_ahead(store, NONE, {})
        wanted = plan(store, most, now=now)
    with store.locks.store(exclusive=True):
        carry_out(store, wanted)
        return collect(store, NONE, {}, needed=needed)


@pytest.mark.parametrize("seed", range(3))
def test_a_collection_takes_nothing_that_is_shown(app: Recorded, seed: int) -> None:
    operations, chosen = app.operations(), random.Random(seed)
    now = datetime.now(timezone.utc)
    removed = 0
    for step in range(6):
        for _ in range(60):
            operations.run((chosen.choice(KINDS), *(chosen.randrange(1 << 16) for _ in range(3))))
        for number in range(20):
            with suppress(IsADirectoryError, NotADirectoryError):  # the operations make what they like of it
                (app.view / "saved.new").write_bytes(os.urandom(3000))
                os.replace(app.view / "saved.new", app.view / f"saved{number % 3}")
        app.check()
        removed += collect_at(app, now + (100 * DAY if step % 2 else 3 * DAY), 1 << 30 if step % 3 else 0).objects
        app.check()
        assert app.store.histories.problems("app", "dev") == []
        assert [finding.problem for finding in check(app.store).findings] == []
    assert removed > 20
    records = app.records()
    assert records[0].op == "base"
    assert records[0].n > 100
    assert records[0].over == app.base != records[0].commit
    shown = lines(app.replayed())
    app.stop()
    app.start()
    assert [record.op for record in app.records(after=records[-1].n) if record.op != "gap"] == []
    app.check()
    assert lines(app.replayed()) == shown
