"""The worker processes that read files for one ``ingest.reader``, or remove them, while that one goes on listing.

Directories travel as descriptors with each batch, so workers resolve no paths.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stratum.errors import StratumError
from stratum.ingest.worker import Answer

if TYPE_CHECKING:
    from stratum.sys.workers import Worker

IN_FLIGHT = 2
"""Batches that a worker has at a time: one in work and one waiting."""
DIRECTORIES_MAX = 128
"""Of a batch: as many descriptors as are sent with a message (``sys.workers.MAX_DESCRIPTORS``)."""
_READ, _WRITE = 1, 2
"""``selectors.EVENT_READ`` and ``EVENT_WRITE``."""


class Batch:
    """Work for one worker: ``request`` with the descriptors of its directories, which the pool closes once sent.

    ``tag`` is whatever the caller needs to make sense of the answer.
    """

    __slots__ = ("directories", "request", "tag")

    def __init__(self, directories: list[int], request: Any, tag: Any) -> None:
        self.directories = directories
        self.request = request
        self.tag = tag

    def close(self) -> None:
        """Close the descriptors."""
        while self.directories:
            os.close(self.directories.pop())


def reading_pool(
    jobs: int, objects: bytes, staging: bytes, salvage: Sequence[bytes] = (), adopts: bool | None = None
) -> Pool:
    """``jobs`` workers that read, given the arguments of ``ingest.worker.stager_for`` without the tag."""

    def first(number: int) -> tuple[Any, ...]:
        return objects, staging, f"worker-{number}", list(salvage), adopts

    return Pool(jobs, "stratum.ingest.worker", "reads files", first)


class Pool:
    """``jobs`` workers, which run ``main`` of ``module`` and do ``task``, as errors say it. ``first`` has the first
    message to each, by its number."""

    def __init__(self, jobs: int, module: str, task: str, first: Callable[[int], Any]) -> None:
        import selectors  # what follows is not loaded where there is little to read

        from stratum.sys.workers import Worker

        self._selector = selectors.DefaultSelector()
        self._workers: list[tuple[Worker, deque[Batch]]] = []
        """Each with the batches that it has not answered, oldest first."""
        try:
            for number in range(jobs):
                worker = Worker(module, task)
                self._workers.append((worker, deque()))
                worker.post(first(number))
        except StratumError:
            self.close()
            raise
        for worker, batches in self._workers:
            self._selector.register(worker, _READ | _WRITE, (worker, batches))

    @property
    def idle(self) -> bool:
        """Whether every batch has been answered."""
        return not any(batches for _, batches in self._workers)

    @property
    def full(self) -> bool:
        """Whether every worker has as much as it may have."""
        return all(len(batches) >= IN_FLIGHT for _, batches in self._workers)

    def add(self, batch: Batch) -> None:
        """Give ``batch`` to the worker that has least; not to be called while ``full``."""
        worker, batches = min(self._workers, key=lambda candidate: len(candidate[1]))
        batches.append(batch)
        directories, batch.directories = batch.directories, []
        worker.post(batch.request, directories)
        self._watch(worker, batches)

    def answers(self, *, wait: bool) -> list[tuple[Batch, Answer]]:
        """Answers that have arrived, in no order; with ``wait`` at least one event is waited for.

        ``StratumError`` where a worker is gone.
        """
        answers: list[tuple[Batch, Answer]] = []
        for key, events in self._selector.select(None if wait else 0):
            worker, batches = key.data
            if events & _WRITE:
                worker.flush()
                self._watch(worker, batches)
            if events & _READ:
                answers += [(batches.popleft(), answer) for answer in worker.arrived()]
        return answers

    def _watch(self, worker: Worker, batches: deque[Batch]) -> None:
        """Ask to be told about answers, and about room for more where there is more to send."""
        events = _READ | (_WRITE if worker.has_unsent else 0)
        self._selector.modify(worker, events, (worker, batches))

    def close(self) -> None:
        """End the workers."""
        self._selector.close()
        for worker, _ in self._workers:
            worker.close()
        self._workers.clear()
