"""Events of fanotify(7) as bytes, file handles, and read leases."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.sys.fanotify import (
    FAN_CREATE,
    FAN_ONDIR,
    FAN_Q_OVERFLOW,
    FAN_RENAME,
    CloseEvent,
    NameEvent,
    parse_closes,
    parse_names,
)
from stratum.sys.handles import handle_of
from stratum.sys.leases import Lease, give_back, is_wanted, nobody_writes, read_lease, take_lease

FID, DFID_NAME, DFID, PIDFD, OLD, NEW = 1, 2, 3, 4, 10, 12
A, B, C = (struct.pack("=Ii", 8, 1) + bytes([number]) * 8 for number in (1, 2, 3))


def record(kind: int, handle: bytes, name: bytes | None = None) -> bytes:
    tail = b"" if name is None else name + b"\0"
    body = bytes(8) + handle + tail
    body += bytes(-len(body) % 4)
    return struct.pack("=BBH", kind, 0, 4 + len(body)) + body


def event(mask: int, *records: bytes, fd: int = -1, pid: int = 7) -> bytes:
    tail = b"".join(records)
    return struct.pack("=IBBHQii", 24 + len(tail), 3, 0, 24, mask, fd, pid) + tail


def test_names_of_each_form() -> None:
    data = b"".join(
        [
            event(FAN_CREATE, record(DFID_NAME, A, b"new"), record(FID, C)),
            event(FAN_RENAME | FAN_ONDIR, record(OLD, A, b"old \xff"), record(NEW, B, b"n\n"), record(FID, C)),
            event(FAN_RENAME, record(NEW, B, b"n"), record(FID, C), pid=0),
            event(FAN_CREATE, record(PIDFD, b""), record(DFID, A)),
            event(FAN_Q_OVERFLOW, record(FID, struct.pack("=Ii", 0, 0xFF))),
        ]
    )
    assert parse_names(data) == [
        NameEvent(FAN_CREATE, A, b"new", C, None, b"", 7),
        NameEvent(FAN_RENAME | FAN_ONDIR, A, b"old \xff", C, B, b"n\n", 7),
        NameEvent(FAN_RENAME, None, b"", C, B, b"n", 0),
        NameEvent(FAN_CREATE, A, b"", None, None, b"", 7),
        NameEvent(FAN_Q_OVERFLOW, None, b"", None, None, b"", 7),
    ]
    assert parse_names(b"") == parse_closes(b"") == []


def test_closes() -> None:
    assert parse_closes(event(8, fd=5) + event(8, fd=-24, pid=0)) == [CloseEvent(5, 7, 8), CloseEvent(-24, 0, 8)]


@pytest.mark.parametrize("parse", [parse_names, parse_closes])
def test_what_is_no_event_is_refused(parse: Callable[[bytes], object]) -> None:
    whole = event(FAN_CREATE, record(DFID_NAME, A, b"name"), record(FID, C))
    for broken in (
        whole[:-1],
        whole[:20],
        whole[:4] + b"\x04" + whole[5:],
        struct.pack("=I", 0) + whole[4:],
        struct.pack("=I", 23) + whole[4:],
        whole + b"\0",
    ):
        with pytest.raises(DamagedError, match="not known"):
            parse(broken)


@pytest.mark.parametrize(
    "wrong",
    [
        struct.pack("=BBH", FID, 0, 0),
        struct.pack("=BBH", FID, 0, 200),
        record(FID, struct.pack("=Ii", 1 << 31, 1)),
        record(DFID_NAME, struct.pack("=Ii", 8, 1) + b"12345678"),
        b"\1",
    ],
)
def test_records_that_lead_elsewhere_are_refused(wrong: bytes) -> None:
    with pytest.raises(DamagedError):
        parse_names(event(FAN_CREATE, wrong))


def test_a_handle_is_that_of_an_inode(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "s").symlink_to("a")
    (tmp_path / "c").write_bytes(b"1")
    top = os.open(tmp_path, os.O_PATH)
    inner = os.open(tmp_path / "a", os.O_PATH)
    try:
        first = handle_of(inner)
        assert first == handle_of(top, b"a") == handle_of(top, b"b")
        assert len({first, handle_of(top, b"s"), handle_of(top, b"c"), handle_of(top)}) == 4
        size, _ = struct.unpack_from("=Ii", first)
        assert len(first) == 8 + size
        with pytest.raises(FileNotFoundError):
            handle_of(top, b"gone")
        os.rename(tmp_path / "a", tmp_path / "d")
        assert handle_of(top, b"d") == first
    finally:
        os.close(top)
        os.close(inner)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    return path


@pytest.fixture
def reading(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_lease_is_refused_while_somebody_may_write(file: Path, reading: int) -> None:
    assert nobody_writes(reading)
    with file.open("r+b") as writer:
        assert take_lease(reading) is Lease.REFUSED
        assert not nobody_writes(reading)
        mapping = mmap.mmap(writer.fileno(), 0)
    assert not nobody_writes(reading), "it is closed, but mapped"
    mapping.close()
    assert nobody_writes(reading)
    with file.open("rb"):
        assert nobody_writes(reading)


def test_what_can_have_no_lease_says_nothing() -> None:
    ends = os.pipe()
    try:
        assert take_lease(ends[0]) is Lease.IMPOSSIBLE
        assert not nobody_writes(ends[0])
    finally:
        for fd in ends:
            os.close(fd)


def test_who_wants_to_write_waits_and_is_seen(file: Path, reading: int) -> None:
    opened = threading.Event()

    def write() -> None:
        with file.open("ab"):
            opened.set()

    with read_lease(reading) as lease:
        assert lease is Lease.GRANTED
        assert not is_wanted(reading)
        with file.open("rb"):
            file.chmod(0o600)
        assert not is_wanted(reading), "reading and chmod wait for nothing"
        with pytest.raises(BlockingIOError):
            os.open(file, os.O_WRONLY | os.O_NONBLOCK)
        thread = threading.Thread(target=write)
        thread.start()
        deadline = time.monotonic() + 30
        while not is_wanted(reading) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_wanted(reading)
        assert not opened.is_set()
    assert opened.wait(30)
    thread.join()
    give_back(reading)
    assert nobody_writes(reading)
