"""What a history leaves out, and what it costs others: nothing that they would notice."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stratum.api.maintenance import gc
from stratum.errors import StratumError
from stratum.history import reserve, versions, watched
from stratum.history.capture import Captured, Capturer
from stratum.history.versions import LARGE
from stratum.store.retention import Retention
from tests.integration.overlay_ops import lines, walk_view
from tests.support.disks import disk, fill
from tests.support.recorded import Recorded, begun

pytestmark = pytest.mark.root


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Recorded]:
    yield from begun(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Recorded]:
    """On a file system of 64 MiB."""
    with disk(tmp_path / "image", tmp_path / "disk") as path:
        recorded = Recorded(path)
        recorded.mount()
        recorded.start()
        yield recorded
        recorded.close()


def why(app: Recorded, path: bytes) -> list[str | None]:
    return [record.why for record in app.records() if record.path == path and record.op in ("create", "write")]


# Space


def test_a_disk_that_is_nearly_full_is_left_to_those_who_write(small: Recorded) -> None:
    """Records go on."""
    free = os.statvfs(small.place)
    with open(small.place / "ballast", "wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, free.f_bavail * free.f_frsize - (5 << 20))
    time.sleep(reserve._LOOKED)
    (small.view / "f").write_bytes(b"1" * 10_000)
    (small.view / "inline").write_bytes(b"2")
    small.flush()
    assert small.versions(b"/f") == [None]
    assert why(small, b"/f") == ["space"]
    assert small.versions(b"/inline") == [b"2"]
    assert [line for line in small.told if "nearly full" in line] == small.told
    assert not small.watcher.status()["space"]
    (small.place / "ballast").unlink()
    time.sleep(reserve._LOOKED)
    (small.view / "f").write_bytes(b"3" * 10_000)
    small.flush()
    assert small.versions(b"/f")[-1] == b"3" * 10_000
    assert "there is room again" in small.told[-1]


def test_a_full_disk_does_not_end_a_history(small: Recorded) -> None:
    """Whoever writes gets the last byte, and what could not be recorded is when there is room again."""
    last = small.flush()
    ballast = fill(small.place)
    failed = 0
    for number in itertools.count():
        try:
            os.truncate(small.view / "sparse", number)
            (small.view / f"new{number}").touch()
            os.rename(small.view / f"new{number}", small.view / "moved")
            small.flush()
        except (OSError, StratumError):
            failed += 1
        if failed > 3:
            break
    ballast.unlink()
    (small.view / "afterwards").write_bytes(b"1" * 1000)
    small.run(lambda: not small.watcher.status()["troubles"])
    small.check()
    assert "gap" not in [op for op, _ in small.told_of(last)]


# Large files, and many closes


def test_a_large_file_is_taken_once_in_a_while(app: Recorded) -> None:
    contents = [b"%d" % number * (LARGE + 1) for number in range(6)]
    for content in contents:
        (app.view / "atomic").write_bytes(content)
        os.rename(app.view / "atomic", app.view / "f")
        app.watcher.listen()
    app.flush()
    kept = app.versions(b"/f")
    assert kept[-1] == contents[-1]
    assert len(kept) < len(contents)
    app.check()


def test_a_large_file_that_is_written_in_place(app: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is in between is not recorded, or only with what it was when it was taken last."""
    (app.view / "log").write_bytes(b"0" * LARGE)
    app.flush()
    for number in range(4):
        with open(app.view / "log", "ab") as file:
            file.write(b"%d" % number)
        app.watcher.run_once(0)
    app.run(lambda: not app.watcher.status()["publishing"])
    assert all(len(content or b"") in (LARGE, LARGE + 1) for content in app.versions(b"/log"))
    app.check()
    assert app.versions(b"/log")[-1] == b"0" * LARGE + b"0123"
    monkeypatch.setattr(versions, "LARGE_PAUSE", 0.3)
    with open(app.view / "log", "ab") as file:
        file.write(b"4")
    app.watcher.listen()
    app.run(lambda: (app.versions(b"/log")[-1] or b"").endswith(b"4"))


