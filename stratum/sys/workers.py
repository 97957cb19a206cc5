"""Worker processes: new interpreters that answer messages on a socket, gone when their starter is.

A worker is not a fork: it inherits no lock, thread or descriptor, also where its starter has threads (a progress bar, a
gRPC server). It is in a session of its own, so Ctrl-C reaches only the process that started it. It ends at the end of
file on its socket, and is killed when the thread that started it ends.

A message is a header (``_HEADER``: number of descriptors, length of the body) and a marshalled value; descriptors come
with the header. Both ends are one version of one program, which is what marshal asks for. The starter never blocks in
sending, so both ends may send as much as they like at the same time.

What the messages mean is the matter of those who use this: ``ingest.pool`` and ``transfer.workers``.
"""

from __future__ import annotations

import array
import errno
import marshal
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import stratum
from stratum.errors import StratumError
from stratum.sys.syscalls import die_with_parent

MAX_DESCRIPTORS = 128
"""Descriptors with one message; SCM_MAX_FD (253) is the most that the kernel takes."""

_HEADER = struct.Struct("<IQ")
_RECEIVE = 1 << 18
_PAUSE = 0.002
_PROGRAM = "import sys; sys.path += {paths!r}; from {module} import main; main()"


class Worker:
    """One process, which runs ``main`` of ``module`` (that calls ``serve``); for one thread at a time.

    ``task`` is what a worker does, as errors say it. ``packages`` are those besides this one that it imports.
    ``StratumError`` where it cannot be started.
    """

    def __init__(self, module: str, task: str, packages: Sequence[str] = ()) -> None:
        import subprocess  # which a worker itself does not load

        self._task = task
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _PROGRAM.format(paths=_paths(packages), module=module)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as exc:
                self._socket.close()
                raise StratumError(f"cannot start {sys.executable}: {exc.strerror}") from None
        self._socket.setblocking(False)
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self._received = bytearray()
        self._messages: deque[Any] = deque()
        self._ended = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """The socket's descriptor, to be waited for."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether ``flush`` is to be called once the socket takes more."""
        return bool(self._unsent)

    def post(self, value: Any, descriptors: Iterable[int] = ()) -> None:
        """Send ``value``, now or as the socket takes it. ``descriptors`` are closed here once they are sent.

        A worker that is gone is no error here; whoever wants its answer is told.
        """
        body, fds = marshal.dumps(value), list(descriptors)
        self._unsent.append((memoryview(_HEADER.pack(len(fds), len(body)) + body), fds))
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes now."""
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                if fds:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                    sent = self._socket.sendmsg([data], [rights])
                    _close(fds)
                else:
                    sent = self._socket.send(data)
            except BlockingIOError:
                return
            except ConnectionError:
                self._forget_unsent()
                return
            except OSError as exc:
                if exc.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(_PAUSE)  # this user's descriptors in flight are at their limit until a worker takes some
                return
            if sent == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = (data[sent:], fds)

    def arrived(self) -> list[Any]:
        """The messages that are complete now. ``StratumError`` where there are none and the worker is gone."""
        self._receive()
        if self._ended and not self._messages:
            raise self._death()
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def next(self) -> Any:
        """The next message, which is waited for. ``StratumError`` where the worker is gone."""
        while True:
            self._receive()
            if self._messages:
                return self._messages.popleft()
            if self._ended:
                raise self._death()
            poll = select.poll()
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            poll.poll()
            self.flush()

    def _receive(self) -> None:
        """Take what is in the socket."""
        while not self._ended:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            self._received += data
            self._ended = not data
        while len(self._received) >= _HEADER.size:
            _, length = _HEADER.unpack_from(self._received)
            end = _HEADER.size + length
            if len(self._received) < end:
                break
            self._messages.append(marshal.loads(bytes(self._received[_HEADER.size : end])))  # noqa: S302  (our own)
            del self._received[:end]

    def _death(self) -> StratumError:
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return StratumError(
            f"a process that {self._task} {how}",
            hint="the machine may be short of memory (see dmesg); run the command again, or with one job",
        )

    def _forget_unsent(self) -> None:
        for _, fds in self._unsent:
            _close(fds)
        self._unsent.clear()

    def kill(self) -> None:
        """End it, also while another thread waits for a message, which is told."""
        self._process.kill()

    def close(self) -> None:
        """End it, whatever it does, and forget what it has not been sent."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        self._forget_unsent()


class Connection:
    """The worker's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, value: Any) -> None:
        """Send a message."""
        body = marshal.dumps(value)
        self._socket.sendall(_HEADER.pack(0, len(body)) + body)

    def receive(self) -> tuple[Any, list[int]] | None:
        """(value, descriptors) of the next message, or None at the end."""
        head, fds, _, _ = socket.recv_fds(self._socket, _HEADER.size, MAX_DESCRIPTORS)
        for fd in fds:  # Python 3.11 hands no flags on that would say so
            os.set_inheritable(fd, False)
        head += self._exactly(_HEADER.size - len(head)) if head else b""
        if len(head) < _HEADER.size:
            return None
        count, length = _HEADER.unpack(head)
        body = self._exactly(length)
        if len(body) < length or len(fds) != count:
            return None
        return marshal.loads(body), fds  # noqa: S302  (from the process that started this one)

    def _exactly(self, length: int) -> bytes:
        """``length`` bytes, fewer at the end."""
        data = bytearray()
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                break
            data += piece
        return bytes(data)


def serve(answer: Callable[[Connection, Any, list[int]], None]) -> None:
    """Be a worker: have ``answer`` take each message on standard input, with its descriptors, until the end of file."""
    die_with_parent()  # also in the middle of a large file
    os.umask(0o022)
    try:
        with socket.socket(fileno=0) as opened:
            connection = Connection(opened)
            while (message := connection.receive()) is not None:
                value, fds = message
                answer(connection, value, fds)
                _close(fds)
    except ConnectionError:
        return  # whoever started this is gone
    except MemoryError:
        raise SystemExit(1) from None  # whoever started this says what that may mean


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def _paths(packages: Sequence[str]) -> list[str]:
    """Where a worker finds this program and ``packages``, searched after the standard library."""
    places = [Path(stratum.__file__).parent.parent]
    if packages:
        import importlib.util

        for name in packages:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            of_package = spec.submodule_search_locations is not None  # its __init__.py is one further down
            places.append(Path(spec.origin).parents[name.count(".") + of_package])
    return list(dict.fromkeys(map(str, places)))
