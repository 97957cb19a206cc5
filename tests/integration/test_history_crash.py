"""A history whose writer is killed, or whose disk fails, at every call that changes something, or is full."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store import segments as segments_module
from stratum.store.forgetting import carry_out, plan
from stratum.store.fsck import check as fsck
from stratum.store.histories import HistorySettings
from stratum.store.layout import NoSpaceError
from stratum.store.logwriter import LogWriter
from stratum.tree.model import File
from stratum.tree.oplog import Record, entry_of, when_text
from tests.support import crashing, disks
from tests.support.injection import calls_of
from tests.support.operations import work
from tests.support.stores import check, commit

pytestmark = pytest.mark.root  # strace attaches to a child

APP = ("app", "dev")
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=timezone.utc)
OLD = 12


class Scene:
    """A store with a history of ``OLD`` records in several segments, copied afresh for every run."""

    def __init__(self, tmp_path: Path) -> None:
        self.template = tmp_path / "template"
        self.path = tmp_path / "store"
        store = Store.create(self.template)
        base = commit(store, {b"f": b"f" * 5000})
        store.worktrees.create("app", "dev", base)
        store.histories.set_settings(*APP, HistorySettings("2026-01-01T00:00:00Z"))
        self.log = [Record(1, self._when(100), "base", commit=base)]
        with store.begin("versions") as tx:
            for n in range(2, OLD + 7):
                data = b"%04d" % n * 1000
                entry = entry_of(File(0o100644, 0, 0, 0, size=len(data), digest=tx.add_bytes(data)))
                op = "create" if n == 2 else "write"
                self.log.append(Record(n, self._when(100 - 3 * n), op, b"/v", entry, by="vim"))
            tx.publish_objects()
        with store.histories.writing():
            writer = store.histories.writer(*APP)
            for record in self.log[:OLD]:
                writer.append([record])
                if record.n % 3 == 0 and record.n < OLD:
                    writer.seal()
            writer.close()
        self.base = base
        self.appending = False
        self.fresh()

    @staticmethod
    def _when(days: int) -> str:
        return when_text(int((NOW - timedelta(days=days)).timestamp()) * 1_000_000_000)

    def fresh(self) -> Store:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.template, self.path, symlinks=True)
        return Store.open(self.path)

    def append(self) -> None:
        """A writer comes, appends a batch, seals what is full, and appends another."""
        store = Store.open(self.path)
        with store.histories.writing(), store.locks.store():
            writer = store.histories.writer(*APP)
            writer.append(self.log[OLD : OLD + 3])
            writer.seal()
            writer.append(self.log[OLD + 3 :])
            writer.close()

    def forget(self) -> None:
        """Contents and old segments go."""
        store = Store.open(self.path)
        with store.locks.store():
            wanted = plan(store, now=NOW)
        with store.locks.store(exclusive=True):
            carry_out(store, wanted)

    def switch(self) -> None:
        """The history is switched off and on again."""
        store = Store.open(self.path)
        store.histories.set_settings(*APP, None)
        store.histories.set_settings(*APP, HistorySettings("2026-02-02T00:00:00Z"))

    def remove(self) -> None:
        """The stratum goes, and comes back."""
        store = Store.open(self.path)
        store.remove("app")
        store.worktrees.create("app", "dev", self.base)

    def check(self, store: Store) -> None:
        """Whole batches only, and nothing of what was durable is lost."""
        check(store)
        assert [f.problem for f in fsck(store).findings if f.kind == "history"] == []
        settings = store.histories.settings(*APP)
        assert settings is None or settings.since in ("2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z")
        if store.histories.last(*APP) == 0:  # just taken out of the stratum that is about to be removed
            assert store.layout.removed_histories.exists()
            store.remove("app")
        found = list(store.histories.records(*APP))
        assert found[-1].n in (OLD, OLD + 3, OLD + 6)
        assert [r.n for r in found] == list(range(found[0].n, found[-1].n + 1))
        for record in found:
            old = self.log[record.n - 1]
            assert record in (old, found[0]) or (record.why == "thinned" and record.when == old.when)
        assert found[-1] == self.log[found[-1].n - 1]
        store.worktrees.create("app", "other", self.base)  # makes the stratum where it is gone
        with store.histories.writing():
            writer = store.histories.writer(*APP)
            assert writer.next_n == found[-1].n + 1
            writer.append([Record(writer.next_n, found[-1].when, "gap", why="a crash")])
            writer.close()
        assert store.histories.problems(*APP) == []
        if found[0].n == 1 or found[0].over is not None:
            assert [r.n for r in store.histories.epoch(*APP)][-1] == found[-1].n + 1


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr("stratum.store.forgetting.CARRY_SIZE", 1)
    return Scene(tmp_path)


CHANGES: dict[str, Callable[[Scene], None]] = {
    "append": Scene.append,
    "forget": Scene.forget,
    "switch": Scene.switch,
    "remove": Scene.remove,
}


@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_call(scene: Scene, change: str) -> None:
    crashing.killed_at_every_call(scene, lambda: CHANGES[change](scene))


@pytest.mark.parametrize("change", CHANGES)
def test_failing_at_every_call(scene: Scene, change: str) -> None:
    crashing.failing_at_every_call(scene, lambda: CHANGES[change](scene))


def test_a_worktree_without_history_costs_one_look(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.worktrees.create("app", "dev", commit(store, {b"f": b"f" * 100}))
    looked = calls_of(lambda: store.histories.settings(*APP), "%file")
    nothing = calls_of(lambda: None, "%file")
    assert looked.total() - nothing.total() == 1


def append_rest(writer: LogWriter, log: list[Record]) -> None:
    while writer.next_n <= len(log):
        writer.append(log[writer.next_n - 1 :][:50])


def test_a_full_disk_takes_whole_batches_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stratum.store.logwriter.SEAL_SIZE", 100_000)
    monkeypatch.setattr(segments_module, "FRAME_SIZE", 50_000)
    with disks.disk(tmp_path / "image", tmp_path / "disk", size=16 << 20) as mountpoint:
        store = Store.create(mountpoint / "store")
        base = commit(store, {b"f": b"f" * 5000})
        store.worktrees.create("app", "dev", base)
        log = list(work(3000, commit=base))
        with store.histories.writing():
            writer = store.histories.writer(*APP)
            writer.append(log[:700])
            filler = disks.fill(mountpoint)
            with pytest.raises(NoSpaceError) as caught:
                append_rest(writer, log)
            assert "stratum gc" in caught.value.hint
            last = writer.next_n - 1
            assert list(store.histories.records(*APP)) == log[:last]
            with pytest.raises(NoSpaceError):
                writer.append(log[last : last + 500])
            assert writer.next_n == last + 1
            filler.unlink()
            append_rest(writer, log)
            writer.close()
        assert list(store.histories.records(*APP)) == log
        assert store.histories.problems(*APP) == []
        assert len(list(store.layout.history(*APP).glob("*.zst"))) > 5
