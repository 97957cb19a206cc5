"""Figures about the driver for Prometheus (text format 0.0.4), over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stratum.serving import Limits

BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the durations' histogram, in seconds."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ORPHANS = ("inline", "published", "staged")
"""What the kubelet may have forgotten (``csi.orphans``)."""

LIMITS = Limits(connections=8, each=3, seconds=10.0)
"""Whoever reaches the driver's pod can connect, so nobody gets much."""


@dataclass(frozen=True, slots=True)
class Volumes:
    """How many worktrees the driver's volumes have, the bytes that these hold beyond their base commits, how many
    pulls, pushes and commits are under way, and how many of the worktrees are held to a size."""

    worktrees: int
    dirty_bytes: int
    jobs: int
    limited: int


class Metrics:
    """The figures of one driver; may be used by several threads at once."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
        self._registry = registry = CollectorRegistry()
        self._operations = Counter(
            "stratum_csi_operations",
            "Calls answered, by method and gRPC status.",
            ["method", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "stratum_csi_operation_seconds",
            "Seconds that calls took.",
            ["method"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._pulled = Counter("stratum_csi_pulled_bytes", "Bytes received from places.", registry=registry)
        self._pushed = Counter("stratum_csi_pushed_bytes", "Bytes sent to places.", registry=registry)
        self._collections = Counter(
            "stratum_csi_gc_runs", "Runs of the garbage collection, by how they ended.", ["result"], registry=registry
        )
        for result in ("done", "busy", "failed"):
            self._collections.labels(result)
        self._freed = Counter(
            "stratum_csi_gc_freed_bytes", "Bytes of disk that the garbage collection freed.", registry=registry
        )
        self._collected_at = Gauge(
            "stratum_csi_gc_last_success_timestamp_seconds",
            "When garbage was collected last, in seconds since 1970; 0 for not yet.",
            registry=registry,
        )

        self._orphans = Gauge(
            "stratum_csi_orphans",
            "Volumes that the kubelet has forgotten, by where they are.",
            ["kind"],
            registry=registry,
        )
        self._orphans_removed = Counter(
            "stratum_csi_orphans_removed", "Those that were taken away.", ["kind"], registry=registry
        )

        self.orphans(dict.fromkeys(ORPHANS, 0))

    def watch(self, volumes: Callable[[], Volumes], *others: Collector) -> None:
        """Report what ``volumes`` and others say at that moment too."""
        for collector in (_VolumesCollector(volumes), *others):
            self._registry.register(collector)

    def operation(self, method: str, code: str, seconds: float) -> None:
        """Count a call that ended with the gRPC status ``code``."""
        self._operations.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)

    def pulled(self, size: int) -> None:
        """Count bytes received from places."""
        self._pulled.inc(size)

    def pushed(self, size: int) -> None:
        """Count bytes sent to places."""
        self._pushed.inc(size)

    def collected(self, result: str, freed: int) -> None:
        """Count a run of the garbage collection (done, busy or failed) and the bytes that it freed."""
        self._collections.labels(result).inc()
        self._freed.inc(freed)
        if result == "done":
            self._collected_at.set_to_current_time()

    def orphans(self, counts: Mapping[str, int]) -> None:
        """Say how many volumes the kubelet has forgotten, by their kind."""
        for kind, count in counts.items():
            self._orphans.labels(kind).set(count)
            self._orphans_removed.labels(kind)

    def orphan_removed(self, kind: str) -> None:
        """Count one that was taken away."""
        self._orphans_removed.labels(kind).inc()

    def text(self) -> bytes:
        """All figures, looked up now."""
        return generate_latest(self._registry)

    def app(self) -> Starlette:
        """The answer to GET /metrics."""

        def scrape(_request: Request) -> Response:
            return Response(self.text(), media_type=CONTENT_TYPE)

        return Starlette(routes=[Route("/metrics", scrape)])


class _VolumesCollector(Collector):
    def __init__(self, volumes: Callable[[], Volumes]) -> None:
        self._volumes = volumes

    def collect(self) -> Iterator[Metric]:
        now = self._volumes()
        text = "Worktrees of volumes that the driver made."
        yield GaugeMetricFamily("stratum_csi_worktrees", text, now.worktrees)
        text = "Bytes that these hold beyond their base commits."
        yield GaugeMetricFamily("stratum_csi_dirty_bytes", text, now.dirty_bytes)
        text = "Worktrees of volumes that are held to the size of their claim."
        yield GaugeMetricFamily("stratum_csi_limited_worktrees", text, now.limited)
        yield GaugeMetricFamily("stratum_csi_jobs", "Pulls, pushes and commits under way.", now.jobs)
