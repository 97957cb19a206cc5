"""Histories on and off, up to date, and kept by this process. For all else about who watches see ``api.watcher``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.api.watcher import ensure_watched, flushed, keeper_settings, look, watch_status
from stratum.errors import BusyError, StratumError, UsageError, quoted
from stratum.frozen import frozen

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store.histories import HistorySettings

__all__ = [
    "Kept",
    "become_watcher",
    "ensure_watched",
    "flushed",
    "history_off",
    "history_on",
    "watch_status",
]

_PATTERN_MAX = 4096


@frozen
class Kept:
    """A history that is kept from now on: of which worktree, how, whether it was kept before, and why nobody watches,
    if so."""

    worktree: str
    settings: HistorySettings
    was_on: bool
    note: str | None = None


def history_on(
    session: Session,
    text: str,
    *,
    exclude: Sequence[str] = (),
    max_file: int | None = None,
    strict: bool = False,
) -> Kept:
    """Have everything that happens in the worktree ``text`` (NAME alone is ``main``) kept, from now on, but for paths
    that a pattern of ``exclude`` fits and the contents of files larger than ``max_file`` bytes.

    Of one that is kept already the way is changed. ``UsageError`` for patterns that fit nothing, ``NotFoundError``.
    """
    from stratum.api.naming import ref_or_mountpoint
    from stratum.store.clock import rfc3339, utc_now
    from stratum.store.histories import MAX_FILE, HistorySettings

    for pattern in exclude:
        _check_pattern(pattern)
    histories = session.store.histories
    with session.hold(ref_or_mountpoint(session, text), create=True) as held:
        name, worktree = held.stratum, held.name
        before = histories.settings(name, worktree)
        since = before.since if before is not None else rfc3339(utc_now())
        settings = HistorySettings(since, tuple(exclude), MAX_FILE if max_file is None else max_file, strict)
        if settings != before:
            histories.set_settings(name, worktree, settings)
    return Kept(f"{name}+{worktree}", settings, before is not None, ensure_watched(session, name, worktree))


def _check_pattern(pattern: str) -> None:
    if not pattern.startswith(("/", "*", "?", "[")) or "\0" in pattern or len(pattern) > _PATTERN_MAX:
        raise UsageError(
            f"{quoted(pattern)} fits no path in a worktree",
            hint="paths begin with /: write '/var/cache' or '*/node_modules', which excludes all that is in them",
        )


def history_off(session: Session, text: str) -> tuple[str, bool]:
    """Keep nothing more of what happens in the worktree; what was kept stays. (The worktree, whether it was on.)"""
    from stratum.api.naming import ref_or_mountpoint

    histories = session.store.histories
    with session.hold(ref_or_mountpoint(session, text)) as held:
        name, worktree = held.stratum, held.name
        was_on = histories.settings(name, worktree) is not None
        if was_on:
            flushed(session, name, worktree)
            histories.set_settings(name, worktree, None)
    if was_on:
        with suppress(StratumError):  # where nobody watches, nobody has to stop
            look(session, start=False)
    return f"{name}+{worktree}", was_on


def become_watcher(session: Session) -> None:
    """Watch the store in place of this process, until stopped. ``BusyError`` where somebody does that."""
    import os

    from stratum.history.wire import KEEPER
    from stratum.sys.daemon import of_service_manager
    from stratum.sys.spawn import become

    store = session.store
    session.state.make_runtime_dir()
    found = watch_status(session)
    if found is not None and found.get("lasting"):
        raise BusyError(
            f"the store {store.root} is watched already, by process {found.get('pid')}",
            hint="end that first: stratum watch --stop",
        )
    if found is None:
        with store.histories.writing():  # or who does it, with another runtime directory
            pass
    become(KEEPER, {**keeper_settings(session), **of_service_manager(session.config.environment, os.getpid())})
