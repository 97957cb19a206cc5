"""What metrics say of lazy mounts: sums that only grow, whatever the keeper and its workers count anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client.metrics_core import Metric

from stratum.csi.hydration import STATES, Connection, HydrationCollector, Totals, now_of
from stratum.errors import NotFoundError, StratumError
from stratum.store.residence import ResidenceCounts


def mount(name: str, asks: int = 0, received: int = 0, **more: Any) -> Connection:
    """What a worker says of one mount."""
    fetcher = {"asks": asks, "hits": 0, "errors": 0, "objects": asks, "bytes": received, "sources": more.get("sources")}
    return {"id": name, "commit": more.get("commit", "c"), "fetcher": fetcher, "gate": {"waiting": more.get("waiting")}}


def test_sums_only_grow() -> None:
    totals = Totals()
    totals.add([mount("a", 3, 30), mount("b", 2, 20)])
    assert (totals.counts["asks"], totals.counts["bytes"]) == (5, 50)
    totals.add([mount("a", 4, 40), mount("b", 2, 20)])
    assert (totals.counts["asks"], totals.counts["bytes"]) == (6, 60)
    totals.add([mount("a", 1, 10)])  # another worker counts anew, and b was unmounted
    assert (totals.counts["asks"], totals.counts["bytes"]) == (7, 70)
    totals.add([])
    totals.add([mount("c", 1, 5)])
    assert (totals.counts["asks"], totals.counts["bytes"]) == (8, 75)


def test_what_is_no_count_is_none() -> None:
    totals = Totals()
    totals.add([{}, {"id": "a", "fetcher": None}, {"id": "b", "fetcher": {"asks": -1, "bytes": "many", "hits": 2}}])
    assert totals.counts == {"asks": 0, "hits": 2, "errors": 0, "objects": 0, "bytes": 0}


def test_how_it_is_now() -> None:
    sources = [{"state": "ok"}, {"state": "away"}, {"state": "made up"}]
    now = now_of([mount("a", sources=sources, waiting=[{"seconds": 0.5}, {"seconds": 2}]), mount("b", waiting="no")])
    assert (now.mounts, now.waiting, now.longest) == (2, 2, 2.0)
    assert now.sources == {**dict.fromkeys(STATES, 0), "ok": 1, "away": 1}, "whatever else is said is no new label"


def values(collector: HydrationCollector) -> dict[str, float]:
    families: list[Metric] = list(collector.collect())
    return {sample.name: sample.value for family in families for sample in family.samples}


def soon(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_here_is_counted_beside_the_scrape() -> None:
    counted = []

    def counts(commit: str) -> ResidenceCounts:
        counted.append(commit)
        if commit == "gone":
            raise NotFoundError("it is gone")
        return ResidenceCounts(real_bytes=10, unreal_bytes=100)

    mounts = [mount("a", commit="x"), mount("b", commit="x"), mount("c", commit="y"), mount("d", commit="gone")]
    collector = HydrationCollector(lambda: mounts, counts)
    assert "stratum_csi_lazy_real_bytes" not in values(collector)
    soon(lambda: values(collector).get("stratum_csi_lazy_unreal_bytes") == 200)
    assert values(collector)["stratum_csi_lazy_real_bytes"] == 20
    assert sorted(counted) == ["gone", "x", "y"], "each commit once, and not at each scrape"
    mounts.clear()
    assert values(collector)["stratum_csi_lazy_unreal_bytes"] == 0


def test_a_keeper_that_does_not_answer_is_down() -> None:
    def fails() -> list[Connection]:
        raise StratumError("no answer")

    def counts(_commit: str) -> ResidenceCounts:
        raise AssertionError

    for connections in (fails, lambda: None):
        found = values(HydrationCollector(connections, counts))
        assert (found["stratum_csi_lazy_keeper_up"], found["stratum_csi_lazy_mounts"]) == (0, 0)
    assert values(HydrationCollector(list, counts))["stratum_csi_lazy_keeper_up"] == 1
