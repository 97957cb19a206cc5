"""Snapshots that this node has no record of: their handles say in which registry or object store they are.

::

    HOST/REPOSITORY:KEY-COMMIT          as this driver makes them; COMMIT is the first 32 digits of the commit
    HOST/REPOSITORY[:TAG]@sha256:...    any pushed commit, by the digest of its manifest
    s3://BUCKET[/PREFIX]:KEY-COMMIT     the same in an object store; so with a digest

All say what the content is, so a tag that was moved is noticed. ListSnapshots and CreateVolume take the same handles,
and ask the place: a snapshot of another node, of a cluster that is gone, or one that nobody made with Kubernetes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from stratum.api import remotes
from stratum.csi.attributes import PullPolicy, parse_source
from stratum.csi.driver import Driver
from stratum.csi.errors import CallError, not_found, precondition
from stratum.csi.jobs import Task
from stratum.csi.records import SnapshotRecord
from stratum.csi.sources import Asker, Origin, access_for, fetch
from stratum.errors import NotFoundError
from stratum.oci.target import Target

COMMIT_DIGITS = 32
"""So many digits of its commit end the tag of a pushed snapshot."""

_COMMIT_DIGITS = re.compile(rf"[0-9a-f]{{{COMMIT_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class Handle:
    """A parsed handle. ``digits`` begin the commit; None where the target's digest says what it is."""

    target: Target
    digits: str | None


def parse_handle(snapshot_id: str) -> Handle | None:
    """The place that a snapshot's ID names, or None where it names none."""
    try:
        target = parse_source(snapshot_id)
    except CallError:
        return None
    if not isinstance(target, Target):
        return None
    if target.digest is not None:
        return Handle(target, None)
    digits = target.tag.rpartition("-")[2]
    return Handle(target, digits) if _COMMIT_DIGITS.fullmatch(digits) else None


def find(driver: Driver, snapshot_id: str, asker: Asker) -> SnapshotRecord | None:
    """What the place says about the snapshot, as a record that is not kept; None where there is no such snapshot.

    ABORTED while it is being asked. FAILED_PRECONDITION where the tag names something else by now.
    """
    handle = parse_handle(snapshot_id)
    if handle is None:
        return None

    def work() -> SnapshotRecord:
        with access_for(driver, asker, handle.target) as access:
            meta = remotes.look_up(driver.session, str(handle.target), access)
        _check(handle, meta.metadata_hash)
        origin = (meta.origin or {}).get("worktree")
        return SnapshotRecord(
            key=snapshot_id,
            name=snapshot_id,
            id=snapshot_id,
            source_volume=origin if isinstance(origin, str) else snapshot_id,
            stratum="",
            commit=meta.metadata_hash,
            size=meta.total_size,
            target=snapshot_id,
            pushed=True,
            created=_nanoseconds(meta.timestamp),
        )

    try:
        task = Task(f"search for {handle.target}", (snapshot_id, asker.proof()), asker.lane, asker.namespace)
        return driver.jobs.run(task, work, asker.caller)
    except NotFoundError:
        return None


def restore(
    driver: Driver, snapshot_id: str, asker: Asker, policy: PullPolicy | None = None, *, lazy: bool | None
) -> Origin:
    """Have the snapshot's content in the store, ``lazy`` as ``fetch`` has it, and so ``policy``; by default a place is
    asked once, as a handle says what the content is.

    NOT_FOUND where there is no such snapshot, ABORTED during its pull.
    """
    handle = parse_handle(snapshot_id)
    if handle is None:
        raise not_found(f"there is no snapshot {snapshot_id}")
    origin = fetch(driver, handle.target, asker, policy or PullPolicy.IF_NOT_PRESENT, lazy=lazy)
    if policy is None and not _is_of(handle, origin.commit):  # the tag may have been moved, and back again
        origin = fetch(driver, handle.target, asker, PullPolicy.ALWAYS, lazy=lazy)
    _check(handle, origin.commit)
    return origin


def _is_of(handle: Handle, commit: str) -> bool:
    return handle.digits is None or commit.startswith(handle.digits)


def _check(handle: Handle, commit: str) -> None:
    if not _is_of(handle, commit):
        raise precondition(f"what {handle.target} names is not the snapshot any more: it is commit {commit}")


def _nanoseconds(timestamp: str) -> int:
    """Of an RFC 3339 time since 1970; 0 for a time that is none, or is before."""
    try:
        time = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
        return max(0, int(time.timestamp())) * 1_000_000_000
    except (ValueError, OverflowError):
        return 0
