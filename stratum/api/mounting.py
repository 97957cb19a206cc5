"""Mounting and unmounting on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.naming import means_path
from stratum.api.session import Session
from stratum.errors import NotFoundError
from stratum.refs import parse_ref
from stratum.store.holders import HOST, Holder

if TYPE_CHECKING:
    from stratum.mount.state import Record


def mount(
    session: Session,
    text: str,
    mountpoint: str | None = None,
    *,
    read_only: bool = False,
    holder: Holder = HOST,
    make: bool = True,
    attributes: int = 0,
    options: Mapping[str, str] | None = None,
) -> Record:
    """Mount what ``text`` names: a worktree writable (NAME alone is ``main``), a tag or commit read-only.

    ``holder`` is for whom. Without ``mountpoint`` one is made in the runtime directory; a missing
    one is made where ``make`` says so. ``attributes`` are ``MOUNT_ATTR_*`` to add. ``options`` are for the gate of a
    commit that is not here whole (``Workplace.gate``).

    Raises ``BusyError`` naming the holder where the worktree is mounted already, ``UnsupportedError``
    without the privilege or the kernel features.
    """
    from stratum.mount import host

    store, wanted = session.store, parse_ref(text)
    at = None if mountpoint is None else Path(mountpoint)
    # Held until the mount is on record, so that no garbage collection takes the commit away meanwhile.
    with store.locks.store():
        if store.means_worktree(wanted):
            with session.hold(wanted, create=True) as held:
                return held.mount(
                    at, read_only=read_only, holder=holder, attributes=attributes, make=make, options=options
                )
        found = store.resolve(wanted)
        return host.mount_recorded(
            session.state,
            session.plan(found.commit, extra=attributes, options=options),
            store=store.root,
            ref=str(found),
            commit=found.commit,
            at=at,
            holder=holder,
            make=make,
        )


def unmount(
    session: Session, text: str, *, lazy: bool = False, warn: Callable[[str], None] = lambda text: None
) -> list[Record]:
    """Unmount what is mounted at the path ``text``, or every host mount of the ref ``text``; the records as they were.

    A worktree that shows just its last commit is folded then (``api.folding``). ``warn`` is told where that fails, and
    where a process has a copy of the mount in a mount namespace of its own, and so keeps it in use.
    Raises ``NotFoundError`` for what Stratum did not mount, ``BusyError`` naming the processes in the way.
    """
    from stratum.mount import host

    if means_path(session, text):
        done = [host.unmount(session.state, Path(text), lazy=lazy, warn=warn)]
    else:
        records = find_mounts(session, text)
        if not records:
            raise NotFoundError(f"{text} is not mounted", hint="'stratum status' lists the mounts there are")
        if len(records) > 1:
            from stratum.mount.state import who_has_a_copy

            records = [record for record in records if who_has_a_copy(record) is None] or records
        done = [host.unmount(session.state, record, lazy=lazy, warn=warn) for record in records]
    for record in [] if lazy else done:  # whoever has files open there may still write to them
        if record.is_worktree:
            _tidy(session, record, warn)
    return done


def _tidy(session: Session, record: Record, warn: Callable[[str], None]) -> None:
    """Have the history of the worktree of a mount that is gone up to date, and fold it, if it is one of this store."""
    from stratum.api.folding import fold_after_use
    from stratum.api.watcher import flushed
    from stratum.mount.state import store_key

    ref = parse_ref(record.ref)
    try:
        if ref.worktree is None or record.store_key != store_key(session.config.store):
            return
    except NotFoundError:  # this session has no store
        return
    for problem in (flushed(session, ref.name, ref.worktree), fold_after_use(session, ref.name, ref.worktree)):
        if problem is not None:
            warn(problem)


def find_mounts(session: Session, text: str) -> list[Record]:
    """The mounts of the ref ``text``: as it was written when it was mounted, or as it resolves now.

    Nothing is made.
    """
    from stratum.mount.state import store_key
    from stratum.store.resolve import ResolvedCommit

    store, ref = session.store, parse_ref(text)
    records = session.state.find_ref(store.root, text)
    if records:
        return records
    found = store.resolve(ref)
    if not isinstance(found, ResolvedCommit):
        return session.state.find_ref(store.root, str(found))
    key = store_key(store.root)
    return [r for r in session.state.records() if r.store_key == key and r.ref.rpartition(":")[2] == found.commit]
