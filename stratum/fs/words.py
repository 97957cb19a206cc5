"""What callers of a Python file system expect to be raised, in the words of our own errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from stratum.errors import (
    ConflictError,
    DamagedError,
    DeniedError,
    ExistsError,
    NotFoundError,
    StratumError,
    UnreachableError,
    UnsupportedError,
    UntrustedError,
    UsageError,
    path_text,
)

_NUMBERS: tuple[tuple[type[StratumError], int], ...] = (
    (NotFoundError, errno.ENOENT),
    (DeniedError, errno.EACCES),
    (UntrustedError, errno.EACCES),
    (ExistsError, errno.EEXIST),
    (ConflictError, errno.EBUSY),
    (UnreachableError, errno.ECONNREFUSED),
    (DamagedError, errno.EIO),
    (UnsupportedError, errno.ENOTSUP),
    (UsageError, errno.EINVAL),
)


def os_error(error: StratumError, path: str | None = None) -> OSError:
    """The ``OSError`` of the kind that a caller looks for: ``FileNotFoundError``, ``PermissionError``,
    ``FileExistsError``, ``ConnectionRefusedError``, or one with the errno that says most. ``path`` is the
    ``filename``."""
    number = next((number for kind, number in _NUMBERS if isinstance(error, kind)), errno.EIO)
    return OSError(number, error.told, path) if path is not None else OSError(number, error.told)


@contextmanager
def translated(path: str | None = None) -> Iterator[None]:
    """Raise our errors as ``os_error`` gives them."""
    try:
        yield
    except StratumError as exc:
        raise os_error(exc, path) from exc


def not_found(path: str, why: str = "there is no such file or directory in the commit") -> FileNotFoundError:
    """``FileNotFoundError`` for a path."""
    return FileNotFoundError(errno.ENOENT, why, shown(path))


def is_a_directory(path: str) -> IsADirectoryError:
    """``IsADirectoryError`` for a path."""
    return IsADirectoryError(errno.EISDIR, "it is a directory", shown(path))


def read_only(path: str) -> PermissionError:
    """``PermissionError`` for a change of what cannot be changed."""
    words = "commits do not change: open the file system with layer=, and write to that"
    return PermissionError(errno.EROFS, words, shown(path))


def shown(path: str) -> str:
    """A path as errors have it, cut to a readable length."""
    try:
        return path_text(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # text that no name of a file is
        return path_text(path.encode("utf-8", "backslashreplace"))
