"""Who watches a store (``history.keeper``), as all verbs deal with it: asked, waited for, started where it is needed.

A worktree without a history costs whoever asks here one look for its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stratum.errors import NotFoundError, StratumError

if TYPE_CHECKING:
    from stratum.api.workplace import Workplace

FLUSH_PATIENCE = 60.0
"""Seconds for which whoever is about to stop waits for a watcher that may hang."""
_LOOKING = 10.0
"""Seconds for which whoever mounts waits until the worktree is watched,"""
PATIENCE = 60.0
"""and those for which who turns a history on does."""
_ASKING = 5.0


def flushed(place: Workplace, name: str, worktree: str) -> str | None:
    """Wait until everything that was closed in the worktree by now is in its history. Where that did not work, why: for
    people, as nothing is to wait for longer than a minute for it. Where nobody watches there is nothing to wait for."""
    try:
        if place.store.histories.settings(name, worktree) is None:
            return None
        from stratum.history.wire import flush

        flush(place.config.runtime_dir, place.store.root, name, worktree, timeout=FLUSH_PATIENCE)
    except NotFoundError:  # it was turned off, or the worktree removed, at this moment
        return None
    except StratumError as exc:
        return exc.told
    return None


def ensure_watched(place: Workplace, name: str, worktree: str, *, patience: float = _LOOKING) -> str | None:
    """Have somebody watch the worktree, where its history is on: who watches the store looks at it, and is started
    first where there is nobody, unless others do that. Where that did not work within ``patience`` seconds, why."""
    try:
        if place.store.histories.settings(name, worktree) is None:
            return None
        look(place, patience=patience)
    except StratumError as exc:
        return f"the history of {name}+{worktree} is not kept now: {exc.told}"
    return None


def look(place: Workplace, *, start: bool = True, patience: float = _LOOKING) -> None:
    """Have whoever watches the store look what is to be watched; one is started where there is none. Raises
    ``StratumError``."""
    from stratum.history.wire import ask

    place.state.make_runtime_dir()
    answer = ask(
        place.config.runtime_dir,
        place.store.root,
        {"op": "look"},
        start=(lambda: _start(place)) if start and place.starts_watchers else None,
        timeout=patience,
    )
    if answer is None:
        raise NotFoundError(
            f"nobody watches the store {place.store.root}",
            hint=f"others do that here: 'stratum watch', with the runtime directory {place.config.runtime_dir}",
        )


def keeper_settings(place: Workplace) -> dict[str, Any]:
    """What the keeper of the store's watcher is to know."""
    config = {"events": place.config.history_events}
    return {"store": str(place.store.root), "runtime_dir": str(place.config.runtime_dir), "config": config}


def _start(place: Workplace) -> int:
    from stratum.history.wire import KEEPER
    from stratum.sys.spawn import spawn

    return spawn(KEEPER, {**keeper_settings(place), "start": True})


def watch_status(place: Workplace) -> Mapping[str, Any] | None:
    """What who watches the store says of itself (``status`` of ``history.wire``); None where nobody does, or where it
    does not answer in time."""
    from stratum.history.wire import ask

    try:
        return ask(place.config.runtime_dir, place.store.root, {"op": "status"}, timeout=_ASKING)
    except StratumError:
        return None
