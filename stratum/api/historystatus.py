"""How the history of a worktree is doing: who watches, what is not in it yet, what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stratum.errors import StratumError
from stratum.frozen import field, frozen

if TYPE_CHECKING:
    from stratum.api.session import Session

Watcher = Mapping[str, Any]


@frozen
class HistoryStatus:
    """The history of a worktree, which is on since ``since`` (RFC 3339). ``change`` is the last CHANGE, 0 where there
    is none, and ``when`` its time.

    ``watched``: somebody watches it now; by ``events`` of the kernel, or else by looking again and again, because of
    ``why_no_events`` (None: the settings say so). ``pending`` is what was done and is not in the log yet, as far as
    that is known; ``open`` are files open for writing, which have no version until they are closed or committed.
    ``trouble`` is what keeps it from being recorded, or in all.

    ``size`` is the bytes of the log and of the contents that it names, and ``gaps_today`` how often nobody watched
    today; both are None where they were not asked for.
    """

    since: str
    change: int
    when: str
    watched: bool = False
    events: bool = False
    why_no_events: str | None = None
    pending: int = 0
    open: list[str] = field(default_factory=list)
    trouble: str | None = None
    size: tuple[int, int] | None = None
    gaps_today: int | None = None


def history_status(
    session: Session, name: str, worktree: str, asked: Callable[[], Watcher | None], *, whole: bool
) -> HistoryStatus | None:
    """How the history of a worktree is doing; None where it is off. ``asked`` is what who watches the store says
    (``api.watcher.watch_status``). ``whole``: with what all of its log has to be read for."""
    histories = session.store.histories
    try:
        settings = histories.settings(name, worktree)
        if settings is None:
            return None
        last = next(histories.newest(name, worktree), None)
        change, when = (last.n, last.when) if last is not None else (0, "")
        found = {**_watched(asked(), f"{name}+{worktree}"), **(_measured(session, name, worktree) if whole else {})}
        return HistoryStatus(settings.since, change, when, **found)
    except StratumError as exc:  # the status of all else is wanted
        return HistoryStatus("", 0, "", trouble=exc.message)


def _watched(answer: Watcher | None, ref: str) -> dict[str, Any]:
    """What who watches the store says of the worktree."""
    watcher = _table(answer, "watcher")
    of_worktree = _table(_table(watcher, "worktrees"), ref)
    if not of_worktree:
        return {"trouble": _trouble(watcher, ref)}
    pending = sum(_number(table, key) for table, key in ((watcher, "queued"), (of_worktree, "changes")))
    opened = of_worktree.get("open")
    return {
        "watched": True,
        "events": watcher.get("events") is True,
        "why_no_events": why_no_events(answer),
        "pending": pending,
        "open": [path for path in opened if isinstance(path, str)] if isinstance(opened, list) else [],
        "trouble": _trouble(watcher, ref),
    }


def why_no_events(answer: Watcher | None) -> str | None:
    """Why who watches the store has no events, in the kernel's words or those of who asked it; None where it has some,
    or the settings say so."""
    why = _table(answer, "watcher").get("why_no_events")
    return why if isinstance(why, str) else None


def _trouble(watcher: Watcher, ref: str) -> str | None:
    words = [_table(_table(watcher, "worktrees"), ref).get("trouble"), _table(watcher, "troubles").get(ref)]
    if watcher.get("space") is False:
        words.append("there is too little space: no contents are kept, names and times are")
    if watcher and watcher.get("events") is True and watcher.get("descriptors") is False:
        words.append(
            "without privileges nobody can take every version: those are kept that are there when it is looked"
        )
    return next((word for word in words if isinstance(word, str)), None)


def _measured(session: Session, name: str, worktree: str) -> dict[str, Any]:
    from datetime import datetime, timezone

    histories = session.store.histories
    usage, gaps = histories.usage(name, worktree), 0
    if usage.gaps:
        midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        begin = midnight.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        for record in histories.newest(name, worktree):
            if record.when < begin:
                break
            gaps += record.op == "gap"
    return {"size": (usage.raw + usage.sealed, usage.contents), "gaps_today": gaps}


def _table(table: Watcher | None, key: str) -> Watcher:
    found = table.get(key) if table is not None else None
    return found if isinstance(found, Mapping) else {}


def _number(table: Watcher, key: str) -> int:
    found = table.get(key)
    return found if type(found) is int else 0
