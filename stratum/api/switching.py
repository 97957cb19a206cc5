"""``reset`` and ``switch``: what a worktree, or a live mountpoint, is to show from now on.

Uncommitted work of a worktree that is reset is committed first, untagged, and the reflog names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.bootmounts import is_kept
from stratum.api.session import Session
from stratum.errors import NotFoundError, UsageError
from stratum.frozen import field, frozen
from stratum.refs import DEFAULT_WORKTREE, parse_lasting, parse_ref
from stratum.store.holders import Host, Lease, Promise
from stratum.store.resolve import ResolvedWorktree

if TYPE_CHECKING:
    from stratum.api.held import Held
    from stratum.mount.state import Record


@frozen
class Switched:
    """A worktree on another base. ``kept_commit`` keeps what it held uncommitted before, None where it held nothing
    (or it was discarded); ``conflicts`` lists the paths that both sides of a rebase had changed."""

    worktree: str
    old_base: str
    base: str
    mountpoint: str | None
    kept_commit: str | None = None
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
    with session.hold(target, create=True) as held:
        record, old_base = held.reachable_mount(), held.worktree.base_commit
        commit = held.worktree.commit if to is None else session.store.resolve_commit(parse_ref(to))
        kept = None
        if not dry_run:
            kept = held.replace(commit, f"reset to {to or commit}", discard=discard, force=force)
        return Switched(str(held), old_base, commit, record.mountpoint if record is not None else None, kept)


def switch(session: Session, text: str, target: str, *, force: bool = False) -> tuple[Record, Record]:
    """Let what shows ``target`` now show another worktree, ``text`` (NAME+WORKTREE); (its mount before, now).

    ``target`` is a mountpoint on the host, or a worktree that the host or a container has mounted. The worktree that
    was shown keeps its changes and is free afterwards, but for the lease of a container or volume, which the new one
    has too. A mountpoint that comes back after a reboot comes back with the new one.

    Raises ``NotFoundError`` where Stratum has mounted nothing there, ``BusyError`` where the new worktree is in use or
    files are open for writing.
    """
    from stratum.mount.state import store_key

    store = session.store
    old = _shown_at(session, target)
    found = store.resolve_mountable(parse_ref(text))
    if not isinstance(found, ResolvedWorktree):
        raise UsageError(f"{text} is not a worktree", hint="name it as NAME+WORKTREE")
    if old.is_worktree_of(store_key(store.root), found.name, found.worktree):
        return old, old
    lease = _lease_of(session, old)
    kept = isinstance(old.holder, Host) and is_kept(session, old.mountpoint, old.ref)
    if kept:
        store.boot_mounts.check(str(found), Path(old.mountpoint), replacing=old.ref)
    with session.hold(found.ref) as held:
        held.refuse_in_use()
        if lease is not None:
            held.set_lease(lease)
        try:
            record = _show(session, held, old, force)
        except BaseException:
            if lease is not None:
                held.set_lease(None)
            raise
    if kept:
        place = Path(record.mountpoint)
        store.boot_mounts.set(record.ref, place, read_only=record.read_only, replacing=old.ref)
    return old, record


def _shown_at(session: Session, target: str) -> Record:
    """The mount at the mountpoint ``target``, or of the worktree of that name."""
    if "+" in target and "/" not in target:
        ref = parse_lasting(target)
        record = session.state.find_worktree(session.store.root, ref.name, ref.worktree or DEFAULT_WORKTREE)
        what = f"{target} is not mounted"
    else:
        record = session.state.find_mountpoint(Path(target))
        what = f"{target} is not a mount of Stratum"
    if record is None:
        raise NotFoundError(what, hint="'stratum status' lists the mounts there are")
    return record


def _lease_of(session: Session, record: Record) -> Lease | None:
    """The lease of whoever has the recorded mount, from now on for another worktree; None for the host."""
    from stratum.frozen import replace

    ref = parse_ref(record.ref)
    lease = session.store.worktrees.lease(ref.name, ref.worktree) if ref.worktree is not None else None
    if lease is not None and lease.holder == record.holder:
        return replace(lease, last_error=None)
    if not record.in_container:
        return None
    return Lease(record.holder, record.since, Promise(commit=False), process=record.process)


def _show(session: Session, held: Held, old: Record, force: bool) -> Record:
    """Let the mount ``old`` show the worktree in the hand."""
    from stratum.frozen import replace
    from stratum.mount.swap import swapping

    plan, problems = held.plan(read_only=old.is_worktree and old.read_only), list[str]()
    record = session.state.claim(
        store=session.store.root,
        ref=str(held),
        commit=held.worktree.base_commit,
        mountpoint=Path(old.mountpoint),
        read_only=plan.read_only,
        holder=old.holder,  # until the mount is there the claim is this process's, so that it does not outlive it
        replacing=old,
        gate=plan.gate is not None,
    )
    try:
        with swapping(old, force=force) as live, held.roomy():
            mount_id = live.show(replace(plan, source=record.source), problems=problems)
    except BaseException:
        session.state.release(record)
        raise
    session.state.release(old)
    for problem in problems:
        session.tell(problem)
    held.mounted = session.state.confirm(record, mount_id, process=old.process)
    return held.mounted
