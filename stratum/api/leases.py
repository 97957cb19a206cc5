"""Leases: what is still to be done for whoever held a worktree, and doing it once.

A lease (``store.holders``) is written when a container or volume gets a worktree to write in, and cleared when the
worktree has been committed after its end. The container's stop does that; where the stop was never reported (a
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
from stratum.store.holders import short_error

if TYPE_CHECKING:
    from stratum.api.held import Held
    from stratum.store.holders import Holder, Lease


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
    why it failed. ``holder`` is None where the lease cannot be read."""

    name: str
    worktree: str
    holder: Holder | None
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


def reconcile(session: Session, *, stopped: Holder | None = None, patience: float = 0.0) -> list[Released]:
    """Work off the leases of the holder ``stopped`` and every stale one; what was done, failures included.

    Those of ``stopped`` come first, and wait up to ``patience`` seconds for locks. Nothing that is wrong with one lease
    keeps the others from being worked off. A lease is left alone where its worktree is in use, unless by ``stopped``:
    then the worktree is committed, but keeps its upperdir where somebody still has a mount of it.
    """
    done = []
    found = sorted(leases(session), key=lambda leased: leased.lease is None or leased.lease.holder != stopped)
    for leased in found:
        if leased.lease is None:
            done.append(Released(leased.name, leased.worktree, None, error=leased.damage))
            continue
        holder = leased.lease.holder
        try:
            if holder == stopped:
                with session.store.locks.patient(patience):
                    released = release(session, leased.name, leased.worktree, holder)
            elif in_use(session, leased.name, leased.worktree) is None:
                released = release(session, leased.name, leased.worktree, holder)
            else:
                continue
        except StratumError as exc:
            released = Released(leased.name, leased.worktree, holder, error=exc)
        if released is not None:
            done.append(released)
    return done


def release(session: Session, name: str, worktree: str, holder: Holder) -> Released | None:
    """Do what the lease of ``holder`` on a worktree says, then clear it; None where it has none (any more).

    Raises what the commit or the tag raised, after noting it in the lease and in the runtime directory; what nobody
    foresaw as a ``StratumError`` too, so that it can be noted and told of.
    """
    try:
        released = _release(session, name, worktree, holder)
    except Exception as exc:
        known = _foreseen(exc)
        note_failure(session, name, worktree, short_error(known))
        if known is exc:
            raise
        raise known from exc
    if released is not None:
        forget_failure(session, name, worktree)
    return released


def _release(session: Session, name: str, worktree: str, holder: Holder) -> Released | None:
    if not session.store.worktrees.exists(name, worktree):
        return None
    with session.hold(Ref(name, worktree=worktree)) as held:
        lease = held.lease
        if lease is None or lease.holder != holder:
            return None
        try:
            released = _work_off(session, held, lease)
        except Exception as exc:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                held.set_lease(replace(lease, last_error=short_error(_foreseen(exc))))
            raise
        held.set_lease(None)
    return released


def _foreseen(exc: Exception) -> StratumError:
    if isinstance(exc, StratumError):
        return exc
    if isinstance(exc, MemoryError):
        return StratumError("there was not enough memory", hint="run 'stratum reconcile' when there is more")
    return StratumError(f"internal error: {type(exc).__name__}: {exc}")


def _fields_of(holder: Holder) -> dict[str, str]:
    """The field of tag templates that the holder fills: its ID, as far as a tag can have it."""
    return {holder.field: re.sub(r"[^A-Za-z0-9._-]", "-", holder.id).lstrip("._-") or holder.field}


def _work_off(session: Session, held: Held, lease: Lease) -> Released:
    name, worktree, holder, promise = held.stratum, held.name, lease.holder, lease.promise
    if not promise.commit:
        return Released(name, worktree, holder)
    why = f"{holder.words()} {holder.ended}"
    commit = held.commit(why=why, ended=holder).commit
    tag = None
    if promise.tag is not None:
        fields = _fields_of(holder)
        tag = render_tag(promise.tag, fields, name=name, worktree=worktree, commit=commit, time=session.now())
        session.store.tags.set(name, tag, commit, force=promise.move_tag, why=why)
    return Released(name, worktree, holder, commit, tag)
