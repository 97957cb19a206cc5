"""Figures about what is fetched when it is read: what the gates' keeper says, summed up over all mounts of the store.

The keeper counts for each mount, and anew with each of its workers; what is counted here only grows. What is read is
summed up over all volumes and all sources, whatever their names: who reads how much of what is told by ``stratum cache
status`` on the node. How much of it is here is told for each volume that has a name of its own, of so many at most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stratum.api.session import Session
from stratum.csi.residing import Connection, Residences, part, sources_of, tables
from stratum.errors import StratumError
from stratum.store.holders import KubernetesVolume
from stratum.store.residence import ResidenceCounts

Counted = Mapping[str, ResidenceCounts | None]

STATES = ("ok", "away", "denied", "gone", "damaged")
"""What a source of a mount may be."""

COUNTED = ("asks", "hits", "errors", "objects", "bytes")
"""What a fetcher counts, by its own names."""

VOLUMES_MAX = 100
"""Volumes that have figures of their own."""

OTHERS, INLINE = "others", "inline"
"""What the others are called, and all inline volumes together, as those come and go with pods."""


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
    states = [source.get("state") for connection in connections for source in sources_of(connection)]
    seconds = (wait.get("seconds") for wait in waits)
    longest = max((float(each) for each in seconds if isinstance(each, (int, float))), default=0.0)
    return Now(len(connections), len(waits), longest, {state: states.count(state) for state in STATES})


def number(value: object) -> int:
    """A count; 0 for what is none."""
    return value if isinstance(value, int) and value >= 0 else 0


class HydrationCollector(Collector):
    """``connections`` asks the keeper for the mounts of the store, None where none answers; ``volume`` is told the
    source of a mount, and says what the volume is called that it is of (None: of none)."""

    def __init__(
        self,
        connections: Callable[[], list[Connection] | None],
        residences: Residences,
        volume: Callable[[str], str | None],
    ) -> None:
        self._connections = connections
        self._residences = residences
        self._volume = volume
        self._lock = threading.Lock()
        self._totals = Totals()
        self._volumes: dict[str, str | None] = {}

    def collect(self) -> Iterator[Metric]:
        """The figures of now. Those of what is here are of the last time that it was counted."""
        connections = self._connections()
        with self._lock:
            self._totals.add(connections or [])
            counts = dict(self._totals.counts)
        up, commits = connections is not None, {str(each.get("commit")) for each in connections or ()}
        known = self._residences.of(commits)
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
        if up and known.keys() >= commits:
            real, unreal = _sums(known, commits)
            yield gauge("stratum_csi_lazy_real_bytes", "Bytes of these commits that are here.", real)
            yield gauge("stratum_csi_lazy_unreal_bytes", "Bytes of these commits that would be fetched.", unreal)
        yield counter("stratum_csi_lazy_asks", "First reads of files.", counts["asks"])
        yield counter("stratum_csi_lazy_hits", "Those whose file had come before it was read.", counts["hits"])
        yield counter("stratum_csi_lazy_errors", "Reads that failed.", counts["errors"])
        yield counter(
            "stratum_csi_lazy_fetches", "Files, and parts of large ones, that were fetched.", counts["objects"]
        )
        yield counter("stratum_csi_lazy_fetched_bytes", "Bytes that these have.", counts["bytes"])
        yield from self._of_volumes(connections or [], known)

    def _of_volumes(self, connections: list[Connection], known: Counted) -> Iterator[Metric]:
        gauge, labels = GaugeMetricFamily, ["volume"]
        real = gauge("stratum_csi_volume_real_bytes", "Bytes of a lazy volume's commit that are here.", labels=labels)
        unreal = gauge("stratum_csi_volume_unreal_bytes", "Bytes of it that would be fetched.", labels=labels)
        up = gauge("stratum_csi_volume_source_up", "1 where a source of a lazy volume can be reached.", labels=labels)
        for name, mounts in self._by_volume(connections).items():
            commits = {str(mount.get("commit")) for mount in mounts}
            if known.keys() >= commits:
                bytes_here, bytes_away = _sums(known, commits)
                real.add_metric([name], bytes_here)
                unreal.add_metric([name], bytes_away)
            up.add_metric([name], int(all(map(_can_fetch, mounts))))
        yield from (real, unreal, up)

    def _by_volume(self, connections: list[Connection]) -> dict[str, list[Connection]]:
        """The mounts of each volume that has figures of its own, and those of all others."""
        sources = {str(each.get("source")) for each in connections}
        with self._lock:
            self._volumes = {source: name for source, name in self._volumes.items() if source in sources}
            for source in sources - self._volumes.keys():
                self._volumes[source] = self._volume(source)
            named = dict(self._volumes)
        own = sorted({name for name in named.values() if name is not None})[:VOLUMES_MAX]
        found: dict[str, list[Connection]] = {}
        for connection in connections:
            name = named[str(connection.get("source"))]
            if name is not None:
                found.setdefault(name if name in own else OTHERS, []).append(connection)
        return found


def _can_fetch(connection: Connection) -> bool:
    """Whether a source of the mount can be reached, as far as anybody has tried."""
    states = [source.get("state") for source in sources_of(connection)]
    return not states or "ok" in states


def _sums(known: Counted, commits: Iterable[str]) -> tuple[int, int]:
    """(bytes that are here, bytes that are not) of commits."""
    counts = [found for commit in commits if (found := known[commit]) is not None]
    return sum(each.real_bytes for each in counts), sum(each.unreal_bytes for each in counts)


def volume_of(session: Session, source: str, is_inline: Callable[[str], bool]) -> str | None:
    """What the volume is called whose mount has this ``source``; None for a mount of somebody else's."""
    record = session.state.peek(source.removeprefix("stratum-").partition(":")[0])
    if record is None or not isinstance(record.holder, KubernetesVolume):
        return None
    try:
        return INLINE if is_inline(record.holder.id) else record.holder.id
    except StratumError:  # its record is damaged, which 'fsck' tells
        return OTHERS
