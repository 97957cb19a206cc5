"""What a killed watcher had taken, as the next one finds it."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pytest

from stratum.history import pending as module
from stratum.history.capture import Captured
from stratum.history.pending import NOTES, READING, Left, Pending, left_in, parse_pending
from stratum.sys.actors import Actor

VIM = Actor(7, 8, "vim", "ab" * 32)


def version(number: int, content: bytes | None = b"x", digest: bytes | None = None, handle: bytes = b"h") -> Left:
    captured = Captured((1, number), (1, number, 1, number, number), 1, digest, content, None)
    return Left("app+dev", captured, 1000 + number, handle, b"/a %d" % number, 0o100644, VIM)


@pytest.fixture
def notes(tmp_path: Path) -> Pending:
    return Pending(tmp_path)


def test_what_is_noted_is_found_in_its_order(tmp_path: Path, notes: Pending) -> None:
    first, second = version(1), version(2, None, b"d" * 32)._replace(handle=None, actor=None)
    notes.add("app+dev", first)
    notes.add("app+dev", second)
    assert left_in(tmp_path) == ([first, second], False)


def test_what_is_done_is_not_found(tmp_path: Path, notes: Pending) -> None:
    items = [version(number) for number in range(5)]
    for item in items:
        notes.add("app+dev", item)
    notes.done("app+dev", [items[1], items[3], version(9)])
    notes.done("app+other", [items[0]])
    assert left_in(tmp_path)[0] == [items[0], items[2], items[4]]
    notes.done("app+dev", items)
    assert left_in(tmp_path)[0] == []
    assert (tmp_path / NOTES).stat().st_size == 0


def test_a_file_that_was_renamed_has_its_last_path(tmp_path: Path, notes: Pending) -> None:
    old = version(1, handle=b"one")
    notes.add("app+dev", old)
    notes.renamed(b"one", b"/new name")
    assert left_in(tmp_path)[0] == [old._replace(hint=b"/new name")]
    again = version(2, handle=b"one")
    notes.add("app+dev", again)
    assert [left.hint for left in left_in(tmp_path)[0]] == [b"/a 1", b"/a 2"]


def test_closes_that_are_being_read_are_told_of(tmp_path: Path, notes: Pending) -> None:
    for state in (True, True, False, True):
        notes.reading(state)
        assert left_in(tmp_path) == ([], state)


def test_the_file_does_not_grow_for_ever(tmp_path: Path, notes: Pending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIDY", 10_000)
    stays = version(0, handle=b"stays")
    notes.add("app+dev", stays)
    notes.renamed(b"stays", b"/moved")
    for number in range(1, 500):
        notes.add("app+dev", version(number))
        notes.done("app+dev", [version(number)])
        assert left_in(tmp_path)[0] == [stays._replace(hint=b"/moved")]
    assert (tmp_path / NOTES).stat().st_size < 20_000


def test_what_there_was_no_room_for_harms_no_other(
    tmp_path: Path, notes: Pending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIDY", 1000)
    stays = version(1)
    notes.add("app+dev", stays)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        notes.add("app+dev", version(0, handle=b"longer than others" * 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    for number in range(2, 100, 2):
        some = [version(number), version(number + 1)]
        for each in some:
            notes.add("app+dev", each)
        notes.done("app+dev", some)
        assert left_in(tmp_path)[0] == [stays]


def test_nothing_is_found_where_there_is_nothing(tmp_path: Path) -> None:
    assert left_in(tmp_path) == ([], False)
    (tmp_path / NOTES).mkdir()
    (tmp_path / READING).symlink_to("/etc/passwd")
    assert left_in(tmp_path) == ([], False)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "YQ=="},
        {"path": "L2EAYg=="},
        {"path": "*"},
        {"key": [1]},
        {"key": [1, True]},
        {"signature": [1, 2, 3]},
        {"digest": "ab"},
        {"digest": "ab" * 32},
        {"content": "eHg="},
        {"unknown": "else"},
        {"size": 1 << 70},
        {"when": None},
        {"ref": 7},
        {"actor": [1, 2, 3, 4]},
        {"actor": [1]},
        {"handle": "x"},
        {"n": "1"},
    ],
)
def test_a_line_that_is_no_note_is_passed_over(tmp_path: Path, notes: Pending, change: dict[str, object]) -> None:
    notes.add("app+dev", version(1))
    data = (tmp_path / NOTES).read_bytes()
    changed = json.dumps(json.loads(data) | change).encode()
    whole = data.replace(b'"n":1', b'"n":2')
    assert parse_pending(changed + b"\n" + whole) == [version(1)]
    for size in range(len(data) - 1):
        assert parse_pending(data[:size]) == []
