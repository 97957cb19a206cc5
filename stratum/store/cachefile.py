"""The files of ``STORE/cache``: what saves work the next time, and may be deleted at any time.

::

    cache/<kind>/<name>
        form       what follows the check, and in which version: one line
        check      BLAKE3 of "<kind>/<name>", a NUL, the line and the body
        body       as whoever writes it says

A file that is damaged, of another version, of another name or of somebody else's is none; it is made anew. It is
replaced by one rename and not synced. Of what files are dropped, and when, each kind decides (``store.gc`` for those
of imports).
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from stratum.errors import DamagedError
from stratum.store.layout import Layout
from stratum.sys.atomic import write_atomic
from stratum.sys.smallfile import READ, read_up_to

_SIZE_MAX = 1 << 32
_CHECK_SIZE = 32


class CacheFile:
    """The file ``path`` of a store's ``cache/``, whose body has the form ``form``."""

    def __init__(self, layout: Layout, path: Path, form: str) -> None:
        self.path = path
        self._layout = layout
        self._form = form.encode() + b"\n"
        self._what = os.fsencode(path.relative_to(path.parent.parent)) + b"\0" + self._form

    def load(self) -> memoryview | None:
        """The body, or None where there is no such file to trust."""
        try:
            data = memoryview(self._read())
        except (OSError, DamagedError):
            return None
        start = len(self._form) + _CHECK_SIZE
        body = data[start:]
        if data[: len(self._form)] != self._form or data[len(self._form) : start] != self._check(body):
            return None
        return body

    def save(self, *body: bytes | bytearray | memoryview) -> None:
        """Replace the file; its body comes in pieces. Failing to is no error: more is to be done the next time."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self.path, (self._form, self._check(*body), *body), 0o600, durable=False)

    def touch(self) -> None:
        """The file has been of use."""
        with contextlib.suppress(OSError):
            os.utime(self.path, follow_symlinks=False)

    def _check(self, *body: bytes | bytearray | memoryview) -> bytes:
        from blake3 import blake3

        hasher = blake3(self._what)
        for piece in body:
            hasher.update(piece)
        return hasher.digest()

    def _read(self) -> bytes:
        """The content of a file that nobody else can have written; nothing where it is of another kind or too large."""
        fd = self._layout.open_beneath(self.path, READ)
        try:
            info = os.fstat(fd)
            ours = info.st_uid in (0, os.geteuid()) and not info.st_mode & 0o022
            return read_up_to(fd, _SIZE_MAX) if ours and stat.S_ISREG(info.st_mode) else b""
        finally:
            os.close(fd)
