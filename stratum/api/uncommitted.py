"""What a worktree shows that is in no commit yet, and what it shows beyond its base."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, StratumError
from stratum.frozen import frozen

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.refs import Ref
    from stratum.store import Store
    from stratum.store.worktree import Worktree
    from stratum.tree.diff import Change
    from stratum.tree.model import Directory

OpenTree = Callable[[str], "Directory"]


@frozen
class Counts:
    """How many paths were added, modified (content, type or metadata) and deleted."""

    added: int = 0
    modified: int = 0
    deleted: int = 0

    @property
    def total(self) -> int:
        return self.added + self.modified + self.deleted


@frozen
class Changes:
    """What a worktree shows against its last commit (its base where there is none), which is what a commit would take,
    and against its base. ``uncommitted`` is None where the store has lost the last commit. ``unread`` is why its
    upperdir could not be read, where nothing else is known for that."""

    uncommitted: Counts | None
    since_base: Counts
    unread: str | None = None


def count_changes(store: Store, tree: Worktree, open_tree: OpenTree, *, at_a_glance: bool = False) -> Changes:
    """How the worktree differs from its last commit and from its base. Nothing is stored, no lock is taken.

    Files whose size or metadata tell that they differ are not read; with ``at_a_glance`` no large file is
    (``ingest.worktree``). ``open_tree`` gives a commit's tree. Raises ``DamagedError`` and what reading an upperdir
    raises.
    """
    at_base = tree.commit == tree.base_commit
    if at_base and _is_untouched(store, tree):
        return Changes(Counts(), Counts())
    from stratum.ingest.worktree import compare_upperdir
    from stratum.tree.diff import diff_trees

    base = open_tree(tree.base_commit)
    others = [open_tree(tree.commit)] if not at_base and store.commits.exists(tree.commit) else []
    shown = base
    if (dialect := store.worktrees.readable(tree)) is not None:
        trees = [*others, base]
        shown = compare_upperdir(store.objects, base, tree.upperdir, trees, at_a_glance=at_a_glance, dialect=dialect)
    since_base = _count(diff_trees(base, shown))
    if at_base:
        return Changes(since_base, since_base)
    return Changes(_count(diff_trees(others[0], shown)) if others else None, since_base)


def _is_untouched(store: Store, tree: Worktree) -> bool:
    try:
        return store.worktrees.is_untouched(tree)
    except OSError as exc:
        raise DamagedError(f"the upperdir of {tree} cannot be read: {exc.strerror}") from None


def _count(changes: Iterable[Change]) -> Counts:
    from stratum.tree.diff import ADDED, DELETED

    kinds = [change.kind for change in changes]
    added, deleted = kinds.count(ADDED), kinds.count(DELETED)
    return Counts(added, len(kinds) - added - deleted, deleted)


def uncommitted_main(session: Session, ref: Ref) -> Worktree | None:
    """The worktree whose last commit ``ref`` means although it shows something else by now: ``main``, where ``ref`` is
    NAME alone. None for any other ref, and where it cannot be told: that must not keep a verb from its work."""
    if not ref.bare:
        return None
    from stratum.store.resolve import ResolvedWorktree

    store = session.store
    try:
        found = store.of_name(ref)
        if not isinstance(found, ResolvedWorktree):
            return None
        tree = store.worktrees.get(found.name, found.worktree)
        uncommitted = count_changes(store, tree, store.commits.open_tree, at_a_glance=True).uncommitted
    except (StratumError, OSError):
        return None
    return tree if uncommitted is None or uncommitted.total else None
