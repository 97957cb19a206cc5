"""Mending histories: what is damaged goes into quarantine, the rest is listed, and nobody is told wrong states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.store import Store
from stratum.store.fsck import check
from stratum.store.histories import HistorySettings
from stratum.store.repair import repair
from stratum.store.segments import segment_name
from stratum.tree.oplog import Record
from tests.support.operations import work
from tests.support.stores import commit

APP = ("app", "dev")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With a history of 24 records: sealed segments of 1-8 and 9-16, one that is appended to; a base again at 20."""
    store = Store.create(tmp_path / "store")
    base = commit(store, {b"f": b"f" * 100})
    store.worktrees.create("app", "dev", base)
    store.histories.set_settings(*APP, HistorySettings("2026-01-01T00:00:00Z"))
    log = [*work(19, commit=base), *work(5, first=20, commit=base)]
    log = [r if r.entry is None else Record(r.n, r.when, r.op, r.path, b"0 100644 0 0 0 0.0 - - -") for r in log]
    with store.histories.writing():
        writer = store.histories.writer(*APP)
        for at in range(0, 24, 4):
            writer.append(log[at : at + 4])
            if at in (4, 12):
                writer.seal()
        writer.close()
    assert check(store).damage == []
    return store


def mended(store: Store) -> list[Path]:
    """The files in quarantine after a repair, which leaves no damage."""
    with store.locks.store(exclusive=True):
        findings = check(store).findings
        assert any(finding.kind == "history" for finding in findings)
        quarantine = repair(store, findings)
        assert all(finding.repair for finding in findings)
    assert check(store).damage == []
    assert store.histories.problems(*APP) == []
    return [path for path in quarantine.rglob("*") if path.is_file()] if quarantine is not None else []


def numbers(store: Store) -> list[tuple[int, str]]:
    return [(record.n, record.op if record.op in ("gap", "base") else "") for record in store.histories.records(*APP)]


def change(name: str, *changes: tuple[bytes, bytes]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        data = (directory / name).read_bytes()
        for old, new in changes:
            assert old in data
            data = data.replace(old, new)
        (directory / name).write_bytes(data)

    return apply


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def flip(name: str) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        data = bytearray((directory / name).read_bytes())
        data[len(data) // 2] ^= 0xFF
        (directory / name).write_bytes(data)

    return apply


def empty(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(b"")


RAW, FIRST, SECOND = segment_name(17), segment_name(1, sealed=True), segment_name(9, sealed=True)
DAMAGE: dict[str, tuple[Callable[[Path], None], range, int]] = {
    # What happens, which CHANGES are lost, how many files go into quarantine.
    "line": (change(RAW, (b'{"n":18,', b'{"n":81,')), range(18, 19), 1),
    "lines": (change(RAW, (b'{"n":17,', b'{"x":17,'), (b'{"n":18,', b'{"y":18,')), range(17, 19), 1),
    "frame": (flip(SECOND), range(9, 17), 1),
    "segment": (remove(SECOND), range(9, 17), 0),
    "first": (flip(FIRST), range(1, 9), 1),
    "nothing": (empty(SECOND), range(9, 17), 1),
    "nothing at first": (empty(FIRST), range(1, 9), 1),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_gap_takes_the_place_of_what_is_lost(store: Store, what: str) -> None:
    damage, lost, kept = DAMAGE[what]
    damage(store.layout.history(*APP))
    assert len(mended(store)) >= kept
    expected = [(n, "base" if n in (1, 20) else "") for n in range(1, 25) if n not in lost]
    if lost[0] > 1:
        expected.insert(lost[0] - 1, (lost[-1], "gap"))
    assert numbers(store) == expected
    assert [record.n for record in store.histories.epoch(*APP)] == list(range(20, 25))
    if lost[0] > 1:
        assert [record.n for record in store.histories.epoch(*APP, lost[0] - 1)] == list(range(1, lost[0]))
        with pytest.raises(DamagedError, match=r"has lost .*CHANGE"):
            list(store.histories.epoch(*APP, 19))
    with store.histories.writing():
        writer = store.histories.writer(*APP)
        assert writer.next_n == 25
        writer.close()


def test_what_was_cut_off_before_goes_too(store: Store) -> None:
    path = store.layout.history(*APP) / "damaged-000000000017"
    path.write_bytes(b"x")
    assert [path.name for path in mended(store)] == ["damaged-000000000017"]


def test_settings_that_are_damaged_switch_the_history_off(store: Store) -> None:
    (store.layout.history(*APP) / "settings.toml").write_text("[history]\n")
    with store.locks.store(exclusive=True):
        findings = check(store).findings
        repair(store, findings)
    assert "'stratum history on' switches it on again" in findings[0].problem
    assert check(store).damage == []
    assert store.histories.settings(*APP) is None
    assert len(numbers(store)) == 24


def test_nothing_is_mended_while_somebody_writes(store: Store) -> None:
    change(RAW, (b'{"n":18,', b'{"n":81,'))(store.layout.history(*APP))
    with store.locks.store(exclusive=True), store.histories.writing():
        findings = check(store).findings
        repair(store, findings)
    assert "it cannot be repaired" in findings[0].problem
    assert "is locked by process" in findings[0].problem
    assert check(store).damage
