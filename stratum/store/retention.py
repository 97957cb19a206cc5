"""Which commits and tags are kept although no rule of the store itself needs them. Pure.

A commit that a ref once named, or that was made automatically (before a reset, at a container's stop), is kept

- for ``age`` after the last time that the reflog mentions it, and
- by the counting rules, which work as restic's ``forget --keep-*``: for each tag and each worktree by itself, its
  commits are looked at from the newest to the oldest, and the newest one of each of the ``hourly`` (``daily``,
  ``weekly``, ``monthly``, ``yearly``) most recent hours (days, ISO weeks, months, years; UTC) that have any is kept,
  the ``last`` newest whatever their times, and all that are older than the newest by no more than ``within``. A commit
  stays if one rule keeps it.

What was not committed when a reset, rebase or removal came is kept for ``set_aside`` at least: nobody chose to have it
counted with the commits that were made on purpose. A reflog entry whose time cannot be read keeps its commits.

Ancestors of what tags and worktrees name are kept as well: all of them where ``history`` is None, else those that were
made less than that ago.

Tags are names that somebody gave and stay, but for those that match one of the patterns ``tags``: of these the counting
rules keep some, those of one stratum taken together as the commits of one ref are, each at the time of its commit.

``strata`` limits all of it to these; the others are kept by the rules that hold where none is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from stratum.store.reflog import KEPT_BEFORE, ReflogEntry

DEFAULT_AGE = timedelta(days=30)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Retention:
    """What is to be kept; see above. A count or duration of 0 is a rule that keeps nothing."""

    age: timedelta = DEFAULT_AGE
    set_aside: timedelta = timedelta()
    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta = timedelta()
    history: timedelta | None = None
    tags: tuple[str, ...] = ()
    strata: frozenset[str] | None = None

    @property
    def counts(self) -> bool:
        """Whether there is any counting rule."""
        return any((self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly, self.within))

    def of(self, name: str) -> Retention:
        """The rules for stratum ``name``."""
        return self if self.strata is None or name in self.strata else _EVERYWHERE

    def thins(self, tag: str) -> bool:
        """Whether the tag is one of those that the counting rules may let go."""
        return any(fnmatchcase(tag, pattern) for pattern in self.tags)


_EVERYWHERE = Retention()

Ref = tuple[str, str]
"""Kind (tag or worktree) and name."""

_BUCKETS: Mapping[str, Callable[[datetime], object]] = {
    "hourly": lambda time: (time.date(), time.hour),
    "daily": lambda time: time.date(),
    "weekly": lambda time: tuple(time.isocalendar())[:2],
    "monthly": lambda time: (time.year, time.month),
    "yearly": lambda time: time.year,
}


class DatedTag(NamedTuple):
    """A tag, the time of its commit (RFC 3339), and its place in the order in which tags were set."""

    tag: str
    when: str
    order: int


def thin_tags(tags: Iterable[DatedTag], rules: Retention) -> dict[str, str | None]:
    """For each of the ``tags`` of one stratum that match the rules' patterns, the rule that keeps it, None where none
    does. Of two at one time, the one that was set later is the newer."""
    found: dict[str, str | None] = {}
    dated: list[tuple[datetime, int, str]] = []
    for tag in tags:
        if rules.thins(tag.tag):
            time = parse_time(tag.when)
            found[tag.tag] = None if time is not None else "its time cannot be read"
            if time is not None:
                dated.append((time, tag.order, tag.tag))
    history = [(tag, time) for time, _, tag in sorted(dated, reverse=True)]
    for name, rule in _counted(history, rules):
        found[name] = found[name] or rule
    return found


def retained(entries: Iterable[ReflogEntry], rules: Retention, now: datetime) -> dict[str, str]:
    """Commit -> the rule that keeps it, for the commits that the reflog of one stratum mentions (oldest entry first).

    ``now`` is timezone-aware. Tags that the rules thin out do not each count for themselves.
    """
    kept: dict[str, str] = {}
    histories: dict[Ref, dict[str, datetime]] = {}
    for entry in entries:
        time = parse_time(entry.when)
        mentioned = [commit for commit in (entry.old, entry.new) if commit is not None]
        if time is None or now - time < rules.age:
            kept.update(dict.fromkeys(mentioned, "reflog"))
        elif entry.new is not None and entry.why.startswith(KEPT_BEFORE) and now - time < rules.set_aside:
            kept[entry.new] = "reflog"
        if time is None or (entry.kind == "tag" and rules.thins(entry.which)):
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


def _counted(history: Sequence[tuple[_T, datetime]], rules: Retention) -> Iterable[tuple[_T, str]]:
    """(item, rule) for what the counting rules keep of the items, newest first."""
    for item, _ in history[: rules.last]:
        yield item, "keep-last"
    for item, time in history if rules.within else ():
        if history[0][1] - time <= rules.within:
            yield item, "keep-within"
    for rule, bucket in _BUCKETS.items():
        left, previous = getattr(rules, rule), None
        for item, time in history:
            current = bucket(time)
            if left > 0 and current != previous:
                yield item, f"keep-{rule}"
                left, previous = left - 1, current


def parse_time(text: str) -> datetime | None:
    """The time, in UTC, of a text in RFC 3339 (UTC where no zone is given), or None."""
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return time.astimezone(timezone.utc) if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return None
