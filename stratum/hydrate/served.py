"""What the keeper of gates has: filesystems, and clients that wait until they are served."""

from __future__ import annotations

import os
import socket
import stat
import time
from typing import Any

from stratum.sys.daemon import FIRST_LISTEN_FD
from stratum.sys.keeper import reply
from stratum.sys.packets import Message

_FUSE_DEVICE = os.makedev(10, 229)


class Served:
    """A filesystem: its descriptor, what was asked with it, and who waits for it to be ready."""

    def __init__(self, device: int, request: Message) -> None:
        self.device = device
        self.request = request
        self.waiting: socket.socket | None = None
        self.shown = False
        """Whether a worker may have read requests of it."""

    @property
    def id(self) -> str:
        return str(self.request["id"])

    def described(self) -> Message:
        """As ``list`` shows it: of options the names only, as there are passwords among them."""
        gate = self.request["gate"]
        return {
            "id": self.id,
            "source": self.request["source"],
            "store": gate["store"],
            "commit": gate["commit"],
            "since": self.request["since"],
            "options": sorted(gate.get("options", {})),
        }

    def answer(self, message: Message) -> None:
        """Tell who waits, if anybody does."""
        if self.waiting is not None:
            reply(self.waiting, message)
            self.waiting = None


def checked(request: Any) -> Message:
    """What is kept of a request to serve; ``ValueError``. What a gate says is for the worker to judge."""
    texts = ("id", "source", "since")
    if not isinstance(request, dict) or not isinstance(request.get("gate"), dict):
        raise ValueError("a gate is missing")
    if not all(isinstance(request.get(key), str) and 0 < len(request[key]) <= 300 for key in texts):
        raise ValueError("the ID, source or time of a filesystem is missing")
    if not request["id"].isalnum():
        raise ValueError("an ID is of letters and digits")
    if not all(isinstance(request["gate"].get(key), str) for key in ("store", "commit")):
        raise ValueError("a gate has no store or commit")
    return {key: request[key] for key in (*texts, "gate")}


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def passed(names: list[str]) -> tuple[socket.socket | None, dict[str, tuple[int, bytes]]]:
    """What the service manager passed, from descriptor 3 on, by its names: (the listening socket, name -> (descriptor
    of a filesystem, what was written beside it)). Whatever is none of it is closed."""
    listener: socket.socket | None = None
    devices: dict[str, int] = {}
    texts: dict[str, bytes] = {}
    for fd, name in enumerate(names, FIRST_LISTEN_FD):
        try:
            info = os.fstat(fd)
        except OSError:
            continue
        os.set_inheritable(fd, False)
        if stat.S_ISSOCK(info.st_mode) and listener is None:
            listener = socket.socket(fileno=fd)
        elif is_fuse_device(info) and name not in devices:
            devices[name] = fd
        else:
            if stat.S_ISREG(info.st_mode):
                texts[name] = os.pread(fd, info.st_size, 0)
            os.close(fd)
    for name in devices.keys() - texts.keys():
        os.close(devices.pop(name))
    return listener, {name: (fd, texts[name]) for name, fd in devices.items()}


def is_fuse_device(info: os.stat_result) -> bool:
    """Whether a descriptor, by its fstat, is one of /dev/fuse."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == _FUSE_DEVICE
