"""The Node service: staging, publishing, statistics. See ``mounts`` for what is mounted where."""

from __future__ import annotations

import logging
from pathlib import Path

from stratum.api.session import Session
from stratum.csi import csi_pb2 as csi
from stratum.csi import inline, mounts, quiesce, sizes
from stratum.csi.attributes import (
    EPHEMERAL,
    POD_NAMESPACE,
    Attributes,
    Modes,
    check_capabilities,
    mount_attributes,
    volume_attributes,
)
from stratum.csi.condition import condition_of, condition_over
from stratum.csi.driver import TOPOLOGY_KEY, Driver
from stratum.csi.errors import CallError, Code, invalid, not_found, precondition
from stratum.csi.gates import base_of, gate_options, origin_of
from stratum.csi.jobs import Caller, Task
from stratum.csi.paths import Place, place
from stratum.csi.provisioning import find_volume, volume_for_node, volume_record
from stratum.csi.room import Disk, read_disk
from stratum.csi.sources import FROM_PUBLISH, FROM_STAGE, Asker
from stratum.csi.usage import Used, usage_of
from stratum.errors import StratumError
from stratum.refs import Ref, parse_ref
from stratum.store.holders import KubernetesVolume, Promise
from stratum.store.resolve import Resolved, ResolvedWorktree
from stratum.sys import mountinfo
from stratum.sys.mountapi import MOUNT_ATTR_RDONLY
from stratum.sys.mountinfo import MountEntry
from stratum.volumes.grant import grant, release
from stratum.volumes.historic import ensure_history

_log = logging.getLogger(__name__)

_RPC = csi.NodeServiceCapability.RPC

CAPABILITIES = (
    _RPC.STAGE_UNSTAGE_VOLUME,
    _RPC.GET_VOLUME_STATS,
    _RPC.VOLUME_CONDITION,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)


