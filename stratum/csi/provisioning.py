"""Volumes that the driver makes and removes: each is a worktree over a commit."""

from __future__ import annotations

import contextlib
import stat
from dataclasses import dataclass

from stratum.api.worktrees import remove_worktree
from stratum.csi import elsewhere
from stratum.csi.attributes import Attributes, PullPolicy
from stratum.csi.driver import EMPTY_STRATUM, Driver
from stratum.csi.errors import CallError, Code, already_exists, not_found, precondition
from stratum.csi.jobs import SNAPSHOTS, Task
from stratum.csi.moments import commit_all
from stratum.csi.records import SnapshotRecord, VolumeRecord, key_for
from stratum.csi.sources import Asker, Origin, fetch, pull
from stratum.errors import BusyError, ExistsError, NotFoundError, UsageError
from stratum.oci.target import Target
from stratum.refs import DEFAULT_WORKTREE, Ref, is_hash, parse_lasting
from stratum.store.resolve import Resolved, ResolvedTag, ResolvedWorktree
from stratum.tree.model import Directory


@dataclass(frozen=True, slots=True)
class Wanted:
    """A CreateVolume request, checked. ``limit`` is 0 where there is none; at most one source ID is set."""

    name: str
    required: int
    limit: int
    attributes: Attributes
    snapshot_id: str | None = None
    volume_id: str | None = None

    @property
    def origin(self) -> str:
        """What the volume is made from, in the record."""
        if self.snapshot_id is not None:
            return f"snapshot {self.snapshot_id}"
        if self.volume_id is not None:
            return f"volume {self.volume_id}"
        return f"source {self.attributes.source}" if self.attributes.source is not None else "nothing"


def create(driver: Driver, wanted: Wanted, asker: Asker) -> VolumeRecord:
    """The volume called ``wanted.name``, made where it is missing. The name's lock is held.

    ALREADY_EXISTS where it was made differently, NOT_FOUND without its source, ABORTED while that is pulled.
    """
    key = key_for(wanted.name, "vol")
    record = driver.volumes.get(key)
    if record is not None:
        _check_same(record, wanted)
        if exists(driver, record):
            return record
    if record is None or not driver.session.store.commits.exists(record.commit):
        origin = _origin(driver, wanted, asker)
        with driver.keeping(origin.commit):
            return _make(driver, _begin(driver, key, wanted, origin))
    return _make(driver, record)


def _begin(driver: Driver, key: str, wanted: Wanted, origin: Origin) -> VolumeRecord:
    """Put the volume on record, whose content is in the store."""
    store = driver.session.store
    volume_id = str(Ref(origin.stratum, worktree=key))
    if store.namespaces.exists(origin.stratum) and store.worktrees.exists(origin.stratum, key):
        raise already_exists(f"{volume_id} exists already and is not a volume of this name")
    record = VolumeRecord(
        key=key,
        name=wanted.name,
        id=volume_id,
        stratum=origin.stratum,
        commit=origin.commit,
        capacity=wanted.required,
        origin=wanted.origin,
        attributes=wanted.attributes.context(),
    )
    driver.volumes.put(record)
    return record


def _make(driver: Driver, record: VolumeRecord) -> VolumeRecord:
    """Make the worktree of a volume that is on record."""
    try:
        driver.session.store.worktrees.create(
            record.stratum,
            record.key,
            record.commit,
            f"Kubernetes volume {record.name}"[:200],
            why=f"made for Kubernetes volume {record.name}"[:200],
            limit=limit_here(driver, record.capacity),
        )
    except ExistsError:
        raise already_exists(f"{record.id} exists already and is not a volume of this name") from None
    return record


def limit_here(driver: Driver, capacity: int) -> int | None:
    """The limit of a worktree for a volume of ``capacity`` bytes (0 for any number): None where none can be kept."""
    return capacity if driver.session.store.worktrees.quotas.missing is None else None