def test_small_files_are_taken_while_a_large_one_is(app: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = threading.Event(), threading.Event()
    capture = Capturer.capture

    def slow(capturer: Capturer, fd: int, info: os.stat_result, **more: Any) -> Captured | None:
        if info.st_size > LARGE:
            begun.set()
            release.wait(60)
        return capture(capturer, fd, info, **more)

    monkeypatch.setattr(Capturer, "capture", slow)
    (app.view / "huge").write_bytes(b"1" * (LARGE + 1))
    app.watcher.listen()
    assert begun.wait(60)
    contents = [b"%d" % number * 100 for number in range(5)]
    for content in contents:
        (app.view / "f").write_bytes(content)
        app.watcher.listen()
    app.run(lambda: app.versions(b"/f") == contents)
    assert not any(app.versions(b"/huge"))
    release.set()
    app.check()
    assert app.versions(b"/huge")[-1] == b"1" * (LARGE + 1)


def test_many_large_files(app: Recorded) -> None:
    for number in range(70):
        (app.view / f"large{number}").write_bytes(b"%d" % number * LARGE)
    app.check()
    for number in range(3):
        (app.view / f"large{number}").write_bytes(b"%d," % number * LARGE)
    app.watcher.listen()
    app.stop()
    app.start()
    app.check()


def test_files_that_are_too_large_are_recorded_without_their_content(tmp_path: Path) -> None:
    app = Recorded(tmp_path, max_file=5000)
    try:
        app.mount()
        app.start()
        (app.view / "f").write_bytes(b"1" * 5001)
        app.flush()
        (app.view / "f").write_bytes(b"2" * 5001)
        app.flush()
        (app.view / "f").write_bytes(b"3" * 5000)
        app.flush()
        assert app.versions(b"/f") == [None, None, b"3" * 5000]
        assert why(app, b"/f") == ["large", "large", None]
        (app.view / "d" / "big").chmod(0o600)
        app.check()
    finally:
        app.close()


def test_more_versions_than_can_wait_are_given_up_and_told(app: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS_MAX", 10)
    last = app.flush()
    for number in range(25):
        (app.view / "f").write_bytes(b"%d" % number * 50)
        app.watcher.listen()
    app.check()
    assert app.told_of(last)[0][0] == "gap"
    assert app.versions(b"/f")[-1] == b"24" * 50
    assert len(app.versions(b"/f")) <= 11
    assert not [name for shard in os.scandir(app.watcher.status()["staging"]) for name in os.listdir(shard)]


def test_what_is_staged_goes_when_it_is_in_the_store(app: Recorded) -> None:
    for number in range(5):
        for name in ("f", "g"):
            (app.view / name).write_bytes(b"the same in both %d" % number * 50)
            app.watcher.listen()
    app.check()
    assert not [name for shard in os.scandir(app.watcher.status()["staging"]) for name in os.listdir(shard)]


# Exclusions


def test_of_what_is_excluded_nothing_is_recorded(tmp_path: Path) -> None:
    app = Recorded(tmp_path, exclude=("*/cache", "*.swp"))
    try:
        app.mount()
        app.start()
        (app.view / "cache" / "deep").mkdir(parents=True)
        (app.view / "cache" / "deep" / "f").write_bytes(b"1" * 100)
        (app.view / ".f.swp").write_bytes(b"1" * 100)
        (app.view / "kept").write_bytes(b"1")
        app.flush()
        assert app.told_of() == [("base", ""), ("create", "/kept")]
        os.rename(app.view / "cache", app.view / "not-excluded")
        os.rename(app.view / "kept", app.view / "kept.swp")
        app.flush()
        assert app.told_of()[2:] == [
            ("delete", "/kept"),
            ("mkdir", "/not-excluded"),
            ("mkdir", "/not-excluded/deep"),
            ("create", "/not-excluded/deep/f"),
        ]
        for name in ("kept.swp", ".f.swp"):
            (app.view / name).unlink()
        app.check()
    finally:
        app.close()


def test_what_no_log_can_hold_is_left_out(app: Recorded) -> None:
    """As a file that is larger than any that a commit can have, with holes in place of all of it."""
    (app.view / "dir").mkdir()
    with open(app.view / "dir" / "huge", "wb") as file:
        for size in (1 << 63) - 1, (1 << 62), 17 << 40, 15 << 40:
            with contextlib.suppress(OSError):
                file.truncate(size)
                break
    (app.view / "dir" / "f").write_bytes(b"1")
    app.flush()
    assert ("create", "/dir/f") in app.told_of()
    os.truncate(app.view / "dir" / "huge", 10)
    app.check()
    assert app.versions(b"/dir/huge")[-1] == bytes(10)


# Many, and others


def test_many_worktrees(tmp_path: Path) -> None:
    app = Recorded(tmp_path)
    try:
        names = [f"w{number}" for number in range(50)]
        for name in names:
            app.add(name)
        views = {name: app.mount(tmp_path / name, name) for name in names}
        app.start()
        for _ in range(3):
            for name, view in views.items():
                (view / "f").write_bytes(name.encode() * 50)
                (view / "new").write_bytes(name.encode() * 50)
                os.rename(view / "new", view / "other" / "new")
        for name, view in views.items():
            app.check(view, name)
            assert app.versions(b"/f", name)[-1] == name.encode() * 50
        began = time.process_time()
        for _ in range(20):
            app.watcher.run_once(0.1)
        assert time.process_time() - began < 0.5, "nothing happens, and it works"
    finally:
        app.close()


def test_what_one_worktree_does_keeps_no_other_from_being_recorded(
    app: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "RETRY", 0.2)
    app.add("other")
    other = app.mount(app.place / "view-other", "other")
    app.watcher.look()
    path = app.upper()
    (path / "broken").write_bytes(b"")
    os.setxattr(path / "broken", "trusted.overlay.metacopy", b"")
    (other / "f").write_bytes(b"recorded")
    with pytest.raises(StratumError, match="broken"):
        app.flush()
    app.flush("other")
    app.check(other, "other")
    assert app.watcher.status()["troubles"].keys() == {"app+dev"}
    (path / "broken").unlink()
    app.run(lambda: not app.watcher.status()["troubles"])
    app.check()


WRITERS = """
import os, random, sys
view, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chosen = random.Random(seed)
os.chdir(view)
os.makedirs(f"w{seed}/d", exist_ok=True)
for number in range(rounds):
    place = chosen.choice([".", f"w{seed}", f"w{seed}/d", "d", "other"])
    name = f"{place}/n{chosen.randrange(6)}"
    try:
        what = chosen.randrange(8)
        if what < 3:
            with open(name, "wb") as file:
                file.write(b"%d-%d " % (seed, number) * chosen.randrange(30))
        elif what == 3:
            os.rename(name, f"w{seed}/n{chosen.randrange(6)}")
        elif what == 4:
            os.unlink(name)
        elif what == 5:
            os.link(name, f"{place}/l{number % 5}")
        elif what == 6:
            os.rename(f"w{seed}/d", f"w{seed}/e")
            os.rename(f"w{seed}/e", f"w{seed}/d")
        else:
            os.chmod(name, chosen.choice([0o600, 0o644]))
    except OSError:
        pass
"""


def test_several_writers_at_once(app: Recorded) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITERS, str(app.view), str(number), "1500"]) for number in range(3)
    ]
    while any(writer.poll() is None for writer in writers):
        app.watcher.run_once(0.05)
    app.check()
    assert app.told == []
    assert app.store.histories.problems("app", "dev") == []