class Node:
    """csi.v1.Node."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def NodeGetInfo(self, request: csi.NodeGetInfoRequest, caller: Caller) -> csi.NodeGetInfoResponse:
        """The node's ID, which is also its topology, and how many volumes it may have."""
        options = self._driver.options
        return csi.NodeGetInfoResponse(
            node_id=options.node_id,
            max_volumes_per_node=options.max_volumes,
            accessible_topology=csi.Topology(segments={TOPOLOGY_KEY: options.node_id}),
        )

    def NodeGetCapabilities(
        self, request: csi.NodeGetCapabilitiesRequest, caller: Caller
    ) -> csi.NodeGetCapabilitiesResponse:
        """What is offered. Not VOLUME_MOUNT_GROUP: the kubelet applies a pod's fsGroup, as for other file systems."""
        expansion = (_RPC.EXPAND_VOLUME,) if sizes.are_enforced(self._driver) else ()
        capabilities = [csi.NodeServiceCapability(rpc=_RPC(type=kind)) for kind in (*CAPABILITIES, *expansion)]
        return csi.NodeGetCapabilitiesResponse(capabilities=capabilities)

    def NodeStageVolume(self, request: csi.NodeStageVolumeRequest, caller: Caller) -> csi.NodeStageVolumeResponse:
        """Mount the volume at its staging path."""
        _require_volume(request.volume_id)
        staging = self._place(request.staging_target_path, "staging_target_path")
        _check_capability(request)
        attributes = volume_attributes(request.volume_context)
        with self._driver.locked("volume", request.volume_id):
            self._stage(request.volume_id, attributes, request, staging, caller)
        return csi.NodeStageVolumeResponse()

    def _stage(
        self,
        volume_id: str,
        attributes: Attributes,
        request: csi.NodeStageVolumeRequest | csi.NodePublishVolumeRequest,
        staging: Place,
        caller: Caller,
    ) -> Resolved:
        named_in = FROM_STAGE if isinstance(request, csi.NodeStageVolumeRequest) else FROM_PUBLISH
        namespace = request.volume_context.get(POD_NAMESPACE, "")
        asker = Asker(caller, dict(request.secrets), namespace, named_in, isolated=attributes.populated)
        staged = mounts.shown_at(self._driver, staging.path, volume_id) is not None
        found = volume_for_node(self._driver, volume_id, attributes, asker, staged=staged)

        def options() -> dict[str, str]:
            if isinstance(found, ResolvedWorktree):
                sizes.hold(self._driver, volume_id, found)
            base, origin = base_of(self._driver, found), origin_of(self._driver, volume_id, attributes)
            return gate_options(self._driver, base, asker, attributes.prefetch, origin)

        if attributes.history:
            if not isinstance(found, ResolvedWorktree):
                raise invalid(f"the attribute history needs a worktree, and {volume_id} is a commit")
            ensure_history(self._driver.session, found.ref)
        mounts.stage(self._driver, volume_id, _mounted_as(found), staging, options)
        return found

    def NodeUnstageVolume(self, request: csi.NodeUnstageVolumeRequest, caller: Caller) -> csi.NodeUnstageVolumeResponse:
        """Unmount the staging path; nothing there is no error. The directory stays, as it is the kubelet's."""
        _require_volume(request.volume_id)
        staging = self._place(request.staging_target_path, "staging_target_path")
        with self._driver.locked("volume", request.volume_id):
            mounts.release(self._driver, staging, request.volume_id)
            self._give_back(request.volume_id, caller)
            sizes.make_room(self._driver, request.volume_id, caller)
        return csi.NodeUnstageVolumeResponse()

    def NodePublishVolume(self, request: csi.NodePublishVolumeRequest, caller: Caller) -> csi.NodePublishVolumeResponse:
        """Make the volume visible at the target path."""
        _require_volume(request.volume_id)
        target = self._place(request.target_path, "target_path")
        _check_capability(request)
        with self._driver.locked("volume", request.volume_id):
            if request.volume_context.get(EPHEMERAL) == "true":
                inline.publish(self._driver, request, target, caller)
            else:
                self._publish(request, target, caller)
        return csi.NodePublishVolumeResponse()

    def _publish(self, request: csi.NodePublishVolumeRequest, target: Place, caller: Caller) -> None:
        volume_id = request.volume_id
        attributes = volume_attributes(request.volume_context)
        if not request.staging_target_path:
            raise precondition("no staging_target_path is given: volumes are staged first")
        staging = self._place(request.staging_target_path, "staging_target_path")
        # Staged already, unless the node went down since and the kubelet does not know.
        found = self._stage(volume_id, attributes, request, staging, caller)
        read_only = attributes.read_only or request.readonly or not isinstance(found, ResolvedWorktree)
        flags = mount_attributes(request.volume_capability, read_only=read_only)
        entry = mounts.shown_at(self._driver, target.path, volume_id)
        if entry is not None:
            mounts.check_access(entry, flags, target.path)
            return
        if request.volume_capability.access_mode.mode == Modes.SINGLE_NODE_SINGLE_WRITER:
            others = mounts.targets(self._driver, volume_id)
            if others:
                raise precondition(f"{volume_id} is for one pod only and is published at {others[0]}")
        if attributes.commit and not flags & MOUNT_ATTR_RDONLY and isinstance(found, ResolvedWorktree):
            promise, holder = Promise(tag=attributes.tag), KubernetesVolume(volume_id)
            with grant(self._driver.session, found.ref, holder, promise, again=True) as granted:
                if granted.failure is not None:
                    _log_uncommitted(granted.failure, found)
        mounts.bind(staging, target, flags)

    def NodeUnpublishVolume(
        self, request: csi.NodeUnpublishVolumeRequest, caller: Caller
    ) -> csi.NodeUnpublishVolumeResponse:
        """Take the volume away from the target path, remove that, and commit where the attributes asked for it."""
        _require_volume(request.volume_id)
        target = self._place(request.target_path, "target_path")
        with self._driver.locked("volume", request.volume_id):
            mounts.release(self._driver, target, request.volume_id)
            target.remove()
            pod = quiesce.pod_at(self._driver, target.path)
            if not inline.finish(self._driver, request.volume_id, pod, caller):
                self._give_back(request.volume_id, caller, pod)
        return csi.NodeUnpublishVolumeResponse()

    def _give_back(self, volume_id: str, caller: Caller, pod: str | None = None) -> None:
        """Have all that was written be in the volume's history, and commit its worktree where that was promised, once
        nothing has the volume published any more; ``pod`` (a UID) had it last.

        Runs as a job: ABORTED while it is under way. A commit that fails keeps no pod from ending: the work is in the
        worktree, the error in its lease, and so in the volume's condition, and the next commit takes all of it.
        """
        driver, holder = self._driver, KubernetesVolume(volume_id)
        if mounts.targets(driver, volume_id):
            return
        try:
            found = find_volume(driver, volume_id)
        except CallError as exc:
            if exc.code == Code.NOT_FOUND:
                return
            raise
        if not isinstance(found, ResolvedWorktree):
            return
        session, store = driver.session, driver.session.store
        lease = store.worktrees.lease(found.name, found.worktree)
        if lease is None or lease.holder != holder:
            if store.histories.settings(found.name, found.worktree) is not None:
                driver.jobs.run(Task(f"history of {volume_id}"), lambda: _flush(session, found), caller)
            return

        def commit() -> None:
            try:
                with quiesce.asked_kindly(driver, pod):
                    release(session, found.name, found.worktree, holder)
            except StratumError as exc:
                _log_uncommitted(exc, found)

        driver.jobs.run(Task(f"commit of {volume_id}"), commit, caller)

    def NodeGetVolumeStats(
        self, request: csi.NodeGetVolumeStatsRequest, caller: Caller
    ) -> csi.NodeGetVolumeStatsResponse:
        """Bytes and inodes that the volume holds beyond its base, and what it or the store has left."""
        _require_volume(request.volume_id)
        (entry, ref), store = self._shown(request), self._driver.session.store
        disk = read_disk(store.root)
        if ref.worktree is None:
            meta = store.commits.meta(store.resolve_commit(ref))
            return csi.NodeGetVolumeStatsResponse(
                usage=[
                    csi.VolumeUsage(unit=csi.VolumeUsage.BYTES, used=meta.total_size, total=meta.total_size),
                    csi.VolumeUsage(unit=csi.VolumeUsage.INODES, used=meta.file_count, total=meta.file_count),
                ],
                volume_condition=condition_over(self._driver, str(ref), meta.metadata_hash, entry.source),
            )
        used = usage_of(store, store.worktrees.get(ref.name, ref.worktree))
        return csi.NodeGetVolumeStatsResponse(
            usage=_usage(used, disk),
            volume_condition=condition_of(self._driver, ref.name, ref.worktree, source=entry.source, history=True),
        )

    def NodeExpandVolume(self, request: csi.NodeExpandVolumeRequest, caller: Caller) -> csi.NodeExpandVolumeResponse:
        """Have a volume take more than before, at once, while pods use it."""
        _require_volume(request.volume_id)
        required, limit = sizes.capacity(request.capacity_range)
        self._shown(request)
        with self._driver.locked("volume", request.volume_id):
            record = volume_record(self._driver, request.volume_id)
            if record is None:
                raise precondition(f"{request.volume_id} was not made by this driver, which holds it to no size")
            size = sizes.expand(self._driver, record, required, limit)
        return csi.NodeExpandVolumeResponse(capacity_bytes=size)

    def _shown(self, request: csi.NodeGetVolumeStatsRequest | csi.NodeExpandVolumeRequest) -> tuple[MountEntry, Ref]:
        """The volume's mount at its path, and what that shows. NOT_FOUND where it is not there."""
        if not request.volume_path:
            raise invalid("no volume_path is given")
        entry = mountinfo.topmost(Path(request.volume_path))
        record, shown = mounts.record_of(self._driver, entry), mounts.ref_of(entry)
        if entry is None or shown is None or (record and record.holder != KubernetesVolume(request.volume_id)):
            raise not_found(f"volume {request.volume_id[:140]!r} is not at {request.volume_path[:140]!r}")
        return entry, parse_ref(shown)

    def _place(self, path: str, what: str) -> Place:
        return place(self._driver.options.kubelet_dir, path, what)


