"""Who does something, by a number that the kernel gives: threads as ``/proc`` shows them while they live.

All of this may be wrong a moment later, as threads go on, end, and leave their numbers to others. So nothing may depend
on it but what people are told, and when something is done early.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

from stratum.errors import one_line

_CONTAINER = re.compile(rb"[0-9a-f]{64}")
_NAME_MAX = 16
_REMEMBERED = 1.0
_REMEMBERED_MAX = 1024
_READ_MAX = 1 << 16


@dataclass(frozen=True)
class Actor:
    """A thread: the ID of its process, its own, the program's short name, and the 64 digits of the container that it is
    in, where it is in one."""

    pid: int
    tid: int
    name: str
    container: str | None


class Actors:
    """Threads by their IDs, each remembered for a second: one that does much is looked at once. Those that are gone by
    then are remembered for ``kept`` seconds, for who asks late."""

    def __init__(self, *, kept: float = 0.0) -> None:
        self._known: dict[int, tuple[float, Actor]] = {}
        self._kept = kept

    def of(self, tid: int) -> Actor | None:
        """Who the thread is; None where it is gone, or of a PID namespace that is not seen from here (0)."""
        now = time.monotonic()
        known = self._known.get(tid)
        if known is not None and now - known[0] < _REMEMBERED:
            return known[1]
        actor = actor_of(tid)
        if actor is not None:
            if len(self._known) >= _REMEMBERED_MAX:
                self._known = {}
            self._known[tid] = (now, actor)
        elif known is not None and now - known[0] < self._kept:
            return known[1]
        return actor


def actor_of(tid: int) -> Actor | None:
    """Who the thread is; None where it is gone or has no number here (0)."""
    if tid <= 0:
        return None
    try:
        status = status_fields(read_proc(f"/proc/{tid}/status"))
        groups = read_proc(f"/proc/{tid}/cgroup")
    except OSError:
        return None
    try:
        pid = int(status.get(b"Tgid", b""))
    except ValueError:
        return None
    name = one_line(status.get(b"Name", b"?").decode("utf-8", "replace"))
    return Actor(pid, tid, name[: _NAME_MAX * 4], container_of(groups))


def container_of(cgroups: bytes) -> str | None:
    """The container that ``/proc/PID/cgroup`` tells of: the last 64 digits in it, as engines nest them."""
    found: list[bytes] = _CONTAINER.findall(cgroups)
    return found[-1].decode() if found else None


def status_fields(status: bytes) -> dict[bytes, bytes]:
    """The text of ``/proc/TID/status`` by the names of its lines."""
    pairs = (line.partition(b":") for line in status.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def read_proc(path: str) -> bytes:
    """A small file of ``/proc``. Raises ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _READ_MAX)
    finally:
        os.close(fd)
