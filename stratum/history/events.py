"""What the kernel tells of the directories of upperdirs: two groups of fanotify(7), marked directory by directory.

*Closes* come with an open descriptor: it pins the inode, so that what a writer closed can still be read after it was
renamed over or unlinked. *Names* say what happened to which entry of which directory; that a file was closed, too, as
an open file does not say by which name. Since Linux 6.5 what is done through an overlay is told on the file system of
its upperdir, whoever did it and in whatever container.

Names need no privilege. Closes need CAP_SYS_ADMIN: without it, what was replaced since it was closed cannot be read any
more.

Events are hints. A name may be stale by the time it is read, that of a file with several names may be another than the
one that was used, and a close that could not be opened is lost; whatever is lost is told (``take_losses``).
"""

from __future__ import annotations

import errno
import os
import re

from stratum.errors import StratumError, UnsupportedError, os_error_text
from stratum.sys.fanotify import (
    EVENT_SIZE,
    FAN_ATTRIB,
    FAN_CLOEXEC,
    FAN_CLOSE_WRITE,
    FAN_CREATE,
    FAN_DELETE,
    FAN_EVENT_ON_CHILD,
    FAN_MODIFY,
    FAN_NONBLOCK,
    FAN_ONDIR,
    FAN_Q_OVERFLOW,
    FAN_RENAME,
    FAN_REPORT_DFID_NAME_TARGET,
    FAN_REPORT_FD_ERROR,
    FAN_UNLIMITED_MARKS,
    FAN_UNLIMITED_QUEUE,
    CloseEvent,
    NameEvent,
    fanotify_init,
    mark_directory,
    mark_file,
    parse_closes,
    parse_names,
    read_events,
    unmark_directory,
    waiting,
)

CLOSES_AT_ONCE = 64
"""Most descriptors that one reading of the closes opens."""
_NAMES_BUFFER = 1 << 16

_KERNEL_MIN = (6, 5)
_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})(?!\d)")

_UNLIMITED = FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS
_PLAIN = FAN_CLOEXEC | FAN_NONBLOCK
# Without O_NONBLOCK the opening of a FIFO, which is done for whoever reads the events, would wait for its other end.
_EVENT_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME

_CLOSES = FAN_CLOSE_WRITE
_ENTRIES = FAN_CREATE | FAN_DELETE | FAN_RENAME
_NAMES = _ENTRIES | FAN_ATTRIB | FAN_MODIFY | FAN_CLOSE_WRITE

_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Groups:
    """The two groups. ``fds`` are the descriptors of closes (-1 without CAP_SYS_ADMIN) and of names, to be waited for
    with poll(2) and to be kept over a restart; they do not block and are close-on-exec."""

    def __init__(self, closes: int, names: int) -> None:
        self._closes = closes
        self._names = names
        self._losses: list[str] = []
        self.overflowed = False
        """Whether the kernel's queue was full: any number of events is missing."""
        self.lost = False
        """Whether files that were closed could not be opened, so that their versions may be missing."""

    @classmethod
    def open(cls) -> Groups:
        """New groups without marks. ``UnsupportedError`` with the kernel's words where there are none to be had."""
        try:
            try:
                closes = _init_closes()
            except PermissionError:
                return cls(-1, fanotify_init(_PLAIN | FAN_REPORT_DFID_NAME_TARGET))
            try:
                names = fanotify_init(_PLAIN | _UNLIMITED | FAN_REPORT_DFID_NAME_TARGET)
            except OSError:
                os.close(closes)
                raise
        except OSError as exc:
            raise UnsupportedError(
                f"cannot ask the kernel for the events of files (fanotify): {os_error_text(exc)}", hint=_hint(exc)
            ) from None
        return cls(closes, names)

    @classmethod
    def adopt(cls, closes_fd: int, names_fd: int) -> Groups:
        """Groups that ``open`` made in this process or another one, with their marks and what waits in them; ``fds``
        is what to give here. They are closed by this object from now on."""
        return cls(closes_fd, names_fd)

    @property
    def fds(self) -> tuple[int, int]:
        return (self._closes, self._names)

    @property
    def has_descriptors(self) -> bool:
        """Whether closes come with what was closed; if not, they are only told of among names, as they are anyway."""
        return self._closes >= 0

    def close(self) -> None:
        """Close both descriptors. Marks and events are gone with the last copy of them."""
        for fd in (self._closes, self._names):
            if fd >= 0:
                os.close(fd)
        self._closes = self._names = -1

    # Each of the three is to be called before what it marks is read, so that nothing falls between.

    def mark_directory(self, fd: int) -> None:
        """Tell of everything in the directory ``fd`` (which may be O_PATH) and of itself, but not of what is deeper.
        Raises ``StratumError``."""
        self._mark(fd, _CLOSES | FAN_EVENT_ON_CHILD, _NAMES | FAN_ONDIR | FAN_EVENT_ON_CHILD, directory=True)

    def mark_file(self, fd: int) -> None:
        """Tell of the regular file ``fd`` (which may be O_PATH) by whatever name, also one in a directory that nobody
        watches: one with several names. Raises ``StratumError``."""
        self._mark(fd, _CLOSES, FAN_ATTRIB | FAN_MODIFY | FAN_CLOSE_WRITE, directory=False)

    def mark_names_only(self, fd: int) -> None:
        """Tell only which entries come to the directory ``fd``, go from it or are renamed. ``StratumError``."""
        try:
            mark_directory(self._names, _ENTRIES | FAN_ONDIR, fd)
        except OSError as exc:
            raise _cannot_mark(exc) from None

    def unmark_directory(self, fd: int) -> None:
        """Tell no more of the directory ``fd``; no error where nobody was told. ``StratumError``."""
        for group, mask in (
            (self._closes, _CLOSES | FAN_EVENT_ON_CHILD),
            (self._names, _NAMES | FAN_ONDIR | FAN_EVENT_ON_CHILD),
        ):
            if group < 0:
                continue
            try:
                unmark_directory(group, mask, fd)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise _cannot_mark(exc) from None

    def try_mark(self, directory: str | os.PathLike[str]) -> str | None:
        """Mark the directory at a path; why that cannot be done, in words, or None."""
        try:
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            return _cannot_mark(exc).told
        try:
            self.mark_directory(fd)
        except StratumError as exc:
            return exc.told
        finally:
            os.close(fd)
        return None

    def _mark(self, fd: int, closes: int, names: int, *, directory: bool) -> None:
        mark = mark_directory if directory else mark_file
        try:
            if self._closes >= 0:
                mark(self._closes, closes, fd)
            mark(self._names, names, fd)
        except OSError as exc:
            raise _cannot_mark(exc) from None

    def read_names(self) -> list[NameEvent]:
        """Events of names that wait, the oldest first: some hundreds at a time, none where none waits.

        They are to be read before closes are, so that a new directory is known as early as can be.
        """
        try:
            data = read_events(self._names, _NAMES_BUFFER)
        except OSError as exc:
            if exc.errno not in _FULL:
                raise _cannot_read(exc) from None
            self._overflow()  # no memory for them
            return []
        events = parse_names(data)
        if any(event.mask & FAN_Q_OVERFLOW for event in events):
            self._overflow()
            events = [event for event in events if not event.mask & FAN_Q_OVERFLOW]
        return events

    def read_closes(self) -> list[CloseEvent]:
        """Closes that wait, the oldest first, ``CLOSES_AT_ONCE`` at most; each ``fd`` is the caller's to close.

        One whose file could not be opened is left out and sets ``lost``. That there are none does not mean that none
        waits: ``pending`` says.
        """
        if self._closes < 0:
            return []
        try:
            data = read_events(self._closes, CLOSES_AT_ONCE * EVENT_SIZE)
        except OSError as exc:
            self._lose(exc.errno or 0)  # the event is gone, whatever was wrong with its file
            return []
        events = []
        for event in parse_closes(data):
            if event.fd >= 0:
                events.append(event)
            elif event.mask & FAN_Q_OVERFLOW:
                self._overflow()
            else:
                self._lose(-event.fd)
        return events

    def pending(self) -> tuple[int, int]:
        """How many events of closes and of names wait in the kernel. ``StratumError``."""
        try:
            return (waiting(self._closes) if self._closes >= 0 else 0), waiting(self._names)
        except OSError as exc:
            raise _cannot_read(exc) from None

    def take_losses(self) -> str | None:
        """Why events are missing since this was last asked, in words; None where none are."""
        losses, self._losses = self._losses, []
        self.overflowed = self.lost = False
        return "; ".join(losses) or None

    def _overflow(self) -> None:
        self.overflowed = True
        self._note("more happened than the kernel's queue of events holds")

    def _lose(self, code: int) -> None:
        self.lost = True
        self._note(f"files that were closed could not be opened: {os.strerror(code)}")

    def _note(self, words: str) -> None:
        if words not in self._losses:
            self._losses.append(words)


