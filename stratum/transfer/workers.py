"""Worker processes for the work on packs (``packwork``) and trees (``treework``), shared by the threads of a transfer.

Each process is used by one thread at a time.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from stratum import errors
from stratum.errors import StratumError
from stratum.store.facts import Counted, count
from stratum.sys.atomic import write_all
from stratum.sys.workers import Worker
from stratum.transfer import packwork
from stratum.transfer.packs import Member
from stratum.transfer.packwork import Made, Report, Span
from stratum.tree.blocks import Dump

WORTH_IT = 16 << 20
"""With fewer bytes of objects than this, no worker is started: that takes as long as the work."""

TREE_WORTH_IT = 256 << 10
"""With fewer bytes of tree layers than this, the tree is read here."""


class Workers:
    """``jobs`` processes at most. A context manager; leaving it ends them. No thread may use them any more by then."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._workers: list[Worker] = []
        self._reading: Worker | None = None
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        for worker in self._all:
            worker.close()

    @property
    def _all(self) -> list[Worker]:
        return [*self._workers, *filter(None, (self._reading,))]

    @property
    def processes(self) -> list[int]:
        """The IDs of the processes."""
        return [worker.pid for worker in self._all]

    def start(self, size: int) -> None:
        """Start the processes where ``size`` bytes of objects are worth it; until then everything is done here.

        To be called by the thread that leaves the context.
        """
        if self._jobs == 1 or size < WORTH_IT or self._workers:
            return
        for _ in range(self._jobs):
            worker = _worker()
            self._workers.append(worker)
            self._idle.put(worker)

    def stop(self) -> None:
        """Kill the processes, also in the middle of something; a thread that waits for one of them gets an error."""
        for worker in self._all:
            worker.kill()

    def expect_tree(self, size: int) -> None:
        """A tree whose layers have ``size`` bytes is to be read soon. By the thread that leaves the context."""
        if self._jobs > 1 and size >= TREE_WORTH_IT and self._reading is None:
            self._reading = Worker("stratum.transfer.treework", "reads a tree", ("blake3",))

    def read_tree(self, dump: Dump, image: Path | None = None) -> Callable[[], Counted]:
        """Begin with ``store.facts.count``, where the tree was expected, beside what the caller does meanwhile; the
        function returned waits for it. To be called once."""
        worker = self._reading
        if worker is None:
            return lambda: count(dump, image)
        fd = os.memfd_create("dump")
        try:
            for block in dump:
                write_all(fd, block)
        except BaseException:
            os.close(fd)
            raise
        worker.post("" if image is None else str(image), (fd,))
        return lambda: Counted(*_result(worker, lambda size, member: None))

    def take_apart(self, span: Span, fd: int, report: Report) -> None:
        """As ``packwork.take_apart``."""
        if self._workers:
            self._ask(packwork.UNPACK, packwork.plain_span(span), fd, report)
        else:
            packwork.take_apart(span, fd, report)

    def make_pack(
        self, store: Path, members: Sequence[Member], fd: int | None, report: Report, *, raw: bool = False
    ) -> Made:
        """As ``packwork.make_pack``."""
        if not self._workers:
            return packwork.make_pack(str(store), members, fd, report, raw=raw)
        kind = packwork.SUM if raw else packwork.MAKE
        return Made(*self._ask(kind, (str(store), packwork.plain_members(members)), fd, report))

    def _ask(self, kind: int, arguments: tuple[Any, ...], fd: int | None, report: Report) -> Any:
        worker = self._idle.get()
        try:
            worker.post((kind, arguments), () if fd is None else (os.dup(fd),))
            return _result(worker, report)
        finally:
            self._idle.put(worker)


def _worker() -> Worker:
    from stratum.zstd import PACKAGES

    return Worker("stratum.transfer.packwork", "works on packs", PACKAGES)


def _result(worker: Worker, report: Report) -> Any:
    """The result of the request that was sent; what the worker reports meanwhile is passed on."""
    while True:
        kind, *values = worker.next()
        if kind == packwork.DONE:
            return values[0]
        if kind == packwork.FAILED:
            name, text, hint = values
            raise getattr(errors, name, StratumError)(text, hint=hint)
        size, staged = values
        report(size, None)
        for digest, length in staged:
            report(0, Member(digest, length))
