"""Contents and records are durable together, or wait with all that they need."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError
from stratum.history import publishing
from stratum.history.publishing import Batch, Publisher
from stratum.store import Store
from stratum.store.histories import HistorySettings
from stratum.store.logwriter import LogWriter
from stratum.tree.oplog import Record
from tests.support import stores

WHEN = "2026-11-30T00:00:00.000Z"


class Scene:
    def __init__(self, place: Path) -> None:
        self.store = Store.create(place / "store")
        self.commit = stores.commit(self.store, {b"f": b"1"})
        self.store.worktrees.create("app", "dev", self.commit)
        self.store.histories.set_settings("app", "dev", HistorySettings("2026-01-01T00:00:00Z"))
        self.closed = False
        self.woken = threading.Event()
        self.publisher = Publisher(self.store, self.woken.set)
        self.log: LogWriter = self.store.histories.writer("app", "dev")

    def stage(self, data: bytes) -> bytes:
        """A content that was captured."""
        digest = verity_digest(data)
        Path(self.publisher.staging.place(digest)).write_bytes(data)
        self.publisher.hold(digest)
        return digest

    def batch(self, *contents: bytes) -> Batch:
        record = Record(self.log.next_n, WHEN, "base", commit=self.commit)
        return Batch(self.log, [record], {self.stage(data): len(data) for data in contents})

    def done(self, *batches: Batch) -> list[Batch]:
        """What became of them."""
        self.woken.clear()
        self.publisher.start(list(batches))
        assert self.woken.wait(60)
        return self.publisher.take()

    def staged(self) -> list[str]:
        return [name for _, _, names in os.walk(self.publisher.staging.directory) for name in names]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.log.close()
    if not scene.closed:
        scene.publisher.close()


@pytest.mark.parametrize("count", [1, publishing.FILES_SYNCED + 1])
def test_contents_get_their_names_and_records_their_place(scene: Scene, count: int) -> None:
    contents = [b"%d" % number * 100 for number in range(count)]
    batch = scene.batch(*contents)
    assert scene.done(batch) == [batch]
    assert batch.error is None
    assert not scene.publisher.busy
    assert all(scene.store.objects.has(digest, size) for digest, size in batch.objects.items())
    assert [record.n for record in scene.store.histories.records("app", "dev")] == [1]
    assert len(scene.staged()) == count, "they are kept until they are dropped"
    scene.publisher.drop(batch.objects)
    assert scene.staged() == []


def test_what_is_held_twice_is_kept_until_it_is_dropped_twice(scene: Scene) -> None:
    first, second = scene.stage(b"1" * 100), scene.stage(b"1" * 100)
    assert first == second
    scene.publisher.drop([first])
    assert len(scene.staged()) == 1
    scene.publisher.drop([second])
    assert scene.staged() == []


def test_what_is_gone_fails_its_own_batch_only(scene: Scene) -> None:
    scene.store.worktrees.create("app", "other", scene.commit)
    other = scene.store.histories.writer("app", "other")
    lost, good = scene.batch(b"1" * 100), Batch(other, [Record(1, WHEN, "base", commit=scene.commit)])
    os.unlink(scene.publisher.staging.path(next(iter(lost.objects))))
    scene.done(lost, good)
    assert isinstance(lost.error, DamagedError)
    assert "gone" in lost.error.message
    assert good.error is None
    assert list(scene.store.histories.records("app", "dev")) == []
    other.close()


def test_what_the_store_has_is_not_needed(scene: Scene) -> None:
    with scene.store.begin("a test") as tx:
        digest = tx.add_bytes(b"1" * 100)
        tx.publish_objects()
    batch = Batch(scene.log, [Record(1, WHEN, "base", commit=scene.commit)], {digest: 100})
    scene.done(batch)
    assert batch.error is None


def test_a_log_that_cannot_be_written_fails_and_the_contents_stay(scene: Scene) -> None:
    batch = scene.batch(b"1" * 100)
    segments = scene.store.root / "refs/app/history/dev"
    scene.done(scene.batch())
    [segment] = segments.glob("*.jsonl")
    segment.write_bytes(b"somebody else's\n")
    batch.records = [Record(2, WHEN, "base", commit=scene.commit)]
    scene.done(batch)
    assert batch.error is not None
    assert len(scene.staged()) == 1


def test_a_defect_is_told_and_the_next_job_is_done(scene: Scene) -> None:
    broken = Batch(scene.log, [Record(77, WHEN, "base", commit=scene.commit)])
    scene.done(broken)
    assert "ValueError" in str(broken.error)
    good = scene.batch()
    scene.done(good)
    assert good.error is None


def test_closing_waits_for_no_lock(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_LOCK_WAIT", 0.1)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with scene.store.locks.store(exclusive=True):
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        scene.publisher.start([scene.batch()])
        scene.closed = True
        scene.publisher.close()
        assert scene.woken.wait(60)
        [batch] = scene.publisher.take()
        assert batch.error is not None
    finally:
        release.set()
        thread.join()
