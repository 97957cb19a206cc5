"""Power cuts: what was said to be in a history is there, whole, and the history goes on.

As in ``test_power_cut``: the store is on an ext4 in a file, of which a copy is what a disk holds at that moment.
``STRATUM_TEST_POWER_CUTS`` is the number of cuts (default 3).
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from stratum.api.session import Session
from stratum.api.watching import watch_once
from stratum.config import load_config
from tests.support import watching
from tests.support.command import Command
from tests.support.disks import disk, mounted, stopped_copy
from tests.support.historyfarm import Crowd, Farm, farm, gaps, seed_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]

CUTS = int(os.environ.get("STRATUM_TEST_POWER_CUTS", "3"))


def test_what_was_flushed_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stratum.history.watched.booted_at", time.time_ns)
    image, after = tmp_path / "image", tmp_path / "after"
    after.mkdir()
    with disk(image, tmp_path / "disk", size=96 << 20) as place:
        runtime_dir = tmp_path / "run"
        runtime_dir.mkdir(mode=0o700)
        cli = Command(place / "store", runtime_dir)
        with farm(cli, tmp_path, files=20) as made, Crowd(made.view, tmp_path, seed_of("cut"), 2) as crowd:
            for number in range(CUTS):
                crowd.work(40)
                change, shown = made.flush(), made.walked()
                crowd.start(60)
                time.sleep(random.uniform(0.0, 1.0))
                copy = tmp_path / f"copy-{number}"
                stopped_copy(image, copy, [*crowd.pids, *watching.processes(runtime_dir)])
                crowd.wait()
                checked = subprocess.run(["e2fsck", "-fy", copy], check=False, capture_output=True)
                assert checked.returncode in (0, 1), checked.stdout
                with mounted(copy, after):
                    check(after, tmp_path, change, shown)
                copy.unlink()
            made.check(made.flush())


def check(place: Path, scratch: Path, change: int, shown: list[str]) -> None:
    """The log has what it said that it has, and goes on with what the upperdir holds."""
    runtime_dir = scratch / f"run-{change}"
    runtime_dir.mkdir(mode=0o700)
    cli = Command(place / "store", runtime_dir)
    made = Farm(cli, scratch)
    try:
        made.check(change, shown)
        made.check_whole()
        session = Session(load_config({}, store=str(place / "store"), runtime_dir=str(runtime_dir)))
        before = made.records()
        assert gaps(before) == []
        assert [recorded.error for recorded in watch_once(session)] == [None]
        records = made.records()
        # Where the cut came before anything new was on the disk there is nothing that was missed.
        assert len(gaps(records)) == (len(records) > len(before))
        with made.mounted():
            made.check(made.flush())
        made.check_whole()
    finally:
        watching.stop(runtime_dir)
