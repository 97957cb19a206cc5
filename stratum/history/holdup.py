"""Holding up whoever opens a file of a strict history until what was closed before is taken. The process that does it.

It has a fanotify group whose events the kernel waits for. A file's close and the next open of it come in the order in
which they happened, so whoever opens it waits until its last version is taken. Openers of other files do not wait for
that: large ones are taken by a thread beside the one that answers.

Who reads much pays nothing: a file that was opened several times, and that nobody has open for writing, gets an ignore
mark, which the kernel takes away when the file is modified. Not asked are truncate(2), which opens nothing, and the
next open for writing of a file with that mark, whose first write ends it.

The process opens nothing by a path but what it makes in its own directory: an open in a directory that it watches would
wait for itself. Nobody is held up for long: after ``WAIT_SECONDS`` an open goes on, whatever is taken by then, and a
process without a sign of life is killed (``history.strict``). The group is the process's alone, and ends with it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import select
import signal
import socket
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from stratum.errors import StratumError
from stratum.history.capture import Captured, Capturer
from stratum.history.strict import BEAT, BEAT_SECONDS
from stratum.ingest.staging import Signature, signature
from stratum.store.objects import Staging
from stratum.sys import fanotify
from stratum.sys.handles import handle_of
from stratum.sys.leases import nobody_writes
from stratum.sys.packets import Message, encode, receive, send
from stratum.sys.syscalls import die_with_parent

WAIT_SECONDS = 1.5
"""For which an open waits for what was closed before it, at most."""
LARGE = 1 << 20
"""Bytes of a file that is taken by the thread beside the one that answers."""
OPENS_UNTIL_IGNORED = 4
"""A program that writes through mappings only, which modifies nothing that the kernel would tell of, opens and closes
the file each time; it is asked as long as nobody opens the file more often than it closes it."""
_MASK = fanotify.FAN_OPEN_PERM | fanotify.FAN_CLOSE_WRITE
_FLAGS = (
    fanotify.FAN_CLASS_CONTENT
    | fanotify.FAN_CLOEXEC
    | fanotify.FAN_NONBLOCK
    | fanotify.FAN_UNLIMITED_QUEUE
    | fanotify.FAN_UNLIMITED_MARKS
)
# Without O_NONBLOCK the opening of a FIFO, which is done for whoever reads the events, would wait for its other end.
_EVENT_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_READ = 64 * fanotify.EVENT_SIZE
_OUTBOX = 200_000
"""Messages that wait for a watcher that does not read them. What comes after that is lost, and told so."""
_UNSETTLED_SECONDS = 1.0
"""For which a version is kept in mind that could not be taken, as somebody had the file open for writing: one whose
open is told later counts as a writer already."""
_OPEN_MOST = 256
"""Files that wait to be taken, each of which is open."""
_REMEMBERED = 10_000
_SETTLED_NS = 20_000_000
"""A change time that is younger may be that of two versions, on kernels whose clock for files is coarse."""

Key = tuple[int, int]


class _Event(NamedTuple):
    """A close, or somebody who ``asks`` to open the file and waits."""

    asks: bool
    fd: int
    pid: int
    key: Key
    info: os.stat_result


class _Close(NamedTuple):
    """A close that is worked on: ``path`` is the file's then, ``held_up`` whether somebody waits who is to write to it
    next, ``last`` whether this try is the last one."""

    event: _Event
    path: bytes
    handle: bytes | None
    held_up: bool
    last: bool

    def told(self, kept: _Kept) -> Message:
        """What was taken, for the watcher."""
        captured, event = kept.captured, self.event
        return {
            "op": "taken",
            "key": captured.key,
            "signature": captured.signature,
            "size": captured.size,
            "digest": captured.digest.hex() if captured.digest is not None else None,
            "content": b64encode(captured.content).decode() if captured.content is not None else None,
            "unknown": captured.unknown,
            "file": kept.file,
            "when": kept.when,
            "handle": b64encode(self.handle).decode() if self.handle is not None else None,
            "path": b64encode(self.path).decode(),
            "mode": event.info.st_mode,
            "pid": event.pid,
        }


class _Kept(NamedTuple):
    """What was taken, when (ns), and the name of the file with the content in the process's directory, if there is one:
    each version has its own."""

    captured: Captured
    when: int
    file: str


class _Taker:
    """Takes versions, for one thread, and gives each a file named after ``name``."""

    def __init__(
        self, directory: str, name: str, *, max_file: Callable[[], int], has_space: Callable[[], bool]
    ) -> None:
        os.mkdir(f"{directory}/{name}", 0o700)
        self._staging = Staging(f"{directory}/{name}")
        self._capturer = Capturer(self._staging, max_file=max_file, has_space=has_space)
        self._prefix = f"{directory}/{name}-"
        self._count = 0
        self.failures = 0
        """How often the store's disk failed since they were looked at."""

    def take(self, close: _Close) -> _Kept | None:
        """What was closed; None where somebody writes to it now, so that its next close comes."""
        try:
            captured = self._capturer.capture(close.event.fd, held_up=close.held_up)
            if captured is None:
                return None
            path = ""
            if captured.digest is not None:
                self._count += 1
                path = f"{self._prefix}{self._count}"
                os.rename(self._staging.path(captured.digest), path)
        except (OSError, StratumError):
            self.failures += 1
            return None
        return _Kept(captured, time.time_ns(), os.path.basename(path))


