"""Histories on and off, up to date, and kept by this process. For all else about who watches see ``api.watcher``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from stratum.api.watcher import PATIENCE, ensure_watched, flushed, keeper_settings, look, watch_status
from stratum.errors import BusyError, NotFoundError, StratumError, UsageError, quoted
from stratum.frozen import frozen

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store.histories import HistorySettings

__all__ = [
    "Kept",
    "Recorded",
    "become_watcher",
    "ensure_watched",
    "flushed",
    "history_off",
    "history_on",
    "watch_once",
    "watch_status",
]

_PATTERN_MAX = 4096
_LOCK_WAIT = 5.0


@frozen
class Kept:
    """A history that is kept from now on: of which worktree, how, whether it was kept before, and why nobody watches,
    or why not all is seen, if so."""

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
    note = ensure_watched(session, name, worktree, patience=PATIENCE) or _seen_in_part(session, name, worktree, strict)
    return Kept(f"{name}+{worktree}", settings, before is not None, note)


def _seen_in_part(session: Session, name: str, worktree: str, strict: bool) -> str | None:
    """Why not every version is seen of a worktree that somebody watches."""
    from stratum.api.historystatus import history_status

    found = history_status(session, name, worktree, lambda: watch_status(session), whole=False)
    if found is None or not found.watched or found.events:
        return None
    why = found.why_no_events or "so say the settings (history_events)"
    strictly = ", and --strict has no effect" if strict else ""
    return f"what comes and goes in {name}+{worktree} between two looks is not seen{strictly}: {why}"


def _check_pattern(pattern: str) -> None:
    if not pattern.startswith(("/", "*", "?", "[")) or "\0" in pattern or len(pattern) > _PATTERN_MAX:
        raise UsageError(
            f"{quoted(pattern)} fits no path in a worktree",
            hint="paths begin with /: write '/var/cache' or '*/node_modules', which excludes all that is in them",
        )


def history_off(session: Session, text: str, *, discard: bool = False) -> tuple[str, bool]:
    """Keep nothing more of what happens in the worktree; what was kept stays, but with ``discard``. (The worktree,
    whether it was on.)

    ``BusyError`` where what is to be discarded is another watcher's, which cannot be asked from here.
    """
    from stratum.api.naming import ref_or_mountpoint

    histories = session.store.histories
    with session.hold(ref_or_mountpoint(session, text)) as held:
        name, worktree = held.stratum, held.name
        was_on = histories.settings(name, worktree) is not None
        if was_on:
            flushed(session, name, worktree)
            histories.set_settings(name, worktree, None)
        if discard:
            _discard(session, name, worktree)
    if was_on and not discard:
        with suppress(StratumError):  # where nobody watches, nobody has to stop
            look(session, start=False)
    return f"{name}+{worktree}", was_on


def _discard(session: Session, name: str, worktree: str) -> None:
    """Remove what was kept of a worktree whose history is off, once nobody appends to it."""
    histories = session.store.histories
    try:
        look(session, start=False)
    except NotFoundError:  # nobody watches who could be asked
        with histories.writing(timeout=_LOCK_WAIT):
            histories.retire(name, worktree, discard=True)
        return
    histories.retire(name, worktree, discard=True)


@frozen
class Recorded:
    """A worktree whose history is up to date: its last CHANGE before and now (0: none), or why it is not."""

    worktree: str
    before: int
    change: int
    error: StratumError | None = None


def watch_once(session: Session) -> Iterator[Recorded]:
    """Bring the history of every worktree that has one up to date: what changed since it was, in one step, but for what
    was there in between. Where somebody watches, that is all that was closed by now.

    ``BusyError`` where somebody watches who cannot be asked; nothing that is wrong with one keeps the others from it.
    """
    from stratum.history.wire import ask

    store = session.store
    answer = ask(session.config.runtime_dir, store.root, {"op": "look"})
    if answer is None:
        yield from _scanned(session)
        return
    from stratum.history.wire import flush

    for pair in store.histories.watched():
        before = store.histories.last(*pair)
        yield _brought_up(partial(flush, session.config.runtime_dir, store.root, *pair), "+".join(pair), before)


def _brought_up(flush: Callable[[], int | None], worktree: str, before: int) -> Recorded:
    try:
        change = flush()
    except StratumError as exc:
        return Recorded(worktree, before, before, exc)
    if change is None:
        return Recorded(worktree, before, before, StratumError("who watched has ended", hint="try again"))
    return Recorded(worktree, before, change)


def _scanned(session: Session) -> Iterator[Recorded]:
    """The same by this process, as nobody watches."""
    from stratum.history.watcher import Watcher

    store = session.store
    with store.histories.writing(timeout=_LOCK_WAIT):
        befores = {pair: store.histories.last(*pair) for pair in store.histories.watched()}
        watcher = Watcher(store, None)
        try:
            watcher.look()
            for pair, before in befores.items():
                yield _brought_up(partial(watcher.flush, *pair), "+".join(pair), before)
        finally:
            watcher.close()


def become_watcher(session: Session) -> None:
    """Watch the store in place of this process, until stopped. ``BusyError`` where somebody does that."""
    import os

    from stratum.history.wire import KEEPER
    from stratum.sys.daemon import of_service_manager
    from stratum.sys.spawn import become

    store = session.store
    session.state.make_runtime_dir()
    managed = of_service_manager(session.config.environment, os.getpid())
    found = None
    if not managed.get("names"):  # of one before, whose place this takes
        found = watch_status(session)
        if found is not None and found.get("lasting"):
            raise BusyError(
                f"the store {store.root} is watched already, by process {found.get('pid')}",
                hint="end that first: stratum watch --stop",
            )
        if found is None:
            with store.histories.writing():  # or who does it, with another runtime directory
                pass
    become(KEEPER, {**keeper_settings(session), **managed})
