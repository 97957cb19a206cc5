"""What systemd and the machine are to a keeper: sd_notify(3), descriptors kept for it, its cgroup, its log."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stratum.sys.packets import close_all, reachable

FIRST_LISTEN_FD = 3
_LOG_MAX = 1 << 20
_OTHERS = re.compile(
    r"(libpod|crio|docker|containerd|cri-containerd|kubepods|conmon|buildah|podman)[-_.:]?.*|.+\.(scope|service)"
)
"""A cgroup of an engine, a login or another unit: whose processes somebody ends, freezes or limits."""


def of_service_manager(environment: Mapping[str, str], pid: int) -> dict[str, Any]:
    """What a service manager says to the process ``pid`` (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)), as
    settings of a keeper: ``notify``, ``watchdog`` in seconds, ``names`` of descriptors. Empty where there is none."""
    found: dict[str, Any] = {}
    if environment.get("NOTIFY_SOCKET"):
        found["notify"] = environment["NOTIFY_SOCKET"]
    if environment.get("LISTEN_PID") == str(pid) and environment.get("LISTEN_FDS", "").isdecimal():
        names = environment.get("LISTEN_FDNAMES", "").split(":")
        count = int(environment["LISTEN_FDS"])
        found["names"] = [names[number] if number < len(names) else "" for number in range(count)]
    if environment.get("WATCHDOG_PID", str(pid)) == str(pid) and environment.get("WATCHDOG_USEC", "").isdecimal():
        found["watchdog"] = int(environment["WATCHDOG_USEC"]) / 1e6
    return found


class Notifier:
    """Tells the service manager at the socket ``address`` (NOTIFY_SOCKET); where that is empty, nobody."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        if self._socket is not None:
            self._socket.setblocking(False)

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager."""
        return self._socket is not None

    @property
    def has_unsent(self) -> bool:
        """Whether ``flush`` is to be called in a moment: the service manager does not keep up."""
        return bool(self._unsent)

    def tell(self, text: str, fds: Iterable[int] = ()) -> None:
        """Send assignments, a line each, now or when the manager takes them; the descriptors stay the caller's."""
        if self._socket is not None:
            self._unsent.append((text.encode(), [os.dup(fd) for fd in fds]))
            self.flush()

    def flush(self) -> None:
        """Send what the manager takes now."""
        while self._unsent and self._socket is not None:
            text, fds = self._unsent[0]
            numbers = array.array("i", fds)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
            try:
                self._socket.sendmsg([text], rights, socket.MSG_NOSIGNAL, self._address)
            except BlockingIOError:
                return
            except OSError:  # it does not listen
                pass
            self._unsent.popleft()
            close_all(fds)

    def keep(self, name: str, fds: Iterable[int]) -> None:
        """Have descriptors kept, under one name, for the next process of the service."""
        # Without being watched: a filesystem's descriptor would wake the manager for each request.
        self.tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds)

    def drop(self, name: str) -> None:
        """Have the descriptors of that name closed."""
        self.tell(f"FDSTOREREMOVE=1\nFDNAME={name}")


def memory_file(data: bytes) -> int:
    """A file in memory that holds ``data``; its descriptor."""
    fd = os.memfd_create("stratum", os.MFD_CLOEXEC)
    os.write(fd, data)
    return fd


def is_monitor_of(pid: int, container: str) -> bool:
    """Whether that process is the monitor of a container: conmon, which has its ID among its arguments."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")
    except OSError:
        return False
    return os.path.basename(arguments[0]) == b"conmon" and container.encode() in arguments[1:]


def settle_in(*, alone: bool = True) -> None:
    """Be no process that is ended or slowed by chance: with the limits that are allowed and, where nobody else sees to
    that (``alone``), of an ordinary priority, last to be killed where memory is short, and out of the cgroup of who
    happened to start this one. What is refused is done without."""
    import resource

    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        with contextlib.suppress(OSError, ValueError):
            _, most = resource.getrlimit(kind)
            resource.setrlimit(kind, (most, most))
    if not alone:
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("-900")
    move_out(os.getpid())


def move_out(pid: int) -> None:
    """Have a process be in none of the cgroups of somebody else's that this one is in. What is refused is done
    without."""
    for directories in ways_out(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo")):
        for directory in directories:
            with contextlib.suppress(OSError):
                with open(f"{directory}/cgroup.procs", "w", encoding="ascii") as file:
                    file.write(str(pid))
                break


def ways_out(cgroups: str, mountinfo: str) -> Iterator[list[str]]:
    """For each hierarchy in which this process is in a cgroup of somebody else's, the directories of the cgroups around
    that, the nearest first. The texts are of ``/proc/self/cgroup`` and ``/proc/self/mountinfo``."""
    mounts: dict[str, str] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(tail) < 3 or fields[3] != "/":
            continue
        if tail[0] == "cgroup2":
            mounts.setdefault("", fields[4])
        elif tail[0] == "cgroup":
            for option in tail[2].split(","):
                mounts.setdefault(option, fields[4])
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        root = mounts.get(controllers.split(",")[0])
        parts = [part for part in path.split("/") if part]
        first = next((number for number, part in enumerate(parts) if _OTHERS.fullmatch(part)), None)
        if root is None or first is None or ".." in parts:
            continue
        yield ["/".join([root, *parts[:depth]]) for depth in range(first, -1, -1)]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def log_to(path: str) -> None:
    """Have standard error be the file that a keeper without a service manager logs to, and the others /dev/null. A file
    that is large is begun anew."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.fstat(file).st_size > _LOG_MAX:
        os.ftruncate(file, 0)
    for number, fd in enumerate((null, null, file)):
        os.dup2(fd, number)
    os.close(null)
    os.close(file)


def log(text: str) -> None:
    """Write a line to the log, which is standard error."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{moment} {os.getpid()} {text}\n")
        sys.stderr.flush()


def listen(directory: str, name: str, lock: str, backlog: int) -> socket.socket | None:
    """Listen at the socket ``name`` in ``directory``; None where somebody does already. ``lock`` is the file beside it
    that is locked while sockets come and go there. ``OSError``."""
    with _locked(directory, lock), reachable(directory, name) as path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.setblocking(False)
            answer = probe.connect_ex(path)
        if answer in (0, errno.EAGAIN):
            return None
        if answer == errno.ECONNREFUSED:  # its keeper was killed
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(backlog)
        return listener


def leave(directory: str, name: str, lock: str, listener: socket.socket, place: os.stat_result) -> None:
    """Stop to listen, and remove the socket, if it is still the one that was at ``place``."""
    path = os.path.join(directory, name)
    with contextlib.suppress(OSError), _locked(directory, lock):
        if os.path.samestat(place, os.lstat(path)):
            os.unlink(path)
        listener.close()


@contextlib.contextmanager
def _locked(directory: str, name: str) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(os.path.join(directory, name), flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # nobody has it for longer than a moment
        yield
    finally:
        os.close(fd)
