"""What a keeper has: filesystems, the worker processes that serve them, and clients that wait for an answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import time
from typing import Any

from stratum.hydrate.wire import Channel
from stratum.sys.daemon import FIRST_LISTEN_FD
from stratum.sys.packets import GarbageError, Message, send
from stratum.sys.spawn import spawn

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


class Process:
    """A worker process: ``pid``, its channel, and when it was started and heard of."""

    def __init__(self, runtime_dir: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.pid = spawn("stratum.hydrate.worker", runtime_dir, stdin=theirs.fileno(), stderr=2)
            except OSError:
                ours.close()
                raise
        self._handle = os.pidfd_open(self.pid)  # its number may be another's once it was reaped
        self.channel = Channel(ours)
        self.started = self.heard = time.monotonic()
        self.ready = False
        self.retiring: float | None = None

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def close(self) -> None:
        """End it, and forget it."""
        self.kill()
        os.close(self._handle)
        self.channel.close()


def reply(client: socket.socket, message: Message) -> None:
    """Answer, and hang up."""
    sent(client, message)
    client.close()


def sent(client: socket.socket, message: Message) -> bool:
    try:
        send(client, message)
    except (OSError, GarbageError):
        return False
    return True


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
