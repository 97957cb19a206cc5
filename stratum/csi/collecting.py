"""Garbage collection by the driver: what volumes no longer use makes room without anybody's asking.

Mostly the driver's own strata are looked after: those that it pulls into, and that of empty volumes. In these

- what was pulled and began no volume for ``pulled_age``, and is in no volume now, loses its tag, and what history tells
  of it, as it can be pulled again; a stratum without tags, worktrees and recent commits of pods goes as a whole,
- history that is older than ``reflog_age`` is dropped, so that volumes that come and go leave nothing. Of other strata
  just that goes which tells that an inline volume came or went; what its pod committed there stays.

Then garbage is collected as ``stratum gc`` does it (``store.gc``): what a tag, a worktree, a mount or recent history
names stays, and of other strata the history of 30 days. It may be cut short anywhere, and waits for pulls and pushes
that are under way. When that is done is said in ``csi.housekeeping``.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from stratum.api import maintenance
from stratum.csi.driver import EMPTY_STRATUM, Driver
from stratum.csi.records import PullRecord
from stratum.errors import ConflictError
from stratum.frozen import frozen
from stratum.store.clock import utc_now
from stratum.store.reflog import ReflogEntry
from stratum.store.retention import Retention
from stratum.store.trimming import trim

if TYPE_CHECKING:
    from stratum.store.gc import Collected

_INLINE = re.compile(r"inline-[0-9a-f]{40}")


@frozen
class Rules:
    """What age makes garbage of what no volume uses."""

    reflog_age: timedelta
    pulled_age: timedelta


def collect(driver: Driver, rules: Rules) -> Collected:
    """One run. ``BusyError`` where the store is not to be had within a minute."""
    store = driver.session.store
    own = {EMPTY_STRATUM, *(record.stratum for record in driver.pulls.list())}
    with store.locks.store(exclusive=True):
        _forget(driver, rules)
    age = rules.reflog_age
    return maintenance.gc(driver.session, Retention(age=age, history=age, strata=frozenset(own)))


def commits_used(driver: Driver) -> set[tuple[str, str]]:
    """(stratum, commit) of what volumes were made of that are there."""
    return {(record.stratum, record.commit) for record in driver.volumes.list()}


def _forget(driver: Driver, rules: Rules) -> None:
    """Take the names from what is used no more. The store is locked exclusively."""
    store, before = driver.session.store, utc_now() - rules.reflog_age
    used = commits_used(driver)
    oldest = (utc_now() - rules.pulled_age).timestamp() * 1e9
    records = sorted(driver.pulls.list(), key=lambda record: record.stratum)
    for name, group in groupby(records, key=lambda record: record.stratum):
        pulls = list(group)
        unused = [pull for pull in pulls if pull.used <= oldest and (name, pull.commit) not in used]
        if store.namespaces.exists(name):
            pinned = _drop_tags(driver, unused, {pull.tag for pull in pulls if pull not in unused})
            unused = [pull for pull in unused if pull.tag not in pinned]
            _drop_traces(driver, name, {pull.commit for pull in unused})
            trim(store, name, before)
            if len(unused) == len(pulls) and _is_left(driver, name, before):
                store.remove(name)
        # The last record of a stratum says that it is the driver's, for as long as there is such a stratum.
        if len(unused) < len(pulls) or not store.namespaces.exists(name):
            for pull in unused:
                driver.pulls.remove(pull.key)
    pulled = {record.stratum for record in records}
    for name in store.names():
        if name == EMPTY_STRATUM:
            trim(store, name, before)
        elif name not in pulled:
            trim(store, name, before, only=_is_passing)


def _is_passing(entry: ReflogEntry) -> bool:
    """Whether the entry tells that an inline volume's worktree was made or removed."""
    moved = entry.old is not None and entry.new is not None
    return entry.kind == "worktree" and not moved and _INLINE.fullmatch(entry.which) is not None


def _drop_tags(driver: Driver, unused: list[PullRecord], needed: set[str]) -> set[str]:
    """Remove the tags of pulls, but for those that are ``needed`` or that somebody moved; which are pinned, and stay
    with what they name."""
    tags, pinned = driver.session.store.tags, set[str]()
    for pull in unused:
        found = tags.find(pull.stratum, pull.tag) if pull.tag not in needed else None
        if found is not None and found == (pull.commit or found):
            try:
                tags.remove(pull.stratum, pull.tag, expected=found, why="no volume uses it any more")
            except ConflictError:
                pinned.add(pull.tag)
    return pinned


def _drop_traces(driver: Driver, name: str, commits: set[str]) -> None:
    """Drop what the history of a stratum tells of ``commits`` and of nothing else: that they were pulled, and that
    worktrees over them came and went. Where refs are now is told all the same."""

    def is_trace(entry: ReflogEntry) -> bool:
        return {entry.old, entry.new} - {None} <= commits

    trim(driver.session.store, name, utc_now() + timedelta(minutes=1), only=is_trace)


def _is_left(driver: Driver, name: str, before: datetime) -> bool:
    """Whether nothing is in the stratum any more that anybody made: no tag, no worktree, no recent commit of one."""
    store = driver.session.store
    if store.tags.names(name) or store.worktrees.names(name):
        return False
    moves = [entry for entry in store.reflog.read(name) if entry.kind == "worktree" and entry.old and entry.new]
    return all(datetime.fromisoformat(entry.when.replace("Z", "+00:00")) < before for entry in moves)
