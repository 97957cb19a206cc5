"""Versions that were taken and are in no log yet, noted in a file for the watcher that comes after one that is killed.

The file is in the directory of the transaction in which their contents wait, as lines of JSON. It is for kills, not for
power cuts: nothing is synced, what is not whole is passed over, and contents are checked when they are taken over.
Beside it, one byte says whether closes are being read: who is killed then may have had versions of which nothing is
noted.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stratum.errors import one_line
from stratum.history.capture import Captured
from stratum.store.layout import storing
from stratum.sys.actors import Actor
from stratum.sys.smallfile import READ, read_opened

NOTES, READING = "pending", "reading"
NOTES_MAX = 64 << 20
_TIDY = 1 << 20
_UNKNOWN = (None, "large", "space", "unreadable")
_NEW = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Noted(Protocol):
    """A version (``history.versions.Taken``)."""

    @property
    def captured(self) -> Captured: ...
    @property
    def when(self) -> int: ...
    @property
    def handle(self) -> bytes | None: ...
    @property
    def hint(self) -> bytes: ...
    @property
    def mode(self) -> int: ...
    @property
    def actor(self) -> Actor | None: ...


class Left(NamedTuple):
    """A version that a watcher which was killed had taken of the worktree ``ref``; all else as in ``Noted``."""

    ref: str
    captured: Captured
    when: int
    handle: bytes | None
    hint: bytes
    mode: int
    actor: Actor | None


_encode = json.JSONEncoder(separators=(",", ":")).encode
_Key = tuple[str, int, tuple[int, int]]


class _Note(NamedTuple):
    """A line: which version's, and its place and size in the file; the place is -1 where it is not there."""

    number: int
    at: int
    size: int