class _Process:
    """The process: answers opens, and takes what was closed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        received = receive(connection)
        assert received is not None, "the watcher has ended"
        begin, (memory,) = received
        self._beat = mmap.mmap(memory, BEAT.size)
        os.close(memory)
        self._max_file, self._space = int(begin["max_file"]), True
        self._directory = begin["staging"]
        self._taker, beside = self._takers = [self._make_taker("now"), self._make_taker("large")]
        self._outbox: deque[bytes] = deque()
        self._lost = 0
        self._events: deque[_Event] = deque()
        self._opens: dict[Key, tuple[int, Signature]] = {}
        self._taken: dict[Key, Signature] = {}
        self._unsettled: dict[Key, tuple[_Close, float]] = {}
        self._pending: dict[Key, int] = {}
        self._waiting: list[tuple[_Event, float]] = []
        self._syncs: list[tuple[int, int]] = []
        self._queued = self._done = 0
        self._large: SimpleQueue[_Close] = SimpleQueue()
        self._results: SimpleQueue[tuple[_Close, _Kept | None]] = SimpleQueue()
        self._wakeup, self._wake = socket.socketpair()
        self._wakeup.setblocking(False)
        threading.Thread(target=self._take_large, args=(beside,), daemon=True).start()
        self._group = fanotify.fanotify_init(_FLAGS, _EVENT_FLAGS)

    def _make_taker(self, name: str) -> _Taker:
        return _Taker(self._directory, name, max_file=lambda: self._max_file, has_space=lambda: self._space)

    def run(self) -> None:
        """Until the watcher ends."""
        self._post({"op": "ready", "n": 0})
        self._send()
        while True:
            BEAT.pack_into(self._beat, 0, time.monotonic_ns())
            wanting = [self._connection] if self._outbox else []
            sources: list[int | socket.socket] = [self._group, self._connection, self._wakeup]
            readable, _, _ = select.select(sources, wanting, [], self._patience())
            if self._wakeup in readable:
                self._finish_large()
            if self._group in readable:
                self._work_off()
            self._answer_late()
            if self._connection in readable and not self._obey():
                return
            self._answer_syncs()
            self._send()

    def _patience(self) -> float:
        now = time.monotonic()
        return max(0.0, min([BEAT_SECONDS, *(deadline - now for _, deadline in self._waiting)]))

    # The watcher

    def _obey(self) -> bool:
        """Do what a message says; False at the end."""
        received = receive(self._connection)
        if received is None:
            return False
        message, fds = received
        try:
            if message["op"] == "mark":
                self._post({"op": "marked", "n": message["n"], "error": self._mark(message["kind"], fds[0])})
            elif message["op"] == "limit":
                self._max_file, self._space = int(message["max_file"]), bool(message["space"])
            elif message["op"] == "sync":
                for _ in range(fanotify.waiting(self._group)):
                    if not self._work_off():
                        break
                for key in list(self._unsettled):
                    self._try_again(key, held_up=False)
                self._syncs.append((self._queued, message["n"]))
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _mark(self, kind: str, fd: int) -> str:
        try:
            if kind == "directory":
                fanotify.mark_directory(self._group, _MASK | fanotify.FAN_EVENT_ON_CHILD, fd)
            else:
                fanotify.mark_file(self._group, _MASK, fd)
        except OSError as exc:
            return exc.strerror or str(exc)
        return ""

    def _answer_syncs(self) -> None:
        while self._syncs and self._syncs[0][0] <= self._done:
            self._post({"op": "synced", "n": self._syncs.pop(0)[1]})

    def _post(self, message: Message) -> None:
        if len(self._outbox) < _OUTBOX:
            self._outbox.append(encode(message))
        else:
            self._lost += 1

    def _send(self) -> None:
        for taker in self._takers:
            self._lost, taker.failures = self._lost + taker.failures, 0
        if self._lost and len(self._outbox) < _OUTBOX:
            self._outbox.append(encode({"op": "lost", "count": self._lost}))
            self._lost = 0
        with contextlib.suppress(BlockingIOError):
            while self._outbox:
                self._connection.send(self._outbox[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self._outbox.popleft()

    # Events

    def _work_off(self) -> bool:
        """Take and answer what has come; whether there was anything."""
        found = self._fill()
        while self._events:
            BEAT.pack_into(self._beat, 0, time.monotonic_ns())
            event = self._events.popleft()
            if event.asks:
                self._asked(event)
            else:
                self._closed(event)
        return found

    def _fill(self) -> bool:
        """Read up to 64 events, behind those that were read before; whether there were any."""
        try:
            events = fanotify.parse_closes(fanotify.read_events(self._group, _READ))
        except OSError:  # a descriptor could not be made: the event is gone, and whoever waited was refused
            self._lost += 1
            return True
        for fd, pid, mask in events:
            if fd < 0:
                self._lost += 1
                continue
            info = os.fstat(fd)
            asks = bool(mask & fanotify.FAN_OPEN_PERM)
            self._events.append(_Event(asks, fd, pid, (info.st_dev, info.st_ino), info))
        return bool(events)

    def _is_waited_for(self, key: Key) -> bool:
        """Whether somebody waits to open the file, so that a lease is refused though nobody writes."""
        return any(event.asks and event.key == key for event in self._events) or any(
            event.key == key for event, _ in self._waiting
        )

    def _closed(self, event: _Event) -> None:
        key, info = event.key, os.fstat(event.fd)
        self._opens.pop(key, None)
        if key in self._unsettled:  # that was open for writing then, and is closed now
            os.close(self._unsettled.pop(key)[0].event.fd)
        if self._taken.get(key) == signature(info) and _is_settled(info):
            os.close(event.fd)
            return
        path = os.fsencode(os.readlink(f"/proc/self/fd/{event.fd}"))
        handle = None
        with contextlib.suppress(OSError):
            handle = handle_of(event.fd)
        self._take(_Close(event, path, handle, self._is_waited_for(key), last=False))

    def _take(self, close: _Close) -> None:
        """Take what was closed, or have the thread beside do it."""
        key = close.event.key
        if key in self._pending or (close.event.info.st_size > LARGE and self._queued - self._done < _OPEN_MOST):
            self._pending[key] = self._pending.get(key, 0) + 1
            self._queued += 1
            self._large.put(close)
        else:
            self._took(close, self._taker.take(close))

    def _took(self, close: _Close, kept: _Kept | None) -> None:
        """Tell what was taken. Where somebody had the file open for writing, it may be who is about to be held up."""
        key = close.event.key
        if kept is None and not close.held_up:
            if self._is_waited_for(key):
                self._take(close._replace(held_up=True, last=True))
                return
            if not close.last and key not in self._unsettled and len(self._unsettled) < _OPEN_MOST:
                self._unsettled[key] = (close, time.monotonic() + _UNSETTLED_SECONDS)
                return
        os.close(close.event.fd)
        if kept is not None:
            if len(self._taken) >= _REMEMBERED:
                self._taken.clear()
            self._taken[key] = kept.captured.signature
            self._post(close.told(kept))

    def _try_again(self, key: Key, *, held_up: bool) -> None:
        """Try once more to take a version that could not be taken, as somebody had the file open for writing."""
        if key in self._unsettled:
            close, _ = self._unsettled.pop(key)
            self._take(close._replace(held_up=held_up, last=True))

    def _asked(self, event: _Event) -> None:
        self._try_again(event.key, held_up=True)
        if event.key in self._pending:
            self._waiting.append((event, time.monotonic() + WAIT_SECONDS))
            return
        self._leave_alone(event)
        self._let_go(event.fd)

    def _leave_alone(self, event: _Event) -> None:
        """Ask no more for a file that is only read, until it is modified.

        The mark comes before the last look: what is modified after that look ends the mark, what was modified before
        is seen. Who opens the file for writing just now counts as its writer already.
        """
        if len(self._opens) >= _REMEMBERED:
            self._opens.clear()
        key, fd = event.key, event.fd
        count, before = self._opens.get(key, (0, signature(event.info)))
        self._opens[key] = (count + 1, before)
        if count + 1 < OPENS_UNTIL_IGNORED:
            return
        del self._opens[key]
        flags = fanotify.FAN_MARK_IGNORED_MASK | fanotify.FAN_MARK_EVICTABLE
        with contextlib.suppress(OSError):
            fanotify.mark_file(self._group, fanotify.FAN_OPEN_PERM, fd, flags)
            if not nobody_writes(fd) or signature(os.fstat(fd)) != before:
                fanotify.unmark_file(self._group, fanotify.FAN_OPEN_PERM, fd, fanotify.FAN_MARK_IGNORED_MASK)

    def _let_go(self, fd: int) -> None:
        try:
            fanotify.respond(self._group, fd, fanotify.FAN_ALLOW)
        finally:
            os.close(fd)

    def _answer_late(self) -> None:
        """Let those go on whose file is taken, and those who waited long enough."""
        now = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for event, deadline in waiting:
            if event.key in self._pending and deadline > now:
                self._waiting.append((event, deadline))
            else:
                self._let_go(event.fd)
        for key in [key for key, (_, deadline) in self._unsettled.items() if deadline <= now]:
            self._try_again(key, held_up=False)

    # Large files

    def _take_large(self, taker: _Taker) -> None:
        while True:
            close = self._large.get()
            self._results.put((close, taker.take(close)))
            self._wake.send(b"\0")

    def _finish_large(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)
        while not self._results.empty():
            close, kept = self._results.get()
            key = close.event.key
            self._done += 1
            self._pending[key] -= 1
            if not self._pending[key]:
                del self._pending[key]
            self._took(close, kept)


def _is_settled(info: os.stat_result) -> bool:
    """Whether the signature can only be that of what the file has now."""
    return time.time_ns() - info.st_ctime_ns > _SETTLED_NS


def main(_about: str) -> None:
    """Be the process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the end of the watcher is its own
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    os.chdir("/")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(OSError):  # who opens a file waits for it, whatever the watcher's own priority is
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    connection = socket.socket(fileno=0)
    try:
        process = _Process(connection)
    except OSError as exc:
        send(connection, {"op": "ready", "n": 0, "error": exc.strerror or str(exc)})
        return
    process.run()
