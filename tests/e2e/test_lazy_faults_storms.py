"""Many at once: readers of one object, programs that look at everything, eviction, mounts that come and go."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support import hydrating
from tests.support.lazily import LARGE, SPARSE, Far, Lazily, until

pytestmark = [pytest.mark.root, pytest.mark.registry, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("STRATUM_TEST_RACE_SECONDS", "5"))


def overlapping(far: Far) -> list[str]:
    """Parts of blobs that were asked for more than once, of which nothing was asked for in vain."""
    seen: Counter[tuple[str, str]] = Counter()
    for one in far.slow.ranges():
        assert one.status in (0, 206)  # some are under way still, for what is likely to be read next
        seen[one.path, one.range] += 1
    return [f"{path} {part}: {count} times" for (path, part), count in seen.items() if count > 1]


def test_a_thousand_readers_of_one_file_fetch_it_once(lazily: Lazily, far: Far) -> None:
    far.slow.tell(delay=0.5)
    reading = lazily.start([far.group(3)[0]] * 1000, threads=1000)
    assert reading.finish() == {}
    assert overlapping(far) == []
    assert 0 < len(far.slow.ranges()) <= 4


def test_a_hundred_readers_of_a_large_file_fetch_each_part_once(lazily: Lazily, far: Far) -> None:
    far.slow.tell(delay=0.05)
    assert lazily.read([LARGE] * 100, threads=100, timeout=120) == {}
    assert overlapping(far) == []
    assert sum(one.sent for one in far.slow.ranges()) < 1.2 * (far.tree / LARGE).stat().st_size


def test_what_looks_at_everything_fetches_nothing(far: Far, tmp_path: Path) -> None:
    """Programs that read no content, among them those that copy up, have the remote asked for nothing."""
    with Lazily(tmp_path / "lazily", far, worktree=True) as lazily:
        far.slow.forget()
        for line in (
            "ls -lR",
            "find . -printf '%p %s %T@ %m %u %l\\n'",
            "du -s --apparent-size .",
            "stat -c %s */* *",
            "getfattr -R -d -m - .",
            "chmod -R g+w .",
            "chown -R 1000:1000 .",
            "find . -exec touch -h -d @1000000000 {} +",
            "setfattr -n user.new -v 1 d0/* large.bin sparse.bin",
            "mv d4 renamed && mv renamed/f00 d5/moved",
            "ln d6/f01 d6/linked",
            "rm d7/f05 d7/f06 && rm -r d2",
            ": > d7/f07",
        ):
            done = subprocess.run(["sh", "-ec", line], cwd=lazily.mnt, capture_output=True, check=False)
            assert done.returncode == 0, (line, done.stderr)
            assert far.slow.asked() == [], line
        info = (lazily.mnt / LARGE).stat()
        assert (info.st_uid, info.st_mode & 0o020, info.st_mtime, os.getxattr(lazily.mnt / LARGE, "user.new")) == (
            1000, 0o020, 1e9, b"1",
        )  # fmt: skip
        same = [p for p in far.sums if not p.startswith(("d2/", "d4/")) and p not in ("d7/f05", "d7/f06", "d7/f07")]
        assert lazily.read(same, threads=8) == {}
        moved = {"renamed/f01": "d4/f01", "d5/moved": "d4/f00", "d6/linked": "d6/f01"}
        for now, before in moved.items():
            assert (lazily.mnt / now).read_bytes() == (far.tree / before).read_bytes()
        assert (lazily.mnt / "d7/f07").read_bytes() == b""
        lazily.cli.ok("commit", "app+dev")
        lazily.cli.ok("fsck")


def test_readers_that_are_killed_while_they_wait_end_at_once(lazily: Lazily, far: Far) -> None:
    far.slow.tell(fault="stall", where="blobs")
    readings = [lazily.start([path]) for path in (far.group(1)[0], far.group(3)[0], LARGE, SPARSE)]
    until(lambda: len(far.slow.ranges()) >= 3)
    time.sleep(0.5)
    for reading in readings:
        assert reading.process.poll() is None
        assert reading.kill() < 5
    far.slow.well()
    hydrating.kill(hydrating.worker(lazily.run))  # it waits half a minute for the answers that do not come
    lazily.right_again([*far.group(1), *far.group(3), LARGE, SPARSE])


def test_an_unmount_while_files_are_fetched(lazily: Lazily, far: Far) -> None:
    """Is refused where somebody waits; one that is lazy lets who waits have all it opens. The mount is made again."""
    far.slow.tell(delay=2)
    reading = lazily.start(far.group(5)[:20], threads=20)
    until(far.slow.ranges)
    assert lazily.cli("unmount", lazily.mnt).code != 0
    subprocess.run(["umount", "--lazy", lazily.mnt], check=True)
    assert reading.finish() == {}
    far.slow.tell(delay=0)
    lazily.mount()
    lazily.everything_is_right()


def test_two_stores_and_two_mounts_of_one_store_at_once(lazily: Lazily, far: Far, tmp_path: Path) -> None:
    with Lazily(tmp_path / "other", far) as other:
        second = tmp_path / "second"
        lazily.cli.ok("mount", "app:v1", second)
        assert hydrating.keeper(lazily.run) != hydrating.keeper(other.run)
        readings = [one.start(far.sums, threads=6) for one in (lazily, other)]
        third = Lazily.start(lazily, far.group(0))
        hydrating.stop(other.run)
        assert third.finish() == {}
        assert readings[0].finish() == {}
        assert set(readings[1].finish().values()) <= {errno.ENOTCONN, errno.EIO, errno.ECONNABORTED}
        assert (second / "d3/f00").read_bytes() == (far.tree / "d3/f00").read_bytes()
        lazily.cli.ok("unmount", lazily.mnt)
        assert (second / LARGE).read_bytes() == (far.tree / LARGE).read_bytes()
        lazily.cli.ok("unmount", second)


def test_mounts_that_come_and_go(far: Far, tmp_path: Path) -> None:
    """Each mount reads right, with or without what served the last one."""
    lazily = Lazily(tmp_path / "lazily", far)
    with lazily:
        for number in range(8):
            paths = random.sample(sorted(far.sums), 30)
            assert lazily.read(paths, threads=4) == {}
            lazily.cli.ok("unmount", lazily.mnt)
            if number % 3 == 2:
                hydrating.stop(lazily.run)
            lazily.mount()
        lazily.everything_is_right()
        lazily.cli.ok("fsck")


def test_eviction_under_a_storm_of_reads(lazily: Lazily, far: Far) -> None:
    """Everything is dropped again and again while everything is read; every read is right."""
    ended = threading.Event()
    said: list[str] = []

    def drop() -> None:
        while not ended.is_set():
            code, _, err = lazily.cli("unrealize", "app:v1")
            said.extend([err] if code else [])
            time.sleep(0.05)

    dropping = threading.Thread(target=drop)
    dropping.start()
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            paths = list(far.sums)
            random.shuffle(paths)
            assert lazily.read(paths, threads=12, timeout=120) == {}
    finally:
        ended.set()
        dropping.join()
    assert said == []
    lazily.everything_is_right()
    lazily.cli.ok("fsck")
