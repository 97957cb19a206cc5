"""The processes behind lazy mounts: the keeper of a runtime directory and its worker, as tests kill and weigh them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path


def keeper(runtime_dir: Path) -> int | None:
    """The process that listens at the runtime directory's socket."""
    if not runtime_dir.exists():
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        place = os.open(runtime_dir, os.O_PATH | os.O_DIRECTORY)  # paths of sockets have to be short
        try:
            probe.connect(f"/proc/self/fd/{place}/hydrate.sock")
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        finally:
            os.close(place)
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def worker(runtime_dir: Path) -> int | None:
    """The process that fetches: the keeper's child."""
    parent = keeper(runtime_dir)
    if parent is None:
        return None
    with suppress(OSError):
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(children[0]) if children else None
    return None


def processes(runtime_dir: Path) -> list[int]:
    """Keeper and worker, as far as they run."""
    return [pid for pid in (keeper(runtime_dir), worker(runtime_dir)) if pid is not None]


def memory(runtime_dir: Path) -> int:
    """Bytes of memory that keeper and worker have, each its share of what it has with others (Pss)."""
    total = 0
    for pid in processes(runtime_dir):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


def kill(*pids: int | None) -> None:
    """Kill processes, so that none has the time to start another in the place of one, and wait until they are gone."""
    gone = [pid for pid in pids if pid is not None]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in reversed(gone):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
    deadline = time.monotonic() + 60  # one that waits for a disk ends when it has it
    while any(map(lives, gone)):
        assert time.monotonic() < deadline, f"processes {gone} cannot be killed"
        time.sleep(0.005)


def lives(pid: int) -> bool:
    """Whether a thread of the process does: the first may be dead before others have let go of their files."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return any("\nState:\tZ" not in Path(f"/proc/{pid}/task/{thread}/status").read_text() for thread in threads)
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop(runtime_dir: Path) -> None:
    """End all that serves a runtime directory, and all that watches with one, also what is about to take another's
    place."""
    while pids := _all_of(runtime_dir):
        kill(*pids)


def _all_of(runtime_dir: Path) -> list[int]:
    """Keepers, workers and what is beside them, by what they were started with."""
    found, place = [], repr(str(runtime_dir))
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = os.fsdecode((entry / "cmdline").read_bytes())
            if (
                ("from stratum.hydrate" in line or "from stratum.history" in line)
                and place in line
                and lives(int(entry.name))
            ):
                found.append(int(entry.name))
    return found
