"""Figures about what is fetched when it is read: what the gates' keeper says, summed up over all mounts of the store.

The keeper counts for each mount, and anew with each of its workers; what is counted here only grows. There is one
figure of each kind for all volumes and all sources, whatever their names: who reads how much of what is told by
``stratum cache status`` on the node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stratum.api.session import Session
from stratum.errors import StratumError
from stratum.store.residence import ResidenceCounts

STATES = ("ok", "away", "denied", "gone", "damaged")
"""What a source of a mount may be."""

COUNTED = ("asks", "hits", "errors", "objects", "bytes")
"""What a fetcher counts, by its own names."""

COUNTS_AGE = 60.0
"""Seconds after which it is counted anew what of the mounted commits is here: of many files that takes a while."""

Connection = Mapping[str, Any]


def connections_of(session: Session) -> list[Connection] | None:
    """What the keeper says of the mounts of the session's store; None where none runs. ``StratumError``."""
    from stratum.mount.gate import ask_keeper

    answers = ask_keeper(session.config.runtime_dir, {"op": "status"})
    if not answers:
        return None
    root = str(session.store.root)
    return [each for answer in answers for each in tables(answer.get("connections")) if each.get("store") == root]


def counts_of(session: Session, commit: str) -> ResidenceCounts:
    """What of the objects of a commit is here. ``StratumError``."""
    with session.store.locks.store():
        return session.store.residence.counts(commit)


@dataclass(slots=True)
class Totals:
    """Sums over mounts, those that are gone included."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    _last: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, connections: list[Connection]) -> None:
        """Take what mounts say now; one that counts less than before has begun anew."""
        last, self._last = self._last, {}
        for connection in connections:
            for name in COUNTED:
                key, value = (str(connection.get("id")), name), number(part(connection, "fetcher").get(name))
                before = last.get(key, 0)
                self.counts[name] += value - before if value >= before else value
                self._last[key] = value


@dataclass(frozen=True, slots=True)
class Now:
    """How it is at this moment; ``sources`` has the number of sources of mounts by their state."""

    mounts: int
    waiting: int
    longest: float
    sources: Mapping[str, int]


def now_of(connections: list[Connection]) -> Now:
    """What the mounts say of this moment."""
    waits = [wait for connection in connections for wait in tables(part(connection, "gate").get("waiting"))]
    states = [source.get("state") for c in connections for source in tables(part(c, "fetcher").get("sources"))]
    seconds = (wait.get("seconds") for wait in waits)
    longest = max((float(each) for each in seconds if isinstance(each, (int, float))), default=0.0)
    return Now(len(connections), len(waits), longest, {state: states.count(state) for state in STATES})


def part(table: Connection, name: str) -> Connection:
    """A table in a table, empty where there is none."""
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def tables(value: object) -> list[Connection]:
    """The tables in a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def number(value: object) -> int:
    """A count; 0 for what is none."""
    return value if isinstance(value, int) and value >= 0 else 0


class HydrationCollector(Collector):
    """``connections`` asks the keeper for the mounts of the store, None where none runs; ``counts`` counts the objects
    of a commit. Both raise ``StratumError``."""

    def __init__(
        self, connections: Callable[[], list[Connection] | None], counts: Callable[[str], ResidenceCounts]
    ) -> None:
        self._connections = connections
        self._counts = counts
        self._lock = threading.Lock()
        self._totals = Totals()
        self._counting: threading.Thread | None = None
        self._counted: ResidenceCounts | None = None
        self._due = 0.0

    def collect(self) -> Iterator[Metric]:
        """The figures of now. Those of what is here are of the last time that it was counted."""
        try:
            connections = self._connections()
            up = connections is not None
        except StratumError:
            connections, up = None, False
        with self._lock:
            self._totals.add(connections or [])
            counts = dict(self._totals.counts)
            if connections is not None:
                self._count({str(connection.get("commit")) for connection in connections})
            counted = self._counted
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        now = now_of(connections or [])
        yield gauge("stratum_csi_lazy_keeper_up", "1 where the keeper of lazy mounts answers.", int(up))
        yield gauge("stratum_csi_lazy_mounts", "Mounts of commits that are not here whole.", now.mounts)
        yield gauge("stratum_csi_lazy_waiting", "Readers that wait for a file now.", now.waiting)
        yield gauge("stratum_csi_lazy_waiting_seconds", "How long the one that waits longest waits.", now.longest)
        sources = gauge("stratum_csi_lazy_sources", "Sources of these mounts, by their state.", labels=["state"])
        for state, count in now.sources.items():
            sources.add_metric([state], count)
        yield sources
        if counted is not None:
            yield gauge("stratum_csi_lazy_real_bytes", "Bytes of these commits that are here.", counted.real_bytes)
            text = "Bytes of these commits that would be fetched."
            yield gauge("stratum_csi_lazy_unreal_bytes", text, counted.unreal_bytes)
        yield counter("stratum_csi_lazy_asks", "First reads of files.", counts["asks"])
        yield counter("stratum_csi_lazy_hits", "Those whose file had come before it was read.", counts["hits"])
        yield counter("stratum_csi_lazy_errors", "Reads that failed.", counts["errors"])
        yield counter(
            "stratum_csi_lazy_fetches", "Files, and parts of large ones, that were fetched.", counts["objects"]
        )
        yield counter("stratum_csi_lazy_fetched_bytes", "Bytes that these have.", counts["bytes"])

    def _count(self, commits: set[str]) -> None:
        """Have it counted what of ``commits`` is here, in a thread, where that is due. The lock is held."""
        if not commits:
            self._counted, self._due = ResidenceCounts(), 0.0
        elif (self._counting is None or not self._counting.is_alive()) and time.monotonic() >= self._due:
            self._due = time.monotonic() + COUNTS_AGE
            self._counting = threading.Thread(target=self._work, args=(commits,), daemon=True, name="residence")
            self._counting.start()

    def _work(self, commits: set[str]) -> None:
        real = unreal = 0
        for commit in commits:
            try:
                found = self._counts(commit)
            except StratumError:  # unmounted and collected meanwhile, or damaged, which 'fsck' tells
                continue
            real, unreal = real + found.real_bytes, unreal + found.unreal_bytes
        with self._lock:
            self._counted = ResidenceCounts(real_bytes=real, unreal_bytes=unreal)
