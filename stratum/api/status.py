"""The state of worktrees: where they are mounted, what they are based on, what changed in them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from stratum.api.bootmounts import at_boot
from stratum.api.failures import failure_of
from stratum.api.inuse import without_record
from stratum.api.naming import ref_or_mountpoint
from stratum.api.session import Session
from stratum.api.uncommitted import Changes, Counts, OpenTree, count_changes
from stratum.errors import DamagedError, NotFoundError, StratumError, UnsupportedError
from stratum.frozen import field, frozen, replace
from stratum.refs import is_hash
from stratum.sys.copymark import LostAttributesError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from stratum.api.historystatus import HistoryStatus
    from stratum.mount.state import Record
    from stratum.store.worktree import Worktree
    from stratum.sys.mountinfo import MountEntry

    ByRef = Mapping[str, list[Record]]
    Asked = Callable[[], Mapping[str, Any] | None]
    Mounted = list[tuple[int, MountEntry]]
    Unrecorded = Callable[[], Mapping[str, Mounted]]


@frozen
class WorktreeStatus:
    """A worktree: commits are whole hashes, ``head_time`` is RFC 3339. ``changes`` counts what it shows that is not
    committed, and what it shows beyond its base. ``history`` is None where none is kept.

    ``held`` says who has the worktree where no mount of it is on record. ``waiting`` is the holder of a lease that is
    still to be worked off, because nobody has the worktree any more; ``lease_error`` says why that failed, or why any
    commit would fail. ``at_boot`` is where it is mounted at every start of the machine.
    """

    name: str
    description: str
    base: str
    head: str | None
    head_time: str | None
    changes: Changes
    mounts: list[Record]
    lease_error: str | None = None
    at_boot: list[str] = field(default_factory=list)
    held: str | None = None
    waiting: str | None = None
    history: HistoryStatus | None = None


@frozen
class StratumStatus:
    """A stratum: its tags, mounts of tags and commits that were made through it, and its worktrees.

    Mounts of commits that were made by their hash alone are in one with an empty ``name``. ``tags_at_boot`` are (ref,
    mountpoint) of tags and commits that are mounted at every start of the machine.
    """

    name: str
    tags: dict[str, str]
    mounted_tags: list[Record] = field(default_factory=list)
    worktrees: list[WorktreeStatus] = field(default_factory=list)
    tags_at_boot: list[tuple[str, str]] = field(default_factory=list)


def status(session: Session, target: str | None = None) -> list[StratumStatus]:
    """The status of everything, of a stratum (NAME), or of one worktree (NAME+WORKTREE or its mountpoint).

    Reading it drops records of mounts that are gone.
    """
    if target is None and session.no_store_yet:
        return []
    store = session.store
    records = session.state.of_store(store.root)
    by_hash = [record for record in records if is_hash(record.ref)]
    by_ref: dict[str, list[Record]] = {}
    for record in records:
        by_ref.setdefault(record.ref, []).append(record)
    names, only = list(store.names()), None
    kept = at_boot(session)
    open_tree = lru_cache(2)(store.commits.open_tree)  # worktrees side by side often have one base
    unrecorded = lru_cache(1)(_mounts_there_are)
    asked = lru_cache(1)(lambda: _who_watches(session))
    if target is not None:
        ref = ref_or_mountpoint(session, target)
        by_hash = [record for record in by_hash if record.ref == ref.name]
        if by_hash:
            return [StratumStatus("", {}, by_hash)]
        store.namespaces.check(ref.name)
        names = [ref.name]
        if not ref.bare:
            only = store.resolve_worktree(ref, create=False)[1] if ref.tag is None else None
    strata = []
    for name in names:
        try:
            trees = store.worktrees.list(name) if only is None else [store.worktrees.get(name, only)]
            tags = dict(store.tags.list(name))
        except NotFoundError:  # removed at this moment
            continue
        here = [(ref, place) for ref, places in kept.items() if ref.startswith(f"{name}:") for place in places]
        worktrees = [_worktree_now(session, tree, by_ref, open_tree, unrecorded) for tree in trees]
        strata.append(
            StratumStatus(
                name=name,
                tags=tags,
                mounted_tags=[record for record in records if record.ref.startswith(f"{name}:")],
                worktrees=[
                    replace(
                        found,
                        at_boot=kept.get(f"{name}+{found.name}", []),
                        history=_history(session, name, found.name, asked, whole=only is not None),
                    )
                    for found in worktrees
                    if found is not None
                ],
                tags_at_boot=here,
            )
        )
    by_hash_at_boot = [(ref, place) for ref, places in kept.items() if is_hash(ref) for place in places]
    if by_hash or (by_hash_at_boot and target is None):
        strata.append(StratumStatus("", {}, by_hash, tags_at_boot=by_hash_at_boot))
    return strata


def _history(session: Session, name: str, worktree: str, asked: Asked, *, whole: bool) -> HistoryStatus | None:
    try:
        if session.store.histories.settings(name, worktree) is None:
            return None
    except StratumError:  # what is wrong is told below
        pass
    from stratum.api.historystatus import history_status

    return history_status(session, name, worktree, asked, whole=whole)


def _who_watches(session: Session) -> Mapping[str, Any] | None:
    from stratum.api.watcher import watch_status

    return watch_status(session)


def _worktree_now(
    session: Session, tree: Worktree, records: ByRef, open_tree: OpenTree, unrecorded: Unrecorded
) -> WorktreeStatus | None:
    """The status without the worktree's lock, which a commit may hold for long: looked at again where it was removed or
    put on another base meanwhile. None where it is gone."""
    while True:
        identity = _identity(tree)
        try:
            return _worktree(session, tree, records, open_tree, unrecorded)
        except StratumError:
            if identity is not None and identity == _identity(tree):
                raise
        try:
            tree = session.store.worktrees.get(tree.name, tree.worktree)
        except NotFoundError:
            return None


def _mounts_there_are() -> Mapping[str, Mounted]:
    """All mounts, on record or not, by what their sources say of the ref."""
    from stratum.mount.record import mounts_of

    found: dict[str, Mounted] = {}
    for pid, entry in mounts_of():
        found.setdefault(entry.source.partition(":")[2], []).append((pid, entry))
    return found


def _identity(tree: Worktree) -> tuple[int, int] | None:
    try:
        info = tree.directory.lstat()
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino


def _worktree(
    session: Session, tree: Worktree, records: ByRef, open_tree: OpenTree, unrecorded: Unrecorded
) -> WorktreeStatus:
    store = session.store
    mounts = records.get(str(tree.ref), [])
    held, waiting, failed = _lease_status(session, tree, unrecorded, mounted=bool(mounts))
    failed = failed or failure_of(session, tree.name, tree.worktree)
    try:
        changes = count_changes(store, tree, open_tree)
    except (UnsupportedError, LostAttributesError) as exc:  # of one worktree; the status of all else is wanted
        changes, failed = Changes(None, Counts(), exc.message), failed or exc.message
    head_time = None
    if tree.head is not None and store.commits.exists(tree.head):
        head_time = store.commits.meta(tree.head).timestamp
    return WorktreeStatus(
        name=tree.worktree,
        description=tree.description,
        base=tree.base_commit,
        head=tree.head,
        head_time=head_time,
        changes=changes,
        mounts=mounts,
        lease_error=failed,
        held=held,
        waiting=waiting,
    )


def _lease_status(
    session: Session, tree: Worktree, unrecorded: Unrecorded, *, mounted: bool
) -> tuple[str | None, str | None, str | None]:
    """(who has a worktree that no record tells of, who left work in it that nobody has committed yet, why not)."""
    try:
        lease = session.store.worktrees.lease(tree.name, tree.worktree)
    except DamagedError as exc:
        return None, None, exc.message
    # The note is newer, where there is one: what is in the lease was written before, or at the same time.
    failed = (failure_of(session, tree.name, tree.worktree) or lease.last_error) if lease is not None else None
    if mounted:
        return None, None, failed
    user = without_record(session, tree.name, tree.worktree, lease, lambda: _of(tree, unrecorded()))
    if user is not None or lease is None or not lease.promise.commit:
        return user.who if user is not None else None, None, failed
    return None, lease.holder.words(), failed


def _of(tree: Worktree, mounts: Mapping[str, Mounted]) -> Mounted:
    from stratum.mount.record import source_ref

    return mounts.get(source_ref(str(tree)), [])
