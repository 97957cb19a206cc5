"""``python -m tests.bench``: makes the works, runs the jobs, prints and writes what came out (see README.md)."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from stratum.sys.mountapi import make_private
from stratum.sys.namespaces import CLONE_NEWNS, unshare
from tests.bench import lazy, report, scale, works
from tests.bench.jobs import JOBS, Bench
from tests.bench.measure import Figure, Job
from tests.bench.peers import KEEPERS
from tests.support.leftovers import unmount_below

PEERS = ("podman", "oras", *(keeper.name for keeper in KEEPERS))
FILES = 54_000
SHORT = "/mnt"
WORKS = ("small", "large", "duplicates", "lazy", *scale.WORKS)
TINY = 1000
"""Files in each directory of 'many'."""


def main() -> None:
    """Run what the arguments select."""
    options = arguments()
    if os.geteuid() != 0:
        raise SystemExit("the benchmark mounts and starts containers, which takes root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it leaves nothing behind either
    # Whatever else starts a container meanwhile would have a copy of our mounts for a while, and a worktree that
    # somebody has cannot be mounted again; also, no mount outlives us.
    unshare(CLONE_NEWNS)
    make_private()
    with tempfile.TemporaryDirectory(prefix="stratum-bench.", dir=options.directory) as name:
        directory = Path(name)
        for work in options.work:
            place = file_system(directory / work)
            try:
                run(work, place, options)
            finally:
                subprocess.run(["umount", "--lazy", SHORT], check=True)
                unmount_below(directory)
            (directory / f"{work}.disk").unlink()


def file_system(place: Path) -> Path:
    """``place`` as a new ext4 in a sparse file beside it, as large as there is room for.

    What was deleted before on the machine's own file system decides how fast files are made there: one without a
    journal takes no inode again for minutes, and looks at all of them each time.
    """
    place.mkdir()
    disk = place.with_suffix(".disk")
    with disk.open("wb") as file:
        file.truncate(shutil.disk_usage(place).free)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-i", "8192", "-E", "nodiscard", disk], check=True)
    subprocess.run(["mount", "-o", "loop,noatime", disk, place], check=True)
    # Podman, whose storage is to be there too, wants short paths. Nobody else sees this mount.
    (place / "tmp").mkdir()
    subprocess.run(["mount", "--bind", place / "tmp", SHORT], check=True)
    tempfile.tempdir = SHORT
    return place


def run(work: str, directory: Path, options: argparse.Namespace) -> None:
    """All selected jobs on one work."""
    tree = directory / "tree" if options.keep is None else options.keep / kept_as(work, options)
    if options.keep is None or not tree.exists():
        print(f"\n{work}: making the tree", flush=True)
        make_work(work, tree, options)
    works.read_all(tree)
    done: list[Job] = []
    figures: list[Figure] = []
    with ExitStack() as opened:
        if options.keep is not None:
            opened.callback(works.remove_added, tree)
        bench = Bench(directory, tree, set(options.peers), opened)
        for job in jobs(work, bench, options):
            if isinstance(job, Figure):
                print(f"  {report.figure(job)}", flush=True)
                figures.append(job)
            else:
                job.run(options.rounds, options.budget)
                print(f"  {report.summary(job)}", flush=True)
                done.append(job)
    print("\n" + report.table([line for job in done for line in report.rows(job)]) + "\n")
    if work in ("small", "lazy", *scale.WORKS) and options.files == FILES:  # what the targets are about
        for line in (*(line for job in done for line in report.verdicts(job)), *map(report.figure, figures)):
            print(line)
    print("written:", *report.write(options.output, work, done, figures))


def jobs(work: str, bench: Bench, options: argparse.Namespace) -> Iterator[Job | Figure]:
    """The jobs that are asked for of a work, or all that it has."""
    if work in scale.WORKS and not set(options.jobs or ()) & set(JOBS):
        yield from scale.jobs(bench, work, options)
    elif work == "lazy":
        yield from lazy.jobs(bench, [name for name in options.jobs or lazy.USUAL if name in lazy.NAMES])
    else:
        for name in options.jobs or JOBS:
            if name in JOBS:
                yield from JOBS[name](bench)


def kept_as(work: str, options: argparse.Namespace) -> str:
    """The name of a work's tree among those that are kept: by all that it depends on."""
    size = {"large": options.size, "many": options.many}.get(work, options.files)
    return f"{work}-{size}"


def make_work(work: str, tree: Path, options: argparse.Namespace) -> None:
    """Make the tree of a work."""
    if work == "large":
        works.large_files(tree, options.size << 20)
    elif work == "many":
        works.tiny_files(tree, max(1, options.many // TINY), min(options.many, TINY))
    elif work in ("refs", "extremes"):
        works.small_files(tree, min(options.files, 2000))
    elif work == "duplicates":
        works.small_files(tree, options.files, distinct=max(1, options.files // 50))
    else:
        works.small_files(tree, options.files)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=...", description=__doc__)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=["small"], help="trees to work on")
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS, *lazy.NAMES, *scale.NAMES], help="jobs of the works")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="programs to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs of every program, after a warm-up")
    parser.add_argument("--budget", type=float, default=30, help="seconds after which a job begins no further round")
    parser.add_argument("--files", type=int, default=FILES, help="files of 'small', 'duplicates' and 'lazy'")
    parser.add_argument("--many", type=int, default=1_000_000, help="files of 'many'")
    parser.add_argument("--size", type=int, default=1024, help="MiB of 'large' (10240 for the full work)")
    parser.add_argument("--commits", type=int, default=1000, help="commits of 'commits'")
    parser.add_argument("--tags", type=int, default=10_000, help="tags of 'refs'")
    parser.add_argument("--worktrees", type=int, default=2000, help="worktrees of 'refs'")
    parser.add_argument("--wide", type=int, default=200_000, help="files in one directory of 'extremes'")
    parser.add_argument("--large", type=int, default=2048, help="MiB of the file of 'extremes' (20480: all)")
    parser.add_argument("--mounts", type=int, default=1000, help="mounts of 'extremes'")
    parser.add_argument("--keep", type=Path, help="where trees are kept, and taken from in the next run")
    parser.add_argument("--directory", default="/var/tmp", help="where trees and repositories are made")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="where results are written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
