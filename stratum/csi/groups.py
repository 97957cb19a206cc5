"""The GroupController service: snapshots of several volumes of this node, of one moment.

The ID of a group is ``NODE/KEY``, so that it says which node made it. Its snapshots are snapshots as others are, with
handles of the same kinds, and can be found, restored and removed alone. A group that another node or cluster made is
the list of its snapshots' handles, each of which says in which registry or object store it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from stratum.csi import csi_pb2 as csi
from stratum.csi import snapshots
from stratum.csi.attributes import GROUP_NAMESPACE, snapshot_parameters
from stratum.csi.controller import check_name, require, snapshot_message
from stratum.csi.driver import Driver
from stratum.csi.errors import CallError, Code, already_exists, invalid, not_found
from stratum.csi.jobs import SNAPSHOTS, Caller, Task
from stratum.csi.moments import commit_all
from stratum.csi.records import GroupRecord, SnapshotRecord, key_for
from stratum.csi.sources import FROM_GROUP_CLASS, FROM_GROUP_GET, Asker
from stratum.errors import UsageError
from stratum.oci.target import parse_target

VOLUMES_MAX = 50

_RPC = csi.GroupControllerServiceCapability.RPC


class GroupController:
    """csi.v1.GroupController."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def GroupControllerGetCapabilities(
        self, request: csi.GroupControllerGetCapabilitiesRequest, caller: Caller
    ) -> csi.GroupControllerGetCapabilitiesResponse:
        """What is offered."""
        rpc = _RPC(type=_RPC.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT)
        return csi.GroupControllerGetCapabilitiesResponse(capabilities=[csi.GroupControllerServiceCapability(rpc=rpc)])

    def CreateVolumeGroupSnapshot(
        self, request: csi.CreateVolumeGroupSnapshotRequest, caller: Caller
    ) -> csi.CreateVolumeGroupSnapshotResponse:
        """A commit of each volume, all of one moment, and a tag for each; ready_to_use when all of them are."""
        check_name(request.name)
        volumes = list(request.source_volume_ids)
        if not volumes or len(volumes) > VOLUMES_MAX or len(set(volumes)) < len(volumes) or "" in volumes:
            raise invalid(f"a group has 1 to {VOLUMES_MAX} volumes, each of them once")
        registry, pause = snapshot_parameters(request.parameters)
        asker = Asker(caller, dict(request.secrets), request.parameters.get(GROUP_NAMESPACE, ""), FROM_GROUP_CLASS)
        with self._driver.locked("group snapshot name", request.name):
            group = _group(self._driver, request.name, volumes, registry, asker, pause=pause is not False)
            members = [snapshots.complete(self._driver, each, asker) for each in _members(self._driver, group)]
        return csi.CreateVolumeGroupSnapshotResponse(group_snapshot=_message(group.id, members))

    def DeleteVolumeGroupSnapshot(
        self, request: csi.DeleteVolumeGroupSnapshotRequest, caller: Caller
    ) -> csi.DeleteVolumeGroupSnapshotResponse:
        """Remove the tags of all snapshots of the group. One that is gone is no error."""
        require(request.group_snapshot_id, "group_snapshot_id")
        with self._driver.locked("group snapshot", request.group_snapshot_id):
            group = _find(self._driver, request.group_snapshot_id)
            if group is not None:
                for each in _ids_of(self._driver, group):
                    snapshots.delete(self._driver, each)
                self._driver.groups.remove(group.key)
        return csi.DeleteVolumeGroupSnapshotResponse()

    def GetVolumeGroupSnapshot(
        self, request: csi.GetVolumeGroupSnapshotRequest, caller: Caller
    ) -> csi.GetVolumeGroupSnapshotResponse:
        """The group; one that this node has no record of by its snapshots' IDs, where a registry has all of them."""
        require(request.group_snapshot_id, "group_snapshot_id")
        asker = Asker(caller, dict(request.secrets), named_in=FROM_GROUP_GET)
        group = _find(self._driver, request.group_snapshot_id)
        ids = list(request.snapshot_ids)
        if group is not None:
            there = _ids_of(self._driver, group)
            _check_members(ids, there)
            ids = there
        if not ids or len(ids) > VOLUMES_MAX:
            raise not_found(f"there is no group snapshot {request.group_snapshot_id[:140]!r} on this node")
        members = []
        for each in ids:
            record = snapshots.find(self._driver, each, asker)
            if record is None:
                raise not_found(f"there is no snapshot {each[:140]!r} of group {request.group_snapshot_id[:140]!r}")
            members.append(record)
        return csi.GetVolumeGroupSnapshotResponse(group_snapshot=_message(request.group_snapshot_id, members))