def _check_same(record: VolumeRecord, wanted: Wanted) -> None:
    fits = record.capacity >= wanted.required and (not wanted.limit or record.capacity <= wanted.limit)
    same = record.name == wanted.name and record.origin == wanted.origin and not record.inline
    if not (fits and same and record.attributes == wanted.attributes.context()):
        raise already_exists(
            f"volume {wanted.name} exists with {record.capacity} bytes, made from {record.origin}, or with other "
            "parameters"
        )


def _origin(driver: Driver, wanted: Wanted, asker: Asker) -> Origin:
    if wanted.snapshot_id is not None:
        record = find_snapshot(driver, wanted.snapshot_id)
        if record is not None and driver.session.store.commits.exists(record.commit):
            return Origin(record.stratum, record.commit)
        policy, lazy = wanted.attributes.pull_policy, wanted.attributes.lazy
        return elsewhere.restore(driver, wanted.snapshot_id, asker, policy, lazy=lazy)
    if wanted.volume_id is not None:
        source = wanted.volume_id
        task = Task(f"clone of {source}", (wanted.name,), SNAPSHOTS, asker.namespace)
        return driver.jobs.run(task, lambda: _from_volume(driver, source), asker.caller)
    attributes = wanted.attributes
    if attributes.source is not None:
        return fetch(driver, attributes.source, asker, attributes.pull_policy, lazy=attributes.lazy)
    return Origin(EMPTY_STRATUM, _empty_commit(driver))


def _from_volume(driver: Driver, volume_id: str) -> Origin:
    """What the volume shows now, committed."""
    resolved = find_volume(driver, volume_id)
    if resolved.name is None:
        raise precondition(f"{volume_id} is a commit without a stratum; it cannot be cloned")
    if not isinstance(resolved, ResolvedWorktree):
        return Origin(resolved.name, resolved.commit)
    moment = commit_all(driver, {volume_id: resolved}, "cloned by Kubernetes", pause=False)
    return Origin(resolved.name, moment.commits[volume_id])


def _empty_commit(driver: Driver) -> str:
    """A directory in which every user may write, as in an empty volume of Kubernetes' own."""
    store = driver.session.store
    root = Directory(stat.S_IFDIR | 0o777, 0, 0, 0)
    with store.begin("making an empty volume") as tx:
        commit = store.commits.write(tx, root, origin={"kind": "import"}, timestamp=driver.session.now()).metadata_hash
        if store.tags.find(EMPTY_STRATUM, "empty") is None:
            store.tags.set(EMPTY_STRATUM, "empty", commit, force=True, why="empty Kubernetes volumes")
    return commit


def exists(driver: Driver, record: VolumeRecord) -> bool:
    """Whether the recorded volume's worktree is there: it is not when making or removing it was cut short."""
    store = driver.session.store
    return store.namespaces.exists(record.stratum) and store.worktrees.exists(record.stratum, record.key)


def volume_record(driver: Driver, volume_id: str) -> VolumeRecord | None:
    """The record of a volume that the driver made and that exists."""
    key = volume_id.rpartition("+")[2]
    try:
        record = driver.volumes.get(key)
    except UsageError:
        return None
    return record if record is not None and record.id == volume_id and exists(driver, record) else None


def snapshot_key_of(snapshot_id: str) -> str:
    """The key in a snapshot ID, which is ``STRATUM:KEY``, or ends in ``:KEY-COMMIT`` where it is in a registry or an
    object store, of which ``?`` and how it is reached may follow."""
    tag = snapshot_id.partition("?")[0].rpartition(":")[2]
    return tag.rpartition("-")[0] if "/" in snapshot_id else tag


def find_snapshot(driver: Driver, snapshot_id: str) -> SnapshotRecord | None:
    """The record of a snapshot that was made on this node."""
    try:
        record = driver.snapshots.get(snapshot_key_of(snapshot_id))
    except UsageError:
        return None
    return record if record is not None and record.id == snapshot_id else None


