"""What a gate answers to requests, also those that the kernel would not send now. The device is a socket here."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.hydrate.gate import Connection
from stratum.hydrate.large import FIRST_NODE, DoneReading
from stratum.store.catalog import Blob, Catalog, NewPack, write_catalog
from stratum.store.objects import Objects
from stratum.sys.actors import Actor
from stratum.sys.fuseproto import Opcode

DIGEST = bytes(range(32))
SHARD, REST = DIGEST[0], DIGEST.hex()[2:].encode()
SIZE = 5000
ASK_NODE, ERR_NODE = 256 + SHARD, 512 + SHARD
FILE_NODE = FIRST_NODE + int.from_bytes(DIGEST[:7], "big")


class Remote:
    """A fetcher of one object; what is wanted waits until the test calls what is in ``asked``."""

    def __init__(self) -> None:
        self.asked: list[Callable[[int], None]] = []
        self.ranges: list[DoneReading] = []
        self.state = "unreal"
        self.large = False
        self.error: Exception | None = None

    def size(self, digest: bytes) -> int | None:
        if self.error is not None:
            raise self.error
        return SIZE if digest == DIGEST else None

    def is_large(self, digest: bytes) -> bool:
        return self.large

    def condition(self, digest: bytes) -> str:
        return self.state

    def pass_on(self, digest: bytes) -> bool:
        if self.error is not None:
            raise self.error
        return digest == DIGEST and self.state == "landed" and not self.large

    def want(self, digest: bytes, reader: Actor | None, done: Callable[[int], None]) -> None:
        if self.state == "unreal":
            self.asked.append(done)
        else:
            done(0)

    def read_range(self, digest: bytes, start: int, size: int, reader: Actor | None, done: DoneReading) -> None:
        self.ranges.append(done)


class Gate:
    """A connection and the kernel's end of its device."""

    def __init__(self, place: Path) -> None:
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        device.setblocking(False)
        self.kernel.settimeout(10)
        self.remote = Remote()
        self.pool = ThreadPoolExecutor(1)
        pack = NewPack(Blob(bytes(32), 9), [(9, SIZE)], [(DIGEST, 0, SIZE)])
        catalog = Catalog(write_catalog([pack]))
        objects = Objects.below(place)
        self.connection = Connection(device.detach(), self.remote, [catalog], objects, place / "landing", self.pool)
        self.number = 0

    def tell(self, opcode: int, node: int = 1, body: bytes = b"", *, unique: int | None = None, tid: int = 0) -> int:
        """Send a request, and have it handled; its number."""
        if unique is None:
            self.number += 2
            unique = self.number
        self.kernel.send(struct.pack("=IIQQIIIHH", 40 + len(body), opcode, unique, node, 0, 0, tid, 0, 0) + body)
        self.connection.handle()
        return unique

    def answer(self) -> tuple[int, int, bytes]:
        """The next answer: number, errno, body."""
        data = self.kernel.recv(1 << 20)
        length, code, unique = struct.unpack_from("=IiQ", data)
        assert length == len(data)
        return unique, -code, data[16:]

    def asked(self, opcode: int, node: int = 1, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request and get its answer: errno, body."""
        unique = self.tell(opcode, node, body)
        answered, code, reply = self.answer()
        assert answered == unique
        return code, reply

    def settled(self) -> None:
        """Wait until the pool has done what it was given."""
        self.pool.submit(lambda: None).result(10)

    def nothing_more(self) -> bool:
        self.settled()
        self.kernel.setblocking(False)
        try:
            self.kernel.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.kernel.settimeout(10)
        return False


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.connection.close()
    made.pool.shutdown()
    made.kernel.close()


def lookup(gate: Gate, node: int, name: bytes) -> tuple[int, int]:
    """(errno, node) of a lookup."""
    code, body = gate.asked(Opcode.LOOKUP, node, name + b"\0")
    return code, struct.unpack_from("=Q", body)[0] if body else 0


def test_what_has_landed_is_answered_without_a_thread(gate: Gate) -> None:
    gate.remote.state = "landed"
    gate.pool.shutdown()
    for _ in range(3):
        assert lookup(gate, ASK_NODE, REST) == (errno.ENOENT, 0)
    status = gate.connection.status()
    assert (status["lookups"], status["hits"], status["waiting"]) == (3, 3, [])
    gate.remote.error = RuntimeError("a defect")
    assert lookup(gate, ASK_NODE, REST)[0] == errno.EIO, "an answer all the same"


def test_the_directories_are_fixed(gate: Gate) -> None:
    assert lookup(gate, 1, b"ask") == (0, 2)
    assert lookup(gate, 1, b"err") == (0, 3)
    assert lookup(gate, 2, b"ff") == (0, 256 + 0xFF)
    assert lookup(gate, 3, b"00") == (0, 512)
    for node, name in ((1, b"other"), (2, b"fff"), (2, b"FF"), (3, b"zz"), (2, b".."), (4, b"ff"), (256, b"x")):
        assert lookup(gate, node, name) == (errno.ENOENT, 0)
    for node in (1, 2, 3, 256, 511, 512, 767):
        code, body = gate.asked(Opcode.GETATTR, node, bytes(16))
        assert (code, struct.unpack_from("=I", body, 16 + 60)) == (0, (0o40555,))
    assert gate.asked(Opcode.GETATTR, 4, bytes(16))[0] == errno.ESTALE


def test_every_request_is_answered(gate: Gate) -> None:
    gate.remote.state = "here"
    for opcode in range(60):
        for node in (0, 1, ASK_NODE, FILE_NODE, FIRST_NODE + 1, 2**64 - 1):
            if opcode in (2, 36, 42):
                gate.tell(opcode, node)
                continue
            code, _ = gate.asked(opcode, node)
            assert 0 <= code < 512, (opcode, node)
    assert gate.nothing_more()
    assert gate.asked(99)[0] == errno.ENOSYS
    assert gate.asked(Opcode.OPENDIR)[0] == 0
    assert gate.asked(Opcode.READDIR) == (0, b"")
    assert gate.asked(Opcode.STATFS)[0] == 0
    assert gate.asked(Opcode.DESTROY) == (0, b"")


@given(st.integers(0, 60), st.sampled_from([1, 2, ASK_NODE, ERR_NODE, FILE_NODE]), st.binary(max_size=80))
def test_whatever_is_asked_is_answered(
    tmp_path_factory: pytest.TempPathFactory, opcode: int, node: int, body: bytes
) -> None:
    gate = Gate(tmp_path_factory.getbasetemp())
    with contextlib.closing(gate.connection), contextlib.closing(gate.kernel), gate.pool:
        gate.remote.state = "here"
        if opcode in (2, 36, 42):
            gate.tell(opcode, node, body)
        else:
            gate.asked(opcode, node, body)


def test_what_is_no_request_is_noted_and_changes_nothing(gate: Gate) -> None:
    gate.kernel.send(b"nonsense")
    gate.connection.handle()
    assert gate.connection.status()["problems"] == 1
    assert lookup(gate, 1, b"ask") == (0, 2)


def test_an_object_is_asked_for_and_waited_for(gate: Gate) -> None:
    unique = gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0")
    assert gate.nothing_more()
    (waits,) = gate.connection.status()["waiting"]
    assert (waits["object"], waits["pid"], waits["name"]) == (DIGEST.hex(), 0, "?")  # of a namespace not seen from here
    gate.remote.asked.pop()(0)
    assert gate.answer() == (unique, errno.ENOENT, b"")
    gate.remote.state = "landed"
    assert lookup(gate, ASK_NODE, REST) == (errno.ENOENT, 0)
    assert lookup(gate, ERR_NODE, REST) == (errno.ESTALE, 0)
    status = gate.connection.status()
    assert (status["asked"], status["asked_bytes"], status["hits"], status["waiting"]) == (1, SIZE, 1, [])


def test_a_failure_is_told_until_it_passed(gate: Gate) -> None:
    assert lookup(gate, ERR_NODE, REST) == (errno.ESTALE, 0)  # nothing is known of a failure
    for code, told in ((errno.EDQUOT, errno.EDQUOT), (errno.ENOENT, errno.EIO), (errno.EIO, errno.EIO)):
        gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0")
        gate.settled()
        gate.remote.asked.pop()(code)
        assert gate.answer()[1] == errno.ENOENT
        assert lookup(gate, ERR_NODE, REST) == (told, 0)
        assert lookup(gate, ERR_NODE, REST) == (told, 0)
    gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0")
    gate.settled()
    gate.remote.asked.pop()(0)
    gate.answer()
    assert lookup(gate, ERR_NODE, REST) == (errno.ESTALE, 0)
    assert lookup(gate, ASK_NODE, REST[:-1] + b"0") == (errno.ENOENT, 0)
    assert lookup(gate, ERR_NODE, REST[:-1] + b"0") == (
        errno.EIO,
        0,
    )  # an object of no source is not one that is missing


def test_a_request_that_is_sent_again_is_answered_by_its_new_number(gate: Gate) -> None:
    unique = gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0")
    again = gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0", unique=unique | 1 << 63)
    gate.settled()
    assert len(gate.remote.asked) == 1
    gate.remote.asked.pop()(0)
    assert gate.answer() == (again, errno.ENOENT, b"")
    assert gate.nothing_more()
    gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0", unique=unique | 1 << 63)  # it had not got the answer
    gate.settled()
    gate.remote.asked.pop()(0)
    assert gate.answer() == (again, errno.ENOENT, b"")


def test_only_a_reader_that_dies_is_let_go(gate: Gate) -> None:
    unique = gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0", tid=threading.get_native_id())
    gate.tell(Opcode.INTERRUPT, 0, struct.pack("=Q", unique))
    dead = gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0", tid=2**31 - 1)
    gate.tell(Opcode.INTERRUPT, 0, struct.pack("=Q", dead | 1 << 63))
    gate.tell(Opcode.INTERRUPT, 0, struct.pack("=Q", 123456))
    assert gate.answer() == (dead, errno.EINTR, b"")
    assert gate.nothing_more()
    gate.settled()
    gate.remote.asked[0](0)
    assert gate.answer() == (unique, errno.ENOENT, b"")
    for done in gate.remote.asked[1:]:
        done(0)
    assert gate.nothing_more()
    assert gate.connection.status()["interrupted"] == 1


def test_a_large_object_is_a_file_as_long_as_the_kernel_knows_it(gate: Gate) -> None:
    gate.remote.large = True
    assert lookup(gate, ASK_NODE, REST) == (0, FILE_NODE)
    assert gate.asked(Opcode.OPEN, FILE_NODE, bytes(8))[0] == 0
    unique = gate.tell(Opcode.READ, FILE_NODE, struct.pack("=QQIIQII", 0, 100, 50, 0, 0, 0, 0))
    gate.settled()
    gate.remote.ranges.pop()(0, b"x" * 50)
    assert gate.answer() == (unique, 0, b"x" * 50)
    gate.remote.state = "landed"
    assert lookup(gate, ASK_NODE, REST) == (0, FILE_NODE)
    gate.tell(Opcode.FORGET, FILE_NODE, struct.pack("=Q", 1))
    assert lookup(gate, ASK_NODE, REST) == (0, FILE_NODE)
    gate.connection.prune()
    assert struct.unpack("=IiQIIQQ", gate.kernel.recv(100)) == (40, 9, 0, 1, 0, 0, FILE_NODE)
    gate.tell(Opcode.BATCH_FORGET, 0, struct.pack("=IIQQ", 1, 0, FILE_NODE, 2))
    assert lookup(gate, ASK_NODE, REST) == (errno.ENOENT, 0)
    gate.connection.prune()
    assert gate.nothing_more()


def test_a_defect_in_a_handler_fails_its_request_only(gate: Gate) -> None:
    gate.remote.error = ValueError("a defect\nof two lines")
    assert lookup(gate, ASK_NODE, REST) == (errno.EIO, 0)
    gate.remote.large = True
    assert gate.asked(Opcode.GETATTR, FILE_NODE, bytes(16))[0] == errno.EIO
    status = gate.connection.status()
    assert status["problems"] == 2
    assert status["last_problem"] == "ValueError: a defect\\nof two lines"
    gate.remote.error = None
    assert gate.asked(Opcode.GETATTR, FILE_NODE, bytes(16))[0] == 0


def test_what_comes_after_the_pool_ended_fails(gate: Gate) -> None:
    gate.pool.shutdown()
    assert lookup(gate, ASK_NODE, REST) == (errno.EIO, 0)
    assert gate.asked(Opcode.GETATTR, FILE_NODE, bytes(16))[0] == errno.EIO


def test_an_answer_after_the_end_goes_nowhere(gate: Gate) -> None:
    """The number of the closed descriptor is soon another file's."""
    gate.tell(Opcode.LOOKUP, ASK_NODE, REST + b"\0")
    gate.settled()
    device = gate.connection.fileno()
    gate.connection.close()
    gate.connection.close()
    pipe = os.pipe()
    try:
        assert device in pipe
        gate.remote.asked.pop()(0)
        os.set_blocking(pipe[0], False)
        with pytest.raises(BlockingIOError):
            os.read(pipe[0], 1)
    finally:
        for fd in pipe:
            os.close(fd)
    gate.connection.handle()
    gate.connection.prune()
    assert gate.connection.ended
