"""``rebase``: a worktree's own changes on another commit.

What is the worktree's own is told by a **ground**: the commit against which both sides are compared, path by path.

- Where the histories of the worktree's last commit and of the target meet, that is the ground: what they have in common
  is not carried again. Where the target descends from the last commit, that is a fast-forward: just what is not
  committed is the worktree's own.
- Where the worktree's line of work began later than that (``forked_from``: it was made from, reset to or rebased onto
  that commit), the beginning is the ground: what it began with is not its own.
- Where the histories are known and do not meet, the beginning is the ground too.
- Where it is not known whether and where they meet, as commits between are not in the store and nobody told of them, a
  path has a ground only where all that may be it agree (``tree.merge.common_ground``). All else that the two sides hold
  differently is a conflict, so nothing is taken back silently.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stratum.api.session import Session
from stratum.api.switching import Switched
from stratum.api.unreal import bring_inodes
from stratum.errors import ConflictError
from stratum.refs import parse_ref
from stratum.store.ancestry import Ancestry

if TYPE_CHECKING:
    from stratum.api.held import Held
    from stratum.store.transaction import Transaction
    from stratum.tree.model import Directory

Prefer = Literal["ours", "theirs"]
"""Whose version a path gets that both sides changed: the worktree's, or that of the commit it is rebased onto."""
PATHS_SHOWN = 20


class RebaseConflictError(ConflictError):
    """Both sides changed the paths ``conflicts`` (raw bytes, sorted), and nobody said whose version counts."""

    id = "rebase-conflict"

    def __init__(self, message: str, *, hint: str, worktree: str, conflicts: list[bytes]) -> None:
        super().__init__(message, hint=hint)
        self.worktree = worktree
        self.conflicts = conflicts


def rebase(
    session: Session,
    target: str,
    onto: str,
    *,
    prefer: Prefer | None = None,
    discard: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> Switched:
    """Carry the worktree's own changes onto the commit ``onto``, which becomes its base and its last commit.

    ``RebaseConflictError`` where both sides changed a path in different ways, also of a ``dry_run``: then nothing at
    all was changed. With ``prefer``, such paths are listed and get that side's version. ``discard`` leaves out the
    commit that keeps the state before. Raises as ``reset`` does.
    """
    with session.hold(target, create=True) as held:
        commit = session.store.resolve_commit(parse_ref(onto))
        record, tree, kept = held.reachable_mount(), held.worktree, None
        mountpoint = record.mountpoint if record is not None else None
        if commit == tree.base_commit == tree.commit:
            return Switched(str(held), tree.base_commit, commit, mountpoint)
        job = _Rebasing(session, held, commit, onto, prefer)
        if dry_run or mountpoint is not None:
            job.look()  # a conflict is told before a mounted worktree is disturbed
        if not dry_run:
            why = f"rebase onto {onto}"
            kept = held.replace(commit, why, build_upper=job.carry, discard=discard, force=force)
    return Switched(str(held), tree.base_commit, commit, mountpoint, kept, job.conflicts)


class _Rebasing:
    """One rebase of the worktree in the hand onto ``commit``, which the user called ``onto``."""

    def __init__(self, session: Session, held: Held, commit: str, onto: str, prefer: Prefer | None) -> None:
        tree = held.worktree
        self._session = session
        self._store = session.store
        self._held = held
        self._tree = tree
        self._commit = commit
        self._onto = onto
        self._prefer = prefer
        self._ground = Ancestry(self._store).ground(tree.commit, tree.forked_from, commit)
        self._base = self._store.commits.tree(tree.base_commit)
        self._new = self._store.commits.tree(commit)
        self._known_to = (tree.base_commit, commit)
        self.conflicts: list[bytes] = []

    def look(self) -> None:
        """Find the conflicts, and raise them. Nothing is stored."""
        self._merge(self._held.shown(base=self._base))

    def carry(self, tx: Transaction) -> Path:
        """The upperdir that shows the worktree's own changes over the new base."""
        from stratum.ingest.restore import restore_upper
        from stratum.tree.merge import make_layer

        store = self._store
        merged = self._merge(self._held.shown(tx, self._base))
        upperdir = store.worktrees.new_upperdir(tx, self._commit, of=self._tree)
        tx.publish_objects()
        layer = make_layer(self._new, merged)
        bring_inodes(self._session, self._known_to, [layer])
        restore_upper(store.objects, layer, upperdir, store.dialect)
        return upperdir

    def _merge(self, shown: Directory) -> Directory:
        """What the worktree is to show, where it shows ``shown`` now."""
        from stratum.tree.merge import common_ground
        from stratum.tree.merge import rebase as rebase_trees

        known = {self._tree.base_commit: self._base, self._commit: self._new}
        open_tree = self._store.commits.tree
        ground = common_ground([known.get(commit) or open_tree(commit) for commit in self._ground.commits])
        rebased = rebase_trees(ground, shown, self._new, theirs=self._prefer == "theirs")
        if rebased.conflicts and self._prefer is None:
            raise self._conflict(rebased.conflicts)
        self.conflicts = rebased.conflicts
        return rebased.tree

    def _conflict(self, paths: list[bytes]) -> RebaseConflictError:
        shown = ", ".join(map(os.fsdecode, paths[:PATHS_SHOWN]))
        more = f" and {len(paths) - PATHS_SHOWN} more" if len(paths) > PATHS_SHOWN else ""
        what = "both sides changed" if self._ground.sure else "it is not known which side has the newer"
        hint = f"nothing was changed; --ours keeps the version of {self._tree}, --theirs takes that of {self._onto}"
        if not self._ground.sure:
            hint += "; or bring the commits between here first, which tell"
        return RebaseConflictError(
            f"{self._tree} cannot be rebased onto {self._onto}: {what} {shown}{more}",
            hint=hint,
            worktree=str(self._tree),
            conflicts=paths,
        )
