"""Finishing what a killed live switch of a worktree left (``api.switching``), before anything else is done with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.inuse import refuse_in_use
from stratum.api.session import Session

if TYPE_CHECKING:
    from stratum.mount.plan import MountPlan
    from stratum.mount.state import Record
    from stratum.store.transaction import Transaction
    from stratum.store.worktrees import Worktree
    from stratum.tree.model import Directory


def store_worktree(session: Session, tx: Transaction, tree: Worktree, base: Directory) -> Directory:
    """The tree that ``tree`` shows over ``base``, its base commit's, with all content in ``tx`` or the store."""
    from stratum.ingest.worktree import store_upperdir

    return store_upperdir(tx, session.store.objects, base, tree.upperdir, lambda warning: None)


def build_mount(session: Session, tree: Worktree, image: Path, record: Record) -> int:
    """A detached mount of ``tree`` over ``image`` that is to take the place of the recorded one; its fd."""
    from stratum.mount.plan import MountPlan

    plan = MountPlan(image, session.store.objects.layers, tree.upperdir, tree.workdir, read_only=record.read_only)
    return build_in_place(plan, record, record.source)


def build_in_place(plan: MountPlan, shown: Record, source: str) -> int:
    """The detached mount of ``plan`` as the holder of the mount ``shown`` is to see it: in a container with its users'
    IDs and its SELinux label. ``source`` is that of the record it will belong to. An fd.

    Raises ``NotFoundError`` where the container is gone, and what ``build_detached`` raises.
    """
    from stratum.frozen import replace
    from stratum.mount.build import build_detached

    if shown.holder.kind != "container":
        return build_detached(replace(plan, source=source))
    from stratum.mount.container import ContainerProcess, context_of
    from stratum.mount.record import find_mount

    found = find_mount(shown)
    context = context_of(found[1].super_options) if found is not None else None
    holder = shown.holder
    with ContainerProcess(holder.pid, holder.start_time, who=holder.describe()) as process:
        return process.build(replace(plan, source=source, context=context))


def settle(session: Session, name: str, worktree: str) -> None:
    """Finish what a killed switch left. The caller holds the worktree's lock.

    A mount that was left refusing writes takes them again. One that still shows the retired upperdir is switched; what
    it holds beyond what was kept is committed, untagged, and the reflog names it.
    """
    store = session.store
    record = session.state.find_worktree(store.root, name, worktree)
    if record is not None:
        from stratum.mount.swap import allow_writes

        allow_writes(record)
    if not store.worktrees.has_leftovers(name, worktree):
        return
    if record is None:
        refuse_in_use(session, name, worktree)  # by somebody who may still have the retired upperdir mounted
    interrupted = store.worktrees.interrupted_switch(name, worktree)
    if interrupted is not None and interrupted.old is not None:
        tree = store.worktrees.get(name, worktree)
        if record is not None and interrupted.mount_id == record.mount_id:
            from stratum.mount.swap import swap

            def build() -> int:
                return build_mount(session, tree, store.ensure_image(tree.base_commit), record)

            mount_id = swap(record, build, force=True)
            session.state.confirm(record, mount_id, commit=tree.base_commit)
        _keep_retired(session, interrupted.old, tree)
    store.worktrees.drop_retired(name, worktree)


def _keep_retired(session: Session, old: Worktree, tree: Worktree) -> None:
    """Commit what the retired upperdir shows, where that is not a commit yet, and have the reflog name it."""
    store = session.store
    base = store.commits.tree(old.base_commit)
    with store.begin(f"settling {tree}") as tx:
        root = store_worktree(session, tx, old, base)
        meta = store.write_commit(
            tx,
            root,
            parent=old.base_commit,
            origin={"kind": "worktree", "worktree": str(tree)},
            timestamp=session.now(),
            known=base,
        )
        why = "kept from an interrupted switch"
        store.worktrees.note(tree.name, tree.worktree, meta.metadata_hash, why)
