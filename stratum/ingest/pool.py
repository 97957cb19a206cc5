"""Worker processes that read files: started as fresh programs, fed by socket, gone when their starter is.

A worker is a new interpreter and not a fork: it inherits no lock, thread or descriptor of the store, also where the
caller has threads (a progress bar, a gRPC server). It is in a session of its own, so Ctrl-C reaches only the process
that started it, which ends the workers. Directories travel as descriptors with each batch, so workers resolve no paths.
"""

from __future__ import annotations

import array
import errno
import marshal
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import stratum
from stratum.errors import StratumError
from stratum.ingest.worker import HEADER, Answer, Request

IN_FLIGHT = 2
"""Batches that a worker has at a time: one in work and one waiting."""

_PAUSE = 0.002
_PROGRAM = "import sys; sys.path.append({root!r}); from stratum.ingest.worker import main; main()"


class Batch:
    """Work for one worker: ``request`` with the descriptors of its directories, which the pool closes once sent.

    ``tag`` is whatever the caller needs to make sense of the answer.
    """

    __slots__ = ("directories", "request", "tag")

    def __init__(self, directories: list[int], request: Request, tag: Any) -> None:
        self.directories = directories
        self.request = request
        self.tag = tag

    def close(self) -> None:
        """Close the descriptors."""
        while self.directories:
            os.close(self.directories.pop())


class _Worker:
    """One process: what it still has to be sent, what came back so far, and the batches it has."""

    def __init__(self, first: tuple[bytes, bytes, str, list[bytes]]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM.format(root=str(Path(stratum.__file__).parent.parent))],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        ours.setblocking(False)
        self.socket = ours
        self.batches: deque[Batch] = deque()
        self._unsent: deque[tuple[bytes, Batch | None]] = deque()
        self._received = bytearray()
        self._queue(first, None)

    def _queue(self, value: Any, batch: Batch | None) -> None:
        body = marshal.dumps(value)
        count = len(batch.directories) if batch else 0
        self._unsent.append((HEADER.pack(count, len(body)) + body, batch))

    def add(self, batch: Batch) -> None:
        self.batches.append(batch)
        self._queue(batch.request, batch)

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def send(self) -> None:
        """Send as much as the socket takes."""
        while self._unsent:
            data, batch = self._unsent[0]
            try:
                if batch is not None and batch.directories:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", batch.directories))
                    sent = self.socket.sendmsg([data], [rights])
                    batch.close()
                else:
                    sent = self.socket.send(data)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(_PAUSE)  # this user's descriptors in flight are at their limit until a worker takes some
                return
            if sent == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = (data[sent:], batch)

    def receive(self) -> list[tuple[Batch, Answer]]:
        """The answers that are complete now. Raises ``StratumError`` where the worker is gone."""
        while True:
            try:
                data = self.socket.recv(1 << 18)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                raise self._death()
            self._received += data
        answers = []
        while len(self._received) >= HEADER.size:
            _, length = HEADER.unpack_from(self._received)
            end = HEADER.size + length
            if len(self._received) < end:
                break
            answer = marshal.loads(bytes(self._received[HEADER.size : end]))  # noqa: S302  (from our own worker)
            del self._received[:end]
            answers.append((self.batches.popleft(), answer))
        return answers

    def _death(self) -> StratumError:
        code = self.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return StratumError(
            f"a process that reads files {how}",
            hint="the machine may be short of memory (see dmesg); run the command again, or with one job",
        )

    def close(self) -> None:
        for batch in self.batches:
            batch.close()
        self.socket.close()
        if self.batches:  # no answer is wanted any more
            self.process.kill()
        self.process.wait()


class Pool:
    """``jobs`` workers, given the arguments of their ``Stager`` without the tag. A context manager."""

    def __init__(self, jobs: int, objects: bytes, staging: bytes, salvage: Sequence[bytes] = ()) -> None:
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        try:
            for number in range(jobs):
                self._workers.append(_Worker((objects, staging, f"worker-{number}", list(salvage))))
        except OSError as exc:
            self.close()
            raise StratumError(f"cannot start {sys.executable}: {exc.strerror}") from None
        for worker in self._workers:
            self._selector.register(worker.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    @property
    def idle(self) -> bool:
        """Whether every batch has been answered."""
        return not any(worker.batches for worker in self._workers)

    @property
    def full(self) -> bool:
        """Whether every worker has as much as it may have."""
        return all(len(worker.batches) >= IN_FLIGHT for worker in self._workers)

    def add(self, batch: Batch) -> None:
        """Give ``batch`` to the worker that has least; not to be called while ``full``."""
        worker = min(self._workers, key=lambda candidate: len(candidate.batches))
        worker.add(batch)
        self._exchange(worker)

    def answers(self, *, wait: bool) -> list[tuple[Batch, Answer]]:
        """Answers that have arrived, in no order; with ``wait`` at least one event is waited for."""
        answers: list[tuple[Batch, Answer]] = []
        for key, events in self._selector.select(None if wait else 0):
            worker = key.data
            if events & selectors.EVENT_WRITE:
                self._exchange(worker)
            if events & selectors.EVENT_READ:
                answers += worker.receive()
        return answers

    def _exchange(self, worker: _Worker) -> None:
        """Send what can be sent, and ask to be told about room for more only where there is more."""
        try:
            worker.send()
        except ConnectionError:
            worker.receive()  # raises, for the worker is gone
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.has_unsent else 0)
        self._selector.modify(worker.socket, events, worker)

    def close(self) -> None:
        """End the workers; those that still have work are killed."""
        self._selector.close()
        for worker in self._workers:
            worker.close()
        self._workers.clear()
