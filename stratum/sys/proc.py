"""Processes as ``/proc`` shows them: are they still the same, and which use a mount.

A process is identified by its ID and its start time (clock ticks since boot, field 22 of ``/proc/PID/stat``): the pair
is not given out twice, so a recycled ID is not mistaken for its former owner. Whoever writes that down writes down the
PID namespace that the ID is of, and the boot, too: read elsewhere or later, the same numbers mean another process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from functools import cache

from stratum.frozen import frozen
from stratum.sys import mountinfo
from stratum.sys.syscalls import mountinfo_id


@frozen
class ProcessUse:
    """One use of a mount by a process: ``path`` is the file as that process names it."""

    pid: int
    command: str
    path: str
    writing: bool

    def __str__(self) -> str:
        return f"{self.pid} ({self.command}) {'writes' if self.writing else 'uses'} {self.path}"


@frozen
class Process:
    """A process as it is written down: ``pid`` and ``start_time`` (ticks since boot) in a PID namespace of a boot; None
    for these two means ours."""

    pid: int
    start_time: int
    pid_namespace: str | None = None
    boot: str | None = None

    @property
    def is_numbered_here(self) -> bool:
        """Whether its ID is one of the PID namespace that ``/proc`` shows."""
        return self.pid_namespace in (None, pid_namespace())

    def fate(self) -> bool | None:
        """Whether it runs; None where that cannot be told from here."""
        return fate(self.pid, self.start_time, self.pid_namespace, self.boot)


def process_of(pid: int, started: int) -> Process:
    """The process ``pid`` of this moment, to be written down."""
    return Process(pid, started, pid_namespace(), boot_id())


def this_process() -> Process:
    """The process that asks."""
    pid = own_pid()
    return process_of(pid, start_time(pid) or 0)


def _stat_fields(pid: int) -> list[bytes] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in parentheses, may itself contain spaces and parentheses.
    return data[data.rfind(b")") + 2 :].split()


def start_time(pid: int) -> int | None:
    """When ``pid`` started, in clock ticks since boot; None where there is no such process."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def alive(pid: int, started: int) -> bool:
    """Whether the process that had ``pid`` and start time ``started`` still runs (a zombie does not)."""
    fields = _stat_fields(pid)
    return fields is not None and int(fields[19]) == started and fields[0] not in (b"Z", b"X", b"x")


_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""The inode that the kernel gives the PID namespace that everything is in."""


@cache
def booted_at() -> int:
    """When the machine was started, in nanoseconds since the epoch by the clock as it is now."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> str:
    """What tells this run of the kernel from every other one; empty where ``/proc`` does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().decode("ascii").strip()
    except OSError:
        return ""


def own_pid() -> int:
    """The ID of this process as ``/proc`` shows it, which may be that of another PID namespace than its own."""
    return int(os.readlink("/proc/self"))


def pid_namespace() -> str:
    """The PID namespace whose processes ``/proc`` shows, as "device:inode"; empty where it does not say."""
    try:
        try:
            info = os.stat("/proc/1/ns/pid")
        except PermissionError:  # only root may look
            info = os.stat("/proc/self/ns/pid")
    except OSError:
        return ""
    return f"{info.st_dev}:{info.st_ino}"


def sees_processes_of(namespace: str | None) -> bool:
    """Whether ``/proc`` here shows every process of the PID namespace (as ``pid_namespace`` tells it; None: ours)."""
    own = pid_namespace()
    return namespace in (None, own) or own.endswith(f":{_FIRST_PID_NAMESPACE}")


def fate(pid: int, started: int, namespace: str | None = None, boot: str | None = None) -> bool | None:
    """Whether the process that was ``pid`` in the PID ``namespace`` of ``boot`` runs; None where that cannot be told.

    ``started`` is its start time. None for the namespace or the boot means those of this process.
    """
    if boot not in (None, boot_id()):
        return False
    own = pid_namespace()
    if namespace in (None, own):
        return alive(pid, started)
    if not sees_processes_of(namespace):
        return None
    return any(_runs_in(other, started, str(namespace)) for other in processes())


def _runs_in(pid: int, started: int, namespace: str) -> bool:
    try:
        info = os.stat(f"/proc/{pid}/ns/pid")
    except OSError:
        return False
    return f"{info.st_dev}:{info.st_ino}" == namespace and alive(pid, started)


def command_name(pid: int) -> str:
    """The command line of ``pid`` in at most 60 characters, or its short name for a kernel thread; '?' if gone."""
    for name in ("cmdline", "comm"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                text = file.read(4096).replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue
        if text:
            shown = "".join(c if c.isprintable() else "?" for c in text)
            return shown if len(shown) <= 60 else shown[:59] + "…"
    return "?"


def processes() -> Iterator[int]:
    """The IDs of all processes at this moment."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield int(name)


