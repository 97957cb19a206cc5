"""Filling a store in this process: a thousand commits, ten thousand tags, two thousand worktrees.

Started once for each, the interpreter alone would take minutes. What is measured of it is the verb without that start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from stratum.api import mounting, worktrees
from stratum.api.session import Session
from stratum.config import load_config
from stratum.refs import parse_ref
from tests.bench.peers import Stratum

Change = Callable[[Path, int], None]
"""Changes the tree at the path for the commit of this number."""


def session(ours: Stratum) -> Session:
    """A session in the store that ``ours`` runs its verbs in."""
    environment = ours.environment
    return Session(load_config(store=environment["STRATUM_STORE"], runtime_dir=environment["STRATUM_RUNTIME_DIR"]))


def commits(ours: Stratum, ref: str, mountpoint: Path, count: int, change: Change) -> list[float]:
    """``count`` commits of the worktree ``ref``, mounted at ``mountpoint``, each after a ``change``; seconds that each
    took."""
    place = session(ours)
    mounting.mount(place, ref, str(mountpoint))
    try:
        return [_commit(place, ref, lambda: mountpoint, change, number) for number in range(count)]
    finally:
        mounting.unmount(place, str(mountpoint))


def unmounted_commits(ours: Stratum, ref: str, count: int, change: Change) -> list[float]:
    """The same of one that is not mounted, so that each commit becomes its base. The ``change`` is made in its
    upperdir: a mount of each base would have an image made of it, which is no part of a commit."""
    place, name = session(ours), parse_ref(ref)

    def upperdir() -> Path:
        return place.store.worktrees.get(name.name, name.worktree or "").upperdir

    return [_commit(place, ref, upperdir, change, number) for number in range(count)]


def _commit(place: Session, ref: str, where: Callable[[], Path], change: Change, number: int) -> float:
    change(where(), number)
    began = time.perf_counter()
    with place.hold(ref) as held:
        held.commit()
    return time.perf_counter() - began


def tags(ours: Stratum, name: str, commits: list[str], count: int) -> None:
    """``count`` tags of the stratum ``name``, of its ``commits`` in turn."""
    store = session(ours).store
    for number in range(count):
        store.tags.set(name, f"v{number // 100}.{number % 100}", commits[number % len(commits)])


def many_worktrees(ours: Stratum, name: str, count: int) -> None:
    """``count`` worktrees of the stratum ``name``: ``w0``, ``w1``..."""
    place = session(ours)
    for number in range(count):
        worktrees.add(place, f"{name}+w{number}", f"{name}:latest")


def mounts(ours: Stratum, name: str, directory: Path, count: int) -> list[float]:
    """Mounts of the first ``count`` of these worktrees below ``directory``, one after the other; seconds that each
    took."""
    place, took = session(ours), []
    for number in range(count):
        point = directory / str(number)
        point.mkdir(parents=True)
        began = time.perf_counter()
        mounting.mount(place, f"{name}+w{number}", str(point))
        took.append(time.perf_counter() - began)
    return took


def unmount(ours: Stratum, directory: Path, count: int) -> list[float]:
    """The reverse."""
    place, took = session(ours), []
    for number in range(count):
        began = time.perf_counter()
        mounting.unmount(place, str(directory / str(number)))
        took.append(time.perf_counter() - began)
    return took


def line(ours: Stratum, name: str, worktree: str) -> list[str]:
    """The last commit of a worktree and all that it was made from, the newest first."""
    store = session(ours).store
    found: list[str] = []
    commit: str | None = store.worktrees.get(name, worktree).commit
    while commit is not None:
        found.append(commit)
        commit = store.commits.parent(commit)
    return found


def reading(ours: Stratum, commit: str, rounds: int = 5) -> float:
    """Processor seconds that the dump of a commit takes to be read and checked: the least of ``rounds``."""
    took = []
    for _ in range(rounds):
        store = session(ours).store
        began = time.process_time()
        store.commits.dump(commit)
        took.append(time.process_time() - began)
    return min(took)
