"""Reading small files; and who could have changed a file or a program that others may have had their hands on.

Whoever can write a settings file, a directory that it is in, or a directory on the way to a program decides what root
does. So these are used only where root and the user who runs Stratum are the only ones who can.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from stratum.errors import UsageError, os_error_text

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_MORE = 1 << 16


class UnfitError(OSError):
    """What is there is not a regular file, or too large; ``strerror`` says which."""


def read_regular(path: Path, limit: int, *, follow: bool = True) -> tuple[os.stat_result, bytes]:
    """What fstat(2) says of ``path`` and its content; a symlink is followed, or with ``follow=False`` ELOOP.

    Raises ``OSError``, and of that ``UnfitError`` for what is not a regular file (a fifo or device never blocks or
    acts) and for more than ``limit`` bytes.
    """
    return read_opened(os.open(path, READ if follow else READ | os.O_NOFOLLOW), limit)


def read_opened(fd: int, limit: int) -> tuple[os.stat_result, bytes]:
    """The same of a file that was opened with ``READ``; it is closed."""
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise UnfitError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise UnfitError(errno.EINVAL, "not a regular file")
        data = read_up_to(fd, limit + 1) if status.st_size <= limit else None
        if data is None or len(data) > limit:
            raise UnfitError(errno.EFBIG, f"larger than {limit} bytes")
        return status, data
    finally:
        os.close(fd)


def read_up_to(fd: int, limit: int) -> bytes:
    """What a regular file has from its beginning, at most ``limit`` bytes, in buffers of its own size.

    A read with a buffer of ``limit`` bytes would ask the kernel for that much memory however small the file is, which
    it refuses where that is more than the machine has.
    """
    pieces, done = [], 0
    size = min(os.fstat(fd).st_size + 1, limit)  # one more, so that the end is seen at once
    while done < limit and (piece := os.pread(fd, min(max(size - done, _MORE), limit - done), done)):
        pieces.append(piece)
        done += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_trusted(path: Path, limit: int, owners: Collection[int]) -> bytes | None:
    """The content of the settings file ``path``; None where there is none.

    Raises ``UsageError`` where it cannot be read, and where others than ``owners`` (user IDs) own or can write it or
    the directory that it is in: such a one could also have taken the file away.
    """
    try:
        for directory in {path.parent, Path(os.path.realpath(path)).parent}:
            _check(directory, os.stat(directory), owners)
        status, data = read_regular(path, limit)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {os_error_text(exc)}") from None
    _check(path, status, owners)
    return data


def _check(path: Path, status: os.stat_result, owners: Collection[int]) -> None:
    trusted = status.st_uid in owners and not _others_write(status)
    if trusted:
        return
    import shlex

    from stratum.sys.userns import OVERFLOW_ID

    if status.st_uid not in owners:
        wanted = "root" if min(owners) == 0 else f"user {min(owners)}"
        raise UsageError(
            f"{path} is owned by user {status.st_uid}, not by {wanted}, so what it says is not used",
            hint=f"look at what is there, then: chown {max(set(owners) - {OVERFLOW_ID})} {shlex.quote(str(path))}",
        )
    raise UsageError(
        f"{path} can be written by others than its owner, so what it says is not used",
        hint=f"look at what is there, then: chmod go-w {shlex.quote(str(path))}",
    )


def _others_write(status: os.stat_result) -> bool:
    """Whether group or others may change it; in a sticky directory they can add files but not touch those of others."""
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return bool(status.st_mode & 0o022) and not sticky


def who_can_change(path: str, owners: Collection[int]) -> str | None:
    """Why others than ``owners`` can put something else at ``path``, or None.

    Looks at the file or directory itself, at every directory on the way and at the symlinks that lead there. What does
    not exist is as good as the directory where it would be.
    """
    for place in _on_the_way(path):
        try:
            status = os.lstat(place)
        except OSError:
            continue
        if status.st_uid not in owners:
            return f"{place} belongs to user {status.st_uid}"
        if not stat.S_ISLNK(status.st_mode) and _others_write(status):
            return f"{place} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def _on_the_way(path: str) -> Iterator[str]:
    """``/``, then each name on the way to ``path``, of symlinks both the link and the way to where it leads."""
    waiting, place, links = os.path.abspath(path).split("/")[:0:-1], "/", 0
    yield place
    while waiting:
        name = waiting.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = os.path.dirname(place)
            continue
        there = os.path.join(place, name)
        yield there
        try:
            target = os.readlink(there)
        except OSError:
            place = there
            continue
        links += 1
        if links > 40:
            return
        waiting += target.split("/")[::-1]
        if target.startswith("/"):
            place = "/"
