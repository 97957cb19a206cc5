"""The processes that watch stores, as tests find, kill, weigh and end them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.support.hydrating import kill, lives

MODULES = ("from stratum.history.",)


def processes(runtime_dir: Path) -> list[int]:
    """Keepers, workers and what is beside them, by what they were started with; those that were started first first."""
    found, place = [], repr(str(runtime_dir))
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = os.fsdecode((entry / "cmdline").read_bytes())
            if any(module in line for module in MODULES) and place in line and lives(int(entry.name)):
                found.append(int(entry.name))
    return sorted(found)


def worker(runtime_dir: Path) -> int | None:
    """The process that watches: the keeper's child; None where there is none at this moment."""
    running = processes(runtime_dir)
    found = [pid for keeper in running for pid in children(keeper) if pid in running]
    return found[0] if found else None


def children(pid: int) -> list[int]:
    """The children of a process."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def memory(runtime_dir: Path) -> int:
    """Bytes of memory that they have, each its share of what it has with others (Pss)."""
    total = 0
    for pid in processes(runtime_dir):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
    return total


def stop(runtime_dir: Path) -> None:
    """End all that watches with a runtime directory, also what is about to take another's place."""
    while pids := processes(runtime_dir):
        kill(*pids)
