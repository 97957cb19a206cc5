"""The one who writes a worktree's history (``store.histories``): batches appended, full segments sealed.

What is behind the last whole batch, as a crash leaves it, is cut off when writing begins. Where that is no beginning
of a batch but damage, it is kept in a file ``damaged-N``, N being the first CHANGE that it may have held; the numbers
in it are not used again.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from stratum.errors import DamagedError
from stratum.store.layout import NoSpaceError, storage_error
from stratum.store.retention import parse_time
from stratum.store.segments import (
    HINT,
    SEAL_SIZE,
    SEGMENT_MAX,
    Log,
    Segment,
    pack,
    segment_name,
    split_lines,
    whole_end,
)
from stratum.sys.atomic import remove_abandoned, write_all, write_atomic
from stratum.tree.oplog import Record, encode, end_line, parse, parse_end

DAMAGED_PREFIX = "damaged-"
_AT_ONCE = 500
_APPEND = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DAY = timedelta(days=1)
_NUMBER = re.compile(rb'\{"(?:n|end)":([1-9][0-9]{0,11}),')


class LogWriter:
    """Writes the segments of ``log``, whose directory is there. ``next_n`` is the CHANGE of the next record.

    There is one at a time: who makes it holds the lock of all who write histories (``Histories.writing``). Raises
    ``DamagedError`` where the newest segment cannot be written to, ``StratumError`` in the kernel's words.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._fd = -1
        self._first = 0  # of the segment that is open
        self._size = 0
        self._seal_at = SEAL_SIZE
        self._began = ""  # the time of the first record of the segment that is open, if it has one
        self.next_n = 1
        try:
            self._directory = log.open_directory()
        except OSError as exc:
            raise storage_error(exc, f"open the history of {log.what}") from None
        try:
            self._begin()
        except OSError as exc:
            self.close()
            raise storage_error(exc, f"open the history of {log.what}") from None
        except BaseException:
            self.close()
            raise

    def append(self, records: Sequence[Record]) -> None:
        """Add a batch, durably: numbered one by one from ``next_n``. All of it is there when this returns, or, where
        it raises, nothing: ``NoSpaceError``, ``DamagedError`` where the log was changed under our hands, else
        ``StratumError`` in the kernel's words."""
        if not records:
            return
        if [record.n for record in records] != list(range(self.next_n, self.next_n + len(records))):
            raise ValueError(f"a batch is numbered one by one from {self.next_n}")
        try:
            if self._fd >= 0:
                self._check_untouched()
                if self._size >= self._seal_at or self._is_old(records[0].when):
                    self._seal_full()
            if self._fd < 0:
                self._open_new()
            size = self._write(records)
        except OSError as exc:
            raise storage_error(exc, f"write the history of {self._log.what}") from None
        self._began = self._began or records[0].when
        self._size += size
        self.next_n = records[-1].n + 1

    def seal(self) -> None:
        """Seal the segment that is open, if any, however small it is."""
        if self._fd >= 0 and self._size:
            try:
                self._check_untouched()
                self._seal_full()
            except OSError as exc:
                raise storage_error(exc, f"write the history of {self._log.what}") from None

    def close(self) -> None:
        """Give the descriptors back; nothing is left to write."""
        for fd in (self._fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = -1

    # Beginning

    def _begin(self) -> None:
        remove_abandoned(self._directory)
        segments = self._log.segments()
        self._drop_sealed_twice(segments)
        for segment in segments[:-1]:
            if not segment.sealed:  # as where there was no space to seal it
                with suppress(NoSpaceError):
                    self._seal(segment.first)
        if not segments:
            return
        newest = segments[-1]
        if newest.sealed:
            self.next_n = max(_last_number(self._log, newest), newest.first - 1) + 1
            if None in self._log.blocks(newest):  # no record takes less than a byte
                self.next_n = max(self.next_n, newest.first + self._log.size(newest) + 1)
            return
        self._fd, self._first = self._open(newest.name), newest.first
        self._cut()

    def _drop_sealed_twice(self, segments: Sequence[Segment]) -> None:
        """Of what was being sealed when a crash came, the raw segment stays, to be sealed anew."""
        names = set(self._log.files())
        for segment in segments:
            sealed = segment_name(segment.first, sealed=True)
            if not segment.sealed and sealed in names:
                os.unlink(sealed, dir_fd=self._directory)
                os.fsync(self._directory)

    def _cut(self) -> None:
        """Cut off what is behind the last whole batch of the segment that is open, and find the next number."""
        size = os.fstat(self._fd).st_size
        if size > SEGMENT_MAX:
            raise DamagedError(f"a segment of the history of {self._log.what} has {size} bytes", hint=HINT)
        data = _read(self._fd, size)
        whole = whole_end(data)
        self.next_n = self._first
        for line in reversed(split_lines(data[:whole])):
            if (n := parse_end(line)) is not None:
                self.next_n = n + 1
                break
        first = parse(split_lines(data[:whole])[0]) if whole else None
        self._began = first.when if first is not None else ""
        rest = data[whole:]
        if rest and not is_torn(rest):
            numbers = [int(match[1]) for match in _NUMBER.finditer(rest)]
            write_atomic(Path(f"{DAMAGED_PREFIX}{self.next_n:012d}"), rest, 0o600, directory=self._directory)
            close_to = [n for n in numbers if self.next_n <= n < self.next_n + len(rest)]
            self.next_n = max([self.next_n, *(n + 1 for n in close_to)])
        broken = whole > 0 and data[whole - 1] != 0x0A  # the last line break was lost
        if rest:
            os.ftruncate(self._fd, whole)
        if broken:
            write_all(self._fd, b"\n")
            whole += 1
        if rest or broken:
            os.fsync(self._fd)
        self._size = whole
        if rest and self.next_n > self._first and not whole:
            self._leave_empty()

    def _leave_empty(self) -> None:
        """The segment's name says a number that is not used again."""
        os.unlink(segment_name(self._first), dir_fd=self._directory)
        os.fsync(self._directory)
        os.close(self._fd)
        self._fd = -1

    def _open(self, name: str, flags: int = 0) -> int:
        """Open a segment, which has to be a regular file."""
        try:
            fd = os.open(name, _APPEND | flags, 0o600, dir_fd=self._directory)
        except OSError as exc:
            if exc.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            fd = -1
        if fd < 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
            if fd >= 0:
                os.close(fd)
            raise DamagedError(
                f"{self._log.directory / name} is not a regular file, so no history is written to it",
                hint="somebody changed the store by hand",
            )
        return fd

    # Appending

    def _open_new(self) -> None:
        name = segment_name(self.next_n)
        fd = self._open(name, os.O_CREAT | os.O_EXCL)
        try:
            os.fsync(fd)
            os.fsync(self._directory)
        except OSError:
            os.close(fd)
            with suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
            raise
        self._fd, self._first, self._size, self._seal_at, self._began = fd, self.next_n, 0, SEAL_SIZE, ""

    def _is_old(self, now: str) -> bool:
        """Whether the segment that is open was begun a day before ``now``: only sealed ones are thinned out."""
        began, then = parse_time(self._began), parse_time(now)
        return began is not None and then is not None and then - began >= _DAY

    def _write(self, records: Sequence[Record]) -> int:
        """Write a batch; its size in bytes."""
        size = 0
        try:
            for start in range(0, len(records), _AT_ONCE):
                piece = records[start : start + _AT_ONCE]
                end = [end_line(piece[-1].n)] if start + len(piece) == len(records) else []
                data = b"".join([*map(encode, piece), *end])
                write_all(self._fd, data)
                size += len(data)
            os.fsync(self._fd)
        except BaseException:
            os.ftruncate(self._fd, self._size)
            raise
        return size

    def _check_untouched(self) -> None:
        """``DamagedError`` where the file that is open is not the segment any more, or not what we left."""
        opened = os.fstat(self._fd)
        try:
            named = os.stat(segment_name(self._first), dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            named = None
        if named is None or not os.path.samestat(opened, named) or opened.st_size != self._size:
            raise DamagedError(
                f"the newest segment of the history of {self._log.what} was changed while it was written", hint=HINT
            )

    # Sealing

    def _seal_full(self) -> None:
        """Go on in a new segment. Where there is no space to seal the full one, go on in that for a while."""
        try:
            self._seal(self._first)
        except NoSpaceError:
            self._seal_at = self._size + SEAL_SIZE
            return
        os.close(self._fd)
        self._fd = -1

    def _seal(self, first: int) -> None:
        raw = segment_name(first)
        path = self._log.directory / raw
        try:
            fd = self._open(raw)
            try:
                data = _read(fd, min(os.fstat(fd).st_size, SEGMENT_MAX + 1))
            finally:
                os.close(fd)
            if not data or len(data) > SEGMENT_MAX or whole_end(data) != len(data):
                return  # somebody changed it: it stays as it is
            packed = b"".join(pack(data))
            sealed = Path(segment_name(first, sealed=True))
            write_atomic(sealed, packed, 0o600, directory=self._directory)
            os.unlink(raw, dir_fd=self._directory)
            os.fsync(self._directory)
        except OSError as exc:
            raise storage_error(exc, f"seal {path}") from None


def _read(fd: int, size: int) -> bytes:
    pieces, at = [], 0
    while at < size and (piece := os.pread(fd, size - at, at)):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


def is_torn(rest: bytes) -> bool:
    """Whether what follows the last whole batch is the beginning of another, as a crash leaves it: whole lines, and
    one that is cut or was never written (a file system may show that as zeros)."""
    lines = rest.split(b"\n")
    return all(parse(line) is not None for line in lines[:-1]) or not rest.strip(b"\0")


def _last_number(log: Log, segment: Segment) -> int:
    """The last CHANGE of a segment, as far as it can be read; 0 where nothing can."""
    last = 0
    for block in log.blocks(segment):
        for match in _NUMBER.finditer(block or b""):
            last = max(last, int(match[1]))
    return last
