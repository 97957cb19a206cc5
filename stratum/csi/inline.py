"""Inline ephemeral volumes: a worktree of the pod's own, or a commit to read, from the pod's specification.

Who writes a pod's specification decides what is in these attributes, so the driver has to be started with
``--allow-inline``, sources can be limited to patterns, and of what is on the node only tags can be named. The worktree
and its record go when the volume is unpublished. A commit that was asked for stays; it never moves a tag that exists,
as that may be somebody else's. Where the stratum is the node's, which pods of several namespaces may have as their
source, its tag begins with the pod's namespace and '.', which no namespace has in its name: so nobody takes, or makes,
a tag that others look for. What is pulled for a namespace is in a stratum of its own, and it is pulled whole: a commit
that lists contents without bringing them would show those that the node has of others. Where an administrator trusts
those who push to a place with that (``--inline-lazy``), what comes from there may be lazy.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

from stratum.csi import csi_pb2 as csi
from stratum.csi.attributes import (
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    Attributes,
    mount_attributes,
    volume_attributes,
)
from stratum.csi.driver import Driver
from stratum.csi.errors import CallError, Code, invalid
from stratum.csi.gates import gate_options
from stratum.csi.jobs import Caller, Task
from stratum.csi.mounts import check_access, records_of, shown_at, stage
from stratum.csi.paths import Place
from stratum.csi.provisioning import exists, limit_here, remove_recorded
from stratum.csi.quiesce import asked_kindly
from stratum.csi.records import VolumeRecord, inline_key
from stratum.csi.sources import FROM_PUBLISH, Asker, fetch
from stratum.errors import ExistsError
from stratum.oci.target import Target
from stratum.refs import Ref
from stratum.store.holders import KubernetesVolume, Promise
from stratum.sys import mountapi
from stratum.sys.mountapi import MOUNT_ATTR_RDONLY
from stratum.volumes.grant import grant, release
from stratum.volumes.historic import ensure_history
from stratum.volumes.tagtemplate import SHORT_ID

_log = logging.getLogger(__name__)


def publish(driver: Driver, request: csi.NodePublishVolumeRequest, target: Place, caller: Caller) -> None:
    """Mount the volume at its target. PERMISSION_DENIED where the driver's options do not allow it."""
    if not driver.options.allow_inline:
        raise CallError(
            Code.PERMISSION_DENIED, "inline volumes are not allowed", hint="the driver needs --allow-inline for them"
        )
    wanted = volume_attributes(request.volume_context)
    read_only = wanted.read_only or request.readonly
    flags = mount_attributes(request.volume_capability, read_only=read_only)
    entry = shown_at(driver, target.path, request.volume_id)
    if entry is not None:
        check_access(entry, flags, target.path)
        return
    if wanted.source is None:
        raise invalid("an inline volume needs the attribute source")
    if not driver.options.allows_inline_source(wanted.source):
        raise CallError(Code.PERMISSION_DENIED, f"inline volumes may not have {wanted.source} as their source")
    if wanted.commit and flags & MOUNT_ATTR_RDONLY:
        raise invalid("a read-only volume cannot be committed on unpublish")
    if wanted.history and flags & MOUNT_ATTR_RDONLY:
        raise invalid("a read-only volume has no history, as nothing is written in it")
    asker = _asker(driver, request, wanted, caller)
    record = driver.volumes.get(inline_key(request.volume_id))
    if record is None or not driver.session.store.commits.exists(record.commit):
        record = _recorded(driver, request, wanted, asker)
    if flags & MOUNT_ATTR_RDONLY:
        ref = f"{record.stratum}:{record.commit}"
    else:
        ref = f"{record.stratum}+{record.key}"
        with contextlib.suppress(ExistsError):  # an earlier call made it
            what = f"inline volume of pod {record.name}"[:200]
            # A limit that was asked for and cannot be kept is an error: pod authors are not trusted with the disk.
            limit = driver.options.inline_limit or limit_here(driver, 0)
            create = driver.session.store.worktrees.create
            create(record.stratum, record.key, record.commit, what, why=what, limit=limit)
        if wanted.history:
            ensure_history(driver.session, Ref(record.stratum, worktree=record.key))
    pulled = wanted.source if isinstance(wanted.source, Target) else None
    # What the node has is read with what the node has, as it let the pod name it.
    reader = replace(asker, isolated=pulled is not None)
    commit, prefetch = record.commit, wanted.prefetch
    stage(driver, request.volume_id, ref, target, lambda: gate_options(driver, commit, reader, prefetch, pulled))
    if flags:
        with target.opened() as mount:
            mountapi.mount_setattr(mount, attributes=flags)


