"""The originals of a migrated directory: what it held lies below the mount that took its place.

They can be moved aside when the mount is there and on record for every start: each entry by one rename within the file
system, so a kill or a power cut leaves every one of them at one of the two places, whole.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from stratum.errors import ConflictError, ExistsError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.sys.syscalls import RENAME_NOREPLACE, open_nofollow, renameat2, statx_mount_id


class Originals:
    """The entries of the directory ``source``, which is about to be covered by a mount, and ``aside``, the directory
    where they are to go: a new one, or an empty one on the same mount. A context manager that closes both."""

    def __init__(self, source: Path, aside: Path, *, store: Path) -> None:
        """``aside`` is made where it is missing; it is as closed as ``source``. Raises ``StratumError``."""
        self.aside = Path(os.path.abspath(aside))
        self._made = False
        self._opened: list[int] = []
        real = Path(os.path.realpath(self.aside.parent)) / self.aside.name
        for inside, what in ((Path(os.path.realpath(source)), "the directory itself"), (store, "the store")):
            if real.is_relative_to(inside):
                raise UsageError(f"{aside} is inside {what}", hint="name a directory beside it")
        try:
            self._source = self._open(source)
            self._aside = self._open_aside(source)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> int:
        try:
            fd = open_nofollow(path, os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError:
            raise UsageError(f"{path} is not a directory, or is a symbolic link to one") from None
        except OSError as exc:
            raise StratumError(f"cannot open {path}: {os_error_text(exc)}") from None
        self._opened.append(fd)
        return fd

    def _open_aside(self, source: Path) -> int:
        try:
            os.mkdir(self.aside, 0o700)
            self._made = True
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise NotFoundError(f"{self.aside.parent} does not exist", hint="make it first") from None
        except OSError as exc:
            raise StratumError(f"cannot make {self.aside}: {os_error_text(exc)}") from None
        fd = self._open(self.aside)
        if os.listdir(fd):
            raise ExistsError(f"{self.aside} is not empty", hint="name a new directory for the originals")
        if statx_mount_id(directory=fd) != statx_mount_id(directory=self._source):
            raise ConflictError(
                f"{self.aside} is on another file system or mount than {source}, so nothing can be renamed to there",
                hint="name a directory beside it, or move the originals by hand",
            )
        return fd

    def move(self) -> list[str]:
        """Move every entry; a line for each that stays below the mount. What was moved is durable afterwards."""
        stay = []
        info = os.fstat(self._source)
        try:
            os.fchown(self._aside, info.st_uid, info.st_gid)
            os.fchmod(self._aside, stat.S_IMODE(info.st_mode))
            if self._made:
                _sync_parent(self.aside)
            for name in sorted(os.listdir(self._source)):
                why = self._move(name)
                if why is not None:
                    stay.append(f"{name} of the originals stays below the mount: {why}")
            # The new names first: after a power cut an entry may have both, never none.
            os.fsync(self._aside)
            os.fsync(self._source)
        except OSError as exc:
            stay.append(f"the originals could not all be moved: {os_error_text(exc)}")
        return stay

    def _move(self, name: str) -> str | None:
        """Move one entry; None, or why it stays."""
        try:
            renameat2(self._source, name, self._aside, name, RENAME_NOREPLACE)
        except OSError as exc:
            return "something is mounted on it" if exc.errno == errno.EBUSY else os_error_text(exc)
        return None

    def close(self) -> None:
        """Close both; an ``aside`` that was made here and is empty goes again."""
        while self._opened:
            os.close(self._opened.pop())
        if self._made:
            try:
                os.rmdir(self.aside)
            except OSError:
                return

    def __enter__(self) -> Originals:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()


def _sync_parent(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