def _mounted_as(found: Resolved) -> str:
    """A worktree, or the commit of a tag by hash, so that the mount is the same when the tag moves."""
    if isinstance(found, ResolvedWorktree):
        return str(found)
    return f"{found.name}:{found.commit}" if found.name is not None else found.commit


def _log_uncommitted(error: StratumError, worktree: ResolvedWorktree) -> None:
    _log.warning("%s is not committed: %s", worktree, error.message)


def _flush(session: Session, worktree: ResolvedWorktree) -> None:
    from stratum.api.watcher import flushed

    note = flushed(session, worktree.name, worktree.worktree)
    if note is not None:
        session.tell(note)


def _require_volume(volume_id: str) -> None:
    if not volume_id:
        raise invalid("no volume_id is given")


def _check_capability(request: csi.NodeStageVolumeRequest | csi.NodePublishVolumeRequest) -> None:
    if not request.HasField("volume_capability"):
        raise invalid("no volume_capability is given")
    check_capabilities([request.volume_capability])


def _usage(used: Used, disk: Disk) -> list[csi.VolumeUsage]:
    available = min(disk.free, max(used.limit - used.bytes, 0)) if used.limit else disk.free
    total, inodes = used.limit or used.bytes + disk.free, used.inodes + disk.inodes_free
    return [
        csi.VolumeUsage(unit=csi.VolumeUsage.BYTES, used=used.bytes, available=available, total=total),
        csi.VolumeUsage(unit=csi.VolumeUsage.INODES, used=used.inodes, available=disk.inodes_free, total=inodes),
    ]
