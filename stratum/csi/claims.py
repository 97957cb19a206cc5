"""Which volumes of claims are on this node, for metrics: by the handles that their PersistentVolumes have.

Beside what the cluster says of PersistentVolumes that tells which have none any more. The driver does not remove those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stratum.csi.records import VolumeRecord
from stratum.errors import StratumError
from stratum.mount.state import State
from stratum.store.holders import KubernetesVolume
from stratum.store.records import Records
from stratum.store.store import Store

CLAIMS_MAX = 250
"""Volumes that are named, the oldest first."""


def claims_of(volumes: Records[VolumeRecord], store: Store, state: State) -> dict[str, bool]:
    """The handle of each volume that a claim has on this node, oldest first -> whether it is mounted. Raises
    ``StratumError``."""
    mounted = {record.holder.id for record in state.of_store(store.root) if isinstance(record.holder, KubernetesVolume)}
    there = [record for record in volumes.scan()[0] if not record.inline and store.namespaces.exists(record.stratum)]
    return {each.id: each.id in mounted for each in there if store.worktrees.exists(each.stratum, each.key)}


class ClaimsCollector(Collector):
    """``claims`` says which volumes there are, and whether they are mounted. ``StratumError``."""

    def __init__(self, claims: Callable[[], Mapping[str, bool]]) -> None:
        self._claims = claims

    def collect(self) -> Iterator[Metric]:
        """See ``prometheus_client.registry.Collector``."""
        text = "Volumes of claims on this node, by their handles: 1 where one is mounted, 0 where it is not."
        family = GaugeMetricFamily("stratum_csi_volume_mounted", text, labels=["volume"])
        try:
            claims = self._claims()
        except StratumError:  # the store or the record of mounts is damaged, which every call says
            claims = {}
        for volume, mounted in list(claims.items())[:CLAIMS_MAX]:
            family.add_metric([volume], int(mounted))
        yield family
