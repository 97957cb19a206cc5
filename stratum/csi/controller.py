"""The Controller service, for the volumes of this node."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from stratum.csi import csi_pb2 as csi
from stratum.csi import provisioning, sizes, snapshots
from stratum.csi.attributes import (
    CLAIM_NAMESPACE,
    SNAPSHOT_NAMESPACE,
    check_capabilities,
    check_capability,
    is_reader,
    snapshot_parameters,
    volume_attributes,
)
from stratum.csi.condition import condition_of
from stratum.csi.driver import TOPOLOGY_KEY, Driver
from stratum.csi.errors import CallError, Code, invalid, not_found
from stratum.csi.jobs import Caller
from stratum.csi.mounts import records_of
from stratum.csi.paging import page
from stratum.csi.provisioning import Wanted
from stratum.csi.records import SnapshotRecord, VolumeRecord, readable
from stratum.csi.sources import FROM_CLASS, FROM_LIST, FROM_SNAPSHOT_CLASS, FROM_SOURCE, Asker
from stratum.store.resolve import ResolvedWorktree

NAME_MAX = 128

_RPC = csi.ControllerServiceCapability.RPC

CAPABILITIES = (
    _RPC.CREATE_DELETE_VOLUME,
    _RPC.LIST_VOLUMES,
    _RPC.GET_CAPACITY,
    _RPC.CREATE_DELETE_SNAPSHOT,
    _RPC.LIST_SNAPSHOTS,
    _RPC.CLONE_VOLUME,
    _RPC.VOLUME_CONDITION,
    _RPC.GET_VOLUME,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)


class Controller:
    """csi.v1.Controller."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def ControllerGetCapabilities(
        self, request: csi.ControllerGetCapabilitiesRequest, caller: Caller
    ) -> csi.ControllerGetCapabilitiesResponse:
        """What is offered."""
        capabilities = [csi.ControllerServiceCapability(rpc=_RPC(type=kind)) for kind in CAPABILITIES]
        return csi.ControllerGetCapabilitiesResponse(capabilities=capabilities)

    # Volumes

    def CreateVolume(self, request: csi.CreateVolumeRequest, caller: Caller) -> csi.CreateVolumeResponse:
        """A worktree over the source's, snapshot's or cloned volume's commit, or over an empty directory."""
        wanted = _wanted(request)
        self._check_topology(request.accessibility_requirements)
        namespace = request.parameters.get(CLAIM_NAMESPACE, "")
        source, populated = wanted.attributes.source, wanted.attributes.populated
        named_in = FROM_SOURCE if populated else FROM_CLASS
        trusted = populated and source is not None and self._driver.options.trusts_inline_source(source)
        asker = Asker(caller, dict(request.secrets), namespace, named_in, isolated=populated, trusted=trusted)
        try:
            with self._driver.locked("volume name", wanted.name):
                record = provisioning.create(self._driver, wanted, asker)
        except CallError as exc:
            if exc.code == Code.NOT_FOUND and request.HasField("volume_content_source"):
                self._choose_again(exc.message, request.accessibility_requirements)
            raise
        volume = self._volume(record)
        if request.HasField("volume_content_source"):
            volume.content_source.CopyFrom(request.volume_content_source)
        return csi.CreateVolumeResponse(volume=volume)

    def DeleteVolume(self, request: csi.DeleteVolumeRequest, caller: Caller) -> csi.DeleteVolumeResponse:
        """Remove a worktree that CreateVolume made. Its snapshots stay."""
        require(request.volume_id, "volume_id")
        with self._driver.locked("volume", request.volume_id):
            provisioning.delete(self._driver, request.volume_id)
        return csi.DeleteVolumeResponse()

    def ValidateVolumeCapabilities(
        self, request: csi.ValidateVolumeCapabilitiesRequest, caller: Caller
    ) -> csi.ValidateVolumeCapabilitiesResponse:
        """Whether a volume can be used as asked: tags and commits for reading only."""
        require(request.volume_id, "volume_id")
        if not request.volume_capabilities:
            raise invalid("no volume capability is given")
        found = provisioning.find_volume(self._driver, request.volume_id)
        for capability in request.volume_capabilities:
            reason = check_capability(capability)
            if reason is None and not isinstance(found, ResolvedWorktree) and not is_reader(capability):
                reason = f"{found} is not a worktree: it can only be read"
            if reason is not None:
                return csi.ValidateVolumeCapabilitiesResponse(message=reason)
        confirmed = csi.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
        )
        return csi.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    def ListVolumes(self, request: csi.ListVolumesRequest, caller: Caller) -> csi.ListVolumesResponse:
        """The volumes that CreateVolume made on this node, oldest first."""
        there = [r for r in readable(self._driver.volumes) if not r.inline and provisioning.exists(self._driver, r)]
        found = page(there, request.max_entries, request.starting_token)
        entries = []
        for record in found.records:
            status = csi.ListVolumesResponse.VolumeStatus(
                published_node_ids=self._published(record.id), volume_condition=self._condition(record)
            )
            entries.append(csi.ListVolumesResponse.Entry(volume=self._volume(record), status=status))
        return csi.ListVolumesResponse(entries=entries, next_token=found.next_token)

    def ControllerGetVolume(
        self, request: csi.ControllerGetVolumeRequest, caller: Caller
    ) -> csi.ControllerGetVolumeResponse:
        """One volume that CreateVolume made, and how it is."""
        require(request.volume_id, "volume_id")
        record = provisioning.volume_record(self._driver, request.volume_id)
        if record is None:
            raise not_found(f"there is no volume {request.volume_id[:140]!r} that this driver made")
        status = csi.ControllerGetVolumeResponse.VolumeStatus(
            published_node_ids=self._published(record.id), volume_condition=self._condition(record)
        )
        return csi.ControllerGetVolumeResponse(volume=self._volume(record), status=status)

    def GetCapacity(self, request: csi.GetCapacityRequest, caller: Caller) -> csi.GetCapacityResponse:
        """What the store's filesystem has left below its mark; nothing for another node, or for volumes that are not
        offered."""
        segments = request.accessible_topology.segments
        elsewhere = segments.get(TOPOLOGY_KEY, self._driver.options.node_id) != self._driver.options.node_id
        if elsewhere or any(check_capability(capability) for capability in request.volume_capabilities):
            return csi.GetCapacityResponse(available_capacity=0)
        return csi.GetCapacityResponse(available_capacity=self._driver.room.capacity)

    # Snapshots

    def CreateSnapshot(self, request: csi.CreateSnapshotRequest, caller: Caller) -> csi.CreateSnapshotResponse:
        """A commit of the volume and a tag; ready_to_use when it is in the registry of the class, if that has one."""
        require(request.source_volume_id, "source_volume_id")
        check_name(request.name)
        registry, pause = snapshot_parameters(request.parameters)
        namespace = request.parameters.get(SNAPSHOT_NAMESPACE, "")
        asker = Asker(caller, dict(request.secrets), namespace, FROM_SNAPSHOT_CLASS)
        with self._driver.locked("snapshot name", request.name):
            record = snapshots.create(
                self._driver, request.name, request.source_volume_id, registry, asker, pause=pause or False
            )
        return csi.CreateSnapshotResponse(snapshot=snapshot_message(record))

    def DeleteSnapshot(self, request: csi.DeleteSnapshotRequest, caller: Caller) -> csi.DeleteSnapshotResponse:
        """Remove the tag. Volumes that were made from the snapshot do not depend on it."""
        require(request.snapshot_id, "snapshot_id")
        with self._driver.locked("snapshot", request.snapshot_id):
            snapshots.delete(self._driver, request.snapshot_id)
        return csi.DeleteSnapshotResponse()

    def ListSnapshots(self, request: csi.ListSnapshotsRequest, caller: Caller) -> csi.ListSnapshotsResponse:
        """The snapshots made on this node, oldest first; by its ID also one that is in a registry only."""
        if request.snapshot_id:
            asker = Asker(caller, dict(request.secrets), named_in=FROM_LIST)
            found_one = snapshots.find(self._driver, request.snapshot_id, asker)
            there = [found_one] if found_one is not None else []
        else:
            there = readable(self._driver.snapshots)
        if request.source_volume_id:
            there = [record for record in there if record.source_volume == request.source_volume_id]
        found = page(there, request.max_entries, request.starting_token)
        entries = [csi.ListSnapshotsResponse.Entry(snapshot=snapshot_message(record)) for record in found.records]
        return csi.ListSnapshotsResponse(entries=entries, next_token=found.next_token)

    # Parts of answers

    def _volume(self, record: VolumeRecord) -> csi.Volume:
        return csi.Volume(
            capacity_bytes=record.capacity,
            volume_id=record.id,
            volume_context=record.attributes,
            accessible_topology=[csi.Topology(segments={TOPOLOGY_KEY: self._driver.options.node_id})],
        )

    def _published(self, volume_id: str) -> list[str]:
        return [self._driver.options.node_id] if records_of(self._driver, volume_id) else []

    def _condition(self, record: VolumeRecord) -> csi.VolumeCondition:
        source = next((mounted.source for mounted in records_of(self._driver, record.id)), None)
        return condition_of(self._driver, record.stratum, record.key, source=source)

    def _check_topology(self, wanted: csi.TopologyRequirement) -> None:
        """RESOURCE_EXHAUSTED where the volume has to be on other nodes, so that the scheduler chooses again."""
        if not wanted.requisite:
            return
        node = self._driver.options.node_id
        if not any(topology.segments.get(TOPOLOGY_KEY, node) == node for topology in wanted.requisite):
            raise CallError(Code.RESOURCE_EXHAUSTED, f"this is node {node}; the volume is wanted elsewhere")

    def _choose_again(self, missing: str, wanted: csi.TopologyRequirement) -> None:
        """RESOURCE_EXHAUSTED where the scheduler chose this node and can choose another, which may have what a volume
        is made from: the scheduler does not know where that is."""
        if wanted.requisite:
            raise CallError(
                Code.RESOURCE_EXHAUSTED,
                f"{missing} on node {self._driver.options.node_id}",
                hint="what is in no registry is restored and cloned on its own node only: give the pod that node",
            )


