"""Leases: what is still to be done for containers that held a worktree, and doing it once.

A lease (``store.worktrees``) is written when a container gets a worktree to write in, and cleared when the worktree has
been committed after the container's end. The container's stop does that; where the stop was never reported (a
reboot, a killed monitor, a start that failed halfway), the next container on the worktree, the next stop of any
container, or ``reconcile`` does it. A lease is stale when nobody has the worktree in use any more (``api.inuse``).

Committing and clearing happen under the worktree's lock, so a stop that is reported twice, or by two at the same
time, is one commit. A failure is written into the lease, where ``status`` finds it; the work stays in the upperdir.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stratum.api.inuse import in_use
from stratum.api.session import Session
from stratum.api.tagtemplate import render_tag
from stratum.errors import StratumError
from stratum.frozen import frozen, replace

if TYPE_CHECKING:
    from stratum.store.worktrees import Lease


VOLUME_HOLDER = "volume/"
"""Begins a lease's holder that is a named volume (``stratum.plugin``) and no container's ID."""


@frozen
class Leased:
    """A worktree with a lease."""

    name: str
    worktree: str
    lease: Lease


@frozen
class Released:
    """A lease that was worked off: the commit and the tag that moved to it (None where the lease asked for none), or
    why it failed."""

    name: str
    worktree: str
    container: str
    commit: str | None = None
    tag: str | None = None
    error: StratumError | None = None


def leases(session: Session) -> Iterator[Leased]:
    """Every worktree that has a lease, by name. ``DamagedError`` where one cannot be read."""
    store = session.store
    for name in store.names():
        for worktree in store.worktrees.names(name):
            lease = store.worktrees.lease(name, worktree)
            if lease is not None:
                yield Leased(name, worktree, lease)


def reconcile(session: Session, *, stopped: str | None = None) -> list[Released]:
    """Work off the leases of the container ``stopped`` and every stale one; what was done, failures included.

    A lease is left alone where its worktree is mounted, unless by ``stopped``: then the worktree is committed, but
    keeps its upperdir (somebody still has the mount of a container that ended).
    """
    done = []
    for leased in leases(session):
        if leased.lease.container != stopped and in_use(session, leased.name, leased.worktree) is not None:
            continue
        try:
            released = release(session, leased.name, leased.worktree, leased.lease.container)
        except StratumError as exc:
            released = Released(leased.name, leased.worktree, leased.lease.container, error=exc)
        if released is not None:
            done.append(released)
    return done


def release(session: Session, name: str, worktree: str, container: str) -> Released | None:
    """Do what the lease of ``container`` on a worktree says, then clear it; None where it has none (any more).

    Raises what the commit or the tag raised, after noting it in the lease.
    """
    store = session.store
    with store.worktrees.lock(name, worktree):
        lease = store.worktrees.lease(name, worktree)
        if lease is None or lease.container != container:
            return None
        try:
            released = _work_off(session, name, worktree, lease)
        except StratumError as exc:
            store.worktrees.set_lease(name, worktree, replace(lease, last_error=exc.message))
            raise
        store.worktrees.clear_lease(name, worktree)
    return released


def _work_off(session: Session, name: str, worktree: str, lease: Lease) -> Released:
    if not lease.commit:
        return Released(name, worktree, lease.container)
    from stratum.api.commits import commit_worktree

    volume = lease.container.partition(VOLUME_HOLDER)[2]
    why = f"volume {volume} was unmounted" if volume else f"container {lease.container[:12]} stopped"
    commit = commit_worktree(session, name, worktree, why=why, ended=lease.container).commit
    tag = None
    if lease.tag_template is not None:
        tag = render_tag(
            lease.tag_template,
            name=name,
            worktree=worktree,
            container=lease.container,
            commit=commit,
            time=session.now(),
        )
        session.store.tags.set(name, tag, commit, force=True, why=why)
    return Released(name, worktree, lease.container, commit, tag)
