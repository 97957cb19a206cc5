"""Keeping a store in order: garbage collection, checking and repair."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from stratum.api.images import room_beside
from stratum.api.session import Session
from stratum.errors import DamagedError, StratumError, UnsupportedError, UsageError
from stratum.progress import Progress
from stratum.refs import check_name
from stratum.store.clock import rfc3339, utc_now
from stratum.store.runs import FSCK, FSCK_QUICK, GC, note_run

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.store.findings import Finding
    from stratum.store.fsck import Checked
    from stratum.store.gc import Collected
    from stratum.store.repair import Fetch
    from stratum.store.retention import Retention
    from stratum.store.sources import CommitSource

_DURATION = re.compile(r"(?:\d{1,9}[smhdwy])+")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_LONGEST = timedelta(days=36500)


def parse_duration(text: str) -> timedelta:
    """A duration as people write it: numbers with a unit (s, m, h, d, w or y), such as ``30d`` or ``1w12h``; ``0`` too.

    ``UsageError`` for anything else, and for more than 100 years.
    """
    if text == "0":
        return timedelta()
    if not _DURATION.fullmatch(text):
        raise UsageError(
            f"{text[:100]!a} is not a duration", hint="write numbers with a unit: 12h, 30d, 2w, 1y; or 0 for none"
        )
    found = timedelta(seconds=sum(int(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"\d+[a-z]", text)))
    if found > _LONGEST:
        raise UsageError(f"{text} is longer than 100 years")
    return found


def retention(
    *,
    age: str | None = None,
    history: str | None = None,
    within: str | None = None,
    tags: Sequence[str] = (),
    strata: Sequence[str] = (),
    **counts: int,
) -> Retention:
    """The rules that the options of ``gc`` mean; ``counts`` are those that count, by the names of ``Retention``.

    With any counting rule, the reflog's age and the age of history count only where they are given too, but for what
    was not committed when a reset came, which stays for the reflog's usual age.
    ``UsageError`` for ``tags`` without a rule that keeps any.
    """
    from stratum.store.retention import DEFAULT_AGE, Retention

    kept_within = timedelta() if within is None else parse_duration(within)
    counted = any(counts.values()) or bool(kept_within)
    if tags and not counted:
        raise UsageError(
            "it is not said which of the tags are to stay, so all that match would go",
            hint="add a rule that keeps some, such as --keep-last 10 or --keep-daily 14",
        )
    default = timedelta() if counted else DEFAULT_AGE
    return Retention(
        age=default if age is None else parse_duration(age),
        set_aside=DEFAULT_AGE if counted and age is None else timedelta(),
        within=kept_within,
        history=parse_duration(history) if history is not None else timedelta() if counted else None,
        tags=tuple(tags),
        strata=frozenset(map(check_name, strata)) if strata else None,
        **counts,
    )


def gc(session: Session, rules: Retention, *, dry_run: bool = False) -> Collected:
    """Fold worktrees, let histories forget (``store.forgetting``) and remove what nothing needs (``store.gc``).

    ``BusyError`` names who holds the store, after a bounded wait.
    """
    from stratum.api.folding import fold_all
    from stratum.store.forgetting import carry_out, plan, seal_idle
    from stratum.store.gc import collect, read_ahead

    store, needed = session.store, None
    folded = fold_all(session, dry_run=dry_run)
    with store.locks.store():
        if not dry_run:
            seal_idle(store)
            needed = read_ahead(store, rules, mounted_commits(session))
        forgetting = plan(store, session.config.history_max)
    with store.locks.store(exclusive=not dry_run):
        if not dry_run:
            carry_out(store, forgetting)
        done = collect(
            store,
            rules,
            mounted_commits(session),
            dry_run=dry_run,
            needed=needed,
            forgotten=forgetting if dry_run else None,
        )
        with suppress(StratumError):  # of the limits, which fsck tells
            trimmed = store.images.trim(room_beside(session.image_room(), store, done.commits), dry_run=dry_run)
            done.images, done.bytes_freed = trimmed.count, done.bytes_freed + trimmed.bytes
    if folded.failed and not dry_run:  # there may be room for it now
        folded = fold_all(session, before=folded)
    done.versions, done.histories = len(forgetting.going), [f"{name}+{tree}" for name, tree in forgetting.expired]
    done.folded, done.kept_twice = folded.folded, folded.kept_twice
    done.in_use, done.not_folded = folded.in_use, folded.failed
    if not dry_run:
        freed = done.bytes_freed + sum(done.folded.values())
        note_run(store.layout, GC, {"freed": freed, "commits": len(done.commits), "objects": done.objects})
    return done


def mounted_commits(session: Session) -> dict[str, str]:
    """Commit -> where it is mounted, for the commits of this store that are."""
    records = session.state.of_store(session.store.root)
    return {record.commit: f"mounted at {record.mountpoint}" for record in records}


@dataclass(slots=True)
class Fscked:
    """What a check found, and what a repair did: ``damage`` is what is left, ``quarantine`` where things were put.

    ``problems`` are those of the place that damaged things were to be restored from, ``away`` tells of
    the sources that could not be asked.
    """

    checked: Checked
    damage: list[Finding]
    quarantine: Path | None = None
    problems: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)


def fsck(
    session: Session,
    *,
    read_data: bool = True,
    remote: bool = False,
    noted: bool = False,
    progress: Progress | None = None,
) -> Fscked:
    """Check the whole store (``store.fsck``), and the record of mounts. Works on a read-only store, but for ``remote``:
    all sources are asked first whether they still have what commits may be fetched from there. Nothing in the store is
    changed, but that with ``noted`` it is noted that it was checked (``store.runs``)."""
    from contextlib import ExitStack

    from stratum.store.fsck import check

    store = session.store
    away = ask_sources(session) if remote else []
    with ExitStack() as locks:
        with suppress(UnsupportedError):  # whoever may only read the store does without
            locks.enter_context(store.locks.store())
        checked = check(store, read_data=read_data, progress=progress)
    checked.findings += _state_findings(session)
    if noted:
        _note_check(session, checked.damage, read_data=read_data)
    return Fscked(checked, checked.damage, away=away)


def _note_check(session: Session, damage: list[Finding], *, read_data: bool) -> None:
    layout = session.store.layout
    runs = str(layout.runs.relative_to(layout.root))
    if not any(finding.path.startswith(runs) for finding in damage):  # what is told of here is not written over
        note_run(layout, FSCK if read_data else FSCK_QUICK, {"damaged": len(damage)})


def fsck_repair(
    session: Session,
    *,
    read_data: bool = True,
    source: str | None = None,
    remote: bool = False,
    progress: Progress | None = None,
) -> Fscked:
    """Check the store, repair what can be (``store.repair``), restoring from ``source`` what is lost here.

    ``source`` is a place (``oci.target``) or an exported file; ``remote`` as for ``fsck``. What a source
    of a commit has is left to be fetched from there. Raises ``BusyError`` where the store is in use.
    """
    from stratum.store.fsck import check
    from stratum.store.repair import repair

    store = session.store
    fetch, problems = _fetcher(session, source)
    away = ask_sources(session) if remote else []
    with store.locks.store(exclusive=True):
        checked = check(store, read_data=read_data, progress=progress)
        quarantine = repair(store, checked.findings, fetch, partial(_catalog, session))
        left = checked.damage
        if any(finding.repair is not None for finding in checked.findings):
            known = {finding.path for finding in left}
            left += [finding for finding in check(store, read_data=False).damage if finding.path not in known]
    state = _state_findings(session)
    checked.findings += state
    _note_check(session, left + state, read_data=read_data)
    return Fscked(checked, left + state, quarantine, problems, away)


def _catalog(session: Session, source: CommitSource) -> bytes:
    from stratum.transfer.realize import fetch_catalog

    return fetch_catalog(session.store, source, session.access())


def ask_sources(session: Session) -> list[str]:
    """Ask every source whether it still has what it is the source of, and write down what they say; what went wrong
    with those that did not."""
    from stratum.hydrate.asking import ask

    store = session.store
    named: dict[str, tuple[CommitSource, list[str]]] = {}
    for commit in store.sources.commits():
        with suppress(DamagedError):
            for source in store.sources.of(commit):
                named.setdefault(source.reference, (source, []))[1].append(commit)
    answers, problems = ask(store, [source for source, _ in named.values()], session.access())
    if answers:
        with store.begin("noting what sources have") as tx:
            for reference, there in answers.items():
                for commit in filter(store.commits.exists, named[reference][1]):
                    store.sources.seen(tx, commit, reference, rfc3339(utc_now()), gone=not there)
    return problems


def _fetcher(session: Session, source: str | None) -> tuple[Fetch, list[str]]:
    """What fetches from ``source``, or from where commits can be fetched from as the store knows, and the list that
    gets its problems."""
    from stratum.oci.target import parse_target
    from stratum.transfer.salvage import salvage, salvage_from_sources

    problems: list[str] = []
    if source is not None and os.path.isfile(source):
        source = f"oci-archive:{source}"
    target, access = parse_target(source, session.config.registry) if source is not None else None, session.access()

    def fetch(objects: dict[bytes, int], frames: set[bytes], commits: set[str]) -> None:
        if target is not None:
            problems.extend(salvage(session.store, target, access, objects, frames, commits))
        else:
            problems.extend(salvage_from_sources(session.store, access, frames, commits))

    return fetch, problems


def _state_findings(session: Session) -> list[Finding]:
    from stratum.store.findings import Finding

    try:
        session.state.records()
    except DamagedError as exc:
        return [Finding("state", str(session.state.path), exc.message)]
    return []
