"""Making the worktree that a volume names and the store does not have yet."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import ExistsError
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, Ref
from stratum.volumes.request import Beginning

if TYPE_CHECKING:
    from stratum.store.transaction import Transaction
    from stratum.store.worktree import Worktree
    from stratum.tree.model import Directory


Fill = Callable[["Transaction"], "Directory | None"]
"""Brings the tree that a worktree begins with, its objects into the transaction; None where there is none."""


def ensure_worktree(
    session: Session, ref: Ref, beginning: Beginning, *, why: str, fill: Fill | None = None
) -> Worktree:
    """The worktree ``ref``, made where it is missing and ``beginning``, or its name ``main``, says from what.

    Where its base is empty, ``fill`` brings what it begins with. It appears whole, by one step: killed before, there is
    no worktree. Raises ``NotFoundError`` where it is missing and not to be made.
    """
    store = session.store
    name, worktree = ref.name, ref.worktree or DEFAULT_WORKTREE
    made_from = beginning.base is not None or beginning.empty
    if not (store.namespaces.exists_name(name) and store.worktrees.exists(name, worktree)):
        if made_from or (worktree == DEFAULT_WORKTREE and (beginning.root or fill is not None)):
            # Another container may make it at the same time; who gets it is decided by the claim.
            with contextlib.suppress(ExistsError):
                _make(session, Ref(name, worktree=worktree), beginning, why, fill)
        elif worktree == DEFAULT_WORKTREE:
            store.resolve_worktree(Ref(name))
    return store.worktrees.get(name, worktree)


def _make(session: Session, ref: Ref, beginning: Beginning, why: str, fill: Fill | None) -> None:
    store = session.store
    assert ref.worktree is not None
    # Held until the worktree names its base, so that no garbage collection takes it away meanwhile.
    with store.locks.store(), store.begin(f"making {ref}") as tx:
        source = beginning.base or Ref(ref.name, tag=DEFAULT_TAG)
        base = None if beginning.empty else store.resolve_commit(source)
        made_from = "nothing" if base is None else str(source)
        tree = None
        if fill is not None and (base is None or not store.commits.open_tree(base).children):
            tree = fill(tx)
            made_from = "the image" if tree is not None else made_from
        if tree is None and base is None:
            tree = _empty_tree()
        if tree is not None:
            origin = {"kind": "import", "made_for": str(ref), "made_from": made_from}
            meta = store.commits.write(tx, tree, parent=base, origin=origin, timestamp=session.now())
            base = meta.metadata_hash
        assert base is not None
        store.worktrees.create(ref.name, ref.worktree, base, why=f"{why} from {made_from}", root=beginning.root)


def _empty_tree() -> Directory:
    """The same one everywhere, so that it is one commit."""
    from stratum.tree.model import Directory

    return Directory(stat.S_IFDIR | 0o755, 0, 0, 0)
