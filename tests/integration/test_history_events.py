"""What the kernel tells of an upperdir while its overlay is used, and what it does not tell, is known."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratum.errors import StratumError, UnsupportedError
from stratum.history.events import CLOSES_AT_ONCE, Groups, probe
from stratum.sys import fanotify
from stratum.sys.handles import handle_of
from stratum.sys.syscalls import RENAME_EXCHANGE, renameat2
from tests.integration.overlay_ops import Worktree
from tests.support.disks import disk_of, kinds_here
from tests.support.events import Watched

pytestmark = pytest.mark.root


@pytest.fixture
def groups() -> Iterator[Groups]:
    made = Groups.open()
    yield made
    made.close()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"+")


def exchange(view: Path) -> None:
    renameat2(-100, bytes(view / "up"), -100, bytes(view / "dir" / "up"), RENAME_EXCHANGE)


def temporary(view: Path) -> None:
    directory = os.open(view / "dir", os.O_RDONLY)
    fd = os.open(view / "dir", os.O_TMPFILE | os.O_WRONLY)
    os.write(fd, b"temporary")
    os.link(f"/proc/self/fd/{fd}", "named", dst_dir_fd=directory, follow_symlinks=True)
    os.close(fd)
    os.close(directory)


def mapped_late(view: Path) -> None:
    """Written to through a mapping only after the descriptor was closed."""
    fd = os.open(view / "up", os.O_RDWR)
    mapping = mmap.mmap(fd, 4096)
    os.close(fd)
    mapping[:4] = b"late"
    mapping.close()


def killed(view: Path) -> None:
    code = f"import os,signal; os.write(os.open({str(view / 'up')!r}, os.O_WRONLY), b'dead'); os.kill(os.getpid(), 9)"
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL


def sent(view: Path) -> None:
    with open(view / "large", "rb") as source, open(view / "up", "wb") as target:
        os.sendfile(target.fileno(), source.fileno(), 0, 10)


def spliced(view: Path) -> None:
    ends = os.pipe()
    os.write(ends[1], b"spliced")
    with open(view / "up", "wb") as target:
        os.splice(ends[0], target.fileno(), 7)
    for fd in ends:
        os.close(fd)


def copied(view: Path) -> None:
    with open(view / "large", "rb") as source, open(view / "up", "wb") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 10)


def allocated(view: Path) -> None:
    with open(view / "up", "r+b") as target:
        os.posix_fallocate(target.fileno(), 0, 8192)


def opened(view: Path) -> None:
    os.close(os.open(view / "up", os.O_RDWR))


def bound(view: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(view)
        listener.bind("socket")
        os.chdir("/")


def made_anew(view: Path) -> None:
    (view / "empty").rmdir()
    (view / "empty").mkdir()


UP = b"u" * 5000
TOLD: dict[str, tuple[Callable[[Path], object], set[tuple[str, str]], dict[str, bytes]]] = {
    "create": (
        lambda v: (v / "new").write_bytes(b"n" * 70),
        {("create", "new"), ("modify", "new")},
        {"new": b"n" * 70},
    ),
    "create empty": (lambda v: (v / "new").touch(), {("create", "new")}, {"new": b""}),
    "append": (lambda v: append(v / "up"), {("modify", "up")}, {"up": UP + b"+"}),
    "append to the base's": (lambda v: append(v / "f"), {("modify", "f")}, {"f": b"inline 0+"}),
    "cut": (lambda v: os.truncate(v / "up", 3), {("modify", "up")}, {}),
    "chmod": (lambda v: (v / "up").chmod(0o600), {("attrib", "up")}, {}),
    "chmod of the base's": (lambda v: (v / "large").chmod(0o600), {("create", "large")}, {}),
    "chown": (lambda v: os.chown(v / "up", 5, 6), {("attrib", "up")}, {}),
    "utime": (lambda v: os.utime(v / "up", (1, 2)), {("attrib", "up")}, {}),
    "setxattr": (lambda v: os.setxattr(v / "up", "user.new", b"1"), {("attrib", "up")}, {}),
    "chmod of a directory": (lambda v: (v / "dir").chmod(0o700), {("attrib", "dir/.")}, {}),
    "chmod of the root": (lambda v: v.chmod(0o700), {("attrib", ".")}, {}),
    "rename": (lambda v: os.rename(v / "up", v / "dir" / "x"), {("rename", "up -> dir/x")}, {}),
    "rename over": (lambda v: os.rename(v / "up", v / "dir" / "up"), {("rename", "up -> dir/up")}, {}),
    "rename of the base's": (lambda v: os.rename(v / "large", v / "x"), {("rename", "large -> x")}, {}),
    "rename of a directory": (lambda v: os.rename(v / "dir", v / "x"), {("rename", "dir -> x")}, {}),
    "rename of the base's directory": (lambda v: os.rename(v / "other", v / "x"), {("rename", "other -> x")}, {}),
    "exchange": (exchange, {("rename", "up -> dir/up"), ("rename", "dir/up -> up")}, {}),
    "unlink": (lambda v: (v / "up").unlink(), {("delete", "up")}, {}),
    "unlink of the base's": (lambda v: (v / "f").unlink(), {("rename", "? -> f")}, {}),
    "rmdir of the base's": (lambda v: (v / "empty").rmdir(), {("rename", "? -> empty")}, {}),
    "directory made anew": (made_anew, {("rename", "? -> empty")}, {}),
    "mkdir": (lambda v: (v / "m").mkdir(), {("create", "m")}, {}),
    "first change in a directory": (lambda v: (v / "d" / "new").write_bytes(b"1"), {("rename", "? -> d")}, {}),
    "symlink": (lambda v: (v / "s").symlink_to("up"), {("create", "s")}, {}),
    "fifo": (lambda v: os.mkfifo(v / "p"), {("create", "p")}, {}),
    "device": (lambda v: os.mknod(v / "n", stat.S_IFCHR | 0o600, os.makedev(1, 3)), {("create", "n")}, {}),
    "socket": (bound, {("create", "socket")}, {}),
    "link": (lambda v: os.link(v / "up", v / "dir" / "l"), {("create", "dir/l")}, {}),
    "temporary file": (temporary, {("create", "dir/named")}, {"": b"temporary"}),
    "mapping": (mapped_late, set(), {"up": b"late" + UP[4:]}),
    "killed writer": (killed, {("modify", "up")}, {"up": b"dead" + UP[4:]}),
    "sendfile": (sent, set(), {"up": b"0" * 10}),
    "splice": (spliced, set(), {"up": b"spliced"}),
    "copy_file_range": (copied, set(), {"up": b"0" * 10}),
    "fallocate": (allocated, set(), {"up": UP + bytes(8192 - 5000)}),
    "opened and closed": (opened, set(), {"up": UP}),
}
"""What is done in the view, what names tell of it at least, and what closes have (whatever the name, where that is
empty)."""


@pytest.mark.parametrize("what", TOLD)
def test_what_is_done_in_the_overlay_is_told_of_the_upperdir(tree: Worktree, groups: Groups, what: str) -> None:
    act, names, closes = TOLD[what]
    (tree.view / "up").write_bytes(UP)
    (tree.view / "dir").mkdir()
    (tree.view / "dir" / "up").write_bytes(b"other")
    watched = Watched(groups, tree.upper)
    act(tree.view)
    watched.wait(lambda: names <= watched.names and len(watched.closes) >= len(closes))
    for name, content in closes.items():
        assert content in [found for hint, found in watched.closes if name in (hint, "")]
    assert all(event.pid for event in watched.events)
    assert groups.take_losses() is None


def test_what_was_replaced_or_unlinked_at_once_is_still_there_to_be_read(tree: Worktree, groups: Groups) -> None:
    watched = Watched(groups, tree.upper)
    for number in range(20):
        (tree.view / "new").write_bytes(b"version %d" % number)
        os.rename(tree.view / "new", tree.view / "kept")
    (tree.view / "gone").write_bytes(b"gone")
    (tree.view / "gone").unlink()
    watched.read()
    assert [content for _, content in watched.closes] == [b"version %d" % number for number in range(20)] + [b"gone"]


def test_a_file_with_several_names_is_told_by_whichever(tree: Worktree, groups: Groups) -> None:
    """Also where the name by which overlayfs looked it up is in a directory that is gone."""
    (tree.view / "a").mkdir()
    (tree.view / "a" / "first").write_bytes(b"1")
    os.link(tree.view / "a" / "first", tree.view / "second")
    watched = Watched(groups, tree.upper)
    fd = os.open(tree.upper / "second", os.O_PATH)
    handle = handle_of(fd)
    os.close(fd)
    (tree.view / "a" / "first").unlink()
    (tree.view / "a").rmdir()
    watched.read()
    watched.events.clear()
    watched.closes.clear()
    with (tree.view / "second").open("ab") as file:
        file.write(b"2")
    os.truncate(tree.view / "second", 1)
    (tree.view / "second").chmod(0o640)
    watched.read()
    assert [content for _, content in watched.closes] == [b"1"], "it is read after it was cut"
    told = 0
    for event in watched.events:
        told |= event.mask if event.child == handle else 0
    assert told == fanotify.FAN_MODIFY | fanotify.FAN_ATTRIB | fanotify.FAN_CLOSE_WRITE


def test_a_directory_is_told_with_the_handle_that_it_keeps(tree: Worktree, groups: Groups) -> None:
    watched = Watched(groups, tree.upper)
    (tree.view / "d" / "new").write_bytes(b"1")
    watched.read()
    [copied_up] = [event for event in watched.events if event.new_name == b"d"]
    os.rename(tree.view / "d", tree.view / "moved")
    fd = os.open(tree.upper / "moved", os.O_PATH)
    assert copied_up.child == handle_of(fd)
    os.close(fd)
    assert copied_up.mask & fanotify.FAN_ONDIR


def test_specials_are_never_opened(groups: Groups, tmp_path: Path) -> None:
    """Nothing comes of them with a descriptor, whatever is done to them in the directory itself."""
    watched = Watched(groups, tmp_path)
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for name in ("fifo", "null"):
        fd = os.open(tmp_path / name, os.O_RDWR)
        os.write(fd, b"x")
        os.close(fd)
    (tmp_path / "last").write_bytes(b"last")
    watched.wait(lambda: bool(watched.closes))
    assert watched.closes == [("last", b"last")]


def test_names_only(groups: Groups, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    groups.mark_names_only(fd)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inner").write_bytes(b"1")
    (tmp_path / "a").chmod(0o700)
    os.rename(tmp_path / "a", tmp_path / "b")
    (tmp_path / "f").write_bytes(b"1")
    (tmp_path / "f").unlink()
    events = groups.read_names()
    both = fanotify.FAN_CREATE | fanotify.FAN_DELETE
    assert [(event.mask & (both | fanotify.FAN_RENAME), event.name, event.new_name) for event in events] == [
        (fanotify.FAN_CREATE, b"a", b""),
        (fanotify.FAN_RENAME, b"a", b"b"),
        (both, b"f", b""),
    ]
    assert {event.directory for event in events} == {handle_of(fd)}
    assert groups.pending() == (0, 0)
    os.close(fd)


def test_unmarking(groups: Groups, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    groups.mark_directory(fd)
    groups.unmark_directory(fd)
    groups.unmark_directory(fd)
    (tmp_path / "f").write_bytes(b"1")
    assert groups.pending() == (0, 0)
    os.close(fd)


def test_an_unmount_is_not_kept_from_happening(tree: Worktree, groups: Groups) -> None:
    watched = Watched(groups, tree.upper)
    (tree.view / "f").write_bytes(b"pending")
    assert min(groups.pending()) >= 1
    tree.unmount()
    watched.read()
    assert ("f", b"pending") in watched.closes


def test_what_waits_is_counted_and_outlives_its_reader(groups: Groups, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    groups.mark_directory(fd)
    os.close(fd)
    for number in range(100):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
    closes, names = groups.pending()
    assert closes == 100
    assert names >= 100
    others = Groups.adopt(*map(os.dup, groups.fds))
    assert len(others.read_closes()) == CLOSES_AT_ONCE
    assert groups.pending() == (100 - CLOSES_AT_ONCE, names)
    found: set[bytes] = set()
    while events := others.read_names():
        found.update(event.name for event in events)
    assert found >= {b"%d" % number for number in range(100)}
    others.close()
    assert len(groups.read_closes()) == 100 - CLOSES_AT_ONCE


@pytest.mark.parametrize("old_kernel", [False, True])
def test_files_that_cannot_be_opened_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_kernel: bool
) -> None:
    """By kernels before 6.13 in another way."""
    if old_kernel:
        monkeypatch.setattr("stratum.history.events.FAN_REPORT_FD_ERROR", 0)
    groups = Groups.open()
    fd = os.open(tmp_path, os.O_PATH)
    groups.mark_directory(fd)
    os.close(fd)
    for number in range(20):
        (tmp_path / str(number)).write_bytes(b"x")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    os.close(lowest := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 4, limits[1]))
    try:
        while groups.pending()[0]:
            taken += groups.read_closes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert groups.lost
    assert not groups.overflowed
    words = groups.take_losses()
    assert words == f"files that were closed could not be opened: {os.strerror(errno.EMFILE)}"
    assert 0 < len(taken) < 20
    assert not groups.lost
    assert groups.take_losses() is None
    (tmp_path / "after").write_bytes(b"x")
    taken += groups.read_closes()
    assert os.readlink(f"/proc/self/fd/{taken[-1].fd}").endswith("/after")
    for close in taken:
        os.close(close.fd)
    groups.close()


def test_a_queue_that_was_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stratum.history.events._UNLIMITED", 0)
    groups = Groups.open()
    most = int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text())
    fd = os.open(tmp_path, os.O_PATH)
    groups.mark_directory(fd)
    os.close(fd)
    for number in range(most + 10):
        os.close(os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT))
        os.rename(tmp_path / "f", tmp_path / f"g{number % 2}")
    names = 0
    while events := groups.read_names():
        names += len(events)
        assert all(event.directory is not None for event in events)
    assert groups.overflowed
    assert names == most
    assert groups.take_losses() == "more happened than the kernel's queue of events holds"
    assert not groups.overflowed
    closes = 0
    while groups.pending()[0]:
        for close in groups.read_closes():
            closes += 1
            os.close(close.fd)
    assert closes == most
    assert groups.overflowed
    groups.close()


def in_a_child(run: Callable[[], object]) -> None:
    """Run a function in a process without CAP_SYS_ADMIN; what it raises is told."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        told = ""
        try:
            without_cap_sys_admin()
            run()
        except BaseException as exc:
            told = f"{type(exc).__name__}: {exc}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(pid, 0)
    assert told == ""


