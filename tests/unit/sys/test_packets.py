"""Messages between processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from stratum.errors import BusyError, StratumError
from stratum.sys.packets import (
    MAX_FDS,
    MAX_PACKET,
    GarbageError,
    decode,
    encode,
    error_to_json,
    peer,
    raise_error,
    receive,
    send,
)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_message_arrives_with_its_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    file = os.memfd_create("x")
    send(pair[0], {"op": "serve", "gate": {"store": "/s"}}, [file])
    received = receive(pair[1])
    assert received is not None
    message, fds = received
    assert os.path.samestat(os.fstat(file), os.fstat(fds[0]))
    assert not os.get_inheritable(fds[0])
    assert message == {"op": "serve", "gate": {"store": "/s"}}
    for fd in (file, *fds):
        os.close(fd)


def test_the_end_is_no_message(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert receive(pair[1]) is None


@pytest.mark.parametrize(
    "data", [b"\xff", b"{", b"[]", b"1", b'{"a":1}' * 2, b"[" * 100_000, b"x" * (MAX_PACKET + 1), b'{"a":' * 20_000]
)
def test_garbage_is_said_to_be_garbage_and_leaves_no_descriptor(
    pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    with pytest.raises(GarbageError):
        decode(data)
    file = os.memfd_create("x")
    socket.send_fds(pair[0], [data], [file])
    os.close(file)
    before = open_descriptors()
    with pytest.raises(GarbageError):
        receive(pair[1])
    assert open_descriptors() == before


def test_more_descriptors_than_any_message_has_are_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    file = os.memfd_create("x")
    socket.send_fds(pair[0], [b"{}"], [file] * (MAX_FDS + 8))
    os.close(file)
    before = open_descriptors()
    with pytest.raises(GarbageError):
        receive(pair[1])
    assert open_descriptors() == before


def test_too_long_a_message_is_not_sent() -> None:
    with pytest.raises(GarbageError):
        encode({"a": "x" * MAX_PACKET})


def test_the_longest_message_fits_a_packet(pair: tuple[socket.socket, socket.socket]) -> None:
    message = {"a": "x" * (MAX_PACKET - 8)}
    assert len(encode(message)) == MAX_PACKET
    send(pair[0], message)
    received = receive(pair[1])
    assert received is not None
    assert received[0] == message


def test_errors_arrive_as_what_they_were() -> None:
    with pytest.raises(BusyError) as caught:
        raise_error(error_to_json(BusyError("in use", hint="wait")))
    assert (caught.value.message, caught.value.hint) == ("in use", "wait")
    with pytest.raises(StratumError, match="it was refused"):
        raise_error({"error": 7})
    assert raise_error({"ok": True}) == {"ok": True}


def test_the_other_end_is_known(pair: tuple[socket.socket, socket.socket]) -> None:
    assert peer(pair[0]) == (os.getpid(), os.geteuid())
