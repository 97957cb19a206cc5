"""A process beside the worker that unpacks frames: two threads of one interpreter do not, and the worker's own has
readers to answer.

It is started when frames are fetched that nobody waits for yet, and ends after ``IDLE_SECONDS`` without any. Whatever
happens to it, the worker can do the same itself. At its standard input it gets one frame at a time and answers it::

    u32 length of the JSON text, u32 length of the bytes after it, the text, the bytes

A frame is told as ``landing``, ``ahead``, ``new``, ``size``, ``what``, ``wholes`` ([digest, start, stop, ahead], ...)
and ``pieces`` ([start, stop], ...), with its compressed bytes; the answer is ``error`` or ``problems``
({number: error}), with the pieces. It opens nothing but what it writes, and asks nobody.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

from stratum.composefs.verity import Buffer
from stratum.errors import foreseen
from stratum.hydrate.unpack import Frame, Putter, Unpacked, Whole, unpack
from stratum.sys.forked import call_itself
from stratum.sys.packets import error_from_json, error_to_json, raise_error
from stratum.sys.spawn import spawn

IDLE_SECONDS = 10.0
_LENGTHS = struct.Struct("<II")
_TEXT_MAX = 64 << 20
_BYTES_MAX = 64 << 20

UNPACKING = threading.Lock()
"""Held by who unpacks. Threads of one interpreter do not do it faster side by side: they only keep the one that answers
readers waiting. Fetching goes on meanwhile."""


class Unpacker:
    """Has frames unpacked, for all threads. ``about`` is told the process, for who looks at a list of them."""

    def __init__(self, about: str = "") -> None:
        self._about = about
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ready = False

    def expect_much(self) -> None:
        """Have the process there soon. Where it cannot be started, nothing is different."""
        with self._lock:
            if self._socket is not None:
                return
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    pid = spawn("stratum.hydrate.unpacker", self._about, stdin=theirs.fileno())
                except OSError:
                    ours.close()
                    return
            self._socket, self._ready = ours, False
        threading.Thread(target=os.waitpid, args=(pid, 0), name="unpacker", daemon=True).start()

    def unpack(self, frame: Frame, putter: Putter) -> Unpacked:
        """Have the objects of a frame put, as ``hydrate.unpack.unpack`` does. ``DamagedError``."""
        with UNPACKING:
            connection = self._to_process()
            if connection is not None:
                try:
                    return _answer_to(connection, frame, putter)
                except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError):  # it ended, or errs
                    self._let_go(connection)
        return unpack_here(frame, putter)

    def close(self) -> None:
        """Have the process end, when it has done what it does."""
        with self._lock:
            connection = self._socket
        if connection is not None:
            self._let_go(connection)

    def _to_process(self) -> socket.socket | None:
        """The connection to the process, once that is ready."""
        with self._lock:
            connection = self._socket
        if connection is None or self._ready:
            return connection
        readable, _, _ = select.select([connection], [], [], 0)
        if not readable:
            return None
        if not connection.recv(1):  # it ended before
            self._let_go(connection)
            return None
        self._ready = True
        return connection

    def _let_go(self, connection: socket.socket) -> None:
        with self._lock:
            if self._socket is connection:
                self._socket = None
                connection.close()


def unpack_here(frame: Frame, putter: Putter) -> Unpacked:
    """``hydrate.unpack.unpack``, in this process."""
    with UNPACKING:
        return unpack(frame, putter)


def _answer_to(connection: socket.socket, frame: Frame, putter: Putter) -> Unpacked:
    """What the process says of a frame; the error that it tells of. Any other where it says nothing, or nonsense."""
    request = {
        "landing": putter.landing.directory,
        "ahead": putter.ahead.directory,
        "new": putter.new,
        "size": frame.size,
        "what": frame.what,
        "wholes": [(digest.hex(), *rest) for digest, *rest in frame.wholes],
        "pieces": frame.pieces,
    }
    _send(connection, request, frame.data)
    received = _receive(connection)
    if received is None:
        raise EOFError
    answer, data = raise_error(received[0]), received[1]
    told = {int(number): error_from_json(problem) for number, problem in answer["problems"].items()}
    problems = {number: error for number, error in told.items() if error is not None}
    pieces, at = [], 0
    for start, stop in frame.pieces:
        pieces.append(bytes(data[at : at + stop - start]))
        at += stop - start
    if at != len(data):
        raise ValueError("the pieces have other lengths")
    return Unpacked(problems, pieces)


def _send(connection: socket.socket, message: dict[str, Any], *data: Buffer) -> None:
    text = json.dumps(message).encode()
    connection.sendall(_LENGTHS.pack(len(text), sum(map(len, data))) + text)
    for piece in data:
        connection.sendall(piece)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], memoryview] | None:
    """A message; None at the end. ``OSError``, ``EOFError`` where it is cut, ``ValueError`` or ``TypeError`` where it
    is none."""
    head = _read(connection, _LENGTHS.size)
    if head is None:
        return None
    text_size, size = _LENGTHS.unpack(head)
    if text_size > _TEXT_MAX or size > _BYTES_MAX:
        raise ValueError("it is too long")
    text, data = _read(connection, text_size), _read(connection, size)
    if text is None or data is None:
        raise EOFError
    message = json.loads(bytes(text))
    if not isinstance(message, dict):
        raise TypeError("it is no object")
    return message, data


def _read(connection: socket.socket, size: int) -> memoryview | None:
    """So many bytes; None where there are none any more."""
    data = memoryview(bytearray(size))
    at = 0
    while at < size:
        count = connection.recv_into(data[at:])
        if not count:
            return None
        at += count
    return data


def _unpacked(message: dict[str, Any], data: memoryview, putters: dict[tuple[str, str, str], Putter]) -> Unpacked:
    place = message["landing"], message["ahead"], message["new"]
    putter = putters.get(place)
    if putter is None:
        putter = putters[place] = Putter(*place, mark=f"{os.getpid()}-")
    wholes = [Whole(bytes.fromhex(digest), *rest) for digest, *rest in message["wholes"]]
    return unpack(Frame(data, message["size"], wholes, message["pieces"], message["what"]), putter)


def main(_about: str) -> None:
    """Be the process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the end of the worker is its own
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0o022)
    call_itself("stratum-unpack")
    connection = socket.socket(fileno=0)
    putters: dict[tuple[str, str, str], Putter] = {}
    with suppress(OSError, EOFError):
        connection.sendall(b"\1")
        while select.select([connection], [], [], IDLE_SECONDS)[0]:
            received = _receive(connection)
            if received is None:
                return
            try:
                done = _unpacked(*received, putters)
            except Exception as exc:  # whatever it is: somebody waits
                _send(connection, error_to_json(foreseen(exc)))
            else:
                problems = {number: error_to_json(exc) for number, exc in done.problems.items()}
                _send(connection, {"problems": problems}, *done.pieces)
            del received
