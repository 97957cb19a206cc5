"""What was measured, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench.measure import Figure, Job
from tests.bench.plot import plot

TARGETS: tuple[tuple[str, str, float], ...] = (
    ("first import", "best", 0.6),
    ("first import", "cp", 1.5),
    ("moving import", "cp", 0.5),
    ("unchanged import", "restic", 0.1),
    ("image of a dump", "mkcomposefs", 1.5),
    ("first push", "podman", 0.6),
    ("first pull", "podman", 0.6),
    ("commit of 1", "podman", 1.0),
    ("commit of 100", "podman", 1.5),
    ("commit of 100", "restic", 0.2),
    ("push of 100", "podman", 3),
    ("one client", "docker-registry", 1.0),
    ("200 clients at once", "docker-registry", 1.0),
    ("read all, 0 ms", "eager pull", 1.5),
    ("read 1000 files, 30 ms", "one at a time", 0.1),
    ("cat all, again", "eager", 1.1),
    ("find, again", "eager", 1.1),
    ("tar of 10,000 files, watched", "not watched", 1.05),
    ("git checkout of 3,000 files, watched", "not watched", 1.05),
    ("sqlite, 10 x 1,000 commits, watched", "not watched", 1.05),
)
"""Job, peer, and the ratio to it that we want to be below; ``best`` is the fastest that keeps versions."""

BEYOND: tuple[tuple[str, str, float], ...] = (
    ("mount", "python start", 0.015),
    ("container start", "bind mount", 0.06),
)
"""Job, peer, and how many seconds more than it we want to take at most."""

COPIERS = frozenset(("cp", "plain"))
_MIB = 1 << 20
_HEAD = ("job", "program", "runs", "median s", "ours/its", "cpu s", "peak MiB", "written MiB", "kept MiB")


def rows(job: Job) -> list[tuple[str, ...]]:
    """The lines of a job in the table."""
    lines = []
    for number, entrant in enumerate(job.entrants):
        median = entrant.median
        lines.append(
            (
                "" if number else job.name,
                entrant.name,
                str(len(entrant.runs)),
                f"{median('wall'):.3f}",
                f"{job.ratio(entrant):.2f}" if number else "",
                f"{median('cpu'):.3f}",
                f"{median('peak') / _MIB:.0f}",
                f"{median('written') / _MIB:.1f}",
                f"{median('kept') / _MIB:.1f}" if entrant.keeps else "",
            )
        )
    return lines


def summary(job: Job) -> str:
    """A job in one line."""
    return f"{job.name}: " + ", ".join(f"{entrant.name} {entrant.median('wall'):.3f}" for entrant in job.entrants)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns under their heads, numbers to the right."""
    every = [_HEAD, *lines]
    widths = [max(len(line[column]) for line in every) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in every
    )


def verdicts(job: Job) -> Iterator[str]:
    """Whether the targets of a job are met, of which these entrants can tell."""
    ours = job.entrants[0]
    if job.wanted is not None:
        median = ours.median("wall")
        yield f"{job.name}: {median:.3f} s, wanted at most {job.wanted} s: {_word(median <= job.wanted)}"
    for name, who, limit in TARGETS:
        peers = [peer for peer in job.entrants[1:] if who in (peer.name, "best" if peer.name not in COPIERS else "")]
        if name == job.name and peers:
            peer = min(peers, key=lambda candidate: candidate.median("wall"))
            ratio = job.ratio(peer)
            yield f"{name}: {ratio:.2f} of {peer.name}, wanted at most {limit}: {_word(ratio <= limit)}"
    for name, who, limit in BEYOND:
        for peer in job.entrants[1:]:
            if (name, who) == (job.name, peer.name):
                pairs = zip(ours.runs, peer.runs, strict=True)
                more = statistics.median(run.wall - theirs.wall for run, theirs in pairs)
                yield f"{name}: {more:.3f} s beyond {who}, wanted at most {limit}: {_word(more <= limit)}"


def figure(found: Figure) -> str:
    """A figure and its target, where it has one, in a line."""
    said = f"{found.name}: {_number(found.value)} {found.unit}"
    if found.wanted is None:
        return said
    return f"{said}, wanted at most {_number(found.wanted)}: {_word(found.value <= found.wanted)}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def _word(met: bool) -> str:
    return "met" if met else "missed"


def document(work: str, jobs: Sequence[Job], figures: Sequence[Figure] = ()) -> dict[str, object]:
    """Everything, for programs."""
    return {
        "work": work,
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "jobs": [
            {
                "name": job.name,
                "programs": [
                    {"name": e.name, "ratio": job.ratio(e), "runs": [asdict(run) for run in e.runs]}
                    for e in job.entrants
                ],
            }
            for job in jobs
        ],
        "figures": [asdict(found) for found in figures],
    }


def write(directory: Path, work: str, jobs: Sequence[Job], figures: Sequence[Figure] = ()) -> list[Path]:
    """Write ``bench-WORK.json`` and ``bench-WORK.svg`` to ``directory``; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    as_json, as_svg = directory / f"bench-{work}.json", directory / f"bench-{work}.svg"
    found = document(work, jobs, figures)
    as_json.write_text(json.dumps(found, indent=1) + "\n")
    as_svg.write_text(plot(found))
    return [as_json, as_svg]
