"""The messages of FUSE: sizes and fields as the kernel's header file has them, and what is no message is refused."""

from __future__ import annotations

import contextlib
import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.sys import fuseproto
from stratum.sys.fuseproto import Capability, Hello, OpenFlag, ProtocolError


def raw(
    opcode: int, body: bytes = b"", *, unique: int = 6, node: int = 2, tid: int = 77, extensions: bytes = b""
) -> bytes:
    length = 40 + len(body) + len(extensions)
    return (
        struct.pack("=IIQQIIIHH", length, opcode, unique, node, 10, 20, tid, len(extensions) // 8, 0)
        + body
        + extensions
    )


def test_a_request_is_read_as_it_was_sent() -> None:
    request = fuseproto.parse_request(raw(1, b"ab\0"))
    assert request == (1, 6, 2, 10, 20, 77, b"ab\0")
    assert fuseproto.parse_name(request.body) == b"ab"


def test_extensions_of_a_request_are_no_part_of_its_body() -> None:
    assert fuseproto.parse_request(raw(1, b"ab\0", extensions=bytes(16))).body == b"ab\0"


def test_a_request_that_is_sent_again_is_the_same_request() -> None:
    again = fuseproto.parse_request(raw(1, b"ab\0", unique=6 | 1 << 63))
    assert again.unique == 6 | 1 << 63
    assert again.base == 6
    assert fuseproto.reply(again.unique)[8:] == struct.pack("=Q", 6 | 1 << 63)


@pytest.mark.parametrize(
    "data", [b"", bytes(39), raw(1, b"ab\0")[:-1], raw(1, b"ab\0") + b"x", raw(1)[:36] + b"\xff\xff\0\0"]
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        fuseproto.parse_request(data)


def test_what_is_forgotten_is_told_one_by_one_or_together() -> None:
    one = fuseproto.parse_request(raw(2, struct.pack("=Q", 3), node=99))
    assert fuseproto.parse_forget(one) == [(99, 3)]
    many = fuseproto.parse_request(raw(42, struct.pack("=IIQQQQ", 2, 0, 99, 3, 100, 1), node=0))
    assert fuseproto.parse_forget(many) == [(99, 3), (100, 1)]
    with pytest.raises(ProtocolError):
        fuseproto.parse_forget(fuseproto.parse_request(raw(42, struct.pack("=IIQQ", 2, 0, 99, 3), node=0)))


def test_the_kernel_is_asked_to_forget() -> None:
    message = fuseproto.prune([99, 100])
    assert message == struct.pack("=IiQIIQQQ", 48, 9, 0, 2, 0, 0, 99, 100)


@given(st.binary(max_size=120))
def test_no_bytes_are_more_than_a_protocol_error(data: bytes) -> None:
    for parse in (
        fuseproto.parse_request,
        fuseproto.parse_hello,
        fuseproto.parse_read,
        fuseproto.parse_interrupt,
        fuseproto.parse_name,
        lambda body: fuseproto.parse_forget(fuseproto.Request(42, 2, 0, 0, 0, 0, body)),
    ):
        with contextlib.suppress(ProtocolError):
            parse(data)


def test_the_greeting_takes_what_both_have() -> None:
    offered = int(fuseproto.WANTED) | 1 << 3 | 1 << 41
    theirs = fuseproto.parse_hello(
        struct.pack("=IIIII", 7, 99, 131072, offered & 0xFFFFFFFF, offered >> 32) + bytes(44)
    )
    assert theirs.resends
    body = fuseproto.hello(theirs)
    assert len(body) == 64
    major, minor, readahead, low = struct.unpack_from("=IIII", body)
    _, pages, _, high, depth = struct.unpack_from("=IHHII", body, 24)
    assert (major, minor, readahead) == (7, 45, 1 << 20)
    assert low | high << 32 == fuseproto.WANTED
    assert pages == 256
    assert depth == 0  # else files of such filesystems could not be layers


def test_a_kernel_without_more_flags_is_taken_as_one() -> None:
    theirs = fuseproto.parse_hello(struct.pack("=IIII", 7, 31, 131072, int(Capability.ASYNC_READ)))
    assert theirs == Hello(7, 31, 131072, 1)
    assert not theirs.resends
    body = fuseproto.hello(theirs)
    assert struct.unpack_from("=IIII", body) == (7, 31, 1 << 20, 1)


@pytest.mark.parametrize("version", [(8, 0), (7, 30), (6, 45)])
def test_another_protocol_is_refused(version: tuple[int, int]) -> None:
    with pytest.raises(ProtocolError, match="speaks FUSE"):
        fuseproto.parse_hello(struct.pack("=IIII", *version, 0, 0))


def test_answers_have_the_sizes_of_the_kernels_structures() -> None:
    attributes = fuseproto.regular(4096, 5000)
    assert len(fuseproto.entry(attributes, entry_valid=0, attr_valid=1)) == 128
    assert len(fuseproto.attributes_reply(attributes, valid=1)) == 104
    assert len(fuseproto.opened(4096, OpenFlag.KEEP_CACHE)) == 16
    assert len(fuseproto.statfs()) == 80
    assert fuseproto.refusal(6, errno.EIO) == struct.pack("=IiQ", 16, -errno.EIO, 6)
    assert fuseproto.reply(6, b"abc") == struct.pack("=IiQ", 19, 0, 6) + b"abc"


def test_a_file_has_its_size_and_blocks() -> None:
    body = fuseproto.entry(fuseproto.regular(4096, 5000), entry_valid=0, attr_valid=9)
    node, _, entry_valid, attr_valid = struct.unpack_from("=QQQQ", body)
    ino, size, blocks = struct.unpack_from("=QQQ", body, 40)
    (mode,) = struct.unpack_from("=I", body, 40 + 60)
    assert (node, entry_valid, attr_valid, ino, size, blocks, mode) == (4096, 0, 9, 4096, 5000, 10, 0o100444)


def test_a_read_says_where_and_how_much() -> None:
    assert fuseproto.parse_read(struct.pack("=QQIIQII", 1, 1 << 40, 4096, 0, 0, 0, 0)) == (1 << 40, 4096)
