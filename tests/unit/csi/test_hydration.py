"""What metrics say of lazy mounts: sums that only grow, whatever the keeper and its workers count anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client.metrics_core import Metric

from stratum.csi.hydration import INLINE, OTHERS, STATES, VOLUMES_MAX, HydrationCollector, Totals, now_of
from stratum.csi.residing import Connection, Residences
from stratum.errors import NotFoundError
from stratum.store.residence import ResidenceCounts


def mount(name: str, asks: int = 0, received: int = 0, **more: Any) -> Connection:
    """What a worker says of one mount."""
    fetcher = {"asks": asks, "hits": 0, "errors": 0, "objects": asks, "bytes": received, "sources": more.get("sources")}
    gate = {"waiting": more.get("waiting")}
    return {"id": name, "source": name, "commit": more.get("commit", "c"), "fetcher": fetcher, "gate": gate}


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
    samples = [sample for family in families for sample in family.samples]
    return {"/".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


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
    collector = HydrationCollector(lambda: mounts, Residences(counts), lambda _source: None)
    assert "stratum_csi_lazy_real_bytes" not in values(collector)
    soon(lambda: values(collector).get("stratum_csi_lazy_unreal_bytes") == 200)
    assert values(collector)["stratum_csi_lazy_real_bytes"] == 20
    assert sorted(counted) == ["gone", "x", "y"], "each commit once, and not at each scrape"
    mounts.clear()
    assert values(collector)["stratum_csi_lazy_unreal_bytes"] == 0


def test_a_keeper_that_does_not_answer_is_down() -> None:
    def counts(_commit: str) -> ResidenceCounts:
        raise AssertionError

    found = values(HydrationCollector(lambda: None, Residences(counts), lambda _source: None))
    assert (found["stratum_csi_lazy_keeper_up"], found["stratum_csi_lazy_mounts"]) == (0, 0)
    found = values(HydrationCollector(list, Residences(counts), lambda _source: None))
    assert found["stratum_csi_lazy_keeper_up"] == 1


def test_volumes_have_figures_of_their_own_but_no_more_than_so_many() -> None:
    names: dict[str, str | None] = {f"m{number:03}": f"v{number:03}" for number in range(VOLUMES_MAX + 2)}
    names |= {"i1": INLINE, "i2": INLINE, "host": None, "again": "v000"}
    away = [{"state": "away"}, {"state": "denied"}]
    mounts = [mount(name, commit="x") for name in names if name not in ("i1", "m001")]
    mounts += [mount("i1", commit="y", sources=[{"state": "away"}, {"state": "ok"}]), mount("m001", sources=away)]
    asked = []

    def volume(source: str) -> str | None:
        asked.append(source)
        return names[source]

    residences = Residences(
        lambda commit: ResidenceCounts(real_bytes=1, unreal_bytes={"x": 5, "y": 50, "c": 7}[commit])
    )
    collector = HydrationCollector(lambda: mounts, residences, volume)
    soon(lambda: "stratum_csi_volume_unreal_bytes/inline" in values(collector))
    found = values(collector)
    assert found["stratum_csi_volume_unreal_bytes/inline"] == 55, "all pods' together"
    assert found["stratum_csi_volume_unreal_bytes/v000"] == 5, "two mounts of a volume have one commit"
    assert (found["stratum_csi_volume_source_up/v001"], found["stratum_csi_volume_source_up/inline"]) == (0, 1)
    labels = {key.rpartition("/")[2] for key in found if key.startswith("stratum_csi_volume_real_bytes/")}
    assert len(labels) == VOLUMES_MAX + 1
    assert OTHERS in labels
    assert len(asked) == len(names), "a mount's volume is looked up once"
