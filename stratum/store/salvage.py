"""What a dead transaction had staged serves the next one that does the same.

::

    tmp/<id>/resume        the words of a transaction that another one may take up: what it does

A transaction that was killed or interrupted leaves its directory in ``tmp/``. Where it has the file above, it stays for
``KEPT`` (a garbage collection takes it at once) until one that does the same begins, which moves it into its own
directory and takes what it needs of the objects; all other dead ones go with the next transaction, whatever that does.

Nothing of the dead is trusted: the writer may have been killed in the middle of a file, the power may have failed, the
disk may have refused what the kernel had accepted. So an object is read again and taken only if it is what its name
says. A large one is read from the disk, where the kernel lets go of its pages; for many small ones that would take
longer than writing them anew, and what the kernel could not write of them it reports to the next syncfs(2), which is
that of the transaction that takes them. Pages that are still to be written are written by that one.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

KEPT = 24 * 3600.0
"""Seconds that the leavings of an interrupted transaction wait for the next one that does the same."""

RESUME = "resume"
DEAD_PREFIX = "dead-"
"""Begins the name of what was a transaction, in the directory of the one that claimed it."""

_WORDS_MAX = 64 << 10
_CHUNK = 1 << 20
_FROM_DISK_MIN = 1 << 20  # bytes
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def words(what: str) -> bytes:
    """``what`` as it stands in the file."""
    return what.encode("utf-8", "backslashreplace")[:_WORDS_MAX]


def waits_for_another(directory: Path, what: str | None) -> bool:
    """Whether the dead transaction ``directory`` is to be left for one that does something else than ``what``."""
    try:
        fd = os.open(directory / RESUME, _READ)
    except OSError:
        return False
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or abs(time.time() - info.st_mtime) > KEPT:
            return False
        return what is None or os.read(fd, _WORDS_MAX) != words(what)
    except OSError:
        return False
    finally:
        os.close(fd)


def take_over(dead: Path, directory: Path) -> None:
    """Make the dead transaction ``dead`` a part of the one in ``directory``, and what it had of others before."""
    claimed = directory / f"{DEAD_PREFIX}{dead.name}"
    os.rename(dead, claimed)
    for name in os.listdir(claimed):
        if name.startswith(DEAD_PREFIX):
            with suppress(OSError):
                os.rename(claimed / name, directory / name)


def dead_in(directory: Path) -> list[Path]:
    """The directories of the dead transactions that the one in ``directory`` claimed."""
    return [directory / name for name in sorted(os.listdir(directory)) if name.startswith(DEAD_PREFIX)]


def take_object(paths: Iterable[str], digest: bytes, size: int, target: str) -> bool:
    """Rename the object from the first of ``paths`` at which it is whole to ``target``.

    Whether there was one: a regular file of ``size`` bytes with this digest, all of it read here. Raises ``OSError``
    where ``target`` cannot be made.
    """
    for path in paths:
        if not _is_whole(path, digest, size):
            continue
        try:
            os.rename(path, target)
        except FileNotFoundError:
            if os.path.lexists(path):
                raise  # the target's directory is missing
            continue  # somebody else of this transaction took it
        return True
    return False


def _is_whole(path: str, digest: bytes, size: int) -> bool:
    from stratum.composefs.verity import VerityHasher

    try:
        fd = os.open(path, _READ)
    except OSError:
        return False
    hasher = VerityHasher()
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size != size or info.st_nlink != 1:
            return False
        if size >= _FROM_DISK_MIN:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := os.read(fd, _CHUNK):
            hasher.update(chunk)
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        return False  # what the disk lost is written again
    finally:
        os.close(fd)
    return hasher.digest() == digest
