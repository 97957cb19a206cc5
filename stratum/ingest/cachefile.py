"""Files that remember what an import or a commit found, so that the next one has less to do.

They are in ``STORE/cache/ingest``, named by source directory and user: ``<SHA-256 of "UID:PATH">`` and a suffix. Each
begins with a magic and the SHA-256 of all that follows. They may be deleted at any time, and are when nobody has used
them for long (``store.gc``); one that is damaged or of another version is ignored. They are replaced by one rename and
not synced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from stratum.sys.atomic import write_atomic

_SIZE_MAX = 1 << 32
_CHECK_SIZE = hashlib.sha256().digest_size


def cache_path(store_root: Path, source: bytes, suffix: str = "") -> Path:
    """The file about the directory with the real path ``source``."""
    name = hashlib.sha256(b"%d:%b" % (os.geteuid(), source)).hexdigest()
    return store_root / "cache" / "ingest" / f"{name}{suffix}"


def load_cache(path: Path, magic: bytes) -> memoryview | None:
    """What follows the check, or None where there is no such file to trust."""
    try:
        data = memoryview(_read(path))
    except OSError:
        return None
    start = len(magic) + _CHECK_SIZE
    if data[: len(magic)] != magic or hashlib.sha256(data[start:]).digest() != data[len(magic) : start]:
        return None
    return data[start:]


def save_cache(path: Path, magic: bytes, body: bytes) -> None:
    """Replace the file. Failing to is no error: the next import is slower."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, magic + hashlib.sha256(body).digest() + body, 0o600, durable=False)


def touch_cache(*paths: Path) -> None:
    """The files have been of use."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)


def _read(path: Path) -> bytes:
    """The content of a file that nobody else can have written; nothing where it is of another kind or too large."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        info = os.fstat(fd)
        ours = info.st_uid in (0, os.geteuid()) and not info.st_mode & 0o022
        return file.read() if ours and stat.S_ISREG(info.st_mode) and info.st_size <= _SIZE_MAX else b""
