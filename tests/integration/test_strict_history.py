"""Strict histories: each closed version is taken before anybody opens the file again, and nobody waits for long."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.history.strict import SILENCE_SECONDS, Strict, Strictness, StrictVersion
from stratum.store.objects import Staging
from tests.support.hydrating import lives
from tests.support.watching import children

pytestmark = pytest.mark.root


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    directory = tmp_path / "staging"
    directory.mkdir()
    return directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


@pytest.fixture
def strict(staging: Path, place: Path) -> Iterator[Strict]:
    made = Strict(Staging(str(staging)), str(staging.with_name("aside")), f"of {staging}")
    with contextlib.closing(made):
        with directory_of(place) as fd:
            made.mark_directory(fd)
        yield made


@contextlib.contextmanager
def directory_of(place: Path) -> Iterator[int]:
    fd = os.open(place, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def contents(staging: Path, versions: list[StrictVersion]) -> list[bytes]:
    found = []
    for version in versions:
        captured = version.captured
        if captured.digest is not None:
            found.append(Path(Staging(str(staging)).path(captured.digest)).read_bytes())
        else:
            found.append(captured.content or b"")
    return found


def rewrite(path: Path, data: bytes) -> None:
    """In place, at once."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(fd, data)
    os.close(fd)


def without_repetition(found: list[bytes]) -> list[bytes]:
    return [data for number, data in enumerate(found) if not number or found[number - 1] != data]