def _asker(driver: Driver, request: csi.NodePublishVolumeRequest, wanted: Attributes, caller: Caller) -> Asker:
    namespace = request.volume_context.get(POD_NAMESPACE, "")
    trusted = wanted.source is not None and driver.options.trusts_inline_source(wanted.source)
    return Asker(caller, dict(request.secrets), namespace, FROM_PUBLISH, isolated=True, trusted=trusted)


def _recorded(driver: Driver, request: csi.NodePublishVolumeRequest, wanted: Attributes, asker: Asker) -> VolumeRecord:
    """Put the volume on record, once its content is in the store."""
    assert wanted.source is not None
    if wanted.lazy and isinstance(wanted.source, Target) and not asker.trusted:
        _log.info("%s: %s is pulled whole, as no --inline-lazy names it", _pod(request), wanted.source)
    origin = fetch(driver, wanted.source, asker, wanted.pull_policy, lazy=wanted.lazy)
    record = VolumeRecord(
        key=inline_key(request.volume_id),
        name=_pod(request),
        id=request.volume_id,
        stratum=origin.stratum,
        commit=origin.commit,
        capacity=0,
        origin=f"source {wanted.source}",
        inline=True,
        attributes=wanted.context()
        | {"pod": request.volume_context.get(POD_UID, "")}
        | ({"tagPrefix": f"{asker.namespace}."} if asker.namespace and isinstance(wanted.source, Ref) else {}),
    )
    with driver.keeping(record.commit):
        driver.volumes.put(record)
    return record


def _pod(request: csi.NodePublishVolumeRequest) -> str:
    return f"{request.volume_context.get(POD_NAMESPACE, '')}/{request.volume_context.get(POD_NAME, '')}"


def finish(driver: Driver, volume_id: str, pod: str | None, caller: Caller) -> bool:
    """Commit the unmounted volume of ``pod`` (its UID) where that is asked for, then remove it; whether it was an
    inline volume."""
    record = driver.volumes.get(inline_key(volume_id))
    if record is None:
        return False
    if records_of(driver, volume_id):
        return True
    if "commit" in record.attributes and exists(driver, record):
        task = Task(f"commit of {volume_id}", owner=record.name.partition("/")[0])
        driver.jobs.run(task, lambda: _commit(driver, record, pod), caller)
    remove_recorded(driver, record)
    return True


def _commit(driver: Driver, record: VolumeRecord, uid: str | None) -> None:
    """Commit the worktree. A tag that exists, or gets too long, is no reason to keep the pod from ending."""
    tag = record.attributes.get("tag")
    if tag is not None:
        pod = record.attributes.get("pod") or record.key
        tag = record.attributes.get("tagPrefix", "") + tag.replace("{pod}", pod[:SHORT_ID])
    session, holder = driver.session, KubernetesVolume(record.id)
    # Promised here and not when it was mounted: the worktree goes with the pod, and nobody else is to tag it before.
    ref, promise = Ref(record.stratum, worktree=record.key), Promise(tag=tag, move_tag=False)
    with asked_kindly(driver, uid), grant(session, ref, holder, promise, again=True):
        released = release(session, record.stratum, record.key, holder)
    if released is not None and released.note is not None:
        _log.warning("%s: %s", record.name, released.note)
