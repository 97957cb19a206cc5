"""``reset`` and ``switch``: what a worktree, or a live mountpoint, is to show from now on.

Uncommitted work is committed first, untagged, and the reflog names it. A mounted worktree is switched live: while its
mount takes no writes, the new upperdir takes the old one's place in the store in one step, a mount of it is built, and
one more step lets the mountpoint show it (``mount.swap``). Killed between the two steps, the store has the new state
and the mount shows the old one; the next verb on the worktree finishes the switch (``api.settling``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.bootmounts import is_kept
from stratum.api.commits import commit_worktree
from stratum.api.history import ref_or_mountpoint
from stratum.api.inuse import in_use, refuse_in_use
from stratum.api.session import Session
from stratum.api.settling import build_in_place, build_mount, settle
from stratum.errors import DamagedError, NotFoundError, UsageError
from stratum.frozen import field, frozen
from stratum.refs import DEFAULT_WORKTREE, parse_ref

if TYPE_CHECKING:
    from stratum.mount.state import Record
    from stratum.store.resolve import Resolved
    from stratum.store.transaction import Transaction
    from stratum.store.worktrees import Lease, Worktree

BuildUpper = Callable[["Transaction"], Path]


@frozen
class Switched:
    """A worktree on another base. ``kept_commit`` keeps what it held uncommitted before, None where it held nothing
    (or it was discarded); ``conflicts`` lists the paths that both sides of a rebase had changed."""

    worktree: str
    old_base: str
    base: str
    mountpoint: str | None
    kept_commit: str | None
    conflicts: list[bytes] = field(default_factory=list)


def reset(
    session: Session,
    target: str,
    to: str | None = None,
    *,
    discard: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> Switched:
    """Let the worktree ``target`` (a ref or mountpoint) show the commit ``to`` and nothing else.

    Without ``to``, the worktree's own last commit. ``BusyError`` lists processes with files open for writing, unless
    ``force``.
    """
    store = session.store
    name, worktree = worktree_of(session, target)
    with store.worktrees.lock(name, worktree):
        settle(session, name, worktree)
        tree = store.worktrees.get(name, worktree)
        record = refuse_unreachable(session, tree)
        commit = tree.commit if to is None else store.resolve_commit(parse_ref(to))
        why = f"reset to {to or commit}"
        if dry_run:
            mountpoint = record.mountpoint if record is not None else None
            return Switched(str(tree), tree.base_commit, commit, mountpoint, None)
        return replace_worktree(
            session, tree, commit, lambda tx: store.worktrees.new_upperdir(tx, commit), why, discard, force
        )


def worktree_of(session: Session, target: str) -> tuple[str, str]:
    """(stratum, worktree) that a ref or a path at or below a mountpoint means."""
    found = session.store.resolve_worktree(ref_or_mountpoint(session, target))
    assert found.name is not None
    assert found.worktree is not None
    return found.name, found.worktree


def refuse_unreachable(session: Session, tree: Worktree) -> Record | None:
    """The worktree's mount, to be switched live; None where nobody has it. ``BusyError`` where somebody has it whose
    mount cannot be switched from here."""
    user = in_use(session, tree.name, tree.worktree)
    if user is None:
        return None
    if user.record is None or not user.reachable:
        raise user.error()
    return user.record


def replace_worktree(
    session: Session,
    tree: Worktree,
    base: str,
    build_upper: BuildUpper,
    why: str,
    discard: bool,
    force: bool,
) -> Switched:
    """Put ``tree`` on ``base``, its last commit from now on, with the upperdir that ``build_upper`` makes, mounted or
    not. Its lock is held.

    Nothing is changed before ``build_upper`` returns. Of a mounted worktree it is called while that takes no writes.
    """
    store = session.store
    forked_from = fork_on(session, tree, base)
    record = refuse_unreachable(session, tree)
    kept: list[str] = []

    def keep() -> None:
        if not discard:
            kept_why = f"kept before {why}"
            done = commit_worktree(session, tree.name, tree.worktree, why=kept_why, fast_forward=False, settled=True)
            if done.changed:
                kept.append(done.commit)

    if record is None:
        with store.begin(f"{why}: {tree}") as tx:
            upperdir = build_upper(tx)
            keep()
            store.worktrees.renew(
                tx,
                tree.name,
                tree.worktree,
                base_commit=base,
                head=base,
                upperdir=upperdir,
                forked_from=forked_from,
                why=why,
            )
    else:
        _replace_live(session, tree, record, base, forked_from, build_upper, keep, why, force)
    return Switched(
        str(tree),
        tree.base_commit,
        base,
        record.mountpoint if record is not None else None,
        kept[0] if kept else None,
    )


def fork_on(session: Session, tree: Worktree, base: str) -> str:
    """Where the work that is the worktree's own begins, once ``base`` is its base and last commit.

    That stays where it was while ``base`` is of the same line of work: the worktree's last commit, an earlier one since
    the beginning, or one that others made on top. Anywhere else the line begins anew.
    """
    from stratum.store.ancestry import Ancestry

    fork, head = tree.forked_from, tree.commit
    if base == head:
        return fork
    ancestry = Ancestry(session.store)
    try:
        if ancestry.descends(base, head):
            return base if head == fork else fork
        return fork if ancestry.descends(head, base) and ancestry.descends(base, fork) else base
    except DamagedError:
        return base


def _replace_live(
    session: Session,
    tree: Worktree,
    record: Record,
    base: str,
    forked_from: str,
    build_upper: BuildUpper,
    keep: Callable[[], None],
    why: str,
    force: bool,
) -> None:
    from stratum.mount.swap import swap

    store = session.store
    placed = False

    def build() -> int:
        nonlocal placed
        image = store.ensure_image(base)
        with store.begin(f"{why}: {tree}") as tx:
            upperdir = build_upper(tx)
            keep()
            new = store.worktrees.switch(
                tx,
                tree.name,
                tree.worktree,
                base_commit=base,
                head=base,
                upperdir=upperdir,
                forked_from=forked_from,
                mount_id=record.mount_id,
                why=why,
            )
            placed = True
        return build_mount(session, new, image, record)

    try:
        mount_id = swap(record, build, force=force)
    except BaseException:
        if placed:
            with store.begin(f"undoing {why}: {tree}") as tx:
                store.worktrees.undo_switch(tx, tree.name, tree.worktree)
        raise
    session.state.confirm(record, mount_id, commit=base)
    store.worktrees.drop_retired(tree.name, tree.worktree)


def switch(session: Session, text: str, target: str, *, force: bool = False) -> Record:
    """Let what shows ``target`` now show another worktree, ``text`` (NAME+WORKTREE).

    ``target`` is a mountpoint on the host, or a worktree that the host or a container has mounted. The worktree that
    was shown keeps its changes and is free afterwards; one of a container is committed then as its volume asks for. A
    mountpoint that comes back after a reboot comes back with the new one.

    Raises ``NotFoundError`` where Stratum has mounted nothing there, ``BusyError`` where the new worktree is in use or
    files are open for writing.
    """
    from stratum.mount.state import store_key

    store = session.store
    old = _shown_at(session, target)
    found = store.resolve_mountable(parse_ref(text))
    if found.kind != "worktree":
        raise UsageError(f"{text} is not a worktree", hint="name it as NAME+WORKTREE")
    assert found.name is not None
    assert found.worktree is not None
    if old.is_worktree_of(store_key(store.root), found.name, found.worktree):
        return old
    lease = _lease_of(session, old)
    kept = old.holder.kind == "host" and is_kept(session, old.mountpoint, old.ref)
    if kept:
        store.boot_mounts.check(str(found), Path(old.mountpoint), replacing=old.ref)
    with store.worktrees.lock(found.name, found.worktree):
        settle(session, found.name, found.worktree)
        refuse_in_use(session, found.name, found.worktree)
        if lease is not None:
            store.worktrees.set_lease(found.name, found.worktree, lease)
        try:
            record = _swap_worktree(session, old, found, force)
        except BaseException:
            if lease is not None:
                store.worktrees.clear_lease(found.name, found.worktree)
            raise
    if kept:
        place = Path(record.mountpoint)
        store.boot_mounts.set(record.ref, place, read_only=record.read_only, replacing=old.ref)
    before = parse_ref(old.ref)
    if lease is not None and before.worktree is not None:
        from stratum.api.leases import release

        release(session, before.name, before.worktree, lease.container)
    return record


def _shown_at(session: Session, target: str) -> Record:
    """The mount at the mountpoint ``target``, or of the worktree of that name."""
    if "+" in target and "/" not in target:
        ref = parse_ref(target)
        record = session.state.find_worktree(session.store.root, ref.name, ref.worktree or DEFAULT_WORKTREE)
        what = f"{target} is not mounted"
    else:
        record = session.state.find_mountpoint(Path(target))
        what = f"{target} is not a mount of Stratum"
    if record is None:
        raise NotFoundError(what, hint="'stratum status' lists the mounts there are")
    return record


def _lease_of(session: Session, record: Record) -> Lease | None:
    """The lease of the container that has the recorded mount, from now on for another worktree; None for the host."""
    from stratum.frozen import replace
    from stratum.store.worktrees import Lease, Process
    from stratum.sys import proc

    holder = record.holder
    if holder.kind != "container":
        return None
    ref = parse_ref(record.ref)
    lease = session.store.worktrees.lease(ref.name, ref.worktree) if ref.worktree is not None else None
    if lease is not None and lease.container == holder.id:
        return replace(lease, last_error=None)
    process = Process(
        holder.pid, holder.start_time, record.pid_namespace or proc.pid_namespace(), record.boot or proc.boot_id()
    )
    return Lease(holder.id, record.since, commit=False, process=process)


def _swap_worktree(session: Session, old: Record, found: Resolved, force: bool) -> Record:
    """Let the mount ``old`` show the worktree ``found``, whose lock is held."""
    from stratum.api.mounting import plan_mount
    from stratum.frozen import replace
    from stratum.mount.state import host_holder
    from stratum.mount.swap import swap

    plan, ref, commit = plan_mount(session, found)
    if old.is_worktree:
        plan = replace(plan, read_only=old.read_only)
    record = session.state.claim(
        store=session.store.root,
        ref=ref,
        commit=commit,
        mountpoint=Path(old.mountpoint),
        read_only=not plan.writable,
        # Until the mount is there the claim is this process's, so that it does not outlive it.
        holder=replace(host_holder(), kind=old.holder.kind, id=old.holder.id),
        replacing=old,
    )
    try:
        mount_id = swap(old, lambda: build_in_place(plan, old, record.source), force=force)
    except BaseException:
        session.state.release(record)
        raise
    session.state.release(old)
    return session.state.confirm(record, mount_id, holder=old.holder)