def test_whoever_has_the_store_for_himself_is_waited_for(app: Recorded) -> None:
    """Versions are taken meanwhile."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with app.store.locks.store(exclusive=True):
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        contents = [b"%d" % number * 100 for number in range(5)]
        for content in contents:
            (app.view / "f").write_bytes(content)
            app.watcher.run_once(0.3)
        app.run(lambda: bool(app.watcher.status()["publishing"]))
    finally:
        release.set()
        thread.join()
    app.check()
    assert app.versions(b"/f") == contents


def test_a_garbage_collection_takes_nothing_that_is_on_its_way(app: Recorded) -> None:
    contents = [b"%d" % number * 100 for number in range(3)]
    for content in contents:
        (app.view / "atomic").write_bytes(content)
        os.rename(app.view / "atomic", app.view / "f")
        app.watcher.listen()
        gc(app.session, Retention())
    app.check()
    gc(app.session, Retention())
    assert app.versions(b"/f") == contents
    assert app.store.histories.problems("app", "dev") == []


# Without events, and strictly


def test_without_events_upperdirs_are_looked_through(tmp_path: Path) -> None:
    app = Recorded(tmp_path)
    try:
        app.mount()
        app.start(scanning=True)
        (app.view / "f").write_bytes(b"1" * 100)
        app.run(lambda: app.versions(b"/f") == [b"1" * 100])
        operations = app.operations()
        for kind in ("rename_directory", "link", "exchange", "remove_tree", "append", "set_xattr"):
            for number in range(5):
                operations.run((kind, number * 7, number * 3, number))
            app.check()
        with open(app.view / "f", "wb", buffering=0) as file:
            file.write(b"open")
            app.flush()
        app.check()
        assert app.watcher.status()["events"] is False
    finally:
        app.close()


def test_a_strict_history_has_every_version(tmp_path: Path) -> None:
    app = Recorded(tmp_path, strict=True)
    try:
        app.mount()
        app.start()
        (app.view / "f").write_bytes(b"begun")
        app.flush()
        contents = [b"%d" % number * 100 for number in range(300)]
        code = "import sys\nfor n in range(300):\n    with open(sys.argv[1], 'wb') as file: file.write(b'%d' % n * 100)"
        writer = subprocess.Popen([sys.executable, "-c", code, str(app.view / "f")])
        while writer.poll() is None:
            app.watcher.run_once(0.05)
        app.check()
        assert app.versions(b"/f")[1:] == contents
    finally:
        app.close()


def test_the_worktree_shows_what_it_showed(app: Recorded) -> None:
    """Watching changes nothing in it, not even times."""
    before = lines(walk_view(app.view))
    for _ in range(3):
        app.watcher.run_once(0.05)
    app.flush()
    assert lines(walk_view(app.view)) == before