def probe(directory: str | os.PathLike[str] | None = None) -> str | None:
    """Why the events of an upperdir cannot be had here, in words; None where they can.

    With a ``directory`` also whether its file system has them: before Linux 6.8 a subvolume of btrfs has not.
    """
    old = too_old(os.uname().release)
    if old is not None:
        return old
    try:
        groups = Groups.open()
    except UnsupportedError as exc:
        return exc.told
    try:
        return groups.try_mark(directory) if directory is not None else None
    finally:
        groups.close()


def too_old(release: str) -> str | None:
    """Whether a kernel with this release, as uname(2) tells it, says nothing of what is done through an overlay: why,
    in words; None where it does."""
    if is_kernel(release, _KERNEL_MIN):
        return None
    return (
        f"Linux {release} does not tell of what is written through an overlay: that takes Linux 6.5"
        if _RELEASE.match(release) is not None
        else f"it is not known what the kernel {release!a} tells of files"
    )


def is_kernel(release: str, version: tuple[int, int]) -> bool:
    """Whether a kernel with this release, as uname(2) tells it, is known to be of this version or a later one."""
    found = _RELEASE.match(release)
    return found is not None and (int(found[1]), int(found[2])) >= version


def _init_closes() -> int:
    flags = _PLAIN | _UNLIMITED
    try:
        return fanotify_init(flags | FAN_REPORT_FD_ERROR, _EVENT_FLAGS)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    return fanotify_init(flags, _EVENT_FLAGS)  # before Linux 6.13


def _hint(exc: OSError) -> str:
    if exc.errno == errno.EMFILE:
        return "close other programs that watch files, or raise /proc/sys/fs/fanotify/max_user_groups"
    if exc.errno in (errno.EPERM, errno.ENOSYS):
        return "a container needs CAP_SYS_ADMIN and a seccomp profile that allows fanotify_init"
    return ""


def _cannot_mark(exc: OSError) -> StratumError:
    if exc.errno == errno.ENOSPC:
        return UnsupportedError(
            "cannot watch another directory: this user watches as many as the kernel allows",
            hint="raise /proc/sys/fs/fanotify/max_user_marks, or watch as root",
        )
    kind = UnsupportedError if exc.errno in (errno.EOPNOTSUPP, errno.ENODEV, errno.EXDEV) else StratumError
    return kind(f"cannot watch a directory of the store: {os_error_text(exc)}")


def _cannot_read(exc: OSError) -> StratumError:
    return StratumError(f"cannot read the events of files: {os_error_text(exc)}")
