"""Messages between processes of one machine: one JSON object a packet of a Unix socket (SOCK_SEQPACKET).

Descriptors come with the packet (SCM_RIGHTS). Where one asks another, the answers are packets until one without
``"more": true``; one with ``error`` says, as a ``StratumError`` does, what went wrong. This module loads little.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stratum.errors import (
    BusyError,
    DamagedError,
    NotFoundError,
    StratumError,
    UnsupportedError,
    UsageError,
)

MAX_PACKET = 128 << 10
"""Bytes; a Unix socket takes 208 KiB in one packet where nobody set another limit."""
MAX_FDS = 4
_ERROR_MAX = 2000
_AT_ONCE = 64

_PEER = struct.Struct("=iII")

Message = dict[str, Any]


class GarbageError(ValueError):
    """What came is no message."""


@contextlib.contextmanager
def reachable(directory: Path | str, name: str) -> Iterator[str]:
    """The socket ``name`` in ``directory`` as a path that is short enough for a socket's address, during the block.
    ``OSError``."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent; ``GarbageError`` where it is too long."""
    data = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(data) > MAX_PACKET:
        raise GarbageError(f"a message of {len(data)} bytes is longer than {MAX_PACKET}")
    return data


def decode(data: bytes) -> Message:
    """The message in a packet; ``GarbageError``."""
    if len(data) > MAX_PACKET:
        raise GarbageError(f"a message is longer than {MAX_PACKET} bytes")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise GarbageError(f"what came is not JSON: {exc}") from None
    if not isinstance(message, dict):
        raise GarbageError("what came is not a JSON object")
    return message


def send(connection: socket.socket, message: Mapping[str, Any], fds: Iterable[int] = ()) -> None:
    """Send one message. ``OSError``, of which ``BlockingIOError`` where the other end does not read."""
    numbers = array.array("i", fds)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
    connection.sendmsg([encode(message)], rights, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, which are the caller's and close-on-exec; None at the end.

    ``GarbageError``, with the descriptors closed; ``OSError``.
    """
    numbers = array.array("i")
    space = socket.CMSG_SPACE(MAX_FDS * numbers.itemsize)
    data, rights, flags, _ = connection.recvmsg(MAX_PACKET + 1, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    fds = list(numbers)
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise GarbageError("what came is longer than any message")
        if not data:
            if fds:
                raise GarbageError("what came is empty")
            return None
        return decode(data), fds
    except GarbageError:
        close_all(fds)
        raise


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def peer(connection: socket.socket) -> tuple[int, int]:
    """The process and user at the other end, as they were when it connected."""
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid


class Channel:
    """An end of a connection that is never waited for. ``fileno`` is to be watched, for writing too while
    ``has_unsent``."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._unsent: deque[tuple[Message, list[int]]] = deque()
        self.ended = False

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether ``flush`` is to be called once the socket takes more."""
        return bool(self._unsent)

    def post(self, message: Message, fds: Iterable[int] = ()) -> None:
        """Send a message, now or as the socket takes it; the descriptors stay the caller's. An end that is gone is no
        error: ``messages`` tells."""
        self._unsent.append((message, [os.dup(fd) for fd in fds]))
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes now."""
        while self._unsent:
            message, fds = self._unsent[0]
            try:
                send(self._socket, message, fds)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno == errno.ETOOMANYREFS:  # descriptors in flight are at their limit
                    return
                self.ended = True
                self._forget()
                return
            self._unsent.popleft()
            close_all(fds)

    def messages(self) -> Iterator[tuple[Message, list[int]]]:
        """What has arrived, at most ``_AT_ONCE`` messages; the descriptors are the caller's. Sets ``ended`` at the
        end, and where the other end talks nonsense."""
        for _ in range(_AT_ONCE):
            try:
                received = receive(self._socket)
            except BlockingIOError:
                return
            except (OSError, GarbageError):
                received = None
            if received is None:
                self.ended = True
                return
            yield received

    def close(self) -> None:
        """Close it, and forget what was not sent."""
        self._forget()
        self._socket.close()

    def _forget(self) -> None:
        for _, fds in self._unsent:
            close_all(fds)
        self._unsent.clear()


_ERRORS = {kind.id: kind for kind in (BusyError, DamagedError, NotFoundError, UnsupportedError, UsageError)}


def error_to_json(error: StratumError) -> Message:
    """An answer that says what went wrong."""
    return {"error": {"id": error.id, "message": error.message[:_ERROR_MAX], "hint": error.hint[:_ERROR_MAX]}}


def error_from_json(answer: Message) -> StratumError | None:
    """What the answer says went wrong; None where it does not."""
    told = answer.get("error")
    if told is None:
        return None
    fields = told if isinstance(told, dict) else {}
    kind = _ERRORS.get(str(fields.get("id")), StratumError)
    return kind(str(fields.get("message", "it was refused")), hint=str(fields.get("hint", "")))


def raise_error(answer: Message) -> Message:
    """The answer, or the ``StratumError`` that it tells of."""
    error = error_from_json(answer)
    if error is not None:
        raise error
    return answer
