"""What a container's volume needs before it is mounted, whoever mounts it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from stratum.api.leases import release
from stratum.api.session import Session
from stratum.errors import ExistsError, StratumError
from stratum.refs import DEFAULT_WORKTREE, Ref

if TYPE_CHECKING:
    from stratum.store.worktrees import Worktree


def ensure_worktree(session: Session, ref: Ref, create: Ref | None, *, why: str) -> Worktree:
    """The worktree ``ref``, made where it is missing and ``create`` (a ref), or its name ``main``, says from what."""
    store = session.store
    name, worktree = ref.name, ref.worktree or DEFAULT_WORKTREE
    if create is not None and not (store.namespaces.exists(name) and store.worktrees.exists(name, worktree)):
        base = store.resolve_commit(create)
        # Another container may make it at the same time; who gets it is decided by the claim.
        with contextlib.suppress(ExistsError):
            store.worktrees.create(name, worktree, base, why=f"{why} from {create}")
    elif worktree == DEFAULT_WORKTREE:
        store.resolve_worktree(Ref(name))
    return store.worktrees.get(name, worktree)


def catch_up(session: Session, name: str, worktree: str) -> StratumError | None:
    """Work off the lease of an earlier holder whose stop was missed; the error where that failed.

    The caller holds the worktree's lock. It may be mounted all the same: its work lies in the upperdir, and goes into
    the next commit.
    """
    lease = session.store.worktrees.lease(name, worktree)
    if lease is None or session.state.find_worktree(session.store.root, name, worktree) is not None:
        return None
    try:
        release(session, name, worktree, lease.container)
    except StratumError as exc:
        return exc
    return None
