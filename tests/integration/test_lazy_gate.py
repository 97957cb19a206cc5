"""The gate on the real kernel: what reads of a commit that is not here, what only looks, and what happens when fetching
is slow, fails, or is taken over. The remote is a directory; the server is a process of its own."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stratum.mount import build
from stratum.sys import fuse
from stratum.sys.mountapi import refresh_mount
from tests.support.gates import Gated, eventually

pytestmark = pytest.mark.root

RANDOM = random.Random(7)
TRUE = Path("/bin/true").read_bytes()
LARGE = RANDOM.randbytes(20 << 20)
FILES = {
    "a": RANDOM.randbytes(5_000),
    "b": RANDOM.randbytes(300_000),
    "c": RANDOM.randbytes(70_000),
    "program": TRUE,
    "large": LARGE,
}
READ = "sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
AT_ONCE = 8.0
"""Seconds. What has to end at once has them on a busy machine; what it must not wait for does not end at all."""


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Gated]:
    made = Gated(tmp_path, FILES)
    yield made
    made.close()


def errno_of(function: Callable[[], object]) -> int:
    try:
        function()
    except OSError as exc:
        return exc.errno or -1
    return 0


# Reading


def test_every_way_of_reading_gets_the_content_and_fetches_it_once(gated: Gated) -> None:
    view = gated.view
    assert (view / "a").read_bytes() == FILES["a"]
    with (view / "b").open("rb") as file:
        assert os.pread(file.fileno(), 1000, 200_000) == FILES["b"][200_000:201_000]
    shown = gated.reader("f=open(sys.argv[1],'rb'); sys.stdout.buffer.write(mmap.mmap(f.fileno(),0,prot=1)[:])", "c")
    assert shown.communicate() == (FILES["c"], b"")
    os.chmod(view / "program", 0o755)
    assert subprocess.run([view / "program"], check=False).returncode == 0
    with (view / "b").open("rb") as source, (gated.place / "sent").open("wb") as target:
        assert os.sendfile(target.fileno(), source.fileno(), 0, len(FILES["b"])) == len(FILES["b"])
    assert (gated.place / "sent").read_bytes() == FILES["b"]
    subprocess.run(["cp", "--reflink=auto", view / "c", gated.place / "copy"], check=True)
    assert (gated.place / "copy").read_bytes() == FILES["c"]
    fetched = gated.fetched
    assert sorted(fetched) == sorted(gated.digest(name).hex() for name in ("a", "b", "c", "program"))
    status = gated.status()
    assert (status["asked"], status["failures"], status["problems"], status["waiting"]) == (4, 0, 0, [])


def test_what_was_read_is_native_and_needs_no_server(gated: Gated) -> None:
    assert (gated.view / "a").read_bytes() == FILES["a"]
    lookups = gated.status()["lookups"]
    assert (gated.view / "a").read_bytes() == FILES["a"]
    assert gated.status()["lookups"] == lookups
    gated.kill()
    os.close(gated.device)
    gated.device = -1
    assert (gated.view / "a").read_bytes() == FILES["a"]
    assert errno_of((gated.view / "b").read_bytes) in (errno.ENOTCONN, errno.ECONNABORTED)


def test_what_is_here_is_never_asked_for(gated: Gated) -> None:
    shutil.copyfile(gated.remote / gated.digest("a").hex("/", 31), place := gated.store.objects.path(gated.digest("a")))
    assert place.exists()
    assert (gated.view / "a").read_bytes() == FILES["a"]
    assert gated.status()["lookups"] == 0


def test_looking_fetches_nothing(gated: Gated) -> None:
    view = gated.view
    for command in (["ls", "-la"], ["find", ".", "-printf", "%s %m %U\n"], ["du", "-a", "."], ["stat", "a", "large"]):
        subprocess.run(command, cwd=view, check=True, stdout=subprocess.DEVNULL)
    for name, data in FILES.items():
        assert os.access(view / name, os.R_OK)
        assert (view / name).stat().st_size == len(data)
        os.listxattr(view / name)
        os.close(os.open(view / name, os.O_PATH))
    assert errno_of(lambda: os.open(view / "a", os.O_RDONLY | os.O_DIRECTORY)) == errno.ENOTDIR
    assert gated.status()["lookups"] == 0


CHANGES: dict[str, Callable[[Path], object]] = {
    "chmod": lambda path: path.chmod(0o600),
    "chown": lambda path: os.chown(path, 7, 8),
    "utime": lambda path: os.utime(path, (5, 6)),
    "setxattr": lambda path: os.setxattr(path, "trusted.some", b"value"),
    "rename": lambda path: path.rename(path.with_name("renamed")),
    "link": lambda path: os.link(path, path.with_name("linked")),
    "unlink": lambda path: path.unlink(),
    "cut": lambda path: path.open("wb").close(),
    "creat": lambda path: subprocess.run(["sh", "-c", f": > {path}"], check=True),
}


@pytest.mark.parametrize("name", ["a", "large"])
@pytest.mark.parametrize("change", CHANGES)
def test_changing_metadata_fetches_nothing(gated: Gated, change: str, name: str) -> None:
    CHANGES[change](gated.view / name)
    assert gated.fetched == []
    assert gated.status()["ranges"] == 0
    left = [path for path in (gated.view / name, gated.view / "renamed", gated.view / "linked") if path.exists()]
    for path in left:
        assert path.read_bytes() == (b"" if change in ("cut", "creat") else FILES[name])


def test_a_file_whose_metadata_was_changed_is_read_and_becomes_native(gated: Gated) -> None:
    path = gated.view / "b"
    path.chmod(0o640)
    assert gated.status()["metadata_only"] == 1
    shown = gated.reader("f=open(sys.argv[1],'rb'); sys.stdout.buffer.write(mmap.mmap(f.fileno(),0,prot=1)[:])", "b")
    assert shown.communicate() == (FILES["b"], b"")
    assert path.read_bytes() == FILES["b"]
    status = gated.status()
    assert (len(status["fetched"]), status["native"]) == (1, 1)
    gated.refresh()
    gated.kill()
    os.close(gated.device)
    gated.device = -1
    assert path.read_bytes() == FILES["b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.open("ab").close(),
        lambda path: os.truncate(path, 100),
        lambda path: path.open("r+b").close(),
    ],
    ids=["append", "truncate", "write"],
)
def test_writing_to_a_file_fetches_it_once(gated: Gated, change: Callable[[Path], object]) -> None:
    change(gated.view / "b")
    assert len(gated.fetched) == 1
    data = (gated.view / "b").read_bytes()
    assert data in (FILES["b"], FILES["b"][:100])
    assert len(gated.fetched) == 1


@pytest.mark.parametrize("count", [20, 1000])
def test_many_readers_of_one_object_fetch_it_once(gated: Gated, count: int) -> None:
    gated.remote_has(hold="")
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.append((gated.view / "b").read_bytes() == FILES["b"]))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    gated.waiting()
    gated.remote_has(hold=None)
    for thread in threads:
        thread.join()
    assert found == [True] * count
    assert len(gated.fetched) == 1


def test_readers_of_different_objects_do_not_wait_for_one_another(tmp_path: Path) -> None:
    files = {f"file{number}": RANDOM.randbytes(1000) for number in range(40)}
    gated = Gated(tmp_path, files)
    try:
        gated.remote_has(hold="")
        with ThreadPoolExecutor(40) as pool:
            reads = [pool.submit((gated.view / name).read_bytes) for name in files]
            gated.waiting(40)
            gated.remote_has(hold=None)
            assert [read.result() for read in reads] == list(files.values())
    finally:
        gated.close()


def test_who_waits_is_told(gated: Gated) -> None:
    gated.remote_has(hold="")
    with gated.reader(READ, "a") as reader:
        gated.waiting()
        (waits,) = gated.status()["waiting"]
        assert (waits["pid"], waits["object"]) == (reader.pid, gated.digest("a").hex())
        assert waits["name"].startswith("python")
        assert waits["seconds"] >= 0
        gated.remote_has(hold=None)
        assert reader.communicate()[0] == FILES["a"]
    eventually(lambda: gated.status()["waiting"] == [])
    assert gated.status()["readers"] == [[reader.pid, waits["name"]]]


# Signals


@pytest.mark.parametrize("name", ["a", "large"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_killed_reader_ends_at_once_and_others_get_their_data(
    gated: Gated, number: signal.Signals, name: str
) -> None:
    gated.remote_has(hold="")
    with gated.reader(f"signal.signal(signal.SIGINT, signal.SIG_DFL); {READ}", name) as killed:
        gated.waiting()
        with gated.reader(READ, name) as other:
            eventually(lambda: is_waiting(other.pid))
            began = time.monotonic()
            killed.send_signal(number)
            assert killed.wait(10) == -number
            assert time.monotonic() - began < AT_ONCE
            assert other.poll() is None
            gated.remote_has(hold=None)
            assert other.communicate()[0] == FILES[name]
    assert len(gated.fetched) == (name == "a")


def is_waiting(pid: int) -> bool:
    """Whether the process waits in the kernel for a file to be opened or read."""
    with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
        return file.read() not in ("", "0")


def test_a_signal_that_is_handled_ends_nothing_and_a_later_one_does(gated: Gated) -> None:
    gated.remote_has(hold="")
    script = f"signal.signal(signal.SIGURG, lambda *_: None); {READ}"
    with gated.reader(script, "a") as patient, gated.reader(script, "b") as impatient:
        gated.waiting(2)
        for reader in (patient, impatient):
            for _ in range(3):
                reader.send_signal(signal.SIGURG)
                time.sleep(0.05)
        time.sleep(0.5)
        assert patient.poll() is None
        assert impatient.poll() is None
        began = time.monotonic()
        impatient.terminate()
        assert impatient.wait(10) == -signal.SIGTERM
        assert time.monotonic() - began < AT_ONCE
        gated.remote_has(hold=None)
        assert patient.communicate() == (FILES["a"], b"")
    assert gated.status()["interrupted"] >= 1


def test_a_killed_program_that_was_to_be_started_ends_at_once(gated: Gated) -> None:
    (gated.view / "program").chmod(0o755)
    refresh_mount(gated.view)
    gated.remote_has(hold="")
    with gated.reader("os.execv(sys.argv[1], sys.argv[1:])", "program") as reader:
        gated.waiting()
        reader.terminate()
        assert reader.wait(10) == -signal.SIGTERM


# Failures


def test_a_failed_fetch_is_an_error_that_tells_and_passes(gated: Gated) -> None:
    gated.remote_has(errno=errno.EIO)
    assert [errno_of((gated.view / "a").read_bytes) for _ in range(3)] == [errno.EIO] * 3
    gated.remote_has(errno=errno.ENOSPC)
    assert errno_of((gated.view / "a").read_bytes) == errno.ENOSPC
    assert gated.status()["failures"] == 4
    gated.remote_has(errno=None)
    assert (gated.view / "a").read_bytes() == FILES["a"]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE, errno.EINTR, errno.EAGAIN, 512, 100_000])
def test_a_failed_fetch_never_looks_like_something_else(gated: Gated, code: int) -> None:
    gated.remote_has(errno=code)
    (gated.view / "b").chmod(0o600)  # opened as a FUSE file
    for name in ("a", "b", "large"):
        assert errno_of((gated.view / name).read_bytes) == errno.EIO, name


def test_many_readers_of_what_fails_all_get_the_error(gated: Gated) -> None:
    gated.remote_has(errno=errno.EIO, delay=0.01)
    with ThreadPoolExecutor(40) as pool:
        codes = list(pool.map(errno_of, [(gated.view / name).read_bytes for name in ("a", "b", "c", "large") * 20]))
    assert set(codes) == {errno.EIO}
    gated.remote_has(errno=None)
    for name, data in FILES.items():
        assert (gated.view / name).read_bytes() == data


def test_an_object_of_no_source_is_an_error_and_never_missing(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {"a": FILES["a"], "b": FILES["b"]})
    try:
        from stratum.store.catalog import Blob, NewPack, write_catalog

        members = [(gated.digest("a"), 0, len(FILES["a"]))]
        pack = NewPack(Blob(bytes(32), 9), [(9, len(FILES["a"]))], members)
        gated.kill()
        (tmp_path / "catalog").write_bytes(write_catalog([pack]))
        gated.start(again=True)
        assert (gated.view / "a").read_bytes() == FILES["a"]
        assert errno_of((gated.view / "b").read_bytes) == errno.EIO
    finally:
        gated.close()


def test_what_is_in_the_store_before_the_reader_looks_is_found_there(gated: Gated) -> None:
    gated.remote_has(direct="")
    for name in ("a", "b", "c"):
        assert (gated.view / name).read_bytes() == FILES[name]
    assert not any(gated.landing.rglob("??????????*"))


# Large objects


def test_a_large_file_is_read_by_ranges(gated: Gated) -> None:
    with (gated.view / "large").open("rb") as file:
        assert os.pread(file.fileno(), 4096, 10 << 20) == LARGE[10 << 20 : (10 << 20) + 4096]
        status = gated.status()
        assert 1 <= status["ranges"] <= 2
        assert status["bytes"] <= 2 << 20
    command = "f=open(sys.argv[1],'rb'); sys.stdout.buffer.write(mmap.mmap(f.fileno(),0,prot=1)[:])"
    assert gated.reader(command, "large").communicate() == (LARGE, b"")
    ranges = gated.status()["ranges"]
    assert (gated.view / "large").read_bytes() == LARGE
    assert gated.status()["ranges"] == ranges  # from the page cache
    assert gated.fetched == []


def test_a_large_file_is_read_past_the_page_cache(gated: Gated) -> None:
    fd = os.open(gated.view / "large", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 3 << 20) as buffer:
            assert os.preadv(fd, [buffer], 9 << 20) == 3 << 20
            assert buffer[:] == LARGE[9 << 20 : 12 << 20]
            assert os.preadv(fd, [buffer], len(LARGE) - 4096) == 4096
            assert buffer[:4096] == LARGE[-4096:]
    finally:
        os.close(fd)


def test_a_large_file_is_written_to(gated: Gated) -> None:
    with (gated.view / "large").open("ab") as file:
        file.write(b"more")
    assert gated.fetched == []
    gated.kill()
    assert (gated.view / "large").read_bytes() == LARGE + b"more"


def test_a_large_program_is_started(tmp_path: Path) -> None:
    program = b"#!/bin/sh\nexit 7\n#" + b"x" * (17 << 20)
    gated = Gated(tmp_path, {"program": program})
    try:
        (gated.view / "program").chmod(0o755)
        assert subprocess.run([gated.view / "program"], check=False).returncode == 7
        assert 1 <= gated.status()["ranges"] <= 3
    finally:
        gated.close()


def test_a_large_file_that_came_whole_is_native_after_a_refresh(gated: Gated) -> None:
    gated.remote_has(whole="")
    with (gated.view / "large").open("rb") as file:
        assert file.read() == LARGE
        status = gated.status()
        assert (len(status["fetched"]), status["native"]) == (1, 1)
        gated.refresh()  # who has it open keeps what he has
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), 100, 0) == LARGE[:100]
        assert (gated.view / "large").stat().st_size == len(LARGE)
        assert (gated.view / "large").read_bytes() == LARGE
    gated.refresh()
    gated.kill()
    os.close(gated.device)
    gated.device = -1
    assert (gated.view / "large").read_bytes() == LARGE


def test_a_large_file_that_cannot_be_fetched_is_an_error_and_no_zeros(gated: Gated) -> None:
    with (gated.view / "large").open("rb") as file:
        start = file.read(4096)
        gated.remote_has(errno=errno.EIO)
        assert errno_of(lambda: os.pread(file.fileno(), 4096, 15 << 20)) == errno.EIO
        touch = "f=open(sys.argv[1],'rb'); print(mmap.mmap(f.fileno(),0,prot=1)[12<<20])"
        with gated.reader(touch, "large") as reader:
            assert reader.communicate() == (b"", b"")
            assert reader.returncode == -signal.SIGBUS
        assert os.pread(file.fileno(), 4096, 0) == start  # what is here reads on
        gated.remote_has(errno=None)
        with gated.reader(touch, "large") as reader:
            assert reader.communicate()[0] == b"%d\n" % LARGE[12 << 20]
        assert os.pread(file.fileno(), 4096, 15 << 20) == LARGE[15 << 20 : (15 << 20) + 4096]
        assert (gated.view / "large").read_bytes() == LARGE


# Lifetimes


def test_the_gate_ends_with_its_mount(gated: Gated) -> None:
    assert (gated.view / "a").read_bytes() == FILES["a"]
    with (gated.view / "large").open("rb") as file:
        assert file.read(10) == LARGE[:10]
        build.unmount(gated.view, lazy=True)
        assert file.read(10) == LARGE[10:20]
        time.sleep(0.1)
        assert not gated.status()["ended"]
    eventually(lambda: gated.status()["ended"])
    with pytest.raises(fuse.Ended):
        fuse.receive(gated.device)


def test_another_server_takes_over_and_readers_notice_nothing(gated: Gated) -> None:
    with (gated.view / "large").open("rb") as file:
        assert file.read(10) == LARGE[:10]
        (gated.view / "c").chmod(0o600)
        gated.remote_has(hold="")
        names = ["a", "b", "c", "large"]
        readers = [gated.reader(READ, name) for name in names]
        gated.waiting(len(names))
        for _ in range(3):
            gated.kill()
            gated.start(again=True)
            gated.waiting(len(names))
        gated.remote_has(hold=None)
        assert [reader.communicate() for reader in readers] == [(FILES[name], b"") for name in names]
        assert os.pread(file.fileno(), 100, 11 << 20) == LARGE[11 << 20 : (11 << 20) + 100]
    assert gated.status()["problems"] == 0


def test_a_request_that_is_sent_twice_to_one_server_is_answered_once(gated: Gated) -> None:
    gated.remote_has(hold="")
    with gated.reader(READ, "a") as reader:
        gated.waiting()
        for _ in range(3):
            fuse.send_again(gated.device)
        time.sleep(0.2)
        assert len(gated.status()["waiting"]) == 1
        reader.send_signal(signal.SIGURG)
        gated.remote_has(hold=None)
        assert reader.communicate() == (FILES["a"], b"")
    assert len(gated.fetched) == 1


def test_a_reader_that_is_killed_while_no_server_is_there_ends_with_the_next(gated: Gated) -> None:
    gated.remote_has(hold="")
    with gated.reader(READ, "a") as reader:
        gated.waiting()
        gated.kill()
        reader.kill()
        gated.start(again=True)
        assert reader.wait(10) == -signal.SIGKILL


def test_a_server_that_dies_between_ask_and_landing_is_not_noticed(gated: Gated) -> None:
    """What landed is wiped at the start of the next server; the reader comes to ``err`` and is sent back to ask."""
    gated.kill()
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append((gated.view / "a").read_bytes()))
    thread.start()
    from stratum.sys import fuseproto
    from tests.support.gates import request_of

    for _ in range(3):
        request = request_of(gated.device)
        if request.node >= 256:
            break
        node = {b"ask\0": 2, b"err\0": 3}.get(request.body) or 256 + gated.digest("a")[0]
        body = fuseproto.entry(fuseproto.directory(node), entry_valid=60, attr_valid=60)
        if request.opcode == fuseproto.Opcode.GETATTR:
            body = fuseproto.attributes_reply(fuseproto.directory(request.node), valid=60)
        fuse.send(gated.device, fuseproto.reply(request.unique, body))
    fuse.send(gated.device, fuseproto.refusal(request.unique, errno.ENOENT))
    gated.start(again=True)
    thread.join(20)
    assert found == [FILES["a"]]
    assert gated.fetched == [gated.digest("a").hex()]


def test_read_only_mounts_have_gates_too(tmp_path: Path) -> None:
    gated = Gated(tmp_path, FILES, writable=False)
    try:
        for name, data in FILES.items():
            assert (gated.view / name).read_bytes() == data
        refresh_mount(gated.view)
        assert (gated.view / "large").read_bytes() == LARGE
        assert errno_of(lambda: (gated.view / "a").chmod(0o600)) == errno.EROFS
    finally:
        gated.close()


def test_refreshes_in_a_storm_of_reads_disturb_nobody(gated: Gated) -> None:
    until = time.monotonic() + 2

    def read(name: str) -> int:
        count = 0
        while time.monotonic() < until:
            assert (gated.view / name).read_bytes() == FILES[name]
            if name != "large":  # evicted, as it were
                with contextlib.suppress(FileNotFoundError):
                    gated.in_landing(name).unlink()
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(read, name) for name in ("a", "b", "c", "large") * 2]
        while time.monotonic() < until:
            refresh_mount(gated.view)
            time.sleep(0.02)
        assert all(read.result() for read in reads)
    assert gated.status()["failures"] == 0
