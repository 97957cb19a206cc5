"""Which commits that no tag and no worktree names any more are kept, by what the reflog says of them. Pure.

A commit that a ref once named, or that was made automatically (before a reset, at a container's stop), is kept

- for ``age`` after the last time that the reflog mentions it, and
- by the counting rules, which work as restic's ``forget --keep-*``: for each tag and each worktree by itself, its
  commits are looked at from the newest to the oldest, and the newest one of each of the ``hourly`` (``daily``,
  ``weekly``) most recent hours (days, ISO weeks; UTC) that have any is kept, and the ``last`` newest whatever their
  times. A commit stays if one rule keeps it.

A reflog entry whose time cannot be read keeps its commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

from stratum.store.reflog import ReflogEntry

DEFAULT_AGE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Retention:
    """What is to be kept; see above. A count of 0 is a rule that keeps nothing. ``ages`` has the age for strata, by
    name, for which it is another."""

    age: timedelta = DEFAULT_AGE
    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    ages: Mapping[str, timedelta] = field(default_factory=dict)

    def of(self, name: str) -> Retention:
        """The rules for one stratum."""
        return replace(self, age=self.ages[name]) if name in self.ages else self


Ref = tuple[str, str]
"""Kind (tag or worktree) and name."""

_BUCKETS: Mapping[str, Callable[[datetime], object]] = {
    "hourly": lambda time: (time.date(), time.hour),
    "daily": lambda time: time.date(),
    "weekly": lambda time: tuple(time.isocalendar())[:2],
}


def retained(entries: Iterable[ReflogEntry], rules: Retention, now: datetime) -> dict[str, str]:
    """Commit -> the rule that keeps it, for the commits that the reflog of one stratum mentions (oldest entry first).

    ``now`` is timezone-aware.
    """
    kept: dict[str, str] = {}
    histories: dict[Ref, dict[str, datetime]] = {}
    for entry in entries:
        time = _time(entry.when)
        mentioned = [commit for commit in (entry.old, entry.new) if commit is not None]
        if time is None or now - time < rules.age:
            kept.update(dict.fromkeys(mentioned, "reflog"))
        if time is None:
            continue
        history = histories.setdefault((entry.kind, entry.which), {})
        if entry.old is not None:
            history.setdefault(entry.old, time)
        if entry.new is not None:
            history.pop(entry.new, None)
            history[entry.new] = time
    for history in histories.values():
        # Of those within one second, the one that was mentioned later is the newer.
        newest_first = list(history.items())[::-1]
        newest_first.sort(key=lambda item: item[1], reverse=True)
        for commit, rule in _counted(newest_first, rules):
            kept.setdefault(commit, rule)
    return kept


def _counted(history: list[tuple[str, datetime]], rules: Retention) -> Iterable[tuple[str, str]]:
    """(commit, rule) for what the counting rules keep of one ref's commits, newest first."""
    for commit, _ in history[: rules.last]:
        yield commit, "keep-last"
    for rule, bucket in _BUCKETS.items():
        left, previous = getattr(rules, rule), None
        for commit, time in history:
            current = bucket(time)
            if left > 0 and current != previous:
                yield commit, f"keep-{rule}"
                left, previous = left - 1, current


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
