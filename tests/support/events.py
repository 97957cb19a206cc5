"""The events of an upperdir as tests look at them: by paths instead of handles, closes with what was in the file."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from stratum.history.events import Groups
from stratum.sys.fanotify import (
    FAN_ATTRIB,
    FAN_CLOSE_WRITE,
    FAN_CREATE,
    FAN_DELETE,
    FAN_MODIFY,
    FAN_RENAME,
    NameEvent,
)
from stratum.sys.handles import handle_of

KINDS = {
    FAN_MODIFY: "modify",
    FAN_ATTRIB: "attrib",
    FAN_CLOSE_WRITE: "close",
    FAN_CREATE: "create",
    FAN_DELETE: "delete",
    FAN_RENAME: "rename",
}
OUTSIDE = "?"
"""A directory that is not marked."""


class Watched:
    """The directory ``upper`` and all below it, marked."""

    def __init__(self, groups: Groups, upper: Path) -> None:
        self.groups = groups
        self.upper = upper
        self.names: set[tuple[str, str]] = set()
        """(kind, path) of what happened; a rename's path is "OLD -> NEW"."""
        self.events: list[NameEvent] = []
        self.closes: list[tuple[str, bytes]] = []
        """(the hint of a path, content) of what was closed."""
        self._paths: dict[bytes, str] = {}
        self.mark()

    def mark(self) -> None:
        """Mark what is there now, and files with several names."""
        for directory, _, files in os.walk(self.upper):
            fd = os.open(directory, os.O_PATH)
            self.groups.mark_directory(fd)
            shown = os.path.relpath(directory, self.upper)
            self._paths[handle_of(fd)] = "" if shown == "." else f"{shown}/"
            os.close(fd)
            for name in files:
                path = os.path.join(directory, name)
                if os.lstat(path).st_nlink > 1 and os.path.isfile(path):
                    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
                    self.groups.mark_file(fd)
                    os.close(fd)

    def read(self) -> None:
        """Take what waits in both groups."""
        while events := self.groups.read_names():
            self.events += events
            for event in events:
                self.names.update((word, self._shown(event)) for bit, word in KINDS.items() if event.mask & bit)
            self.mark()
        while self.groups.pending()[0]:
            for close in self.groups.read_closes():
                path = os.readlink(f"/proc/self/fd/{close.fd}").removesuffix(" (deleted)")
                self.closes.append((os.path.basename(path), os.pread(close.fd, 1 << 20, 0)))
                os.close(close.fd)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Read until ``condition`` holds."""
        deadline = time.monotonic() + 60
        self.read()
        while not condition():
            assert time.monotonic() < deadline, (self.names, self.closes)
            select.select([fd for fd in self.groups.fds if fd >= 0], [], [], 0.2)
            self.read()

    def _shown(self, event: NameEvent) -> str:
        old = self._path(event.directory, event.name)
        if not event.mask & FAN_RENAME:
            return old
        return f"{old} -> {self._path(event.new_directory, event.new_name)}"

    def _path(self, directory: bytes | None, name: bytes) -> str:
        before = self._paths.get(directory) if directory is not None else None
        return OUTSIDE if before is None else before + os.fsdecode(name)
