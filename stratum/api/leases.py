"""Leases: what is still to be done for containers that held a worktree, and doing it once.

A lease (``store.worktrees``) is written when a container gets a worktree to write in, and cleared when the worktree has
been committed after the container's end. The container's stop does that; where the stop was never reported (a
reboot, a killed monitor, a start that failed halfway), the next container on the worktree, the next stop of any
container, or ``reconcile`` does it. A lease is stale when nobody has the worktree in use any more (``api.inuse``).

Committing and clearing happen under the worktree's lock, so a stop that is reported twice, or by two at the same
time, is one commit. A failure is written into the lease and into the runtime directory (``api.failures``), where
``status`` finds it; the work stays in the upperdir.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stratum.api.failures import forget_failure, note_failure
from stratum.api.inuse import in_use
from stratum.api.session import Session
from stratum.api.tagtemplate import render_tag
from stratum.errors import NotFoundError, StratumError
from stratum.frozen import frozen, replace
from stratum.refs import Ref

if TYPE_CHECKING:
    from stratum.api.held import Held
    from stratum.store.worktrees import Lease


VOLUME_HOLDER = "volume/"
"""Begins a lease's holder that is a named volume (``stratum.plugin``) and no container's ID."""
KUBERNETES_HOLDER = "kubernetes/"
"""Begins a lease's holder that is a Kubernetes volume (``stratum.csi``)."""
_VOLUMES = (
    (VOLUME_HOLDER, "volume", "was unmounted"),
    (KUBERNETES_HOLDER, "Kubernetes volume", "was unpublished"),
)


@frozen
class Leased:
    """A worktree with a lease, or with one that cannot be read (``damage``)."""

    name: str
    worktree: str
    lease: Lease | None
    damage: StratumError | None = None


@frozen
class Released:
    """A lease that was worked off: the commit and the tag that moved to it (None where the lease asked for none), or
    why it failed. ``container`` is empty where the lease cannot be read."""

    name: str
    worktree: str
    container: str
    commit: str | None = None
    tag: str | None = None
    error: StratumError | None = None


def leases(session: Session) -> Iterator[Leased]:
    """Every worktree that has a lease, by name."""
    store = session.store
    for name in store.names():
        try:
            worktrees = store.worktrees.names(name)
        except NotFoundError:  # removed at this moment
            continue
        for worktree in worktrees:
            try:
                lease = store.worktrees.lease(name, worktree)
            except StratumError as exc:
                yield Leased(name, worktree, None, exc)
                continue
            if lease is not None:
                yield Leased(name, worktree, lease)


def reconcile(session: Session, *, stopped: str | None = None, patience: float = 0.0) -> list[Released]:
    """Work off the leases of the container ``stopped`` and every stale one; what was done, failures included.

    Those of ``stopped`` come first, and wait up to ``patience`` seconds for locks. Nothing that is wrong with one lease
    keeps the others from being worked off. A lease is left alone where its worktree is in use, unless by ``stopped``:
    then the worktree is committed, but keeps its upperdir where somebody still has a mount of it.
    """
    done = []
    found = sorted(leases(session), key=lambda leased: leased.lease is None or leased.lease.container != stopped)
    for leased in found:
        if leased.lease is None:
            done.append(Released(leased.name, leased.worktree, "", error=leased.damage))
            continue
        container = leased.lease.container
        try:
            if container == stopped:
                with session.store.locks.patient(patience):
                    released = release(session, leased.name, leased.worktree, container)
            elif in_use(session, leased.name, leased.worktree) is None:
                released = release(session, leased.name, leased.worktree, container)
            else:
                continue
        except StratumError as exc:
            released = Released(leased.name, leased.worktree, container, error=exc)
        if released is not None:
            done.append(released)
    return done


def release(session: Session, name: str, worktree: str, container: str) -> Released | None:
    """Do what the lease of ``container`` on a worktree says, then clear it; None where it has none (any more).

    Raises what the commit or the tag raised, after noting it in the lease and in the runtime directory; what nobody
    foresaw as a ``StratumError`` too, so that it can be noted and told of.
    """
    try:
        released = _release(session, name, worktree, container)
    except Exception as exc:
        known = _foreseen(exc)
        note_failure(session, name, worktree, known.message)
        if known is exc:
            raise
        raise known from exc
    if released is not None:
        forget_failure(session, name, worktree)
    return released


def _release(session: Session, name: str, worktree: str, container: str) -> Released | None:
    if not session.store.worktrees.exists(name, worktree):
        return None
    with session.hold(Ref(name, worktree=worktree)) as held:
        lease = held.lease
        if lease is None or lease.container != container:
            return None
        try:
            released = _work_off(session, held, lease)
        except Exception as exc:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                held.set_lease(replace(lease, last_error=_foreseen(exc).message))
            raise
        held.set_lease(None)
    return released


def _foreseen(exc: Exception) -> StratumError:
    if isinstance(exc, StratumError):
        return exc
    if isinstance(exc, MemoryError):
        return StratumError("there was not enough memory", hint="run 'stratum reconcile' when there is more")
    return StratumError(f"internal error: {type(exc).__name__}: {exc}"[:500])


def holder_words(holder: str) -> tuple[str, str]:
    """(who holds a lease, what ends it), in words for messages and the reflog."""
    for prefix, kind, ended in _VOLUMES:
        if holder.startswith(prefix):
            return f"{kind} {holder[len(prefix) :]}", ended
    return f"container {holder[:12]}", "stopped"


def _tag_field(holder: str) -> str:
    """What ``{container}`` in a tag template means: the container's ID, or the volume's as far as tags can have it."""
    for prefix, _, _ in _VOLUMES:
        if holder.startswith(prefix):
            return re.sub(r"[^A-Za-z0-9._-]", "-", holder[len(prefix) :]).lstrip("._-") or "volume"
    return holder


def _work_off(session: Session, held: Held, lease: Lease) -> Released:
    name, worktree = held.stratum, held.name
    if not lease.commit:
        return Released(name, worktree, lease.container)
    why = " ".join(holder_words(lease.container))
    commit = held.commit(why=why, ended=lease.container).commit
    tag = None
    if lease.tag_template is not None:
        tag = render_tag(
            lease.tag_template,
            name=name,
            worktree=worktree,
            container=_tag_field(lease.container),
            commit=commit,
            time=session.now(),
        )
        session.store.tags.set(name, tag, commit, force=True, why=why)
    return Released(name, worktree, lease.container, commit, tag)