def _wanted(request: csi.CreateVolumeRequest) -> Wanted:
    """The request, checked. INVALID_ARGUMENT."""
    check_name(request.name)
    check_capabilities(request.volume_capabilities)
    if request.mutable_parameters:
        raise invalid("volumes have no mutable parameters")
    required, limit = sizes.capacity(request.capacity_range)
    content = request.volume_content_source.WhichOneof("type")
    if request.HasField("volume_content_source") and content is None:
        raise invalid("the volume content source is empty")
    attributes = volume_attributes(request.parameters, read_only=False, filled=content is not None)
    snapshot_id = request.volume_content_source.snapshot.snapshot_id if content == "snapshot" else None
    volume_id = request.volume_content_source.volume.volume_id if content == "volume" else None
    if content is not None:
        require(snapshot_id or volume_id or "", "ID of the content source")
    return Wanted(request.name, required, limit, attributes, snapshot_id, volume_id)


def check_name(name: str) -> None:
    """INVALID_ARGUMENT where the orchestrator's name for a thing is missing, or is none."""
    require(name, "name")
    if len(name.encode()) > NAME_MAX or not name.isprintable():
        raise invalid(f"the name is longer than {NAME_MAX} bytes or has control characters")


def require(value: str, what: str) -> None:
    """INVALID_ARGUMENT where the field ``what`` is empty."""
    if not value:
        raise invalid(f"no {what} is given")


def snapshot_message(record: SnapshotRecord) -> csi.Snapshot:
    """A snapshot as answers have it."""
    created = Timestamp()
    created.FromNanoseconds(record.created)
    return csi.Snapshot(
        size_bytes=record.size,
        snapshot_id=record.id,
        source_volume_id=record.source_volume,
        creation_time=created,
        ready_to_use=snapshots.is_ready(record),
        group_snapshot_id=record.group,
    )
