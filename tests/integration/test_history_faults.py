"""Watchers that are killed, disks that are full, and programs that people run: no closed version is lost, and the log
tells what the worktree shows."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from stratum.history.adopting import KILLED
from stratum.history.wire import LOG
from tests.support import watching
from tests.support.capabilities import program
from tests.support.command import Command
from tests.support.disks import disk, fill
from tests.support.historyfarm import Crowd, Farm, content_key, farm, gaps, seed_of
from tests.support.hydrating import kill

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("STRATUM_TEST_HISTORY_KILLS", "4"))


def test_a_worker_killed_at_any_moment_leaves_no_gap(cli: Command, tmp_path: Path) -> None:
    """The keeper has the events, and starts another. What the dead one had just read of them is told as missing."""
    with farm(cli, tmp_path, files=30) as made, Crowd(made.view, tmp_path, seed_of("killed"), 2) as crowd:
        for _ in range(KILLS):
            crowd.start(80)
            time.sleep(random.uniform(0.0, 0.4))
            kill(watching.worker(cli.runtime_dir))
            crowd.wait()
            made.check(made.flush())
        made.check_whole()
        assert {gap.why for gap in gaps(made.records())} <= {KILLED}


def test_when_all_that_watches_is_killed_the_log_says_so(cli: Command, tmp_path: Path) -> None:
    with farm(cli, tmp_path, files=30) as made, Crowd(made.view, tmp_path, seed_of("dead"), 2) as crowd:
        for number in range(2):
            crowd.start(80)
            time.sleep(random.uniform(0.0, 0.4))
            watching.stop(cli.runtime_dir)
            crowd.wait()
            crowd.work(20)  # all that went before may be in the log already
            cli.ok("history", "on", made.ref)
            made.check(made.flush())
            assert len(gaps(made.records())) == number + 1
        made.check_whole()


def test_every_version_that_is_closed_for_ten_milliseconds_is_there(cli: Command, tmp_path: Path) -> None:
    """Written in place and by replacement. Those that are replaced are there at any speed. Those written in place are,
    where the watcher gets a processor within that time: in one of ten rounds on however busy a machine."""
    with farm(cli, tmp_path, files=5) as made:
        for number in range(10):
            if not _lost_in_place(made, f"round-{number}"):
                return
    pytest.fail("versions were lost in each round")


def _lost_in_place(made: Farm, name: str) -> list[int]:
    """Which versions of a file that is rewritten every ten milliseconds are not there."""
    versions = [b"version %d of many\n" % number * 5 for number in range(40)]
    keys = [content_key(data) for data in versions]
    for data in versions:
        (made.view / name).write_bytes(data)
        (made.view / "new").write_bytes(data)
        (made.view / "new").rename(made.view / f"{name}-replaced")
        time.sleep(0.01)
    made.flush()
    there = {*made.versions(f"/{name}-replaced".encode()), *made.versions(b"/new")}
    assert not [number for number, key in enumerate(keys) if key not in there]
    in_place = list(dict.fromkeys(key for key in made.versions(f"/{name}".encode()) if key))
    assert in_place == [key for key in keys if key in in_place]
    return [number for number, key in enumerate(keys) if key not in in_place]


def _lapses(cli: Command) -> int:
    """How often it was told that a strict history was not strict for a while, as where nobody got a processor."""
    return (cli.runtime_dir / LOG).read_text().count("not strict for a while")


def test_a_strict_history_has_every_version(cli: Command, tmp_path: Path) -> None:
    """Rewritten in place back to back; and the log is right also where opens are held up."""
    with farm(cli, tmp_path, "--strict", files=5) as made:
        versions = [b"version %d of many\n" % number * 5 for number in range(500)]
        for number in range(10):
            lapses = _lapses(cli)
            for data in versions:
                (made.view / f"file-{number}").write_bytes(data)
            made.check(made.flush())
            found = list(dict.fromkeys(key for key in made.versions(b"/file-%d" % number) if key))
            if _lapses(cli) == lapses:
                break
        assert found == [content_key(data) for data in versions]
        with Crowd(made.view, tmp_path, seed_of("strict"), 2) as crowd:
            crowd.work(100)
        made.check(made.flush())
        made.check_whole()


def test_programs_that_people_run(cli: Command, tmp_path: Path) -> None:
    with farm(cli, tmp_path, files=5) as made:
        _unpack(made, tmp_path)
        _git(made, tmp_path)
        _database(made)
        _package(made, tmp_path)
        made.check(made.flush())
        made.check_whole()
        assert not gaps(made.records())


def _unpack(made: Farm, scratch: Path) -> None:
    """tar, much faster than any watcher: all contents are there."""
    archive = scratch / "many.tar"
    source = scratch / "unpacked"
    for number in range(600):
        (source / f"{number // 20}" / "deep").mkdir(parents=True, exist_ok=True)
        (source / f"{number // 20}" / "deep" / f"file-{number}").write_bytes(b"content %d\n" % number * 30)
    with tarfile.open(archive, "w") as tar:
        tar.add(source, "unpacked")
    subprocess.run(["tar", "-C", made.view, "-xf", archive], check=True)
    made.check(made.flush())


def _git(made: Farm, scratch: Path) -> None:
    repository = made.view / "repository"
    environment = {"PATH": os.environ["PATH"], "HOME": str(scratch), "GIT_CONFIG_GLOBAL": "/dev/null"}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "test", f"GIT_{who}_EMAIL": "test@example.com"}

    def git(*words: str) -> None:
        subprocess.run([program("git"), "-C", repository, "-c", "gc.auto=0", *words], env=environment, check=True)

    repository.mkdir()
    git("init", "--quiet", "--initial-branch=one")
    for branch in ("one", "two"):
        git("checkout", "--quiet", "-B", branch)
        for number in range(100):
            (repository / f"{branch}-{number % 5}").mkdir(exist_ok=True)
            (repository / f"{branch}-{number % 5}" / f"{number}.txt").write_text(f"{branch} {number}\n" * 20)
            (repository / f"common-{number % 30}.txt").write_text(f"{branch} {number}\n")
        git("add", "--all")
        git("commit", "--quiet", "-m", branch)
    for branch in ("one", "two", "one"):
        git("checkout", "--quiet", branch)
    made.check(made.flush())
    git("fsck", "--strict")


def _database(made: Farm) -> None:
    with contextlib.closing(sqlite3.connect(made.view / "data.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (number INTEGER)")
        for number in range(200):
            database.execute("INSERT INTO t VALUES (?)", (number,))
            database.commit()
        # Open, it has no version after the last close: that is said, and breaks nothing.
        made.check(made.flush(), unknown_too=True)
    made.check(made.flush())


def _package(made: Farm, scratch: Path) -> None:
    """An installation of a package, of which the previous version is replaced."""
    for version in ("1.0", "2.0"):
        project = scratch / f"project-{version}"
        package = project / "demo"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"VERSION = {version!r}\n" * 30)
        for number in range(20):
            (package / f"module_{number}.py").write_text(f"N = {number}, {version!r}\n" * 10)
        wheel = _wheel(package, scratch, version)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
        command += ["--disable-pip-version-check", "--root-user-action=ignore", "--target", made.view / "site", wheel]
        subprocess.run(command, check=True, capture_output=True)
        made.check(made.flush())
    found = made.versions(b"/site/demo/__init__.py")
    for version in ("1.0", "2.0"):
        assert content_key(f"VERSION = {version!r}\n".encode() * 30) in found


def _wheel(package: Path, scratch: Path, version: str) -> Path:
    """A wheel of a package, made by hand: building tools would want the network."""
    place = scratch / f"wheel-{version}"
    shutil.copytree(package, place / package.name)
    info = place / f"demo-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: demo\nVersion: {version}\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    files = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, f"demo-{version}.dist-info/RECORD"]))
    made = shutil.make_archive(str(scratch / f"demo-{version}-py3-none-any"), "zip", place)
    return Path(made).rename(scratch / f"demo-{version}-py3-none-any.whl")


def test_a_full_disk_is_the_writers_alone(tmp_path: Path) -> None:
    """Below the reserve no contents are kept; names are; where there is no space at all, all goes on when there is."""
    with disk(tmp_path / "image", tmp_path / "disk", size=128 << 20) as place:
        runtime_dir = tmp_path / "run"
        runtime_dir.mkdir(mode=0o700)
        cli = Command(place / "store", runtime_dir)
        with farm(cli, tmp_path, files=5) as made:
            (made.view / "kept").write_bytes(b"before " * 100)
            made.check(made.flush())
            filler = fill(place)
            os.truncate(filler, filler.stat().st_size - (3 << 20))
            time.sleep(1)  # the space is looked at now and then
            (made.view / "kept").write_bytes(b"after " * 100)
            made.check(made.flush(), unknown_too=True)
            assert [record.why for record in made.records() if record.path == b"/kept"][-1] == "space"
            fill(place / "store").rename(place / "filler-2")
            with Crowd(made.view, tmp_path, seed_of("full"), 2, "full") as crowd:
                crowd.work(60)
                for file in (filler, place / "filler-2"):
                    file.unlink()
                made.check(made.flush(), unknown_too=True)
                crowd.work(60)
            made.check(made.flush(), unknown_too=True)
            made.check_whole()
            time.sleep(1)
            (made.view / "again").write_bytes(b"again " * 100)  # hands may have made "kept" a link of another file
            made.flush()
            assert made.versions(b"/again")[-1] == content_key(b"again " * 100)
