"""Records of services in a store, without the services."""

from __future__ import annotations

from stratum.csi.records import AfterRecord, GroupRecord, PullRecord, SnapshotRecord, VolumeRecord
from stratum.plugin.records import VolumeRecord as NamedVolumeRecord
from stratum.store import Store
from stratum.store.records import Records

HASH = "0123456789abcdef" * 4


def kubernetes_volumes(store: Store) -> Records[VolumeRecord]:
    """The CSI driver's records of volumes."""
    return Records(store.layout, "csi/volumes", VolumeRecord)


def kubernetes_volume(key: str, created: int = 1) -> VolumeRecord:
    """A record of the CSI driver."""
    return VolumeRecord(key, key, f"app+{key}", "app", HASH, 0, "nothing", attributes={"tag": "t"}, created=created)


def named_volumes(store: Store) -> Records[NamedVolumeRecord]:
    """The volume plugin's records."""
    return Records(store.layout, "volumes", NamedVolumeRecord)


def put_records(store: Store) -> None:
    """One record of each kind."""
    kubernetes_volumes(store).put(kubernetes_volume("pvc"))
    snapshot = SnapshotRecord("snap", "snap", "app:snap", "app+pvc", "app", HASH, 5, created=1)
    Records(store.layout, "csi/snapshots", SnapshotRecord).put(snapshot)
    pull = PullRecord("pull", "localhost/app:v1", "team", "app", "v1", HASH, used=1, created=1)
    Records(store.layout, "csi/pulls", PullRecord).put(pull)
    group = GroupRecord("group", "group", "node/group", {"app+pvc": HASH}, created=1)
    Records(store.layout, "csi/groups", GroupRecord).put(group)
    after = AfterRecord("container", "uid", "team/pod", "container", '["sync"]', 30, created=1)
    Records(store.layout, "csi/afters", AfterRecord).put(after)
    named_volumes(store).put(NamedVolumeRecord("data", {"ref": "app+main", "create": ""}, "2026-01-01T00:00:00Z"))
