"""What a garbage collection keeps, and why (``store.gc``)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError
from stratum.store.ancestry import Ancestry
from stratum.store.clock import utc_now
from stratum.store.layout import NoSpaceError
from stratum.store.lineage import spanning
from stratum.store.pins import read_pins
from stratum.store.retention import DatedTag, Retention, parse_time, retained, thin_tags

if TYPE_CHECKING:
    from stratum.store.reflog import ReflogEntry
    from stratum.store.store import Store

_HINT = "nothing was removed; 'stratum fsck' tells more, and 'stratum fsck --repair --from' restores it"


@dataclass(slots=True)
class Roots:
    """``kept`` is commit -> why; ``going_tags`` (stratum, tag) -> commit, of those that the rules let go; ``mentioned``
    commit -> the strata whose reflogs mention it."""

    kept: dict[str, str] = field(default_factory=dict)
    going_tags: dict[tuple[str, str], str] = field(default_factory=dict)
    mentioned: dict[str, set[str]] = field(default_factory=dict)


class Named(NamedTuple):
    """A commit that something of a stratum names: ``worktree`` a worktree, ``tag`` a tag."""

    commit: str
    why: str
    stratum: str
    worktree: str | None = None
    tag: str | None = None


def find_roots(store: Store, rules: Retention, mounted: Mapping[str, str]) -> Roots:
    """What is kept. Of several reasons the strongest is given: tag, worktree, pin, mount, history, reflog, age.

    ``mounted`` is commit -> where. Raises ``DamagedError`` where it cannot be known what is needed.
    """
    roots, now = Roots(), utc_now()
    logs = {name: store.reflog.scan(name) for name in store.names()}
    named = list(named_commits(store, rules, {name: log[0] for name, log in logs.items()}, roots.going_tags))
    roots.kept = {item.commit: item.why for item in named}
    for commit, where in mounted.items():
        roots.kept.setdefault(commit, where)
    for commit, why in roots.kept.items():
        if not store.commits.exists(commit):
            raise DamagedError(
                f"commit {commit} is missing ({why}), so it is not known which objects it needs", hint=_HINT
            )
    for commit, why in _histories(store, rules, named, now):
        roots.kept.setdefault(commit, why)
    for name, (entries, damaged) in logs.items():
        kept = retained(entries, rules.of(name), now)
        if damaged:
            kept.update(dict.fromkeys(_mentioned_in_damage(store, name, damaged), "damaged reflog"))
        for commit, rule in kept.items():
            if store.commits.exists(commit):
                roots.kept.setdefault(commit, f"{rule} of {name}")
        for commit in {commit for entry in entries for commit in (entry.old, entry.new) if commit is not None}:
            roots.mentioned.setdefault(commit, set()).add(name)
    for commit in store.commits.list():
        if commit not in roots.kept and commit not in roots.mentioned and _is_recent_work(store, commit, rules, now):
            roots.kept[commit] = "recent work"
    return roots


def named_commits(
    store: Store,
    rules: Retention,
    logs: Mapping[str, Iterable[ReflogEntry]],
    going: dict[tuple[str, str], str],
) -> Iterator[Named]:
    """What pins, worktrees and tags name, tags last, as theirs is the strongest reason. ``going`` gets the tags that
    the rules let go instead."""
    pins = {name: read_pins(store.layout, name) for name in logs}
    for name, pinned in pins.items():
        for commit in pinned.commits:
            yield Named(commit, f"pinned in {name}", name)
    for name in logs:
        for worktree in store.worktrees.list(name):
            for commit in {worktree.base_commit, worktree.commit, worktree.forked_from}:
                yield Named(commit, str(worktree), name, worktree.worktree)
            interrupted = store.worktrees.interrupted_switch(name, worktree.worktree)
            if interrupted is not None and interrupted.old is not None:
                why = f"{worktree} (interrupted switch)"
                yield Named(interrupted.old.base_commit, why, name, worktree.worktree)
    yield from _moved(store, logs)
    for record in store.boot_mounts.list():
        if record.commit is not None:
            yield Named(record.commit, f"mounted at every start at {record.mountpoint}", record.parsed().name)
    for name, entries in logs.items():
        tags = store.tags.list(name)
        kept_by = _thin(store, tags, entries, rules.of(name))
        for tag, commit in tags.items():
            if kept_by.get(tag, "") is None and tag not in pins[name].tags:
                going[name, tag] = commit
                continue
            rule = kept_by.get(tag)
            yield Named(commit, f"{name}:{tag}" + (f" ({rule})" if rule else ""), name, tag=tag)


def _moved(store: Store, names: Iterable[str]) -> Iterator[Named]:
    """What the moves of strata that are synced need; what is not here, a peer that has it gives again."""
    for name in names:
        for commit in filter(store.commits.exists, sorted(store.moves.mentioned(name))):
            yield Named(commit, f"moves of {name}", name)


def _thin(
    store: Store, tags: Mapping[str, str], entries: Iterable[ReflogEntry], rules: Retention
) -> dict[str, str | None]:
    """For each tag that the rules may let go, the one that keeps it, if any does."""
    matching = [tag for tag in tags if rules.thins(tag)]
    if not matching or not rules.counts:
        return {}
    order = {entry.which: number for number, entry in enumerate(entries) if entry.kind == "tag"}
    dated = []
    for tag in matching:
        when = ""
        with suppress(DamagedError):  # then its time is not known, which keeps it
            when = store.commits.meta(tags[tag]).timestamp if store.commits.exists(tags[tag]) else ""
        dated.append(DatedTag(tag, when, order.get(tag, -1)))
    return thin_tags(dated, rules)


def _histories(store: Store, rules: Retention, named: Iterable[Named], now: datetime) -> Iterator[tuple[str, str]]:
    """(commit, why) for the ancestors of what is named, as far as the rules have them kept and the store has them."""
    ancestry = Ancestry(store)
    seen: dict[object, set[str]] = {}
    for item in named:
        age = rules.of(item.stratum).history
        for commit in kept_ancestors(store, ancestry, item, age, now, seen.setdefault(age, set())):
            yield commit, f"history of {item.why.partition(' (')[0]}"


def kept_ancestors(
    store: Store, ancestry: Ancestry, item: Named, age: timedelta | None, now: datetime, seen: set[str]
) -> Iterator[str]:
    """The commit of ``item`` and its ancestors, those that were made less than ``age`` ago where it is given, but for
    what was ``seen`` before, which gets them. ``DamagedError``."""
    waiting = [item.commit] if age is None or age else []
    while waiting:
        commit = waiting.pop()
        if commit in seen or not store.commits.exists(commit):
            continue
        seen.add(commit)
        if commit != item.commit and age is not None and _is_older(store, commit, now, age.total_seconds()):
            continue
        yield commit
        try:
            waiting += ancestry.known(commit).ancestors
        except DamagedError as exc:
            raise DamagedError(
                f"{exc.message}, so it is not known what is the history of {item.why}", hint=_HINT
            ) from None


def _is_older(store: Store, commit: str, now: datetime, age: float) -> bool:
    """Whether the commit says that it was made more than ``age`` seconds ago."""
    time = parse_time(store.commits.meta(commit).timestamp)
    return time is not None and (now - time).total_seconds() > age


def _mentioned_in_damage(store: Store, name: str, damaged: Iterable[int]) -> list[str]:
    """The commits of which at least half of the hash is in the damaged lines (numbers from 1) of a reflog."""
    lines = store.reflog.lines(name)
    text = b"\n".join(lines[number - 1] for number in damaged)
    halves = ((commit, commit[:32].encode(), commit[32:].encode()) for commit in store.commits.list())
    return [commit for commit, first, second in halves if first in text or second in text]


def _is_recent_work(store: Store, commit: str, rules: Retention, now: datetime) -> bool:
    """Whether the commit was made from a worktree less than the age of its stratum's rules ago."""
    try:
        made = store.layout.commit(commit).lstat().st_mtime
        origin = store.commits.meta(commit).origin
    except (DamagedError, FileNotFoundError):
        return False
    if origin is None or origin.get("kind") != "worktree":
        return False
    name = str(origin.get("worktree", "")).partition("+")[0]
    return made > now.timestamp() - rules.of(name).age.total_seconds()


def span_gaps(store: Store, kept: Iterable[str], going: Collection[str]) -> None:
    """Have the commits that stay, and whose nearest ancestors are ``going``, name what is behind these."""
    if not going:
        return
    ancestry = Ancestry(store)
    with suppress(NoSpaceError), store.begin("noting collected history") as tx:
        for commit in kept:
            with suppress(DamagedError):  # of one that only the reflog keeps
                if not set(ancestry.known(commit).ancestors).isdisjoint(going):
                    ancestry.replace(tx, commit, spanning(ancestry, commit, going))
