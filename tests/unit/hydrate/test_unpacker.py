"""Unpacking in a process of its own: the same as here, whatever happens to the process."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratum import zstd
from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError, StratumError
from stratum.hydrate import unpacker as module
from stratum.hydrate.unpack import Frame, Putter, Unpacked, Whole
from stratum.hydrate.unpacker import Unpacker, unpack_here
from tests.support.fetching import until

RANDOM = random.Random(5)
OBJECTS = [RANDOM.randbytes(size) for size in (1, 5_000, 70_000)]
CONTENT = b"header" + b"".join(OBJECTS) + b"tail of what goes on in the next frame"
Do = Callable[[Frame, Putter], Unpacked]


def frame(**changes: object) -> Frame:
    wholes, at = [], 6
    for number, data in enumerate(OBJECTS):
        wholes.append(Whole(verity_digest(data), at, at + len(data), number > 0))
        at += len(data)
    made = Frame(zstd.compress(CONTENT), len(CONTENT), wholes, [(at, len(CONTENT)), (0, 6)], "a pack of there")
    return made._replace(**changes)


@pytest.fixture
def putter(tmp_path: Path) -> Putter:
    for name in ("landing", "landing/new", "ahead"):
        (tmp_path / name).mkdir()
    return Putter(str(tmp_path / "landing"), str(tmp_path / "ahead"), "new")


@pytest.fixture
def unpacker() -> Iterator[Unpacker]:
    made = Unpacker("of a test")
    yield made
    made.close()


def started(unpacker: Unpacker) -> int:
    """Have the process there; its ID."""
    unpacker.expect_much()
    until(lambda: unpacker._to_process() is not None)
    return int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1])


@pytest.fixture(params=["here", "beside"])
def do(request: pytest.FixtureRequest, unpacker: Unpacker, monkeypatch: pytest.MonkeyPatch) -> Do:
    if request.param == "here":
        return unpack_here
    started(unpacker)
    monkeypatch.setattr(module, "unpack", None)  # it must not be done here
    return unpacker.unpack


def test_what_is_wanted_is_put_and_pieces_come_back(do: Do, putter: Putter) -> None:
    done = do(frame(), putter)
    assert done == Unpacked({}, [b"tail of what goes on in the next frame", b"header"])
    for number, data in enumerate(OBJECTS):
        place = putter.ahead if number else putter.landing
        path = Path(place.path(verity_digest(data)))
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o7777 == 0o444
    assert not os.listdir(Path(putter.landing.directory) / "new")


def test_a_wrong_object_is_told_and_the_others_are_put(do: Do, putter: Putter) -> None:
    wholes = list(frame().wholes)
    wholes[1] = wholes[1]._replace(digest=bytes(32))
    done = do(frame(wholes=wholes), putter)
    (problem,) = done.problems.items()
    assert problem[0] == 1
    assert isinstance(problem[1], DamagedError)
    assert "do not match its digest" in problem[1].message
    assert Path(putter.ahead.path(wholes[2].digest)).exists()
    assert not Path(putter.ahead.path(bytes(32))).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": b"no zstd"}, "cannot be decompressed"),
        ({"data": zstd.compress(CONTENT) + b"more"}, "not one whole zstd frame"),
        ({"data": zstd.compress(bytes(100_000_000))}, "decompresses to more"),
        ({"size": len(CONTENT) + 1}, "a frame has"),
    ],
)
def test_a_damaged_frame_is_named(do: Do, putter: Putter, changes: dict[str, object], words: str) -> None:
    for _ in range(2):
        with pytest.raises(DamagedError, match=words) as raised:
            do(frame(**changes), putter)
        assert "a pack of there" in raised.value.message
    assert do(frame(), putter).problems == {}


def test_what_cannot_be_written_is_told(do: Do, putter: Putter) -> None:
    (Path(putter.landing.directory) / "new").rmdir()
    done = do(frame(), putter)
    assert set(done.problems) == {0, 1, 2}
    assert all(type(problem) is StratumError for problem in done.problems.values())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_where_the_process_dies_it_is_done_here(unpacker: Unpacker, putter: Putter, number: int) -> None:
    first = started(unpacker)
    os.kill(first, number)
    assert unpacker.unpack(frame(), putter).problems == {}
    assert Path(putter.landing.path(verity_digest(OBJECTS[0]))).read_bytes() == OBJECTS[0]
    second = started(unpacker)
    assert second != first
    assert unpacker.unpack(frame(), putter).problems == {}


def test_a_process_that_is_let_go_ends(unpacker: Unpacker, putter: Putter) -> None:
    process = started(unpacker)
    unpacker.close()
    until(lambda: not Path(f"/proc/{process}").exists())
    assert unpacker.unpack(frame(), putter).problems == {}


def test_where_none_can_be_started_it_is_done_here(
    unpacker: Unpacker, putter: Putter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent")
    unpacker.expect_much()
    assert unpacker.unpack(frame(), putter).problems == {}


@pytest.mark.parametrize("answer", [b"[]", b"{}", b"no JSON", b'{"problems": {"x": {}}}', b'{"problems": []}'])
def test_where_it_says_nonsense_it_is_done_here(unpacker: Unpacker, putter: Putter, answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    unpacker._socket, unpacker._ready = ours, True
    with theirs:
        theirs.sendall(module._LENGTHS.pack(len(answer), 0) + answer)
        assert unpacker.unpack(frame(), putter).problems == {}
    assert unpacker._socket is None