@pytest.mark.parametrize("size", [20, 4096])
def test_a_file_rewritten_back_to_back_has_every_version(strict: Strict, staging: Path, place: Path, size: int) -> None:
    versions = [b"version %d " % number * (size // 10) for number in range(500)]
    for data in versions:
        rewrite(place / "file", data)
    taken = strict.sync()
    assert without_repetition(contents(staging, taken)) == versions
    assert {version.pid for version in taken} == {os.getpid()}
    assert {version.path for version in taken} == {os.fsencode(place / "file")}
    assert strict.take_losses() == 0


def test_so_has_one_that_was_read_often_before(strict: Strict, staging: Path, place: Path) -> None:
    """Reads end the questions, and a write begins them again."""
    rewrite(place / "file", b"first")
    for _ in range(20):
        (place / "file").read_bytes()
    versions = [b"version %d" % number for number in range(100)]
    for data in versions:
        rewrite(place / "file", data)
    assert without_repetition(contents(staging, strict.sync())) == [b"first", *versions]


def test_what_is_read_often_is_not_asked_for(strict: Strict, place: Path) -> None:
    """Shown by stopping who would be asked."""
    rewrite(place / "file", b"read")
    for _ in range(20):
        (place / "file").read_bytes()
    os.kill(strict.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        for _ in range(1000):
            (place / "file").read_bytes()
        took = time.monotonic() - began
        assert strict.alive
        assert lives(strict.pid), f"nobody is left that could have been asked, after {took} seconds"
    finally:
        os.kill(strict.pid, signal.SIGCONT)


def test_large_files_and_mappings(strict: Strict, staging: Path, place: Path) -> None:
    versions = [b"large %d" % number * 400_000 for number in range(5)]
    for data in versions:
        rewrite(place / "large", data)
    rewrite(place / "mapped", b"0" * 100)
    mapped = [b"0" * 100]
    for number in range(50):
        fd = os.open(place / "mapped", os.O_RDWR)
        with mmap.mmap(fd, 100) as memory:
            os.close(fd)
            memory[:3] = b"%03d" % number
            mapped.append(memory[:])
    found = strict.sync(60)
    large = [version for version in found if version.path.endswith(b"large")]
    assert without_repetition(contents(staging, large)) == versions
    small = [version for version in found if version.path.endswith(b"mapped")]
    assert without_repetition(contents(staging, small)) == without_repetition(mapped)


def test_a_version_that_was_replaced_or_deleted_is_there(strict: Strict, staging: Path, place: Path) -> None:
    for number in range(100):
        rewrite(place / "new", b"saved %d" % number)
        os.rename(place / "new", place / "file")
    rewrite(place / "other", b"deleted")
    (place / "other").unlink()
    found = contents(staging, strict.sync())
    assert [data for data in found if data] == [*(b"saved %d" % number for number in range(100)), b"deleted"]


def test_a_file_with_several_names_that_is_watched_itself(strict: Strict, staging: Path, place: Path) -> None:
    elsewhere = place.parent / "elsewhere"
    rewrite(elsewhere, b"linked")
    fd = os.open(elsewhere, os.O_PATH)
    strict.mark_file(fd)
    os.close(fd)
    rewrite(elsewhere, b"one")
    rewrite(elsewhere, b"two")
    assert contents(staging, strict.sync()) == [b"one", b"two"]


def test_contents_have_limits(strict: Strict, staging: Path, place: Path) -> None:
    strict.limit(1000, has_space=True)
    rewrite(place / "file", b"x" * 2000)
    (large,) = strict.sync()
    assert (large.captured.unknown, large.captured.size, large.captured.digest) == ("large", 2000, None)
    strict.limit(1000, has_space=False)
    rewrite(place / "file", b"y" * 500)
    (full,) = strict.sync()
    assert (full.captured.unknown, full.captured.size, full.captured.digest) == ("space", 500, None)


def test_a_process_that_hangs_is_killed_and_everybody_goes_on(strict: Strict, place: Path) -> None:
    rewrite(place / "file", b"before")
    strict.sync()
    os.kill(strict.pid, signal.SIGSTOP)
    reader = subprocess.Popen(["cat", place / "file"], stdout=subprocess.PIPE)
    out, _ = reader.communicate(timeout=60)
    assert out == b"before"
    deadline = time.monotonic() + 30
    while strict.alive:
        assert strict.read() == []
        assert time.monotonic() < deadline
    assert f"{SILENCE_SECONDS:g} seconds" in strict.why
    assert strict.sync() == []
    with directory_of(place) as fd:
        strict.mark_directory(fd)  # says nothing: it is seen in ``alive``


def test_the_end_of_the_watcher_frees_everybody(staging: Path, place: Path) -> None:
    """Killed, with a process that hangs."""
    program = (
        "import os, signal, sys, time; from stratum.history.strict import Staging, Strict\n"
        "strict = Strict(Staging(sys.argv[1]), sys.argv[1] + '-aside')\n"
        "strict.mark_directory(os.open(sys.argv[2], os.O_RDONLY))\n"
        "os.kill(strict.pid, signal.SIGSTOP); print(strict.pid, flush=True); time.sleep(600)"
    )
    rewrite(place / "file", b"content")
    with subprocess.Popen([sys.executable, "-c", program, staging, place], stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        pid = int(watcher.stdout.readline())
        watcher.kill()
    reader = subprocess.run(["cat", place / "file"], stdout=subprocess.PIPE, check=True, timeout=60)
    assert reader.stdout == b"content"
    deadline = time.monotonic() + 30
    while lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_watcher_has_another_process_where_one_ends(staging: Path, place: Path) -> None:
    """It is told that marks are to be set anew, and for as long as nothing is strict there is no process."""
    told: list[str] = []
    strictness = Strictness(Staging(str(staging)), "a test", told.append)
    assert not strictness.use([])
    assert strictness.fd == -1
    with contextlib.closing(strictness):
        for number in range(2):
            assert strictness.use(["app+one"])
            assert not strictness.use(["app+one"])
            with directory_of(place) as fd:
                strictness.mark_directory(fd)
            rewrite(place / "file", b"version %d" % number)
            assert contents(staging, strictness.read(sync=True)) == [b"version %d" % number]
            if not number:
                (pid,) = [pid for pid in children(os.getpid()) if "holdup" in command_line(pid)]
                os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + 30
                while strictness.alive:
                    assert strictness.read() == []
                    assert time.monotonic() < deadline
                assert told == ["strict histories are not strict for a while: it has ended"]
                assert strictness.next_start is not None
                time.sleep(max(0.0, strictness.next_start - time.monotonic()))
        assert strictness.use(["app+one", "app+two"])  # the new one is to be marked
        assert strictness.use(["app+two"])  # the other one is not to be held up any more
        strictness.use([])
        assert not strictness.alive


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
