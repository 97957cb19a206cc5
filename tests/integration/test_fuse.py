"""FUSE filesystems that are mounted nowhere, on the real kernel."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

import pytest

from stratum.sys import fuse, fuseproto
from stratum.sys.fuseproto import Opcode, Request

pytestmark = pytest.mark.root


def next_request(device: int) -> Request:
    """The next request, waited for."""
    while (data := fuse.receive(device)) is None:
        select.select([device], [], [], 10)
    return fuseproto.parse_request(data)


def last_request(device: int) -> None:
    """Read what comes, until nothing more can."""
    while True:
        next_request(device)


def greet(device: int) -> None:
    request = next_request(device)
    assert request.opcode == Opcode.INIT
    fuse.send(device, fuseproto.reply(request.unique, fuseproto.hello(fuseproto.parse_hello(request.body))))


def in_thread(function: object) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []

    def run() -> None:
        try:
            found.append(function())  # type: ignore[operator]
        except OSError as exc:
            found.append(exc.errno)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_a_filesystem_ends_with_its_last_user_and_is_named_without_its_server() -> None:
    device, mount = fuse.mount_detached()
    try:
        number = fuse.device_number(mount)
        assert Path(f"/sys/class/bdi/{number}/read_ahead_kb").read_text().strip() == str(fuse.READ_AHEAD)
        greet(device)
        assert Path(f"/sys/class/bdi/{number}/read_ahead_kb").read_text().strip() == str(fuse.READ_AHEAD)
        assert fuse.receive(device) is None
    finally:
        os.close(mount)
    with pytest.raises(fuse.Ended):
        last_request(device)
    os.close(device)


def test_a_request_is_sent_again_and_answered_by_another_descriptor() -> None:
    device, mount = fuse.mount_detached()
    greet(device)
    other = fuse.clone(device)
    thread, found = in_thread(lambda: os.stat("some", dir_fd=mount).st_size)
    try:
        request = next_request(device)
        assert (request.opcode, request.node, request.tid) == (Opcode.GETATTR, 1, thread.native_id)
        root = fuseproto.attributes_reply(fuseproto.directory(1), valid=60)
        assert fuse.send(device, fuseproto.reply(request.unique, root))
        request = next_request(device)
        assert (request.opcode, request.node, request.body) == (Opcode.LOOKUP, 1, b"some\0")
        assert fuse.send_again(other)
        again = next_request(other)
        assert again.base == request.unique != again.unique
        body = fuseproto.entry(fuseproto.regular(9, 1234), entry_valid=0, attr_valid=60)
        assert not fuse.send(device, fuseproto.reply(request.unique, body))  # that number is nobody's any more
        assert fuse.send(other, fuseproto.reply(again.unique, body))
        thread.join(10)
        assert found == [1234]
    finally:
        os.close(other)
        os.close(device)
        os.close(mount)
        thread.join(10)


def test_readers_fail_when_the_last_descriptor_is_closed() -> None:
    device, mount = fuse.mount_detached()
    greet(device)
    thread, found = in_thread(lambda: os.stat("some", dir_fd=mount))
    next_request(device)
    os.close(device)
    thread.join(10)
    os.close(mount)
    assert found == [103]  # ECONNABORTED
