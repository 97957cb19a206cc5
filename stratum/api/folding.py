"""Folding: where a worktree shows just what its last commit holds, that becomes its base and its upperdir empty.

A commit of an unmounted worktree does that at once; one of a mounted worktree cannot, so what was written is kept twice
from then on, as objects and in the upperdir, until the worktree is folded after its mount is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stratum.errors import BusyError, NotFoundError, StratumError
from stratum.frozen import field, frozen

if TYPE_CHECKING:
    from stratum.api.session import Session


@frozen
class Folding:
    """What became of folding a worktree: the ``outcome``, and the ``bytes`` of its upperdir on disk."""

    outcome: Literal["not needed", "in use", "uncommitted", "folded"]
    bytes: int = 0


def fold(session: Session, name: str, worktree: str, *, dry_run: bool = False, timeout: float | None = None) -> Folding:
    """Fold a worktree where nothing has it in use and it shows its last commit, or say why not.

    Where its last commit is its base, that is found out at once and nothing is read. Raises what a commit raises;
    ``BusyError`` where its lock is not to be had in ``timeout`` seconds.
    """
    commits = session.store.commits
    tree = session.store.worktrees.get(name, worktree)
    if tree.base_commit == tree.commit:
        return Folding("not needed")
    with session.hold(tree.ref, timeout=timeout) as held:
        tree = held.worktree
        if tree.base_commit == tree.commit:
            return Folding("not needed")
        # Asked before the upperdir is read: one that is unmounted meanwhile was still written to after that.
        from stratum.sys.usage import disk_usage

        if not held.is_free()[0]:
            return Folding("in use", disk_usage(tree.upperdir))
        base = commits.open_tree(tree.base_commit)
        shown = commits.identify(held.shown(base=base), base)
        size = disk_usage(tree.upperdir)
        if shown != tree.commit:
            return Folding("uncommitted", size)
        if not dry_run:
            held.fold()
    return Folding("folded", size)


def fold_after_use(session: Session, name: str, worktree: str) -> str | None:
    """Fold a worktree that was just released; a note where that failed, which hurts nobody: gc tries again."""
    try:
        fold(session, name, worktree)
    except StratumError as exc:
        return f"what {name}+{worktree} committed while it was mounted is kept twice until the next gc: {exc.message}"
    return None


@frozen
class FoldedAll:
    """What became of the worktrees of a store whose last commit was not their base.

    Ref -> bytes on disk of what was (or would be) ``folded``, of what is ``kept_twice`` as something on top of the last
    commit is not committed, and of what is while it is ``in_use``; ref -> why it ``failed``.
    """

    folded: dict[str, int] = field(default_factory=dict)
    kept_twice: dict[str, int] = field(default_factory=dict)
    in_use: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def fold_all(session: Session, *, dry_run: bool = False, before: FoldedAll | None = None) -> FoldedAll:
    """Fold every worktree that nothing has in use; ``before``: only those that failed then, with what was done then."""
    store = session.store
    done = FoldedAll(before.folded, before.kept_twice, before.in_use) if before is not None else FoldedAll()
    for name, worktree in store.each_worktree():
        ref = f"{name}+{worktree}"
        if before is not None and ref not in before.failed:
            continue
        try:
            found = fold(session, name, worktree, dry_run=dry_run, timeout=0)
        except (BusyError, NotFoundError):
            continue
        except StratumError as exc:
            done.failed[ref] = exc.message
            continue
        if found.outcome == "folded":
            done.folded[ref] = found.bytes
        elif found.outcome == "uncommitted":
            done.kept_twice[ref] = found.bytes
        elif found.outcome == "in use":
            done.in_use[ref] = found.bytes
    return done
