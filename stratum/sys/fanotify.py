"""fanotify(7): groups, marks, and what is read of them, as the kernel has it.

A group is a descriptor, with marks on inodes. Those of *descriptors* tell each event with a file that is open on what
it happened to; those of *names* tell the directory by its handle (``sys.handles``), the name in it, and the handle of
what bears it. Events are in the machine's byte order. Calls raise ``OSError``; ``struct.error`` and the like never
leave this module: events that are none are a ``DamagedError``.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct
import termios
from typing import NamedTuple

from stratum.errors import DamagedError
from stratum.sys.syscalls import fd_path, fsencode, libc_call

FAN_MODIFY = 0x2
FAN_ATTRIB = 0x4
FAN_CLOSE_WRITE = 0x8
FAN_CREATE = 0x100
FAN_DELETE = 0x200
FAN_Q_OVERFLOW = 0x4000
FAN_OPEN_PERM = 0x10000
FAN_EVENT_ON_CHILD = 0x08000000
FAN_RENAME = 0x10000000
FAN_ONDIR = 0x40000000

FAN_CLOEXEC = 0x1
FAN_NONBLOCK = 0x2
FAN_CLASS_CONTENT = 0x4
FAN_UNLIMITED_QUEUE = 0x10
FAN_UNLIMITED_MARKS = 0x20
FAN_REPORT_DFID_NAME_TARGET = 0x1E00
FAN_REPORT_FD_ERROR = 0x2000

FAN_MARK_ADD = 0x1
FAN_MARK_REMOVE = 0x2
FAN_MARK_ONLYDIR = 0x8
FAN_MARK_IGNORED_MASK = 0x20
FAN_MARK_EVICTABLE = 0x200
"""The mark goes when the kernel needs the memory of the file's inode (Linux 5.19)."""

FAN_ALLOW = 0x1
FAN_DENY = 0x2

EVENT_SIZE = 24
"""Bytes of an event of descriptors, and what FIONREAD counts for one of names."""

_NO_FD = -1
_VERSION = 3
_INFO_FID = 1
_INFO_DFID_NAME = 2
_INFO_DFID = 3
_INFO_OLD_DFID_NAME = 10
_INFO_NEW_DFID_NAME = 12

# struct fanotify_event_metadata: length, version, reserved, length of itself, mask, descriptor, process.
_METADATA = struct.Struct("=IBBHQii")
# struct fanotify_event_info_header: type, pad, length; then an fsid and, of struct file_handle, the size and the type.
_HEADER = struct.Struct("=BBH")
_HANDLE_AT = 12
_HANDLE_HEAD = struct.Struct("=Ii")
_RESPONSE = struct.Struct("=iI")


class CloseEvent(NamedTuple):
    """An event of a group of descriptors. ``fd`` is the caller's, open for reading on the file, and has to be closed;
    below 0 there is none: -1 in an overflow (``mask``), else the errno with a minus. ``pid`` is whose doing it was; 0
    where that has no number here."""

    fd: int
    pid: int
    mask: int


class NameEvent(NamedTuple):
    """An event of a group of names. Directories and ``child`` are handles; ``name`` is ``.`` for the directory itself.

    Events of one name of one inode that wait are one event, whose mask has them all: their order is not told.

    ``directory`` is None where the kernel knows of none, as for a file with a mark of its own, and in an overflow. A
    rename has the old place in ``directory`` and ``name``, the new one in the fields for that. One of the two may be
    missing where only the other directory has a mark. ``pid`` is 0 where the group may not know.
    """

    mask: int
    directory: bytes | None
    name: bytes
    child: bytes | None
    new_directory: bytes | None
    new_name: bytes
    pid: int


def fanotify_init(flags: int, event_flags: int = os.O_RDONLY) -> int:
    """A new group. ``event_flags`` are those that the descriptors of its events are opened with."""
    return libc_call("fanotify_init", flags, event_flags)


def mark_directory(group: int, mask: int, directory: int) -> None:
    """Tell ``group`` of the events ``mask`` of the open ``directory``, and of its entries where that is in the mask.

    The descriptor may be O_PATH. Any number of marks of one directory are one; their masks are added.
    """
    libc_call("fanotify_mark", group, FAN_MARK_ADD | FAN_MARK_ONLYDIR, mask, directory, b".")


