"""Snapshots: a commit of the volume as it is, and a tag; pushed to the place that the class names, if it does.

The ID of a snapshot says where it is: ``STRATUM:KEY`` in the node's store, ``HOST/REPOSITORY:KEY-COMMIT`` in a
registry, or ``s3://BUCKET/PREFIX:KEY-COMMIT`` in an object store, with the first digits of the commit, so that another
node finds it and knows that it is what was snapshotted.
"""

from __future__ import annotations

from dataclasses import replace

from stratum.csi import elsewhere
from stratum.csi.driver import Driver
from stratum.csi.elsewhere import COMMIT_DIGITS
from stratum.csi.errors import already_exists, precondition
from stratum.csi.jobs import PUSHING, SNAPSHOTS, Task
from stratum.csi.moments import commit_all
from stratum.csi.provisioning import find_snapshot, find_volume, volume_record
from stratum.csi.records import SnapshotRecord, key_for
from stratum.csi.sources import Asker, push
from stratum.oci.target import parse_target
from stratum.store.resolve import Resolved

PUSH_PATIENCE = 1.0
"""Seconds that a call waits for the push: most are over by then, for the others ready_to_use says it."""


def create(
    driver: Driver, name: str, volume_id: str, registry: str | None, asker: Asker, *, pause: bool = False
) -> SnapshotRecord:
    """The snapshot called ``name``, made where it is missing; its push goes on in the background. Its lock is held.
    With ``pause`` the pods that write to the volume stand still while it is read.

    ALREADY_EXISTS where it is of another volume or in another registry, NOT_FOUND without the volume; what the push
    failed with is raised by the next call, which also starts it anew.
    """
    key = key_for(name, "snap")
    record = driver.snapshots.get(key)
    if record is None:
        task = Task(f"snapshot of {volume_id}", (name, registry or ""), SNAPSHOTS, asker.namespace)
        record = driver.jobs.run(task, lambda: _take(driver, key, name, volume_id, registry, pause), asker.caller)
    pushed_to = parse_target(record.target).place if record.target else None
    if record.name != name or record.source_volume != volume_id or pushed_to != registry:
        raise already_exists(f"snapshot {name} exists, of volume {record.source_volume}")
    return complete(driver, record, asker)


def complete(driver: Driver, record: SnapshotRecord, asker: Asker) -> SnapshotRecord:
    """Give a snapshot that is on record its tag, and push it where it is to be; both may be done."""
    store = driver.session.store
    if store.tags.find(record.stratum, record.key) is None:
        why = f"snapshot of Kubernetes volume {record.name}"[:200]
        store.tags.set(record.stratum, record.key, record.commit, expected=None, why=why)
    return _pushed(driver, record, asker) if record.target and not record.pushed else record


def _take(driver: Driver, key: str, name: str, volume_id: str, registry: str | None, pause: bool) -> SnapshotRecord:
    """Commit the volume and put the snapshot on record. The worktree's head names the commit until the tag does."""
    source = snapshot_source(driver, volume_id)
    taken = commit_all(driver, {volume_id: source}, f"snapshot {name}", pause=pause)
    return keep(driver, key, name, volume_id, registry, taken.commits[volume_id], taken.time)


def snapshot_source(driver: Driver, volume_id: str) -> Resolved:
    """What a volume is that is to be snapshotted. NOT_FOUND, FAILED_PRECONDITION."""
    source = find_volume(driver, volume_id)
    if source.name is None:
        raise precondition(f"{volume_id} is a commit without a stratum; it needs no snapshot")
    return source


def keep(
    driver: Driver,
    key: str,
    name: str,
    volume_id: str,
    registry: str | None,
    commit: str,
    created: int,
    group: str = "",
) -> SnapshotRecord:
    """Put on record that ``commit`` is a snapshot of the volume."""
    stratum = find_volume(driver, volume_id).name
    assert stratum is not None  # as snapshot_source has seen
    volume = volume_record(driver, volume_id)
    size = driver.session.store.commits.meta(commit).total_size
    tag = f"{key}-{commit[:COMMIT_DIGITS]}"
    target = str(parse_target(registry, default_tag=tag)) if registry is not None else ""
    record = SnapshotRecord(
        key=key,
        name=name,
        id=target or f"{stratum}:{key}",
        source_volume=volume_id,
        stratum=stratum,
        commit=commit,
        # Capacity is not enforced: a claim of the volume's own size must do to restore it.
        size=min(size, volume.capacity) if volume is not None and volume.capacity else size,
        target=target,
        group=group,
        created=created,
    )
    driver.snapshots.put(record)
    return record


def _pushed(driver: Driver, record: SnapshotRecord, asker: Asker) -> SnapshotRecord:
    def work() -> SnapshotRecord:
        push(driver, record.commit, record.target, asker)
        done = replace(record, pushed=True)
        if driver.snapshots.get(record.key) == record:  # and was not removed meanwhile
            driver.snapshots.put(done)
        return done

    task = Task(f"push of {record.target}", lane=PUSHING, owner=asker.namespace)
    return driver.jobs.look(task, work, asker.caller, PUSH_PATIENCE) or record


def find(driver: Driver, snapshot_id: str, asker: Asker) -> SnapshotRecord | None:
    """The snapshot, on record here or in a registry, as CreateVolume takes it. ABORTED as ``elsewhere.find``."""
    record = find_snapshot(driver, snapshot_id)
    return record if record is not None else elsewhere.find(driver, snapshot_id, asker)


def delete(driver: Driver, snapshot_id: str) -> None:
    """Remove the snapshot's tag and record; what was pushed stays in the registry. One that is gone is no error, and of
    one that was not made on this node nothing is ours to remove."""
    record = find_snapshot(driver, snapshot_id)
    if record is None:
        return
    store = driver.session.store
    if store.tags.find(record.stratum, record.key) is not None:
        store.tags.remove(record.stratum, record.key, why="snapshot removed by Kubernetes")
    driver.snapshots.remove(record.key)


def is_ready(record: SnapshotRecord) -> bool:
    """Whether volumes can be made from the snapshot on every node that its class promises."""
    return record.pushed or not record.target
