"""How much an import of a directory will read, found while it reads: a process counts ahead (``Counting``).

The process is sent the open directory and what is left out of it, and answers with the bytes of the files in it. What
cannot be counted is not: the import says what is wrong with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from stratum.errors import StratumError
from stratum.ingest.selection import Entry, Excludes, Place, Selection, below
from stratum.ingest.staging import open_source
from stratum.sys.workers import Connection, Worker, serve

_DEPTH_MAX = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Counting:
    """The counting of one directory. A context manager, which ends it."""

    def __init__(self, directory: int, excludes: Excludes) -> None:
        """Count what is in the open ``directory``, which stays open here."""
        self.total: int | None = None
        """Bytes, once they are known."""
        self._worker: Worker | None = Worker("stratum.ingest.counting", "counts files")
        given = (excludes.patterns, excludes.ignore_files, excludes.one_file_system, excludes.caches)
        self._worker.post((*given, excludes.larger_than), [os.dup(directory)])

    def look(self) -> int | None:
        """The bytes in all, None as long as they are not counted."""
        if self._worker is not None:
            try:
                self._worker.flush()
                for size in self._worker.arrived():
                    self.total = size
            except StratumError:  # it is only for who watches
                self.close()
            if self.total is not None:
                self.close()
        return self.total

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()


def count(directory: int, excludes: Excludes) -> int:
    """The bytes of the regular files in the open ``directory`` and below."""
    size = 0
    selection = Selection(excludes, os.fstat(directory).st_dev)
    stack: list[tuple[int, Place, Iterator[str]]] = []
    entered: tuple[int, Place] | None = (os.dup(directory), Place())
    try:
        while entered is not None or stack:
            if entered is not None:
                stack.append((*entered, iter(())))
                place, found = _listed(selection, *entered)
                size += sum(info.st_size for _, info in found if stat.S_ISREG(info.st_mode))
                stack[-1] = (entered[0], place, iter([n for n, info in found if stat.S_ISDIR(info.st_mode)]))
            fd, place, names = stack[-1]
            entered = None
            if (name := next(names, None)) is None:
                os.close(stack.pop()[0])
            elif len(stack) < _DEPTH_MAX:
                with suppress(OSError):
                    entered = (open_source(name, _OPEN, fd), below(place, os.fsencode(name)))
        return size
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def _listed(selection: Selection, fd: int, place: Place) -> tuple[Place, list[Entry]]:
    try:
        with os.scandir(fd) as listing:
            entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in listing]
        return selection.chosen(fd, place, os.fstat(fd), entries)
    except (OSError, StratumError):
        return place, []


def main() -> None:
    """Count for the process that started this one."""

    def answer(connection: Connection, message: Any, directories: list[int]) -> None:
        connection.send(count(directories[0], Excludes(*message)))

    serve(answer)
