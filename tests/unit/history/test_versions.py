"""Whether a file is as it was taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.frozen import replace
from stratum.history import versions
from stratum.history.capture import Captured
from stratum.history.versions import CLOCK_STEP, Taken, is_as_taken
from stratum.ingest.staging import signature
from stratum.sys.handles import identity


@pytest.fixture
def info(tmp_path: Path) -> os.stat_result:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path.stat()


def taken(info: os.stat_result, after: int) -> Taken:
    """As it is, so many nanoseconds after its last change."""
    captured = Captured(identity(info), signature(info), info.st_size, None, b"content", None)
    return Taken(captured, info.st_ctime_ns + after, b"handle", b"/file", info.st_mode, None)


def test_a_file_with_the_number_and_the_times_of_a_deleted_one_is_another(
    info: os.stat_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tick of the clock it may have them, and the size."""
    monkeypatch.setattr(versions, "_is_clock_fine", lambda: True)
    assert is_as_taken(taken(info, 100), info, b"handle")
    assert not is_as_taken(taken(info, 100), info, b"another")


def test_where_the_clock_of_files_is_coarse_times_tell_nothing_for_a_while(
    info: os.stat_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_is_clock_fine", lambda: False)
    assert not is_as_taken(taken(info, CLOCK_STEP), info, b"handle")
    assert is_as_taken(taken(info, CLOCK_STEP + 1), info, b"handle")


def test_a_file_that_changed_is_not_as_it_was(info: os.stat_result, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"another")
    assert not is_as_taken(taken(info, 2 * CLOCK_STEP), (tmp_path / "file").stat(), b"handle")


def test_what_comes_late_is_not_the_latest(info: os.stat_result) -> None:
    now = taken(info, 0)
    device, inode, size, mtime, ctime = now.captured.signature
    before = now._replace(captured=replace(now.captured, signature=(device, inode, size, mtime, ctime - 1)))
    assert versions._is_newer(now, None)
    assert versions._is_newer(now, before)
    assert versions._is_newer(now, now)
    assert not versions._is_newer(before, now)
    assert versions._is_newer(before._replace(handle=b"another"), now), "that is another file"