def find_volume(driver: Driver, volume_id: str, *, create: bool = False) -> Resolved:
    """What a volume ID means: the ref that it is. NOT_FOUND where there is no such thing, or it is no ref.

    NAME alone is its worktree ``main``; where that is missing it is made with ``create``, else the tag ``latest``.
    """
    store = driver.session.store
    try:
        ref = parse_lasting(volume_id)
        return store.resolve(ref) if ref.bare and not create else store.resolve_mountable(ref)
    except (UsageError, NotFoundError) as exc:
        raise not_found(f"there is no volume {volume_id[:140]!r}: {exc.message}") from None


def volume_for_node(
    driver: Driver, volume_id: str, attributes: Attributes, asker: Asker, *, staged: bool = False
) -> Resolved:
    """What the volume is on this node; made from its ``source`` where it is not here and has one.

    A static volume may be used on every node that way: each has a worktree, or the tag, of its own. Such a tag is
    pulled again where its ``pull_policy`` says so, unless the volume is ``staged`` already.
    """
    try:
        found = find_volume(driver, volume_id, create=True)
        source, always = attributes.source, attributes.pull_policy is PullPolicy.ALWAYS
        if always and not staged and isinstance(found, ResolvedTag) and isinstance(source, Target):
            pull(driver, source, str(found), asker, lazy=_is_lazy(driver, attributes), force=True)
            return find_volume(driver, volume_id)
        return found
    except CallError as exc:
        if exc.code != Code.NOT_FOUND or attributes.source is None:
            raise
    try:
        ref = parse_lasting(volume_id)
    except UsageError as exc:
        raise not_found(f"there is no volume {volume_id[:140]!r}: {exc.message}") from None
    _make_static(driver, ref, attributes.source, attributes, asker)
    return find_volume(driver, volume_id, create=True)


def _make_static(driver: Driver, ref: Ref, source: Target | Ref, attributes: Attributes, asker: Asker) -> None:
    store, policy = driver.session.store, attributes.pull_policy
    if is_hash(ref.name) or (ref.tag is not None and is_hash(ref.tag)):
        raise not_found(f"there is no commit {ref}")
    if ref.tag is None:
        origin = fetch(driver, source, asker, policy, lazy=attributes.lazy)
        worktree = ref.worktree or DEFAULT_WORKTREE
        with contextlib.suppress(ExistsError):  # another call made it at the same time
            why = f"made for a Kubernetes volume from {source}"
            store.worktrees.create(ref.name, worktree, origin.commit, why=why, limit=limit_here(driver, 0))
    elif isinstance(source, Target):
        if policy == PullPolicy.NEVER:
            raise precondition(f"{ref} is not on this node, and pullPolicy is Never")
        pull(driver, source, str(ref), asker, lazy=_is_lazy(driver, attributes))
    else:
        commit = store.resolve_commit(source)
        store.tags.set(ref.name, ref.tag, commit, expected=None, why=f"made for a Kubernetes volume from {source}")


def _is_lazy(driver: Driver, attributes: Attributes) -> bool:
    return driver.session.config.lazy if attributes.lazy is None else attributes.lazy


def delete(driver: Driver, volume_id: str) -> None:
    """Remove a volume that the driver made, with everything in it. One that is gone is no error.

    FAILED_PRECONDITION where it is mounted, or where it is a worktree that somebody else made.
    """
    key = volume_id.rpartition("+")[2]
    try:
        ref, record = parse_lasting(volume_id), driver.volumes.get(key)
    except UsageError:
        return
    store = driver.session.store
    if record is None or record.id != volume_id:
        if ref.worktree is not None and store.namespaces.exists(ref.name) and store.worktrees.exists(ref.name, key):
            raise precondition(
                f"{volume_id} was not made by this driver, so it is not removed",
                hint=f"remove it on the node: stratum remove {volume_id}",
            )
        return
    remove_recorded(driver, record)


def remove_recorded(driver: Driver, record: VolumeRecord) -> None:
    """Remove a volume's worktree and its record."""
    if exists(driver, record):
        try:
            remove_worktree(driver.session, Ref(record.stratum, worktree=record.key), discard=True)
        except BusyError as exc:
            raise precondition(exc.message, hint=exc.hint) from None
    driver.volumes.remove(record.key)
