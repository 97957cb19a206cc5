"""Contents are taken whole or not at all, whoever writes to them meanwhile, and from nothing but regular files."""

from __future__ import annotations

import mmap
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.history import capture as capturing
from stratum.history.capture import IN_MEMORY_MAX, Captured, Capturer
from stratum.history.events import Groups
from stratum.ingest.staging import signature
from stratum.store.objects import Staging
from stratum.sys.leases import Lease, is_wanted
from tests.integration.overlay_ops import Worktree
from tests.support.disks import disk, disk_of, fill, kinds_here

pytestmark = pytest.mark.root

MAX_FILE = 64 << 20
LARGE = 3 * (4 << 20) + 5


class Place:
    """A capturer, and the directory that it stages objects in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.room = True
        self.capturer = Capturer(Staging(str(directory)), max_file=lambda: MAX_FILE, has_space=lambda: self.room)

    def capture(self, path: Path) -> Captured | None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return self.capturer.capture(fd)
        finally:
            os.close(fd)

    def content(self, captured: Captured) -> bytes:
        """What was captured."""
        assert captured.unknown is None
        if captured.digest is None:
            return captured.content or b""
        assert captured.content is None
        return Path(self.capturer.staging.path(captured.digest)).read_bytes()

    def staged(self) -> list[str]:
        """All files in the directory."""
        return [os.path.join(where, name) for where, _, names in os.walk(self.directory) for name in names]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "staging")


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Have ``act`` done in a thread, which has to end after the block."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def wait_until_wanted(fd: int) -> None:
    deadline = time.monotonic() + 60
    while not is_wanted(fd):
        assert time.monotonic() < deadline
        time.sleep(0.005)


SIZES = [0, 1, 64, 65, 4095, 4096, 4097, 70_000, IN_MEMORY_MAX, IN_MEMORY_MAX + 1, LARGE]


@pytest.mark.parametrize("size", SIZES)
def test_every_size(place: Place, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    for _ in range(2):
        captured = place.capture(path)
        info = path.stat()
        assert captured == Captured(
            (info.st_dev, info.st_ino),
            signature(info),
            size,
            verity_digest(data) if size > 64 else None,
            data if 0 < size <= 64 else None,
            None,
        )
        assert place.content(captured) == data
        assert len(place.staged()) == (size > 64), "nothing else is left"


REWRITING = """
import os, sys, time
path, size, cut = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "cut"
step = size // 4
number = 0
while os.getppid() == int(sys.argv[4]):
    number += 1
    fd = os.open(path, os.O_WRONLY | (os.O_TRUNC if cut else 0))
    for at in range(0, size, step):
        os.pwrite(fd, b"ab"[number % 2 : number % 2 + 1] * step, at)
    os.close(fd)
    time.sleep(0.002)
    if number % 8 == 0:
        os.truncate(path, size // 2)
        os.truncate(path, size)
"""


@pytest.mark.parametrize("cut", ["cut", "over"])
@pytest.mark.parametrize("size", [8192, IN_MEMORY_MAX + 8192])
def test_nothing_torn_is_ever_taken(tree: Worktree, place: Place, size: int, cut: str) -> None:
    """Two contents in turns, each written in four pieces, and now and then the file is cut without being opened."""
    path = tree.upper / "file"
    (tree.view / "file").write_bytes(b"b" * size)
    half = size // 2
    whole = {bytes(size): "never", b"a" * size: "a", b"b" * size: "b", b"a" * half: "cut a", b"b" * half: "cut b"}
    whole |= {b"a" * half + bytes(half): "grown a", b"b" * half + bytes(half): "grown b"}
    writer = subprocess.Popen(
        [sys.executable, "-c", REWRITING, tree.view / "file", str(size), cut, str(os.getpid())],
        stdout=subprocess.DEVNULL,
    )
    seen: dict[str, int] = {}
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline and (sum(seen.values()) < 60 or not seen.keys() >= {"a", "b"}):
            captured = place.capture(path)
            if captured is None:
                continue
            word = whole.get(place.content(captured))
            assert word is not None, "a mixture"
            seen[word] = seen.get(word, 0) + 1
    finally:
        writer.kill()
        writer.wait()
    assert seen.keys() >= {"a", "b"}, seen
    assert "never" not in seen
    captured = place.capture(path)
    assert captured is not None
    assert all(len(os.path.basename(name)) == 62 for name in place.staged()), "copies that were given up are gone"


def test_what_is_taken_has_the_mode_of_an_object(place: Place, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        for size in (5000, LARGE):
            (tmp_path / "file").write_bytes(b"x" * size)
            assert place.capture(tmp_path / "file") is not None
    finally:
        os.umask(before)
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in place.staged()} == {0o444}


def test_what_is_mapped_to_be_written_is_not_taken_until_that_ends(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    fd = os.open(path, os.O_RDWR)
    reading = os.open(path, os.O_RDONLY)
    mapping = mmap.mmap(fd, 5000)
    os.close(fd)
    assert place.capture(path) is None
    assert place.capturer.is_open_for_writing(reading)
    mapping[:5] = b"later"
    mapping.close()
    assert not place.capturer.is_open_for_writing(reading)
    captured = place.capture(path)
    assert captured is not None
    assert place.content(captured) == b"later" + bytes(4995)
    os.close(reading)


def test_reading_waits_for_nothing_and_a_writer_for_one_read(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before" * 1000)
    opened = threading.Event()

    def write() -> None:
        with path.open("r+b") as file:
            opened.set()
            file.write(b"after!")

    take = Capturer._take

    def watched(self: Capturer, fd: int, info: os.stat_result, lease: Lease) -> object:
        assert path.read_bytes()[:6] == b"before"
        assert not is_wanted(fd)
        thread.start()
        wait_until_wanted(fd)
        assert not opened.is_set()
        return take(self, fd, info, lease)

    thread = threading.Thread(target=write)
    monkeypatch.setattr(Capturer, "_take", watched)
    captured = place.capture(path)
    assert captured is not None
    assert place.content(captured) == b"before" * 1000
    assert opened.wait(60)
    thread.join()
    monkeypatch.undo()
    captured = place.capture(path)
    assert captured is not None
    assert place.content(captured) == b"after!" + b"before" * 999


def before_pieces(monkeypatch: pytest.MonkeyPatch, act: Callable[[int, int], object]) -> list[int]:
    """Have ``act`` called with the descriptor and the offset before each piece of a large file is copied."""
    copy = capturing._copy_piece
    offsets: list[int] = []

    def watched(fd: int, out: int, size: int, offset: int) -> int:
        offsets.append(offset)
        act(fd, offset)
        return copy(fd, out, size, offset)

    monkeypatch.setattr(capturing, "_copy_piece", watched)
    return offsets


def test_a_large_file_is_given_up_for_a_writer(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * LARGE)

    def write() -> None:
        with path.open("r+b") as file:
            file.write(b"y")

    def begin(fd: int, offset: int) -> None:
        if not offset:
            thread.start()
            wait_until_wanted(fd)

    thread = threading.Thread(target=write)
    offsets = before_pieces(monkeypatch, begin)
    assert place.capture(path) is None
    assert offsets == [0], "the rest is not copied"
    thread.join(60)
    assert not thread.is_alive()
    assert place.staged() == []
    monkeypatch.undo()
    captured = place.capture(path)
    assert captured is not None
    assert place.content(captured) == b"y" + b"x" * (LARGE - 1)


def test_what_a_lease_does_not_hold_is_seen(tree: Worktree, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is cut and made longer while it is copied is copied once more."""
    path = tree.view / "cut"
    path.write_bytes(b"x" * LARGE)
    tries = 0

    def cut(fd: int, offset: int) -> None:
        nonlocal tries
        if offset and not tries:
            tries = 1
            os.truncate(path, 10)
            os.truncate(path, LARGE)

    before_pieces(monkeypatch, cut)
    captured = place.capture(tree.upper / "cut")
    assert captured is not None
    assert place.content(captured) == b"x" * 10 + bytes(LARGE - 10)
    assert len(place.staged()) == 1


@pytest.mark.parametrize("size", [5000, LARGE])
def test_where_there_are_no_leases_a_file_that_grows_is_not_taken(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """As with files of other users, where the watcher has no privilege."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    read = Capturer._take
    grown = 0

    def growing(self: Capturer, fd: int, info: os.stat_result, lease: Lease) -> object:
        nonlocal grown
        grown += 1
        taken = read(self, fd, info, lease)
        with path.open("ab") as file:
            file.write(b"more")
        return taken

    monkeypatch.setattr(capturing, "take_lease", lambda fd: Lease.IMPOSSIBLE)
    monkeypatch.setattr(Capturer, "_take", growing)
    assert place.capture(path) is None
    assert 1 < grown < 10
    assert place.staged() == []
    monkeypatch.setattr(Capturer, "_take", read)
    captured = place.capture(path)
    assert captured is not None
    assert place.content(captured) == b"x" * size + b"more" * grown


def test_nothing_but_regular_files_is_read(place: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(".", os.O_RDONLY)
        os.chdir(tmp_path)
        listener.bind("socket")
        os.fchdir(here)
        os.close(here)
    for name in ("fifo", "zero", "."):
        assert place.capture(tmp_path / name) is None
    fd = os.open(tmp_path / "socket", os.O_PATH)
    assert place.capturer.capture(fd) is None
    os.close(fd)
    assert place.staged() == []


def test_large_files_are_told_and_not_read(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    captured = place.capture(path)
    assert captured is not None
    assert (captured.size, captured.digest, captured.content, captured.unknown) == (1 << 40, None, None, "large")
    fd = os.open(path, os.O_RDONLY)
    os.truncate(path, 101)
    captured = place.capturer.capture(fd, max_file=100)
    assert captured is not None
    assert captured.unknown == "large"
    captured = place.capturer.capture(fd, max_file=101)
    os.close(fd)
    assert captured is not None
    assert place.content(captured) == bytes(101)


@pytest.mark.parametrize("size", [100_000, MAX_FILE])
def test_holes_stay_holes(place: Place, tmp_path: Path, size: int) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size // 2 + 777)
        file.write(b"data")
    captured = place.capture(path)
    assert captured is not None
    assert captured.digest == verity_digest(path.read_bytes())
    assert place.content(captured) == path.read_bytes()
    [staged] = place.staged()
    assert os.stat(staged).st_blocks * 512 < 20_000


def test_without_room_only_what_takes_none_is_taken(place: Place, tmp_path: Path) -> None:
    place.room = False
    for name, size in (("small", 64), ("medium", 5000), ("large", LARGE)):
        (tmp_path / name).write_bytes(b"x" * size)
    small, medium, large = (place.capture(tmp_path / name) for name in ("small", "medium", "large"))
    assert small is not None
    assert place.content(small) == b"x" * 64
    assert [captured and captured.unknown for captured in (medium, large)] == ["space", "space"]
    assert place.staged() == []


def test_a_full_disk_is_told_and_left_as_it_was(tmp_path: Path) -> None:
    with disk(tmp_path / "image", tmp_path / "disk") as mountpoint:
        place = Place(mountpoint / "staging")
        for name, size in (("medium", 20_000), ("large", LARGE)):
            (tmp_path / name).write_bytes(b"x" * size)
        filler = fill(mountpoint)
        for name in ("medium", "large"):
            captured = place.capture(tmp_path / name)
            assert captured is not None
            assert captured.unknown == "space"
        assert place.staged() == []
        filler.unlink()
        for name in ("medium", "large"):
            captured = place.capture(tmp_path / name)
            assert captured is not None
            assert place.content(captured) == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("kind", kinds_here())
def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Those that share blocks copy nothing."""
    with disk_of(kind, tmp_path / "image", tmp_path / "disk") as mountpoint:
        place = Place(mountpoint / "staging")
        copied = before_pieces(monkeypatch, lambda fd, offset: None)
        path = mountpoint / "file"
        for size in (0, 64, 5000, LARGE):
            data = os.urandom(size)
            path.write_bytes(data)
            captured = place.capture(path)
            assert captured is not None
            assert place.content(captured) == data
        assert bool(copied) == (kind == "ext4")
        with path.open("ab") as file:
            assert place.capture(path) is None
            file.write(b"more")
        captured = place.capture(path)
        assert captured is not None
        assert place.content(captured) == data + b"more"


def test_what_overlayfs_has_not_copied_up_is_not_read(tree: Worktree, place: Place) -> None:
    """A file of which only the mode was changed has the base's size, and nothing in it."""
    (tree.view / "large").chmod(0o600)
    upper = tree.upper / "large"
    assert upper.stat().st_size == 5000
    assert place.capture(upper) is None
    with (tree.view / "large").open("ab") as file:
        file.write(b"+")
    captured = place.capture(upper)
    assert captured is not None
    assert place.content(captured) == b"0" * 5000 + b"+"


def test_a_user_cannot_make_a_file_look_like_that(tree: Worktree, place: Place) -> None:
    path = tree.view / "mine"
    path.write_bytes(b"x" * 5000)
    for name in ("trusted.overlay.metacopy", "user.overlay.metacopy"):
        os.setxattr(path, name, b"")
    captured = place.capture(tree.upper / "mine")
    assert captured is not None
    assert place.content(captured) == b"x" * 5000


def test_staging_whose_directories_moved_on_is_used_again(place: Place, tmp_path: Path) -> None:
    """As they do where all objects of a shard go into the store at once."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    captured = place.capture(path)
    assert captured is not None
    shard = Path(place.staged()[0]).parent
    shard.rename(tmp_path / "moved")
    captured = place.capture(path)
    assert captured is not None
    assert place.content(captured) == b"x" * 5000


def test_several_threads(place: Place, tmp_path: Path) -> None:
    """What is staged is complete when it is told to be, whoever staged it."""
    contents = [os.urandom(size) for size in (100, 5000, LARGE) for _ in range(5)]
    for number, data in enumerate(contents):
        (tmp_path / f"{number}").write_bytes(data)
    wrong: list[int] = []

    def run() -> None:
        for number, data in enumerate(contents):
            captured = place.capture(tmp_path / f"{number}")
            if captured is None or place.content(captured) != data:
                wrong.append(number)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(place.staged()) == len(contents)


def test_who_keeps_files_open_holds_nobody_up() -> None:
    patience = capturing._Patience(0.1, 0.05)
    begun = time.monotonic()
    waited = sum(patience.wait(0.002) for _ in range(500))
    assert 1 <= waited <= (0.05 + 0.1 * (time.monotonic() - begun)) / 0.002 + 1


def test_versions_that_are_replaced_at_once_are_all_taken(tree: Worktree, place: Place) -> None:
    """Each is renamed over before, or while, its close is read."""
    groups = Groups.open()
    fd = os.open(tree.upper, os.O_PATH)
    groups.mark_directory(fd)
    os.close(fd)
    count = 500
    code = (
        f"import os; os.chdir({str(tree.view)!r})\nfor number in range({count}):\n"
        "    with open('new', 'wb') as file: file.write(b'%08d' % number * 512)\n"
        "    os.rename('new', 'kept')\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code])
    taken: set[bytes] = set()
    while writer.poll() is None or any(groups.pending()):
        while groups.read_names():
            pass
        closes = groups.read_closes()
        for close in closes:
            captured = place.capturer.capture(close.fd)
            os.close(close.fd)
            if captured is not None:
                taken.add(place.content(captured))
        if not closes:
            time.sleep(0.001)
    assert writer.returncode == 0
    assert groups.take_losses() is None
    groups.close()
    assert len(taken) == count