def _group(
    driver: Driver, name: str, volumes: Sequence[str], registry: str | None, asker: Asker, *, pause: bool
) -> GroupRecord:
    """The group called ``name``, whose lock is held; all its volumes are committed where it is not on record yet."""
    key = key_for(name, "group")
    group = driver.groups.get(key)
    if group is None:
        task = Task(f"group snapshot {name}", (name, registry or "", *sorted(volumes)), SNAPSHOTS, asker.namespace)
        group = driver.jobs.run(task, lambda: _take(driver, key, name, volumes, registry, pause), asker.caller)
    if group.name != name or set(group.volumes) != set(volumes) or group.registry != (registry or ""):
        raise already_exists(f"group snapshot {name} exists, of the volumes {', '.join(group.volumes)[:400]}")
    return group


def _take(
    driver: Driver, key: str, name: str, volumes: Sequence[str], registry: str | None, pause: bool
) -> GroupRecord:
    """Commit the volumes and put the group on record, in one step. Their heads name the commits until tags do."""
    try:
        found = {each: snapshots.snapshot_source(driver, each) for each in volumes}
    except CallError as exc:
        if exc.code != Code.NOT_FOUND:
            raise
        node = driver.options.node_id
        raise not_found(f"{exc.message} (this is node {node}, and all volumes of a group have to be on one)") from None
    moment = commit_all(driver, found, f"group snapshot {name}", pause=pause, demanded=not pause)
    group = GroupRecord(
        key=key,
        name=name,
        id=f"{driver.options.node_id}/{key}",
        volumes=moment.commits,
        registry=registry or "",
        created=moment.time,
    )
    driver.groups.put(group)
    return group


def _members(driver: Driver, group: GroupRecord) -> list[SnapshotRecord]:
    """The snapshots of the group, put on record where they are not."""
    members = []
    for volume, commit in group.volumes.items():
        record = driver.snapshots.get(_key_of(group, volume))
        if record is None:
            name = f"{group.name} of {volume}"
            place = parse_target(group.registry).place if group.registry else None
            record = snapshots.keep(
                driver, _key_of(group, volume), name, volume, place, commit, group.created, group=group.id
            )
        members.append(record)
    return members


def _key_of(group: GroupRecord, volume: str) -> str:
    return key_for(f"{group.name} of {volume}", "snap")


def _ids_of(driver: Driver, group: GroupRecord) -> list[str]:
    """The IDs of its snapshots that are on record."""
    found = (driver.snapshots.get(_key_of(group, volume)) for volume in group.volumes)
    return [record.id for record in found if record is not None]


def _find(driver: Driver, group_id: str) -> GroupRecord | None:
    """The group that this node made and has on record."""
    try:
        group = driver.groups.get(group_id.rpartition("/")[2])
    except UsageError:
        return None
    return group if group is not None and group.id == group_id else None


def _check_members(given: Sequence[str], ids: Sequence[str]) -> None:
    """INVALID_ARGUMENT where an ID is given that is of no snapshot of the group."""
    others = sorted(set(given) - set(ids))
    if others:
        raise invalid(f"{others[0][:140]!r} is no snapshot of the group")


def _message(group_id: str, members: Sequence[SnapshotRecord]) -> csi.VolumeGroupSnapshot:
    created = Timestamp()
    created.FromNanoseconds(min(record.created for record in members))
    parts = [snapshot_message(record) for record in members]
    for part in parts:
        part.group_snapshot_id = group_id
    return csi.VolumeGroupSnapshot(
        group_snapshot_id=group_id,
        snapshots=parts,
        creation_time=created,
        ready_to_use=all(part.ready_to_use for part in parts),
    )
