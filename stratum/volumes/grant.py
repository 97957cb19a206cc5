"""Giving a worktree to somebody, and taking it back: done here alone for whoever is not the shell.

A container, a named volume or a Kubernetes volume (``store.holders``) gets a worktree by ``grant``; its lease says from
then on what is promised for the time after. ``release`` keeps the promise. The end of a holder calls it; where that was
never reported (a reboot, a killed monitor, a start that failed halfway), the next ``grant`` of the worktree or the next
``reconcile`` of anybody does. A lease is stale when nobody has the worktree in use any more (``api.inuse``).

The commit, the tag and the end of the lease are one under the worktree's lock, so an end that is reported twice, or by
two at the same time, is one commit. A failure is written into the lease and into the runtime directory
(``api.failures``), where ``status`` finds it; the work stays in the upperdir.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import ExistsError, NotFoundError, StratumError, UnsupportedError, UsageError, foreseen
from stratum.frozen import frozen, replace
from stratum.refs import Ref, parse_ref
from stratum.store.clock import rfc3339, utc_now
from stratum.store.holders import Holder, Lease, Promise, short_error

if TYPE_CHECKING:
    from stratum.api.held import Held
    from stratum.mount.state import Record
    from stratum.sys.proc import Process


class Granted:
    """A worktree that somebody got, in the hand as long as the block of ``grant`` runs.

    ``failure`` is why what its last holder left was not committed; that goes into the next commit.
    """

    def __init__(
        self, session: Session, held: Held, failure: StratumError | None, before: Lease | None, lease: Lease
    ) -> None:
        self.held = held
        self.failure = failure
        self._session = session
        self._before = before
        self._lease = lease

    def revoke(self) -> None:
        """Take it back, as if it had not been given. For the block and later, as long as nobody else has got it."""
        with self._session.hold(self.held.ref) as held:
            if held.lease == self._lease:
                held.set_lease(self._before)


@contextlib.contextmanager
def grant(
    session: Session,
    ref: Ref,
    holder: Holder,
    promise: Promise,
    *,
    process: Process | None = None,
    read_only: bool = False,
    again: bool = False,
    about: str | None = None,
) -> Iterator[Granted]:
    """Give the worktree ``ref`` to ``holder``, which mounts it in the block; if that fails, nothing was given.

    What an earlier holder was promised is done first. ``process`` is a container's first one: while that runs, the
    worktree is in use. A store that can only be read has no leases, and gives worktrees to who is ``read_only`` alone.
    ``again``: the holder, whose calls are repeated, may have it already, mounted and leased, and then keeps it; whether
    anybody else has it mounted is seen when it is mounted. ``about`` is what people call the holder.

    Raises ``BusyError`` where anybody else has it, ``NotFoundError``, ``DamagedError``.
    """
    with session.hold(ref) as held:
        if not again:
            held.refuse_in_use()
        failure = None
        if held.lease is not None and not (again and held.lease.holder == holder):
            try:
                release(session, held.stratum, held.name, held.lease.holder)
            except StratumError as exc:
                failure = exc
        before = held.lease
        error = short_error(failure) if failure is not None else before.last_error if before is not None else None
        lease = Lease(holder, rfc3339(utc_now()), promise, error, process, about)
        if before is None or before != replace(lease, since=before.since):
            with contextlib.suppress(*((UnsupportedError,) if read_only else ())):
                held.set_lease(lease)
        granted = Granted(session, held, failure, before, lease)
        held.ensure_watched()
        try:
            yield granted
        except BaseException:
            with contextlib.suppress(StratumError):  # the first error is the one to tell, and the lease goes stale
                granted.revoke()
            raise


@frozen
class Released:
    """A promise that was kept: the commit and the tag that names it now (None where there was to be none), or why that
    failed. ``note`` is for people though nothing failed. ``holder`` is None where the lease cannot be read."""

    name: str
    worktree: str
    holder: Holder | None
    commit: str | None = None
    tag: str | None = None
    note: str | None = None
    error: StratumError | None = None


def _held(session: Session) -> Iterator[Released]:
    """Who holds which worktree by its lease; nobody with an error where that cannot be read."""
    from stratum.store.leases import has_leases

    if not has_leases(session.config.store):
        return
    store = session.store
    for name, worktree in store.each_worktree():
        try:
            lease = store.worktrees.lease(name, worktree)
        except NotFoundError:  # removed at this moment
            continue
        except StratumError as exc:
            yield Released(name, worktree, None, error=exc)
            continue
        if lease is not None:
            yield Released(name, worktree, lease.holder)


def reconcile(
    session: Session, *, ended: Holder | None = None, missed: bool = True, patience: float = 0.0
) -> list[Released]:
    """Keep what was promised to ``ended``, whose end is reported, and to all whose end was ``missed``; what was done,
    failures included.

    ``ended`` comes first, and waits up to ``patience`` seconds for locks. Nothing that is wrong with one lease keeps
    the others from being worked off. A lease is left alone where its worktree is in use, unless by ``ended``: then the
    worktree is committed, but keeps its upperdir where somebody still has a mount of it.
    """
    done = []
    for held in sorted(_held(session), key=lambda held: held.holder != ended):
        name, worktree, holder = held.name, held.worktree, held.holder
        if holder is None:
            done.append(held)
            continue
        try:
            if holder != ended and (not missed or _is_used(session, name, worktree)):
                continue
            with session.store.locks.patient(patience if holder == ended else 0.0):
                released = release(session, name, worktree, holder)
        except StratumError as exc:
            released = replace(held, error=exc)
        if released is not None:
            done.append(released)
    return done


def _is_used(session: Session, name: str, worktree: str) -> bool:
    from stratum.api.inuse import in_use

    return in_use(session, name, worktree) is not None


def release(session: Session, name: str, worktree: str, holder: Holder) -> Released | None:
    """Do what ``holder`` of a worktree was promised, then end its lease; None where it has none (any more).

    A worktree that is not to be committed is folded (``api.folding``). Raises what the commit or the tag raised, after
    noting it in the lease and in the runtime directory; what nobody foresaw as a ``StratumError`` too, so that it can
    be noted and told of.
    """
    from stratum.api.failures import forget_failure, note_failure

    try:
        released = _release(session, name, worktree, holder)
    except Exception as exc:  # also a defect: the promise is not kept, and status has to say so
        known = foreseen(exc)
        note_failure(session, name, worktree, short_error(known))
        if known is exc:
            raise
        raise known from exc
    if released is None:
        return None
    forget_failure(session, name, worktree)
    if released.commit is not None:
        return released
    from stratum.api.folding import fold_after_use

    return replace(released, note=fold_after_use(session, name, worktree))


def _release(session: Session, name: str, worktree: str, holder: Holder) -> Released | None:
    if not session.store.worktrees.exists(name, worktree):
        return None
    with session.hold(Ref(name, worktree=worktree)) as held:
        lease = held.lease
        if lease is None or lease.holder != holder:
            return None
        held.flush()
        try:
            released = _keep_promise(session, held, lease)
        except Exception as exc:  # as above: the lease tells why
            with contextlib.suppress(Exception):  # the first error is the one to tell
                held.set_lease(replace(lease, last_error=short_error(foreseen(exc))))
            raise
        held.set_lease(None)
    return released


def _fields_of(holder: Holder) -> dict[str, str]:
    """The field of tag templates that the holder fills: its ID, as far as a tag can have it."""
    return {holder.field: re.sub(r"[^A-Za-z0-9._-]", "-", holder.id).lstrip("._-") or holder.field}


def _keep_promise(session: Session, held: Held, lease: Lease) -> Released:
    name, worktree, holder, promise = held.stratum, held.name, lease.holder, lease.promise
    if not promise.commit:
        return Released(name, worktree, holder)
    why = f"{holder.words()}{f' ({lease.about})' if lease.about is not None else ''} {holder.ended}"
    commit = held.commit(why=why, ended=holder).commit
    if promise.tag is None:
        return Released(name, worktree, holder, commit)
    from stratum.volumes.tagtemplate import render_tag

    try:
        fields = _fields_of(holder)
        tag = render_tag(promise.tag, fields, name=name, worktree=worktree, commit=commit, time=session.now())
        session.store.tags.set(name, tag, commit, force=promise.move_tag, why=why)
    except (ExistsError, UsageError) as exc:
        if promise.move_tag:
            raise
        return Released(name, worktree, holder, commit, note=f"commit {commit} of {held} has no tag: {exc.message}")
    return Released(name, worktree, holder, commit, tag)


def switch(session: Session, text: str, target: str, *, force: bool = False) -> Record:
    """Let what shows ``target`` show the worktree ``text`` (``api.switching.switch``); what its holder was promised of
    the one that it had before is done."""
    from stratum.api.switching import switch as run

    before, now = run(session, text, target, force=force)
    ref = parse_ref(before.ref)
    if ref.worktree is not None and before.ref != now.ref:
        release(session, ref.name, ref.worktree, before.holder)
    return now