def unmark_directory(group: int, mask: int, directory: int) -> None:
    """Take ``mask`` from the mark of the open ``directory``; ``FileNotFoundError`` where there is none."""
    libc_call("fanotify_mark", group, FAN_MARK_REMOVE | FAN_MARK_ONLYDIR, mask, directory, b".")


def mark_file(group: int, mask: int, fd: int, flags: int = 0) -> None:
    """Tell ``group`` of the events ``mask`` of the file that ``fd`` is open on, which may be O_PATH."""
    path = fsencode(fd_path(fd))
    libc_call("fanotify_mark", group, FAN_MARK_ADD | flags, mask, -1, path, path=path)


def unmark_file(group: int, mask: int, fd: int, flags: int = 0) -> None:
    """Take ``mask`` from the mark of the file that ``fd`` is open on; ``FileNotFoundError`` where there is none."""
    path = fsencode(fd_path(fd))
    libc_call("fanotify_mark", group, FAN_MARK_REMOVE | flags, mask, -1, path, path=path)


def read_events(group: int, size: int) -> bytes:
    """Whole events in at most ``size`` bytes; empty where none waits in a group that does not block.

    Where the file of an event cannot be opened, the event is lost: the group of ``FAN_REPORT_FD_ERROR`` says so in it,
    any other one by the ``OSError``.
    """
    try:
        return os.read(group, size)
    except BlockingIOError:
        return b""


def waiting(group: int) -> int:
    """How many events wait to be read."""
    size = array.array("i", [0])
    fcntl.ioctl(group, termios.FIONREAD, size)
    return size[0] // EVENT_SIZE


def respond(group: int, fd: int, response: int) -> None:
    """Answer a permission event with ``FAN_ALLOW`` or ``FAN_DENY``; one whose asker was killed needs no answer."""
    try:
        os.write(group, _RESPONSE.pack(fd, response))
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise


def parse_closes(data: bytes) -> list[CloseEvent]:
    """The events of a group of descriptors."""
    events = []
    at, end = 0, len(data)
    try:
        while at < end:
            length, version, _, _, mask, fd, pid = _METADATA.unpack_from(data, at)
            _check(length, version, end - at)
            events.append(CloseEvent(fd, pid, mask))
            at += length
    except struct.error:
        raise _no_event() from None
    return events


def parse_names(data: bytes) -> list[NameEvent]:
    """The events of a group of names."""
    events = []
    at, end = 0, len(data)
    try:
        while at < end:
            length, version, _, own, mask, _, pid = _METADATA.unpack_from(data, at)
            _check(length, version, end - at)
            if own < EVENT_SIZE:
                raise _no_event()
            events.append(_name_event(data, at + own, at + length, mask, pid))
            at += length
    except (struct.error, ValueError):
        raise _no_event() from None
    return events


def _name_event(data: bytes, at: int, end: int, mask: int, pid: int) -> NameEvent:
    """The event whose records are in ``data`` from ``at`` to ``end``; ``ValueError`` or ``struct.error``."""
    directory = child = new_directory = None
    name = new_name = b""
    while at < end:
        kind, _, size = _HEADER.unpack_from(data, at)
        stop = at + size
        if size < _HEADER.size or stop > end:
            raise ValueError
        if kind in (_INFO_DFID_NAME, _INFO_OLD_DFID_NAME):
            directory, after = _handle(data, at, stop)
            name = data[after : data.index(b"\0", after, stop)]
        elif kind == _INFO_NEW_DFID_NAME:
            new_directory, after = _handle(data, at, stop)
            new_name = data[after : data.index(b"\0", after, stop)]
        elif kind == _INFO_FID:
            child, _ = _handle(data, at, stop)
        elif kind == _INFO_DFID:
            directory, _ = _handle(data, at, stop)
        at = stop
    return NameEvent(mask, directory, name, child, new_directory, new_name, pid)


def _handle(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    """The handle in the record at ``at``, None for an empty one, and where what follows it begins."""
    start = at + _HANDLE_AT
    size, _ = _HANDLE_HEAD.unpack_from(data, start)
    stop = start + _HANDLE_HEAD.size + size
    if stop > end:
        raise ValueError
    return (data[start:stop] if size else None), stop


def _check(length: int, version: int, left: int) -> None:
    if version != _VERSION or not EVENT_SIZE <= length <= left:
        raise _no_event()


def _no_event() -> DamagedError:
    return DamagedError("the kernel told of a file event in a form that is not known", hint="report it with 'uname -a'")
