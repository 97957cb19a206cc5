"""Running commands in turn and measuring each: wall time, processor time, peak memory, bytes written and kept."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One run. Seconds and bytes; ``peak`` is the largest process, ``written`` what went to file systems according to
    the kernel's accounting of the command and its children, ``kept`` the growth of the directory that was watched."""

    wall: float
    cpu: float
    peak: int
    written: int
    kept: int


@dataclass
class Entrant:
    """A program in a job: ``command`` is measured, ``prepare`` comes before every run of it and is not.

    ``keeps`` is the directory whose growth counts as what the run stored or sent.
    """

    name: str
    command: Sequence[str | Path]
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    cleanup: Callable[[], None] = lambda: None
    keeps: Path | None = None
    cwd: Path | None = None
    runs: list[Run] = field(default_factory=list)

    def median(self, what: str) -> float:
        """The median of one field of its runs."""
        return statistics.median(getattr(run, what) for run in self.runs)


@dataclass
class Job:
    """What several entrants do, one after the other in every round. ``before`` is called once a round, unmeasured."""

    name: str
    entrants: list[Entrant]
    before: Callable[[], None] = lambda: None

    def run(self, rounds: int, budget: float) -> None:
        """A warm-up round and ``rounds`` that count; fewer, but at least one, where that takes over ``budget`` s."""
        started = time.monotonic()
        for number in range(rounds + 1):
            self.before()
            for entrant in self.entrants:
                run = measured(entrant)
                if number:
                    entrant.runs.append(run)
            if number and time.monotonic() - started > budget:
                break

    def ratio(self, other: Entrant, what: str = "wall") -> float:
        """The median over the rounds of ours (the first entrant) divided by ``other``."""
        pairs = zip(self.entrants[0].runs, other.runs, strict=True)
        return statistics.median(getattr(a, what) / max(getattr(b, what), 1e-6) for a, b in pairs)


def measured(entrant: Entrant) -> Run:
    """Run an entrant once; a command that fails stops the benchmark with what it said."""
    entrant.prepare()
    before = size_of(entrant.keeps) if entrant.keeps else 0
    with (
        (Path(os.devnull)).open("rb") as nothing,
        subprocess.Popen(
            list(map(str, entrant.command)),
            env=os.environ | entrant.environment,
            cwd=entrant.cwd,
            stdin=nothing,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        started = time.perf_counter()
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, entrant.command))}: exit {process.returncode}\n{said.decode()[-2000:]}")
    kept = size_of(entrant.keeps) - before if entrant.keeps else 0
    entrant.cleanup()
    cpu = usage.ru_utime + usage.ru_stime
    return Run(wall, cpu, usage.ru_maxrss * 1024, usage.ru_oublock * 512, kept)


def size_of(path: Path) -> int:
    """Bytes that a directory takes on its file system."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in (".", *names):
            total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total
