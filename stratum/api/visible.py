"""Mounts that all programs of an ordinary user see: outside of the session namespace, read-only (``mount.visible``).

The process that makes them, or unmounts one that nobody attends to any more, must be outside itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import NotFoundError, StratumError, UnsupportedError, UsageError
from stratum.refs import parse_ref

if TYPE_CHECKING:
    from stratum.mount.state import Record


def mount_visible(session: Session, text: str, mountpoint: str | None) -> Record:
    """Mount the tag or commit ``text`` read-only where all programs of the user see it, on a directory of the user's,
    which is made where it is missing; without ``mountpoint`` on one in the runtime directory.

    Raises ``UsageError`` for a worktree, ``UnsupportedError`` where contents are not here, where fusermount3 is
    missing or this process is inside of a user namespace, ``BusyError`` where the mountpoint is taken.
    """
    from stratum.mount import host
    from stratum.mount.plan import MountPlan

    store, wanted = session.store, parse_ref(text)
    with store.locks.store():
        if store.means_worktree(wanted):
            raise UsageError(
                f"{text} is a worktree, and with --host only tags and commits can be mounted",
                hint=f"commit it and mount that (stratum commit {text} TAG), or mount it without --host",
            )
        found = store.resolve(wanted)
        if store.sources.is_partial(found.commit):
            raise UnsupportedError(
                f"files of {text} are not here, and with --host they cannot be fetched when they are read",
                hint=f"fetch them first: stratum realize {text}",
            )
        return host.mount_recorded(
            session.state,
            MountPlan(session.image(found.commit), store.objects.layers),
            store=store.root,
            ref=str(found),
            commit=found.commit,
            at=None if mountpoint is None else Path(mountpoint),
            make=True,
            visible=True,
        )


def unmount_visible(session: Session, text: str, *, warn: Callable[[str], None] = lambda text: None) -> list[Record]:
    """Unmount of those mounts what is at the path ``text``, or what was mounted as the ref ``text``.

    The records as they were, none where there is no such mount. Raises as ``api.mounting.unmount``.
    """
    from stratum.mount import host
    from stratum.mount.state import store_key

    attended = [record for record in session.state.records() if record.attended]
    if not attended:
        return []
    try:
        key = store_key(session.config.store)
    except NotFoundError:  # of a store that is gone, a mount can still be named by its place
        key = ""
    place = os.path.realpath(text)
    found = [record for record in attended if record.ref == text and record.store_key == key]
    if "/" in text or not found:
        found = [record for record in attended if record.mountpoint == place]
    return [host.unmount(session.state, record, warn=warn) for record in found]


def clear_away_dead(session: Session) -> list[Record]:
    """Take away those of these mounts whose server was killed: nothing can be read there any more."""
    from stratum.mount import host

    dead = [record for record in session.state.records() if record.attended and _is_dead(record)]
    done = []
    for record in dead:
        with suppress(StratumError):  # it is said when it is unmounted
            done.append(host.unmount(session.state, record, lazy=True))
    return done


def _is_dead(record: Record) -> bool:
    try:  # the kernel may know what stat(2) says, but cannot open it
        os.close(os.open(record.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False
