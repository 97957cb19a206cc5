"""Strict mode: a closed version is taken before anybody opens the file again. Here is the watcher's end.

A process of its own (``history.holdup``) holds up whoever opens a file until what was closed before is taken. Its sign
of life is in memory that both have: where that is older than ``SILENCE_SECONDS``, a thread of the watcher kills the
process, upon which the kernel lets everybody go on. So does the end of the watcher.

The watcher sends directories to be marked, one by one, and gets what was taken, in the order of the closes of each
file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Collection
from typing import NamedTuple

from stratum.errors import StratumError
from stratum.history.capture import Captured
from stratum.store.objects import Staging
from stratum.sys.packets import GarbageError, Message, receive, send
from stratum.sys.spawn import spawn

SILENCE_SECONDS = 2.0
BEAT_SECONDS = 0.5
BEAT = struct.Struct("=q")
"""The time of the process's last sign of life, in shared memory: ``time.monotonic_ns``."""
_START_SECONDS = 30.0
_MARK_SECONDS = 10.0
_LASTING = 60.0


class StrictVersion(NamedTuple):
    """A version: what was taken, when (ns), the handle and the mode of the file, the path that it had then within the
    worktree (a hint), and who closed it."""

    captured: Captured
    when: int
    handle: bytes | None
    path: bytes
    mode: int
    pid: int


class Strict:
    """The watcher's end. Contents come into ``staging`` when they are read from here; until then they are in ``aside``,
    a directory on the same file system that is the process's alone, and is made and emptied. ``about`` is told the
    process for who looks at a list of them. ``StratumError`` where it cannot be started."""

    def __init__(self, staging: Staging, aside: str, about: str = "", *, max_file: int = 64 << 20) -> None:
        self._staging = staging
        self._aside = aside
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = os.memfd_create("stratum-strict", os.MFD_CLOEXEC)
        try:
            shutil.rmtree(aside, ignore_errors=True)
            os.mkdir(aside, 0o700)
            os.ftruncate(memory, BEAT.size)
            self._beat = mmap.mmap(memory, BEAT.size)
            BEAT.pack_into(self._beat, 0, time.monotonic_ns() + int(_START_SECONDS * 1e9))
            with theirs:
                self.pid = spawn("stratum.history.holdup", about, stdin=theirs.fileno())
            send(ours, {"op": "begin", "staging": aside, "max_file": max_file}, [memory])
        except OSError as exc:
            ours.close()
            raise StratumError(
                f"cannot start the process of strict histories: {exc.strerror}", hint="they go on without it"
            ) from None
        finally:
            os.close(memory)
        self._socket = ours
        self._inbox: list[StrictVersion] = []
        self._limits: tuple[int, bool] = (max_file, True)
        self._number = 0
        self._losses = 0
        self.alive = True
        self.why = ""
        self._ended = threading.Event()
        self._guard = threading.Thread(target=self._watch, name="strict-guard", daemon=True)
        self._guard.start()
        ready = self._answer("ready", 0, _START_SECONDS)
        if ready is None or ready.get("error"):
            self.close()
            words = str(ready["error"]) if ready else self.why
            raise StratumError(f"a history cannot be strict: {words}", hint="it goes on without that")

    @property
    def fd(self) -> int:
        """Readable when there is something to ``read``."""
        return self._socket.fileno()

    def mark_directory(self, fd: int) -> None:
        """Have the files in an open directory (O_PATH will do) watched from now on."""
        self._mark("directory", fd)

    def mark_file(self, fd: int) -> None:
        """Have one file watched, which has several names, from now on."""
        self._mark("file", fd)

    def _mark(self, kind: str, fd: int) -> None:
        self._number += 1
        if self._post({"op": "mark", "kind": kind, "n": self._number}, [fd]):
            answer = self._answer("marked", self._number, _MARK_SECONDS)
            if answer is not None and answer.get("error"):
                self._losses += 1

    def limit(self, max_file: int, has_space: bool) -> None:
        """From now on, take contents of at most so many bytes, or none where the disk is full."""
        if self._limits != (max_file, has_space):
            self._limits = (max_file, has_space)
            self._post({"op": "limit", "max_file": max_file, "space": has_space})

    def read(self) -> list[StrictVersion]:
        """What was taken since. ``alive`` is False from when the process has ended."""
        while self.alive and select.select([self._socket], [], [], 0)[0]:
            self._take(0.0)
        found, self._inbox = self._inbox, []
        return found

    def sync(self, timeout: float = SILENCE_SECONDS) -> list[StrictVersion]:
        """What was taken, with everything that was closed by now."""
        self._number += 1
        if self._post({"op": "sync", "n": self._number}):
            self._answer("synced", self._number, timeout)
        return self.read()

    def take_losses(self) -> int:
        """How many versions, or directories to be watched, were missed since this was asked last."""
        losses, self._losses = self._losses, 0
        return losses

    def close(self) -> None:
        """End the process; nobody waits for it any more."""
        self._lose("it was ended")
        self._ended.set()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._guard.join()
        self._socket.close()

    def _post(self, message: Message, fds: list[int] | None = None) -> bool:
        if not self.alive:
            return False
        try:
            send(self._socket, message, fds or [])
        except OSError:  # its end is read where its last words are
            return False
        return True

    def _answer(self, op: str, number: int, timeout: float) -> Message | None:
        """The answer to a question, while what comes before it goes to the inbox; None where there is none in time."""
        deadline = time.monotonic() + timeout
        while self.alive and (left := deadline - time.monotonic()) > 0:
            message = self._take(left)
            if message is not None and message.get("op") == op and message.get("n") == number:
                return message
        return None

    def _take(self, wait: float) -> Message | None:
        """One message; versions go to the inbox."""
        try:
            if not select.select([self._socket], [], [], wait)[0]:
                return None
            received = receive(self._socket)
            if received is None:
                self._lose("it has ended")
                return None
            message, _ = received
            if message.get("op") == "taken":
                self._inbox.append(self._version(message))
            elif message.get("op") == "lost":
                self._losses += int(message["count"])
        except (OSError, GarbageError, ValueError, TypeError, LookupError) as exc:
            self._lose(f"what it says is not understood: {exc}")
            return None
        return message

    def _version(self, message: Message) -> StrictVersion:
        """The version that a message tells of, its content in the staging directory."""
        digest, content, handle = message["digest"], message["content"], message["handle"]
        captured = Captured(
            key=tuple(message["key"]),
            signature=tuple(message["signature"]),
            size=int(message["size"]),
            digest=None if digest is None else bytes.fromhex(digest),
            content=None if content is None else b64decode(content),
            unknown=message["unknown"],
        )
        if captured.digest is not None:
            os.rename(
                os.path.join(self._aside, os.path.basename(message["file"])), self._staging.place(captured.digest)
            )
        return StrictVersion(
            captured,
            int(message["when"]),
            None if handle is None else b64decode(handle),
            b64decode(message["path"]),
            int(message["mode"]),
            int(message["pid"]),
        )

    def _lose(self, why: str) -> None:
        if self.alive:
            self.alive, self.why = False, self.why or why

    def _watch(self) -> None:
        """Kill the process where it is silent, and wait for its end."""
        while True:
            done, _ = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return
            if self._ended.wait(BEAT_SECONDS):
                os.waitpid(self.pid, 0)
                return
            (beat,) = BEAT.unpack_from(self._beat, 0)
            if time.monotonic_ns() - beat > SILENCE_SECONDS * 1e9:
                self.why = self.why or f"it was killed, as it did not answer for {SILENCE_SECONDS:g} seconds"
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return