class Pending:
    """The notes in ``directory``, which is new. What cannot be noted, as where the disk is full, is lost with the
    watcher. Raises ``StratumError`` where the files cannot be made."""

    def __init__(self, directory: Path) -> None:
        with storing("write to the store"):
            self._notes = os.open(directory / NOTES, _NEW, 0o600)
            self._reading = os.open(directory / READING, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._noted: dict[_Key, _Note] = {}
        self.handles: set[bytes] = set()
        """The files that versions are of."""
        self._moved: dict[bytes, bytes] = {}
        self._count = 0
        self._size = self._wanted = 0  # of the file, and of those lines in it that are not done
        self._is_reading = False

    def close(self) -> None:
        """Write no more notes."""
        os.close(self._notes)
        os.close(self._reading)

    def reading(self, closes: bool) -> None:
        """Note whether closes are being read, of which nothing is noted yet."""
        if closes != self._is_reading:
            self._is_reading = closes
            with suppress(OSError):
                os.pwrite(self._reading, b"1" if closes else b"0", 0)

    def add(self, ref: str, version: Noted) -> None:
        """Note a version of the worktree ``ref``."""
        key = _key(ref, version)
        self._count += 1
        if version.handle is not None:
            self._moved.pop(version.handle, None)  # it has its path of now
            self.handles.add(version.handle)
        line = _line({"n": self._count, "ref": ref, **_table(version)})
        self._noted[key] = _Note(self._count, self._write(line), len(line))
        self._wanted += len(line)

    def renamed(self, handle: bytes, path: bytes) -> None:
        """Note that a file, which versions are of, has another path."""
        self._moved[handle] = line = _line({"moved": handle.hex(), "path": _text(path)})
        self._write(line)

    def done(self, ref: str, versions: Iterable[Noted]) -> None:
        """Note that they are in the log, or that nobody wants them."""
        numbers = []
        for version in versions:
            note = self._noted.pop(_key(ref, version), None)
            if note is not None:
                numbers.append(note.number)
                self._wanted -= note.size
        if not numbers:
            return
        if not self._noted:
            self._noted = {}  # one that had many has room for as many
            self.handles = set()
            self._moved.clear()
            self._cut(0)
        elif self._size > _TIDY + 4 * self._wanted:
            self._tidy()
        else:
            self._write(_line({"done": numbers}))

    def _tidy(self) -> None:
        """Have in the file what is not done, and nothing else."""
        lines: dict[_Key, bytes] = {}
        for key, note in self._noted.items():
            lines[key] = b""
            if note.at >= 0:
                with suppress(OSError):
                    lines[key] = os.pread(self._notes, note.size, note.at)
        self._cut(0)
        for key, line in lines.items():
            at = self._write(line) if len(line) == self._noted[key].size else -1
            self._noted[key] = self._noted[key]._replace(at=at)
        for line in self._moved.values():
            self._write(line)

    def _cut(self, size: int) -> None:
        self._size = size
        with suppress(OSError):
            os.ftruncate(self._notes, size)

    def _write(self, line: bytes) -> int:
        """Where in the file the line is; -1 where there was no room for it."""
        try:
            if os.write(self._notes, line) == len(line):
                self._size += len(line)
                return self._size - len(line)
        except OSError:
            return -1
        self._cut(self._size)
        return -1


def _key(ref: str, version: Noted) -> _Key:
    return ref, version.when, version.captured.key


def _line(table: Mapping[str, Any]) -> bytes:
    return _encode(table).encode("ascii") + b"\n"


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _table(version: Noted) -> dict[str, Any]:
    captured, actor = version.captured, version.actor
    return {
        "key": captured.key,
        "signature": captured.signature,
        "size": captured.size,
        "digest": captured.digest.hex() if captured.digest is not None else None,
        "content": _text(captured.content) if captured.content is not None else None,
        "unknown": captured.unknown,
        "when": version.when,
        "handle": version.handle.hex() if version.handle is not None else None,
        "path": _text(version.hint),
        "mode": version.mode,
        "actor": None if actor is None else [actor.pid, actor.tid, actor.name, actor.container],
    }


def left_in(directory: Path) -> tuple[list[Left], bool]:
    """What a killed watcher left in the directory of its transaction: the versions, in the order in which they were
    taken, and whether it was reading closes. Empty where there is nothing of the kind."""
    data, reading = _read(directory / NOTES), _read(directory / READING)
    return parse_pending(data), reading == b"1"


def _read(path: Path) -> bytes:
    try:
        return read_opened(os.open(path, READ | os.O_NOFOLLOW), NOTES_MAX)[1]
    except OSError:
        return b""


def parse_pending(data: bytes) -> list[Left]:
    """The versions in notes that are not done. Lines that are none are passed over."""
    found: dict[int, Left] = {}
    paths: dict[bytes, bytes] = {}
    for line in data.split(b"\n"):
        with suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
            table = json.loads(line)
            if "done" in table:
                for number in table["done"]:
                    found.pop(number, None)
            elif "moved" in table:
                path = b64decode(table["path"], validate=True)
                paths[bytes.fromhex(table["moved"])] = _path(path)
            else:
                left = _left(table)
                found[_number(table["n"])] = left
                paths.pop(left.handle or b"", None)
    return [left._replace(hint=paths.get(left.handle or b"", left.hint)) for left in found.values()]


def _left(table: Mapping[str, Any]) -> Left:
    """``ValueError``, ``TypeError`` or ``KeyError`` where it is none."""
    device, inode = map(_number, table["key"])
    one, two, size, mtime, ctime = map(_number, table["signature"])
    digest = bytes.fromhex(table["digest"]) if table["digest"] is not None else None
    content = b64decode(table["content"], validate=True) if table["content"] is not None else None
    if digest is not None and (len(digest) != 32 or content is not None):
        raise ValueError("a content is of one kind")
    if table["unknown"] not in _UNKNOWN or (content is not None and len(content) != table["size"]):
        raise ValueError("a content is not what it says")
    captured = Captured(
        (device, inode), (one, two, size, mtime, ctime), _number(table["size"]), digest, content, table["unknown"]
    )
    path, handle = _path(b64decode(table["path"], validate=True)), table["handle"]
    if not isinstance(table["ref"], str):
        raise ValueError("this is no worktree")
    handle = bytes.fromhex(handle) if handle is not None else None
    return Left(
        table["ref"], captured, _number(table["when"]), handle, path, _number(table["mode"]), _actor(table["actor"])
    )


def _path(path: bytes) -> bytes:
    if not path.startswith(b"/") or b"\0" in path:
        raise ValueError("this is no path in a worktree")
    return path


def _actor(told: Any) -> Actor | None:
    if told is None:
        return None
    pid, tid, name, container = told
    if not isinstance(name, str) or not (container is None or isinstance(container, str)):
        raise ValueError("this is nobody")
    return Actor(_number(pid), _number(tid), one_line(name), container)


def _number(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 64:
        raise ValueError("this is no number")
    return value