def without_cap_sys_admin() -> None:
    """Give up the capability in the effective and permitted set: capset(2), version 3."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for number in (0, 1):
        data[number] &= ~(1 << 21)
    assert libc.capset(header, data) == 0


def test_without_privilege_names_tell_of_closes(tmp_path: Path) -> None:
    def run() -> None:
        assert probe() is None
        groups = Groups.open()
        assert not groups.has_descriptors
        assert groups.fds[0] == -1
        watched = Watched(groups, tmp_path)
        (tmp_path / "sub").mkdir()
        watched.read()
        (tmp_path / "sub" / "f").write_bytes(b"1")
        os.rename(tmp_path / "sub" / "f", tmp_path / "g")
        assert groups.pending()[0] == 0
        assert groups.pending()[1] >= 2
        watched.read()
        assert watched.names >= {("create", "sub"), ("close", "sub/f"), ("rename", "sub/f -> g")}
        assert watched.closes == groups.read_closes() == []
        adopted = Groups.adopt(-1, os.dup(groups.fds[1]))
        assert not adopted.has_descriptors
        adopted.close()
        groups.close()

    in_a_child(run)


def test_no_groups_are_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    most = int(Path("/proc/sys/fs/fanotify/max_user_groups").read_text())
    held: list[Groups] = []
    told: str | None = None
    try:
        while told is None:  # others may give one of theirs back in between
            with pytest.raises(UnsupportedError, match=os.strerror(errno.EMFILE)) as caught:
                held.extend(Groups.open() for _ in range(most))
            assert "max_user_groups" in caught.value.hint
            told = probe()
        assert "max_user_groups" in told
    finally:
        for groups in held:
            groups.close()
    assert probe() is None


def test_a_directory_that_cannot_be_marked_is_told(groups: Groups, tmp_path: Path) -> None:
    assert probe(tmp_path) is None
    assert groups.pending() == (0, 0), "what was tried is not marked"
    (tmp_path / "file").touch()
    for name, why in (("file", errno.ENOTDIR), ("gone", errno.ENOENT)):
        assert probe(tmp_path / name) == f"cannot watch a directory of the store: {os.strerror(why)}"
    fd = os.open(tmp_path / "file", os.O_PATH)
    with pytest.raises(StratumError, match=os.strerror(errno.ENOTDIR)):
        groups.mark_directory(fd)
    os.close(fd)


@pytest.mark.parametrize("kind", kinds_here())
def test_file_systems(groups: Groups, tmp_path: Path, kind: str) -> None:
    """Handles are those that the events have, whatever they look like."""
    with disk_of(kind, tmp_path / "image", tmp_path / "disk") as mountpoint:
        place = mountpoint / "place"
        place.mkdir()
        assert probe(place) is None
        fd = os.open(place, os.O_PATH)
        groups.mark_directory(fd)
        (place / "a").write_bytes(b"1")
        os.rename(place / "a", place / "b")
        events = groups.read_names()
        assert {event.directory for event in events} == {handle_of(fd)}
        assert {event.child for event in events} == {handle_of(fd, b"b")}
        assert events[-1].new_directory == handle_of(fd)
        [close] = groups.read_closes()
        assert handle_of(close.fd) == handle_of(fd, b"b")
        assert os.pread(close.fd, 2, 0) == b"1"
        os.close(close.fd)
        os.close(fd)