def stuck_in(cgroup: str) -> list[tuple[int, str]]:
    """(process ID, name) of the processes of a cgroup whose path has ``cgroup`` in it, of which a thread waits in the
    kernel for something that no signal but a deadly one ends, so that it cannot be frozen: such as for a file that is
    being fetched."""
    found = []
    for pid in processes():
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
                if cgroup not in file.read():
                    continue
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        if any((_stat_fields(int(thread)) or [b""])[0] == b"D" for thread in threads):
            found.append((pid, command_name(pid)))
    return found


def users_of_device(device: str) -> list[ProcessUse]:
    """Who uses the filesystem whose device is ``device`` ("major:minor" as in mountinfo).

    Every mount of that same filesystem in any mount namespace counts: a bind mount, or the copy in a container.
    Uses are the working directory, root, program, open files and mapped files of all processes, this one too.
    """
    mounts = mountinfo.ids_of_device(device)
    major, minor = map(int, device.split(":"))
    mapped_as = f"{major:02x}:{minor:02x}".encode()
    found: list[ProcessUse] = []
    for pid in processes():
        uses = {**_mapped(pid, mapped_as), **_links(pid, mounts), **_open_files(pid, mounts)}
        if uses:
            command = command_name(pid)
            found.extend(ProcessUse(pid, command, path, writing) for path, writing in sorted(uses.items()))
    return found


def users_of_directories(directories: Collection[tuple[int, int]]) -> list[tuple[int, str]]:
    """(process ID, command) of each process but this one that has one of the directories, (device, inode), as working
    directory, root or open, as far as that can be seen."""
    others = (pid for pid in processes() if pid != os.getpid())
    return [(pid, command_name(pid)) for pid in others if any(key in directories for key in _inodes(pid))]


def _inodes(pid: int) -> Iterator[tuple[int, int]]:
    try:
        links = [
            f"/proc/{pid}/cwd",
            f"/proc/{pid}/root",
            *(f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")),
        ]
    except OSError:
        return
    for link in links:
        try:
            info = os.stat(link)
        except OSError:
            continue
        yield info.st_dev, info.st_ino


def _links(pid: int, mounts: frozenset[int]) -> dict[str, bool]:
    uses = {}
    for name in ("cwd", "root", "exe"):
        link = f"/proc/{pid}/{name}"
        try:
            if mountinfo_id(link, follow=True) in mounts:
                uses[os.readlink(link)] = False
        except OSError:
            continue
    return uses


def _open_files(pid: int, mounts: frozenset[int]) -> dict[str, bool]:
    uses: dict[str, bool] = {}
    try:
        names = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return uses
    for name in names:
        try:
            with open(f"/proc/{pid}/fdinfo/{name}", "rb") as file:
                info = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
            if int(info.get(b"mnt_id", b"-1")) not in mounts:
                continue
            path = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        flags = int(info[b"flags"], 8)
        writing = not flags & os.O_PATH and flags & os.O_ACCMODE != os.O_RDONLY
        uses[path] = uses.get(path, False) or writing
    return uses


def _mapped(pid: int, device: bytes) -> dict[str, bool]:
    """Files mapped into memory; a shared mapping that may be written counts as writing even with its fd closed."""
    uses: dict[str, bool] = {}
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return uses
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[3] == device:
            path = os.fsdecode(fields[5])
            uses[path] = uses.get(path, False) or (fields[1][1:2] == b"w" and fields[1][3:4] == b"s")
    return uses
