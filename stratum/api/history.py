"""Looking at commits: metadata and differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from stratum.api.naming import ref_or_mountpoint
from stratum.api.session import Session
from stratum.errors import NotFoundError, UsageError, path_text
from stratum.frozen import frozen, replace

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.api.held import Held
    from stratum.refs import Ref
    from stratum.store.metadata import CommitMeta
    from stratum.tree.diff import Change
    from stratum.tree.model import Directory


@frozen
class Shown:
    """A commit's metadata, the refs that name it, and what made it, where that is worth telling (``api.log``)."""

    commit: CommitMeta
    tags: list[str]
    worktrees: list[str]
    why: str | None


def show(session: Session, text: str) -> Shown:
    """The commit that ``text`` names: a ref, or a path at or below a mountpoint."""
    from stratum.api.log import reasons

    store = session.store
    found = store.resolve(ref_or_mountpoint(session, text))
    users = store.users_of(found.commit)
    names = {user.partition(":")[0].partition("+")[0] for user in users} | ({found.name} if found.name else set())
    why = reasons(store, sorted(names)).get(found.commit)
    return Shown(store.commits.meta(found.commit), [u for u in users if ":" in u], [u for u in users if "+" in u], why)


def image_path(session: Session, text: str) -> Path:
    """The path of the image (an EROFS for composefs) of the commit that ``text`` names, made where it is missing. It is
    there for as long as somebody has it open or mounted, and may go some minutes after that."""
    store = session.store
    with store.locks.store():
        return session.image(store.resolve_commit(ref_or_mountpoint(session, text)))


def diff(
    session: Session,
    first: str,
    second: str | None = None,
    paths: Sequence[str] = (),
    *,
    keeping: ExitStack | None = None,
    digests: bool = True,
) -> Iterator[Change]:
    """What changed from ``first`` to ``second``, in all or at ``paths`` and below.

    A path in ``first`` or ``second`` (REF:/PATH, or one below a mountpoint) is one of ``paths``.

    A worktree stands for what it shows now. With one argument: a worktree against its last commit (its base where there
    is none), a commit against its parent (against nothing where it has none), a state of a history against the one
    before. With ``keeping``, contents that only a worktree has are stored, and until it is closed no garbage collection
    takes them. Without ``digests``, those of which the size tells that they are others need not have one.
    ``NotFoundError`` for a path that neither has.
    """
    from stratum.api.naming import with_paths
    from stratum.api.versions import path_in
    from stratum.tree.diff import diff_trees
    from stratum.tree.model import lookup

    first, inner = with_paths(session, first, [])
    paths = [*paths, *inner]
    if second is not None:
        second, other = with_paths(session, second, [])
        if inner and other and path_in(inner[0]) != path_in(other[0]):
            raise UsageError(
                f"{inner[0]} and {other[0]} are two paths; one path is compared, in both",
                hint="'stratum restore' brings them out, for diff(1) to compare",
            )
        paths = [*paths, *other]
    if keeping is not None:
        keeping.enter_context(session.store.locks.store())
    if second is None:
        old, new = _implied(session, first, keeping, digests)
    else:
        opened = Opened(session)
        old = opened.tree_of(first, keeping)
        new = opened.tree_of(second, keeping, None if digests else old)
    wanted = [path_in(path) for path in paths]
    for path in wanted:
        if lookup(old, path) is None and lookup(new, path) is None:
            raise NotFoundError(f"neither {first} nor {second or 'what was before'} has {path_text(path)}")
    changes = diff_trees(old, new)
    return (change for change in changes if _is_at(change.path, wanted)) if wanted else changes


def _is_at(path: bytes, wanted: list[bytes]) -> bool:
    return any(path == above or path.startswith(above.rstrip(b"/") + b"/") for above in wanted)


def _implied(session: Session, text: str, keeping: ExitStack | None, digests: bool) -> tuple[Directory, Directory]:
    from stratum.tree.model import Directory

    store = session.store
    ref = ref_or_mountpoint(session, text)
    if ref.live:
        with session.hold(ref) as held:
            tree = held.worktree
            base = store.commits.open_tree(tree.base_commit)
            committed = base if tree.commit == tree.base_commit else store.commits.open_tree(tree.commit)
            return committed, _shown(session, held, keeping, base, None if digests else committed)
    if ref.change is not None:
        return _implied_of_state(session, ref)
    commit = store.resolve_commit(ref)
    new = store.commits.open_tree(commit)
    parent = store.commits.meta(commit).parent_commit
    if parent is None:
        return Directory(new.mode, new.uid, new.gid, new.mtime, new.xattrs), new
    if not store.commits.exists(parent):
        raise NotFoundError(f"the parent of {text}, commit {parent}, is not in this store", hint="name two refs")
    return store.commits.open_tree(parent), new


def _implied_of_state(session: Session, ref: Ref) -> tuple[Directory, Directory]:
    """(what was before an operation of a history, what was after it)."""
    from stratum.api.versions import up_to_date

    changes = session.store.changes
    up_to_date(session, *changes.worktree_of(ref))
    state = changes.state(ref)
    if state.record.op == "base" and state.record.n > 1:
        with suppress(NotFoundError):  # the history begins here, or what was before is not kept any more
            return changes.state(replace(ref, change=state.record.n - 1)).tree, state.tree
    return state.before(), state.tree


def _shown(
    session: Session,
    held: Held,
    keeping: ExitStack | None,
    base: Directory,
    unlike: Directory | None = None,
) -> Directory:
    """The tree that a worktree shows now; with ``keeping``, its contents are in the store."""
    if keeping is None:
        return held.shown(base=base, unlike=unlike)
    with session.store.begin(f"reading {held}") as tx:
        shown = held.shown(tx, base)
        tx.publish_objects()
        return shown


class Opened:
    """Opens the tree of each commit once: two trees that share one are compared faster."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._commits: dict[str, Directory] = {}

    def tree_of(self, text: str, keeping: ExitStack | None = None, unlike: Directory | None = None) -> Directory:
        """The tree that ``text`` shows: a tag's or commit's, what a worktree (or mountpoint) shows at this moment, or a
        state of its history, in which there can be files whose content nobody knows. ``unlike`` as for
        ``Held.shown``."""
        session, ref = self._session, ref_or_mountpoint(self._session, text)
        if ref.change is not None:
            from stratum.api.versions import up_to_date

            changes = session.store.changes
            up_to_date(session, *changes.worktree_of(ref))
            return changes.state(ref).tree
        if not ref.live:
            return self._commit(session.store.resolve_commit(ref))
        with session.hold(ref) as held:
            return _shown(session, held, keeping, self._commit(held.worktree.base_commit), unlike)

    def _commit(self, commit: str) -> Directory:
        tree = self._commits.get(commit)
        if tree is None:
            tree = self._commits[commit] = self._session.store.commits.open_tree(commit)
        return tree
