"""The processes behind lazy mounts are killed, in every state and with readers waiting: nothing wrong is ever read.

``STRATUM_TEST_LAZY_KILLS`` is the number of kills at random moments (default 4).
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable

import pytest

from tests.support import hydrating, keepers
from tests.support.lazily import LARGE, Far, Lazily, Reading, until

pytestmark = [pytest.mark.root, pytest.mark.registry, pytest.mark.timeout(1200)]

KILLS = int(os.environ.get("STRATUM_TEST_LAZY_KILLS", "4"))
GONE = {errno.EIO, errno.ENOTCONN, errno.ECONNABORTED, errno.EINTR, errno.ESTALE}
"""What a reader may be told of a mount behind which nobody is."""


def idle(_lazily: Lazily, _far: Far) -> Reading | None:
    """Nobody asks for anything."""
    return None


def fetching(lazily: Lazily, far: Far) -> Reading:
    """Many readers wait for small files whose requests are under way."""
    far.slow.tell(delay=1.5)
    far.slow.forget()
    reading = lazily.start(far.group(5), threads=30)
    until(far.slow.ranges)
    return reading


def publishing(lazily: Lazily, far: Far) -> None:
    """Files were read, and have no name in the store yet, or are just about to get it."""
    assert not lazily.read(far.group(3), threads=8)
    until(lazily.landed)
    time.sleep(random.uniform(0, 5.5))


def streaming(lazily: Lazily, far: Far) -> Reading:
    """A large file is being read in order, its first part came already."""
    far.slow.tell(rate=3 << 20)
    far.slow.forget()
    reading = lazily.start([LARGE, LARGE], threads=2)
    until(lambda: sum(one.sent for one in far.slow.ranges()) > 1 << 20)
    return reading


STATES: list[Callable[[Lazily, Far], Reading | None]] = [idle, fetching, publishing, streaming]


def test_readers_do_not_notice_that_the_worker_is_killed(lazily: Lazily, far: Far) -> None:
    for state in STATES:
        reading = state(lazily, far)
        before = hydrating.worker(lazily.run)
        assert before is not None
        hydrating.kill(before)
        far.slow.tell(delay=0, rate=0)
        if reading is not None:
            assert reading.finish() == {}, state.__name__
        assert lazily.read([far.group(0)[STATES.index(state)]]) == {}
        until(lambda dead=before: hydrating.worker(lazily.run) not in (None, dead))
    lazily.everything_is_right()
    lazily.cli.ok("fsck")


@pytest.mark.parametrize("who", ["keeper", "both"])
def test_without_the_keeper_what_is_here_is_read_and_reconcile_heals(lazily: Lazily, far: Far, who: str) -> None:
    here = far.group(0)
    with (lazily.mnt / here[0]).open("rb") as opened:
        for state in STATES:
            assert lazily.read(here, threads=4) == {}  # what had no name in the store yet, went with the last worker
            reading = state(lazily, far)
            keeper, worker = hydrating.keeper(lazily.run), hydrating.worker(lazily.run)
            assert keeper is not None
            assert worker is not None
            hydrating.kill(keeper, *([worker] if who == "both" else []))
            far.slow.tell(delay=0, rate=0)
            if reading is not None:
                assert set(reading.finish().values()) <= GONE, state.__name__
            assert lazily.read(here, threads=4) == {}
            assert set(lazily.read(far.group(7), threads=4).values()) <= GONE
            assert lazily.cli("reconcile").code == 0
            until(lambda dead=keeper: hydrating.keeper(lazily.run) not in (None, dead))
            assert lazily.read(far.group(6)[-4:]) == {}
        assert len(opened.read()) == (far.tree / here[0]).stat().st_size
    lazily.everything_is_right()
    lazily.cli.ok("fsck")


def test_a_worktree_is_written_while_what_is_behind_it_dies(far: Far, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is written before, between and after is all there, and committed with what was never read."""
    with Lazily(tmp_path_factory.mktemp("worktree") / "lazily", far, worktree=True) as lazily:
        (lazily.mnt / "one").write_text("one")
        with (lazily.mnt / "log").open("a") as log:
            log.write("before\n")
            log.flush()
            hydrating.stop(lazily.run)
            (lazily.mnt / "two").write_text("two")
            assert lazily.cli("reconcile").code == 0
            with (lazily.mnt / far.group(3)[0]).open("ab") as changed:
                changed.write(b"more")
        assert (lazily.mnt / "one").read_text() + (lazily.mnt / "two").read_text() == "onetwo"
        assert (lazily.mnt / "log").read_text() == "before\n"
        lazily.cli.ok("commit", "app+dev")
        whole = (far.tree / far.group(3)[0]).read_bytes() + b"more"
        assert (lazily.mnt / far.group(3)[0]).read_bytes() == whole
        assert lazily.read(path for path in far.sums if path != far.group(3)[0]) == {}
        lazily.cli.ok("fsck")


def test_kills_at_any_moment(lazily: Lazily, far: Far) -> None:
    """The whole tree is read again and again while workers die; each read is right."""
    far.slow.tell(delay=0.02)
    for _ in range(KILLS):
        paths = list(far.sums)
        random.shuffle(paths)
        reading = lazily.start(paths, threads=12)
        time.sleep(random.uniform(0, 1.5))
        hydrating.kill(hydrating.worker(lazily.run))
        assert reading.finish(120) == {}
    lazily.everything_is_right()
    lazily.cli.ok("fsck")


def test_what_serves_a_mount_ends_with_it(lazily: Lazily, far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    lazily.cli.ok("unmount", lazily.mnt)
    hydrating.stop(lazily.run)
    keepers.hurry(monkeypatch)
    keepers.mount(lazily.cli, lazily.ref, lazily.mnt)
    assert lazily.read(far.group(0)[:1]) == {}
    running = hydrating.processes(lazily.run)
    assert len(running) == 2
    lazily.cli.ok("unmount", lazily.mnt)
    until(lambda: not any(map(hydrating.lives, running)), 30, "keeper and worker still run")
    assert hydrating.processes(lazily.run) == []
    lazily.cli.ok("fsck")
