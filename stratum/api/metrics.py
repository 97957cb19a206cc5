"""Figures about a store for a monitoring system: what there is, when it was last committed, collected and checked.

Names are those of the Kubernetes driver (``csi.metrics``) without its prefix, where the same is meant. Labels are names
of strata and worktrees, kinds and parts: of strata and worktrees there are at most ``SERIES_MAX`` each, and how many
more there are is a figure too. What cannot be read is left out, and counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from stratum import __version__
from stratum.api.failures import failure_of
from stratum.api.prompt import is_dirty
from stratum.errors import NotFoundError, StratumError, UnsupportedError
from stratum.frozen import field, frozen
from stratum.store.footprint import Footprint, footprint
from stratum.store.layout import storage_error
from stratum.store.retention import parse_time
from stratum.store.runs import FSCK, FSCK_QUICK, GC, last_run
from stratum.store.sharing import Amount, measure
from stratum.sys.usage import Usage

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store.worktree import Worktree

SERIES_MAX = 1000
_DAY = timedelta(days=1)

_RUNS = {
    GC: ("gc_last_success_timestamp_seconds", "freed", "gc_last_freed_bytes"),
    FSCK: ("fsck_last_timestamp_seconds", "damaged", "fsck_last_damaged"),
    FSCK_QUICK: ("fsck_quick_last_timestamp_seconds", "damaged", "fsck_quick_last_damaged"),
}
"""Of each kind of run: what its time is called, and a count of it, and what that is called."""
_COUNTS = {"freed": "bytes of disk that it freed", "damaged": "what was damaged or missing in the end"}

Labels = dict[str, str]


@frozen
class Metric:
    """One figure, a gauge: its ``name``, what it means, and its values with their labels."""

    name: str
    text: str
    samples: list[tuple[Labels, float]] = field(default_factory=list)


def metrics(session: Session) -> list[Metric]:
    """The figures of now. ``StratumError`` where the store cannot be read at all."""
    figures = _Figures(session)
    with ExitStack() as locks:
        with suppress(UnsupportedError):  # whoever may only read the store does without
            locks.enter_context(session.store.locks.store())
        figures.find()
    return list(figures.found.values())


class _Figures:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._store = session.store
        self._errors = 0
        self.found: dict[str, Metric] = {}

    def add(self, name: str, text: str, value: float, **labels: str) -> None:
        """A value of a figure, which is described when it is first added."""
        name = f"stratum_{name}"
        self.found.setdefault(name, Metric(name, text)).samples.append((labels, value))

    def find(self) -> None:
        """Find all figures."""
        store = self._store
        self.add("info", "The version of Stratum.", 1, version=__version__)
        with self._noted():
            self._disk(footprint(store.layout))
        with self._noted():
            self._strata()
        for what in (GC, FSCK, FSCK_QUICK):
            self._last_run(what)
        self.add("metrics_errors", "What could not be read for these figures.", self._errors)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Count what fails in the block, and go on."""
        try:
            yield
        except NotFoundError:  # it went at this moment
            pass
        except (StratumError, OSError):
            self._errors += 1

    def _disk(self, found: Footprint) -> None:
        """What the store takes and has, and how much room there is."""
        store = self._store
        commits = store.commits.list()
        partial = [commit for commit in commits if store.sources.is_partial(commit)]
        sharing = measure(store, partial, {})
        self._errors += len(sharing.damaged)
        objects = sharing.unneeded(0)
        parts = {**found.parts, "objects": _joined(objects, found.parts["objects"])}
        for part, usage in parts.items():
            self.add("store_bytes", "Bytes on disk, by part of the store.", usage.disk, part=part)
        self.add("objects", "Contents of files in the store.", objects.objects)
        self.add("commits", "Commits in the store.", len(commits))
        self.add("lazy_commits", "Commits that may not be here whole.", len(partial))
        self.add("lazy_unreal_bytes", "Bytes of these commits that would be fetched.", objects.remote)
        try:
            disk = os.statvfs(store.root)
        except OSError as exc:
            raise storage_error(exc, f"look at the file system of {store.root}") from None
        self.add("store_free_bytes", "Bytes that the file system of the store has left.", disk.f_bavail * disk.f_frsize)
        self.add("store_size_bytes", "Bytes of the file system of the store.", disk.f_blocks * disk.f_frsize)
        for (name, worktree), usage in sorted(found.worktrees.items())[:SERIES_MAX]:
            text = "Bytes on disk in the directory of a worktree: what it holds beyond its base commit."
            self.add("worktree_dirty_bytes", text, usage.disk, stratum=name, worktree=worktree)

    def _strata(self) -> None:
        store, names = self._store, self._store.names()
        mounted: set[str] = set()
        with self._noted():
            records = self._session.state.of_store(store.root)
            mounted = {record.ref for record in records}
            self.add("mounts", "Mounts of worktrees, tags and commits.", len(records))
        trees = []
        for name in names:
            with self._noted():
                trees += store.worktrees.list(name)
        self.add("strata", "Strata in the store.", len(names))
        self.add("worktrees", "Worktrees in the store.", len(trees))
        self.add("strata_left_out", "Strata that have no figures of their own.", max(0, len(names) - SERIES_MAX))
        self.add("worktrees_left_out", "Worktrees that have no figures of their own.", max(0, len(trees) - SERIES_MAX))
        for name in names[:SERIES_MAX]:
            with self._noted():
                self._stratum(name, [tree.commit for tree in trees if tree.name == name])
        for tree in trees[:SERIES_MAX]:
            with self._noted():
                self._worktree(tree, str(tree) in mounted)
        self.add("history_watched", "1 while somebody keeps the histories.", store.histories.is_written())

    def _stratum(self, name: str, heads: list[str]) -> None:
        tags = self._store.tags.list(name)
        self.add("tags", "Tags of a stratum.", len(tags), stratum=name)
        times = [time for commit in {*tags.values(), *heads} if (time := self._time(commit)) is not None]
        text = "When the newest commit that a tag or worktree names was made, in seconds since 1970."
        if times:
            self.add("last_commit_timestamp_seconds", text, max(times), stratum=name)

    def _time(self, commit: str) -> float | None:
        with self._noted():
            time = parse_time(self._store.commits.meta(commit).timestamp)
            return time.timestamp() if time is not None else None
        return None

    def _worktree(self, tree: Worktree, mounted: bool) -> None:
        labels = {"stratum": tree.name, "worktree": tree.worktree}
        self.add("worktree_mounted", "1 where the worktree is mounted.", mounted, **labels)
        failed = failure_of(self._session, tree.name, tree.worktree) is not None
        self.add("worktree_commit_failed", "1 where its last commit at a stop failed.", failed, **labels)
        dirty = is_dirty(self._store, tree)
        if dirty is not None:
            text = "1 where a short look finds something that is not committed."
            self.add("worktree_dirty", text, dirty, **labels)
        time = self._time(tree.commit)
        if time is not None:
            text = "When the last commit of a worktree was made, in seconds since 1970."
            self.add("worktree_last_commit_timestamp_seconds", text, time, **labels)
        histories = self._store.histories
        on = histories.settings(tree.name, tree.worktree) is not None
        self.add("history_on", "1 where the history of a worktree is to be kept.", on, **labels)
        if on:
            from stratum.store.logcheck import gaps_since

            since = (datetime.now(timezone.utc) - _DAY).strftime("%Y-%m-%dT%H:%M:%S")
            text = "How often nobody watched a worktree with a history in the last 24 hours."
            self.add("history_gaps", text, gaps_since(histories.log(tree.name, tree.worktree), since), **labels)

    def _last_run(self, what: str) -> None:
        run = last_run(self._store.layout, what)
        if run is not None:
            time, count, words = _RUNS[what]
            verb = what.replace("-", " --")
            self.add(time, f"When 'stratum {verb}' last came to its end, in seconds since 1970.", run.time)
            if count in run.counts:
                self.add(words, f"Of that run: {_COUNTS[count]}.", run.counts[count])


def _joined(objects: Amount, directories: Usage) -> Usage:
    return Usage(objects.disk, objects.size, objects.objects).plus(directories)