class Strictness:
    """The strict histories of one watcher: it has the process for as long as there are any. ``staging`` and ``about``
    are as in ``Strict``; ``tell`` gets lines for people. For one thread."""

    def __init__(self, staging: Staging, about: str, tell: Callable[[str], None]) -> None:
        self._staging = staging
        self._about = about
        self._tell = tell
        self._process: Strict | None = None
        self._worktrees: frozenset[str] = frozenset()
        self._failures = 0
        self._started = 0.0
        self.next_start: float | None = None
        """When ``use`` is to be called again (``time.monotonic``); None where that is not needed."""

    @property
    def alive(self) -> bool:
        """Whether there is a process that holds openers up."""
        return self._process is not None

    @property
    def fd(self) -> int:
        """Readable when there is something to ``read``; -1 where nothing will be."""
        return self._process.fd if self._process is not None else -1

    def use(self, worktrees: Collection[str]) -> bool:
        """Have these worktrees, and no others, strict. Whether all of their directories are to be marked anew."""
        wanted = frozenset(worktrees)
        if not wanted >= self._worktrees:  # what is marked stays marked
            self.close()
        anew, self._worktrees = bool(wanted - self._worktrees), wanted
        if wanted and self._process is None and (self.next_start or 0.0) <= time.monotonic():
            anew = self._start()
        return anew and self.alive

    def mark_directory(self, fd: int) -> None:
        """Have the files in an open directory held up from now on."""
        if self._process is not None:
            self._process.mark_directory(fd)

    def mark_file(self, fd: int) -> None:
        """Have one file held up."""
        if self._process is not None:
            self._process.mark_file(fd)

    def limit(self, max_file: int, has_space: bool) -> None:
        """As ``Strict.limit``."""
        if self._process is not None:
            self._process.limit(max_file, has_space)

    def read(self, *, sync: bool = False) -> list[StrictVersion]:
        """What was taken since; ``sync``: with everything that was closed by now."""
        if self._process is None:
            return []
        found = self._process.sync() if sync else self._process.read()
        if losses := self._process.take_losses():
            self._tell(f"strict histories may lack versions: {losses} could not be kept")
        if not self._process.alive:
            self._tell(f"strict histories are not strict for a while: {self._process.why}")
            self._put_off()
        return found

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._worktrees = frozenset()
        self.next_start = None

    def _start(self) -> bool:
        self._started = time.monotonic()
        self.next_start = None
        try:
            self._process = Strict(self._staging, f"{self._staging.directory}-strict", self._about)
        except StratumError as exc:
            self._tell(exc.told)
            self._put_off()
            return False
        return True

    def _put_off(self) -> None:
        """Start another process, later each time that it does not last."""
        if self._process is not None:
            self._process.close()
            self._process = None
        now = time.monotonic()
        self._failures = 0 if now - self._started > _LASTING else min(self._failures + 1, 8)
        self.next_start = now + 2.0**self._failures
