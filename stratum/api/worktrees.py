"""Worktrees: make, list, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.api.inuse import refuse_in_use
from stratum.api.session import Session
from stratum.errors import UsageError
from stratum.frozen import field, frozen
from stratum.refs import Ref, check_name, parse_ref
from stratum.tree.rootchange import AS_IT_IS, RootChange

if TYPE_CHECKING:
    from stratum.mount.state import Record
    from stratum.store.worktree import Worktree


def add(
    session: Session,
    first: str,
    second: str | None = None,
    *,
    description: str = "",
    root: RootChange = AS_IT_IS,
    limit: int | None = None,
) -> Worktree:
    """Make a worktree from either spelling: (NAME+WORKTREE, BASE or None) or (BASE, WORKTREE).

    In the second form the worktree belongs to the stratum of BASE. ``root`` changes its root directory, ``limit`` is
    what it may take beyond its base in bytes. Raises ``UsageError``, ``NotFoundError`` (the base), ``ExistsError``,
    ``UnsupportedError`` where nothing can be limited.
    """
    new, base = _new_and_base(first, second)
    assert new.worktree is not None
    with session.store.locks.store():  # so that no garbage collection takes a commit that is made for it
        commit = session.store.resolve_commit(base)
        return session.store.worktrees.create(
            new.name, new.worktree, commit, description, why=f"worktree add, based on {base}", root=root, limit=limit
        )


def _new_and_base(first: str, second: str | None) -> tuple[Ref, Ref]:
    """(the worktree to make, its base). ``NAME+X Y`` always makes X over Y, and ``NAME+X`` over NAME."""
    if second is None:
        new = parse_ref(first)
        if not new.live:
            raise UsageError(
                f"{first} names no worktree to make", hint="write NAME+WORKTREE, or give BASE and WORKTREE"
            )
        return new, Ref(new.name)
    left = parse_ref(first)
    if left.live:
        return left, parse_ref(second)
    if "+" in second or ":" in second:
        raise UsageError(
            f"{second} cannot be the name of a worktree of {left.name}",
            hint="write 'worktree add NAME+WORKTREE BASE' or 'worktree add BASE WORKTREE'",
        )
    return Ref(left.name, worktree=check_name(second, "worktree name")), left


def list_worktrees(session: Session, name: str | None = None) -> list[tuple[Worktree, list[Record]]]:
    """The worktrees of ``name`` (of every stratum where None), each with the records of its mounts."""
    store = session.store
    records = session.state.of_store(store.root)
    trees = (
        tree
        for stratum in ([check_name(name)] if name is not None else store.names())
        for tree in store.worktrees.list(stratum)
    )
    by_ref: dict[str, list[Record]] = {}
    for record in records:
        by_ref.setdefault(record.ref, []).append(record)
    return [(tree, by_ref.get(str(tree), [])) for tree in trees]


@frozen
class RemovedWorktree:
    """A removed worktree, the commit that keeps what it held uncommitted, if it held anything, and the mountpoints
    where it is not mounted at every start any more."""

    ref: str
    kept_commit: str | None
    forgotten: list[str] = field(default_factory=list)


def remove(session: Session, text: str, *, discard: bool = False, dry_run: bool = False) -> RemovedWorktree:
    """Remove the worktree that ``text`` (NAME+WORKTREE, or NAME:WORKTREE) names; see ``remove_worktree``."""
    ref = parse_ref(text)
    if ref.bare:
        raise UsageError(f"{text} names no worktree", hint=f"write {text}+WORKTREE; 'stratum worktree list' shows them")
    name, worktree = session.store.resolve_worktree(ref, create=False)
    ref = Ref(name, worktree=worktree)
    refuse_in_use(session, name, worktree)
    if dry_run:
        return RemovedWorktree(str(ref), None)
    from stratum.api.bootmounts import forget_removed

    return RemovedWorktree(str(ref), remove_worktree(session, ref, discard=discard), forget_removed(session, ref))


def remove_worktree(session: Session, ref: Ref, *, discard: bool = False) -> str | None:
    """Remove the worktree ``ref``; the commit that its uncommitted work was kept as, or None where there was none.

    Raises ``BusyError`` where it is mounted, ``NoSpaceError`` where there is such work and no room for its commit.
    ``discard`` throws the work away, and its history; else that goes with its age.
    """
    from stratum.store.layout import NoSpaceError
    from stratum.store.reflog import KEPT_BEFORE
    from stratum.tree.digest import metadata_hash
    from stratum.tree.dump import write_dump

    with session.hold(ref) as held:
        held.refuse_in_use()
        kept = None
        try:
            if not discard:
                kept = held.keep(KEPT_BEFORE + "removal")
        except NoSpaceError as exc:
            if metadata_hash(write_dump(held.shown())) != held.worktree.commit:
                raise NoSpaceError(
                    f"{held} has uncommitted changes, which cannot be kept: {exc.message}",
                    hint="free some space on the store's file system, or remove it without its changes: --discard",
                ) from None
        why = "removed" + (f", its changes kept as {kept}" if kept else "")
        session.store.worktrees.remove(held.stratum, held.name, why=why)
        session.store.histories.retire(held.stratum, held.name, discard=discard)
    return kept
