"""The check that a test session leaves nothing behind: no mount, loop device, process or mount record.

What was there before the session does not count. A process of the session is known by a variable in its environment or
by the session's directory in its command line; mounts, loop devices and records by the session's directory. In CI the
machine is ours alone, so there every new mount, loop device, record, container monitor and registry server counts.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

MARK = "TESTS_OF_STRATUM"
RUN = Path("/run/stratum")
OUR_SERVERS = {
    "conmon",
    "podman",
    "docker-registry",
    "stratum",
    "stratum-fetch",
    "stratum-hook",
    "stratum-hydrate",
    "stratum-metafs",
    "stratum-record",
    "stratum-session",
    "stratum-watch",
}
PATIENCE = 10.0
"""Seconds that processes get to end: a container's monitor outlives the container a little."""


@dataclass(slots=True)
class Leftovers:
    """What is on the machine now, by kind: key -> description for people."""

    mounts: dict[str, str] = field(default_factory=dict)
    loops: dict[str, str] = field(default_factory=dict)
    processes: dict[str, str] = field(default_factory=dict)
    records: dict[str, str] = field(default_factory=dict)

    def without(self, before: Leftovers) -> list[str]:
        """Descriptions of what is here and was not in ``before``."""
        return [
            f"{kind}: {text}"
            for kind in ("mounts", "loops", "processes", "records")
            for key, text in getattr(self, kind).items()
            if key not in getattr(before, kind)
        ]


class Session:
    """One test session, whose temporary files are all below ``directory``."""

    def __init__(self, directory: Path, *, alone: bool) -> None:
        self.directory = directory
        self.alone = alone
        self.mark = f"{os.getpid()}.{time.monotonic_ns()}"
        os.environ[MARK] = self.mark
        self.before = self._look()

    def leftovers(self) -> list[str]:
        """What the session left behind, after giving processes time to end."""
        deadline = time.monotonic() + PATIENCE
        while (left := self._look().without(self.before)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _look(self) -> Leftovers:
        found = Leftovers()
        place = str(self.directory)
        for line in _mount_lines():
            if self.alone or place in line:
                found.mounts[line.split(" ", 1)[0]] = line
        for file in Path("/sys/block").glob("loop*/loop/backing_file"):
            backing = _read(file).strip()
            if backing and (self.alone or backing.startswith(place)):
                found.loops[f"{file} {backing}"] = f"{file.parts[3]} of {backing}"
        for file in RUN.rglob("*"):
            if file.is_file() and (self.alone or place in _read(file)):
                found.records[str(file)] = str(file)
        for entry in Path("/proc").glob("[0-9]*"):
            if entry.name != str(os.getpid()) and self._is_ours(entry):
                command = _read(entry / "cmdline").replace("\0", " ").strip()
                if command and "multiprocessing.resource_tracker" not in command:  # ends with this process
                    found.processes[entry.name] = f"{entry.name}: {command}"
        return found

    def _is_ours(self, process: Path) -> bool:
        if f"{MARK}={self.mark}" in _read(process / "environ").split("\0"):
            return True
        line = _read(process / "cmdline")
        if str(self.directory) in line:
            return not self._is_ancestor(process)
        # What keeps a session is called so by its command line alone.
        return self.alone and not OUR_SERVERS.isdisjoint((_read(process / "comm").strip(), line.split("\0")[0]))

    def _is_ancestor(self, process: Path) -> bool:
        """Whether ``process`` started this one (a shell whose command line names the session's directory)."""
        pid = os.getpid()
        while pid > 1:
            stat = _read(Path(f"/proc/{pid}/stat"))
            if not stat:
                return False
            pid = int(stat.rpartition(")")[2].split()[1])
            if str(pid) == process.name:
                return True
        return False


def unmount_below(directory: Path) -> None:
    """Detach every mount below ``directory``, so that deleting it cannot reach through them."""
    for line in reversed(_mount_lines()):
        point = _mountpoint(line)
        if point.is_relative_to(directory):
            subprocess.run(["umount", "--lazy", point], check=False)


def _mount_lines() -> list[str]:
    return _read(Path("/proc/self/mountinfo")).splitlines()


def _mountpoint(line: str) -> Path:
    """The mountpoint of a mountinfo line, its octal escapes (space, tab, line feed, backslash) undone."""
    text = line.split(" ")[4]
    for char in " \t\n\\":
        text = text.replace(f"\\{ord(char):03o}", char)
    return Path(text)


def _read(file: Path) -> str:
    """A file of a running system: empty when it is gone, unreadable or belongs to somebody else."""
    try:
        return file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""
