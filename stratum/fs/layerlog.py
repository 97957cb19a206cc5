"""The log of a layer: operations, kept in memory or in a file that several processes append to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from stratum.errors import DamagedError, NotFoundError
from stratum.store.layout import storing
from stratum.sys.atomic import fsync_dir, write_all, write_atomic
from stratum.sys.locks import locked
from stratum.tree.oplog import Record, encode, end_line, parse, parse_end

LOG = "log"
LOCK = "lock"
_LOCK_WAIT = 60.0


class Log(Protocol):
    """``last`` is the number of the last record that was read or appended."""

    last: int

    def news(self) -> list[Record]:
        """What was appended since this was asked last, by others too; from the beginning, with its ``base``, where the
        log was begun anew. ``DamagedError``."""

    def writing(self) -> AbstractContextManager[object]:
        """A block in which nobody else appends."""

    def append(self, records: Sequence[Record]) -> None:
        """Append a batch, durably. Within ``writing``, with all news read."""

    def restart(self, base: Record) -> None:
        """Begin anew with ``base``, in one durable step. Within ``writing``."""


class MemoryLog(Log):
    """One that this process has for itself, and which nobody else changes: only what it begins with is news."""

    def __init__(self) -> None:
        self.last = 0
        self._base: list[Record] = []

    def news(self) -> list[Record]:
        base, self._base = self._base, []
        return base

    def writing(self) -> AbstractContextManager[object]:
        return nullcontext()

    def append(self, records: Sequence[Record]) -> None:
        self.last = records[-1].n

    def restart(self, base: Record) -> None:
        self.last, self._base = base.n, [base]


class FileLog(Log):
    """One in the directory of a layer, which is there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / LOG
        self.last = 0
        self._file: tuple[int, int] | None = None
        self._read = 0

    @property
    def exists(self) -> bool:
        """Whether anybody began it."""
        return self._path.exists()

    def news(self) -> list[Record]:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"{self._directory} is no layer any more: its log is gone") from None
        try:
            info = os.fstat(fd)
            if (info.st_dev, info.st_ino) != self._file:
                self._file, self._read, self.last = (info.st_dev, info.st_ino), 0, 0
            if not stat.S_ISREG(info.st_mode) or not info.st_size:  # it is never there without its base
                raise self._damaged()
            if info.st_size == self._read:
                return []
            if info.st_size < self._read:
                raise self._damaged()
            with open(fd, "rb", closefd=False) as file, storing(f"read {self._path}"):
                file.seek(self._read)
                data = file.read()
        finally:
            os.close(fd)
        return self._batches(data)

    def _batches(self, data: bytes) -> list[Record]:
        """The records of the whole batches in ``data``, which is read by that."""
        records: list[Record] = []
        batch: list[Record] = []
        begun = at = 0
        while end := data.find(b"\n", at) + 1:
            line, at = data[at : end - 1], end
            number = parse_end(line)
            if number is None:
                record = parse(line)
                if record is None or record.n != self.last + len(batch) + 1:
                    raise self._damaged()
                batch.append(record)
                continue
            if not batch or batch[-1].n != number:
                raise self._damaged()
            records += batch
            self.last, begun = number, at
            batch = []
        if not self._read and not (records and records[0].op == "base"):
            raise self._damaged()
        self._read += begun
        return records

    def _damaged(self) -> DamagedError:
        return DamagedError(f"{self._path} is damaged", hint="what was flattened is in the store; begin a new layer")

    @contextmanager
    def writing(self) -> Iterator[None]:
        with locked(self._directory / LOCK, timeout=_LOCK_WAIT, what=f"the layer {self._directory}"):
            yield

    def append(self, records: Sequence[Record]) -> None:
        data = b"".join(map(encode, records)) + end_line(records[-1].n)
        with storing(f"write {self._path}"):
            fd = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.ftruncate(fd, self._read)  # what a killed process left of a batch
                os.lseek(fd, self._read, os.SEEK_SET)
                write_all(fd, data)
                os.fdatasync(fd)
            finally:
                os.close(fd)
        self._read += len(data)
        self.last = records[-1].n

    def restart(self, base: Record) -> None:
        with storing(f"write {self._path}"):
            write_atomic(self._path, encode(base) + end_line(base.n), mode=0o600)
            fsync_dir(self._directory)
