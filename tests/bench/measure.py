"""Running commands in turn and measuring each: wall time, processor time, peak memory, bytes written and kept."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")


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
    """What several entrants do, one after the other in every round. ``before`` is called once a round, unmeasured.

    ``wanted`` is the median time that ours is to stay below, in seconds, where there is such a target.
    """

    name: str
    entrants: list[Entrant]
    before: Callable[[], None] = lambda: None
    wanted: float | None = None

    def run(self, rounds: int, budget: float) -> None:
        """A warm-up round and ``rounds`` that count, but no further one once ``budget`` seconds have passed.

        Where they have after the warm-up, that is what counts: in so long a run caches matter least.
        """
        started = time.monotonic()
        for number in range(rounds + 1):
            self.before()
            runs = [measured(entrant) for entrant in self.entrants]
            over = time.monotonic() - started > budget
            if number or over:
                for entrant, run in zip(self.entrants, runs, strict=True):
                    entrant.runs.append(run)
            if over:
                break

    def ratio(self, other: Entrant, what: str = "wall") -> float:
        """The median over the rounds of ours (the first entrant) divided by ``other``."""
        pairs = zip(self.entrants[0].runs, other.runs, strict=True)
        return statistics.median(getattr(a, what) / max(getattr(b, what), 1e-6) for a, b in pairs)


@dataclass(frozen=True)
class Figure:
    """Something else than the time of a program; it is to be ``wanted`` at most, where there is such a target."""

    name: str
    value: float
    unit: str
    wanted: float | None = None


def measured(entrant: Entrant) -> Run:
    """Run an entrant once; a command that fails stops the benchmark with what it said."""
    entrant.prepare()
    os.sync()  # nobody pays for what others left to be written
    before = size_of(entrant.keeps) if entrant.keeps else 0
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", CHILD, str(writer), *map(str, entrant.command)],
            env=os.environ | entrant.environment,
            cwd=entrant.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[writer],
            check=True,
        )
        took = json.loads(os.read(reader, 4096))
    finally:
        os.close(reader)
        os.close(writer)
    if took["code"] != 0:
        said = done.stderr.decode(errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(map(str, entrant.command))}: exit {took['code']}\n{said}")
    kept = size_of(entrant.keeps) - before if entrant.keeps else 0
    entrant.cleanup()
    return Run(took["wall"], took["cpu"], took["peak"], took["written"], kept)


def size_of(path: Path) -> int:
    """Bytes that a directory takes on its file system."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in (".", *names):
            total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total
