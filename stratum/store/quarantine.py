"""The quarantine: damaged things that were taken out of the way, under the names that they had.

``quarantine/<time>-<random>/<path in the store>``. Nothing reads it and nothing deletes from it; whoever has looked at
what is there, may.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from stratum.store.clock import utc_now
from stratum.store.layout import Layout, storage_error
from stratum.store.survey import QUARANTINE
from stratum.sys.atomic import fsync_dir
from stratum.sys.syscalls import RENAME_NOREPLACE, renameat2


class Quarantine:
    """One repair's part of the quarantine, made when something first goes there."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        stamp = utc_now().strftime("%Y%m%dT%H%M%SZ")
        self.directory = layout.root / QUARANTINE / f"{stamp}-{os.urandom(4).hex()}"

    def take(self, path: Path) -> None:
        """Move ``path``, whatever it is, here, in one durable step. The caller holds the store exclusively."""
        target = self.directory / path.relative_to(self._layout.root)
        with ExitStack() as opened:
            try:
                self._make_directory(target.parent)
                parent, destination = (self._open(opened, place.parent) for place in (path, target))
                name = target.name
                while self._exists(name, destination):  # a part of it went here before
                    name += "~"
                renameat2(parent, path.name, destination, name, RENAME_NOREPLACE)
                os.fsync(destination)
                os.fsync(parent)
            except OSError as exc:
                raise storage_error(exc, f"put {path} into quarantine") from None

    def _open(self, opened: ExitStack, directory: Path) -> int:
        fd = self._layout.open_beneath(directory, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, fd)
        return fd

    def _exists(self, name: str, directory: int) -> bool:
        try:
            os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def keep(self, path: Path, data: bytes) -> None:
        """Put a copy of ``data``, which is to be cut out of ``path``, here."""
        from stratum.sys.atomic import write_atomic

        target = self.directory / path.relative_to(self._layout.root)
        try:
            self._make_directory(target.parent)
            write_atomic(target, data, 0o600)
        except OSError as exc:
            raise storage_error(exc, f"put {path} into quarantine") from None

    def _make_directory(self, directory: Path) -> None:
        """Make ``directory`` and what is missing above it, durably."""
        missing = []
        while not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for path in reversed(missing):
            path.mkdir(0o700)
            fsync_dir(path.parent)
