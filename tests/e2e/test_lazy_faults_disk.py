"""Lazy mounts on disks that are cut off or full: what is in the store is whole and right, and reading goes on.

``STRATUM_TEST_POWER_CUTS`` is the number of cuts (default 2).
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from stratum.store import Store
from tests.support import hydrating
from tests.support.disks import disk, fill, mounted, stopped_copy
from tests.support.lazily import LARGE, SPARSE, Far, Lazily, Reading

pytestmark = [pytest.mark.root, pytest.mark.registry, pytest.mark.timeout(3000)]

CUTS = int(os.environ.get("STRATUM_TEST_POWER_CUTS", "1"))


def test_after_a_power_cut_while_files_are_fetched_the_store_is_right(far: Far, tmp_path: Path) -> None:
    """No object has a wrong content, none is there in part, and what is missing is fetched again."""
    for number in range(CUTS):
        place = tmp_path / str(number)
        (place / "after").mkdir(parents=True)
        with disk(place / "image", place / "disk", size=160 << 20) as path:
            lazily = Lazily(place / "lazily", far, store=path / "store")
            with lazily:
                os.sync()
                far.slow.tell(delay=0.01, rate=random.choice([0, 4 << 20]))
                paths = [*random.sample(sorted(far.sums), 300), LARGE, SPARSE]
                reading = lazily.start(paths, threads=6)
                time.sleep(random.uniform(0.3, 9))
                stopped_copy(place / "image", place / "copy", [*hydrating.processes(lazily.run), reading.process.pid])
                far.slow.well()
                assert reading.finish(120) == {}
                lazily.cli.ok("unmount", lazily.mnt)
        checked = subprocess.run(["e2fsck", "-fy", place / "copy"], check=False, capture_output=True)
        assert checked.returncode in (0, 1), checked.stdout
        with mounted(place / "copy", place / "after") as after:
            check(far, after / "store", place)
        (place / "copy").unlink()
        (place / "image").unlink()


def check(far: Far, store_dir: Path, place: Path) -> None:
    """The store is right, and becomes whole by reading."""
    store = Store.open(store_dir)
    for digest, size in store.objects.list():
        assert store.objects.verify(digest) == size
    again = Lazily(place / "again", far, store=store_dir)
    again.cli.ok("fsck")
    try:
        again.mount()
        again.everything_is_right()
        again.cli.ok("unmount", again.mnt)
        again.cli.ok("fsck")
    finally:
        again.end()


def test_a_full_disk_is_an_error_and_reading_goes_on_once_there_is_room(far: Far, tmp_path: Path) -> None:
    with disk(tmp_path / "image", tmp_path / "disk", size=160 << 20) as path:
        lazily = Lazily(tmp_path / "lazily", far, store=path / "store")
        with lazily:
            here = far.group(0)
            assert lazily.read(here, threads=4) == {}
            filler = fill(path)
            wanted = [*far.group(3), *far.group(5), LARGE, SPARSE]
            failed = lazily.read(wanted, threads=6, timeout=120)
            assert set(failed.values()) <= {errno.EIO, errno.ENOSPC}
            assert set(far.group(5)[-20:]) & set(failed)
            assert lazily.read(here, threads=4) == {}
            filler.unlink()
            lazily.right_again(wanted)
            lazily.everything_is_right()
            lazily.cli.ok("unmount", lazily.mnt)
            lazily.cli.ok("fsck")


def test_a_disk_that_fills_up_while_a_large_file_is_read(far: Far, tmp_path: Path) -> None:
    """Half of it has room; the rest is an error or read without being kept, and is never zeros."""
    with disk(tmp_path / "image", tmp_path / "disk", size=160 << 20) as path:
        lazily = Lazily(tmp_path / "lazily", far, store=path / "store")
        with lazily:
            filler = fill(path)
            os.truncate(filler, filler.stat().st_size - (10 << 20))
            readings = [Reading(lazily.mnt, far.sums, [LARGE]), Reading(lazily.mnt, far.sums, far.group(2), 3)]
            for reading in readings:
                assert set(reading.finish(120).values()) <= {errno.EIO, errno.ENOSPC}
            filler.unlink()
            lazily.right_again([LARGE, *far.group(2)])
            lazily.cli.ok("unmount", lazily.mnt)
            lazily.cli.ok("fsck")
