"""Packs that a pull is fetching: ``cache/packs/<key>``, so that one that is killed goes on where it was.

A file holds the beginning of a pack, or all of it. Its key comes from where it was fetched as well as from its digest:
what one repository sent serves nobody who asks another. The fetcher holds a flock on it for as long as it uses it. The
file goes when the pack's objects have their places in the store; what the dead left waits for the same pull to come
again, and goes after ``KEPT``, or with the next garbage collection. Nothing in it is believed: a pack is compared with
its digest whenever it is taken from here, as the power may have failed while it was written.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from stratum.store.layout import Layout

KEPT = 24 * 3600.0
"""Seconds."""

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_pack(layout: Layout, where: str, digest: str) -> BinaryIO | None:
    """The file of the pack ``digest`` from ``where``, with what is there of it, or None where another pull has it.

    It is read and written from its beginning on; closing it leaves it in its place. ``OSError``, ``DamagedError``.
    """
    directory = layout.pack_cache
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in unused(layout, older_than=KEPT):
        with suppress(OSError):
            path.unlink()
    path = directory / hashlib.sha256(f"{where} {digest}".encode()).hexdigest()
    fd = layout.open_beneath(path, _FLAGS | os.O_CREAT, 0o600)
    if not _is_ours(fd, path):
        os.close(fd)
        return None
    return os.fdopen(fd, "r+b", buffering=0)


def remove(layout: Layout, where: str, digest: str) -> None:
    """Remove the file of a pack, whose lock the caller holds or held; one that is gone is no error."""
    with suppress(OSError):
        (layout.pack_cache / hashlib.sha256(f"{where} {digest}".encode()).hexdigest()).unlink()


def unused(layout: Layout, *, older_than: float = 0.0) -> Iterator[Path]:
    """The files that no pull uses now, and that nobody wrote to for ``older_than`` seconds."""
    for name in layout.names_in(layout.pack_cache):
        path = layout.pack_cache / name
        try:
            if time.time() - path.lstat().st_mtime < older_than:
                continue
            fd = layout.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if _is_ours(fd, path):
                yield path
        finally:
            os.close(fd)


def _is_ours(fd: int, path: Path) -> bool:
    """Lock the open file; False where somebody has it, or where it is not the one at ``path`` any more."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        return stat.S_ISREG(found.st_mode) and os.path.samestat(found, path.lstat())
    except OSError:
        return False
