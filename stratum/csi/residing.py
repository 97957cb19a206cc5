"""What of lazy volumes is here, and whether the rest can be had: for their conditions and for metrics.

Counting what of a commit is here takes a while where it has many files. So it is done in a thread, and what was counted
last is told meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stratum.api.session import Session
from stratum.csi.words import in_units
from stratum.errors import StratumError
from stratum.store.residence import ResidenceCounts

COUNTS_AGE = 60.0
"""Seconds after which a commit is counted anew, at the earliest."""

COUNTS_PART = 20
"""Counting takes at most so large a part of the time (1 / 20)."""

FORGOTTEN = 600.0
"""Seconds after which nothing is known any more of a commit that nobody asks for."""

ASKED_AGE = 3.0
"""Seconds for which an answer of the keeper counts for conditions: each volume's is asked for by itself."""

Connection = Mapping[str, Any]


def connections_of(session: Session) -> list[Connection] | None:
    """What the keeper says of the mounts of the session's store; None where none runs. ``StratumError``."""
    from stratum.mount.gate import ask_keeper

    answers = ask_keeper(session.config.runtime_dir, {"op": "status"})
    if not answers:
        return None
    root = str(session.store.root)
    return [each for answer in answers for each in tables(answer.get("connections")) if each.get("store") == root]


def counts_of(session: Session, commit: str) -> ResidenceCounts:
    """What of the objects of a commit is here. ``StratumError``."""
    with session.store.locks.store():
        return session.store.residence.counts(commit)


def part(table: Connection, name: str) -> Connection:
    """A table in a table, empty where there is none."""
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def tables(value: object) -> list[Connection]:
    """The tables in a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def sources_of(connection: Connection) -> list[Connection]:
    """What is said of each place that a mount fetches from."""
    return tables(part(connection, "fetcher").get("sources"))


@dataclass(slots=True)
class _Known:
    counts: ResidenceCounts | None
    due: float
    asked: float


class Residences:
    """What of commits is here. ``counts`` counts, and raises ``StratumError`` where it cannot."""

    def __init__(self, counts: Callable[[str], ResidenceCounts]) -> None:
        self._counts = counts
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._due: set[str] = set()
        self._counting = False

    def of(self, commits: Iterable[str]) -> dict[str, ResidenceCounts | None]:
        """What was counted last, of those commits that were; None for one that cannot be. They are counted anew where
        that is due."""
        now, found = time.monotonic(), dict[str, ResidenceCounts | None]()
        with self._lock:
            self._known = {each: known for each, known in self._known.items() if now - known.asked < FORGOTTEN}
            for commit in commits:
                known = self._known.get(commit)
                if known is not None:
                    known.asked, found[commit] = now, known.counts
                if known is None or now >= known.due:
                    self._due.add(commit)
            if self._due and not self._counting:
                self._counting = True
                threading.Thread(target=self._work, daemon=True, name="residence").start()
        return found

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._counting = False
                    return
                commit = next(iter(self._due))  # it stays due until it is counted, so that nobody asks for it again
            counts, began = None, time.monotonic()
            try:
                counts = self._counts(commit)
            except StratumError:  # unmounted and collected meanwhile, or damaged, which 'fsck' tells
                pass
            except BaseException:
                with self._lock:
                    self._due.discard(commit)
                    self._counting = False
                raise
            now = time.monotonic()
            pause = max(COUNTS_AGE, COUNTS_PART * (now - began))
            with self._lock:
                self._due.discard(commit)
                self._known[commit] = _Known(counts, now + pause, now)


@dataclass(frozen=True, slots=True)
class Lazily:
    """How it is with a volume that is not here as a whole: ``note`` for people, and ``trouble`` where what is not here
    cannot be had now."""

    note: str
    trouble: str | None = None


class Lazy:
    """The lazy volumes of one driver; may be used by several threads at once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._asked = -ASKED_AGE
        self._connections: list[Connection] | None = None
        self.residences = Residences(lambda commit: counts_of(session, commit))

    def connections(self, age: float = 0.0) -> list[Connection] | None:
        """What the keeper says of mounts, or said at most ``age`` seconds ago; None where none answers."""
        with self._lock:
            if time.monotonic() - self._asked >= age:
                try:
                    self._connections = connections_of(self._session)
                except StratumError:
                    self._connections = None
                self._asked = time.monotonic()
            return self._connections

    def of(self, commit: str, source: str | None) -> Lazily | None:
        """How it is with a volume over ``commit`` whose mount, where it has one, was made with ``source``; None where
        the commit is here as a whole."""
        if not self._session.store.sources.is_partial(commit):
            return None
        counts = self.residences.of([commit]).get(commit)
        if counts is None:
            note = "not all of it is on the node"
        else:
            total = counts.real_bytes + counts.unreal_bytes + counts.lost_bytes
            note = f"{in_units(counts.real_bytes)} of {in_units(total)} are on the node"
            if counts.lost:
                return Lazily(note, f"{in_units(counts.lost_bytes)} of it are nowhere any more")
            if not counts.unreal:
                return Lazily(note)
        return Lazily(note, self._trouble(source) if source is not None else None)

    def _trouble(self, source: str) -> str | None:
        connections = self.connections(ASKED_AGE)
        if connections is None:
            return "what is not on the node cannot be read: the keeper (stratum hydrate) does not answer"
        own = [each for each in connections if each.get("source") == source]
        if not own:
            return "what is not on the node cannot be read: the keeper (stratum hydrate) does not know the mount"
        places = [place for each in own for place in sources_of(each)]
        if not places or any(place.get("state") == "ok" for place in places):
            return None
        return "; ".join(dict.fromkeys(map(_away, places)))


def _away(source: Connection) -> str:
    """What is wrong with a place, in words."""
    place = str(source.get("reference", "")).rpartition("@")[0] or "its source"
    since, error = source.get("since"), source.get("error")
    return f"{place} is {source.get('state')}" + (f" since {since}" if since else "") + (f": {error}" if error else "")
