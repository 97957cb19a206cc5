"""Where a commit comes from: its ancestors, all or those that changed some paths, with what names and made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.api.naming import ref_or_mountpoint, with_paths
from stratum.api.session import Session
from stratum.errors import NotFoundError, StratumError, path_text
from stratum.frozen import frozen
from stratum.store.ancestry import Ancestry

if TYPE_CHECKING:
    from datetime import datetime

    from stratum.store import Store
    from stratum.store.ancestry import Step
    from stratum.store.metadata import CommitMeta
    from stratum.store.reflog import ReflogEntry

_SAID_ANYWAY = ("", "commit", "import", "init", "pull", "tag", "worktree")
"""The first word of why a ref was moved to a commit, where that tells nothing but that somebody made or named it."""


@frozen
class Logged:
    """A commit in a line of descent: the tags at it, the worktrees whose last commit it is, and what was said, if it is
    worth telling, when the first of them came to it: "container 0123456789ab (db, postgres:15) stopped".

    ``change`` is what it did, against the next one that is here, to the paths that were asked for: ``added``,
    ``deleted`` or ``modified``; None where none were.
    """

    commit: CommitMeta
    tags: list[str]
    worktrees: list[str]
    why: str | None
    change: str | None


@frozen
class Gap:
    """Ancestors, nearest first, that come next and are not in this store, as they were collected or never pulled. Where
    ``is_last`` what is beyond them is not known."""

    missing: tuple[str, ...]
    is_last: bool


@frozen
class Wanted:
    """Which commits: at most ``limit``, and of what time (words for moments)."""

    limit: int | None = None
    since: str | None = None
    until: str | None = None


def log(session: Session, text: str, paths: Sequence[str] = (), wanted: Wanted | None = None) -> Iterator[Logged | Gap]:
    """The commit that ``text`` names (a ref, or a path at or below a mountpoint) and its ancestors, newest first, as
    far as the store has them; with ``paths``, or a path in ``text``, those that changed something there or below.

    A file that was renamed was deleted and added. Of the oldest commit that is here, what is in it is taken as added.
    ``NotFoundError`` for paths that no commit has, ``UsageError``, ``DamagedError``.
    """
    wanted = wanted or Wanted()
    text, paths = with_paths(session, text, paths)
    store, ref = session.store, ref_or_mountpoint(session, text)
    found = store.resolve(ref)
    raw = _raw(paths) if paths else []
    within = _within(wanted)
    names = _Names(store, found.name, found.commit)
    changed = _Changed(store, raw) if raw else None
    shown = 0
    line = _Line(store)
    for step, following in pairs(line.line(found.commit)):
        meta = line.meta(step.commit)
        is_wanted = within(meta.timestamp)
        change = changed.by(step, following) if changed is not None and is_wanted else None
        if is_wanted and (changed is None or change is not None):
            yield names.logged(meta, change)
            shown += 1
        if shown == wanted.limit:
            return
        if step.missing:
            yield Gap(step.missing, step.is_last)
    if raw and not shown and wanted.since is None and wanted.until is None:
        raise _never_there(store, text, found.commit, raw)


def reflog(session: Session, text: str, limit: int | None = None) -> list[tuple[str, ReflogEntry]]:
    """Every move of the tags and worktrees that ``text`` names (NAME: all of them), newest first, as (ref, move)."""
    from stratum.refs import parse_lasting

    store, ref = session.store, parse_lasting(str(ref_or_mountpoint(session, text)))
    store.namespaces.check(ref.name)
    moves = []
    for entry in reversed(store.reflog.read(ref.name)):
        if ref.tag not in (None, entry.which if entry.kind == "tag" else ""):
            continue
        if ref.worktree not in (None, entry.which if entry.kind == "worktree" else ""):
            continue
        moves.append((f"{ref.name}{':' if entry.kind == 'tag' else '+'}{entry.which}", entry))
    return moves[:limit]


def pairs(steps: Iterator[Step]) -> Iterator[tuple[Step, Step | None]]:
    """Each step with the one after it."""
    before = next(steps, None)
    while before is not None:
        after = next(steps, None)
        yield before, after
        before = after


def reasons(store: Store, names: Iterable[str]) -> dict[str, str]:
    """Commit -> what was said when a tag or worktree of these strata first came to it, where that is worth telling."""
    found: dict[str, str] = {}
    for name in names:
        with suppress(StratumError):  # it tells less, then
            for entry in store.reflog.read(name):
                if entry.new is not None:
                    found.setdefault(entry.new, entry.why)
    return {commit: why for commit, why in found.items() if why.partition(" ")[0] not in _SAID_ANYWAY}


class _Line(Ancestry):
    """The ancestors of commits, with the metadata that name them."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._store = store
        self._read: dict[str, CommitMeta] = {}

    def parent(self, commit: str) -> str | None:
        meta = self._read[commit] = self._store.commits.meta(commit)
        return meta.parent_commit

    def meta(self, commit: str) -> CommitMeta:
        """The metadata of a commit, which are read once."""
        return self._read.pop(commit, None) or self._store.commits.meta(commit)


class _Changed:
    """What commits changed at some paths and below."""

    def __init__(self, store: Store, paths: list[bytes]) -> None:
        from stratum.store.subtree import Differing, Subtree

        differing = Differing(store.trees)
        self._trees = [Subtree(differing, path) for path in paths]

    def by(self, step: Step, following: Step | None) -> str | None:
        """What a commit changed; None where that is nothing."""
        if following is None:
            return "added" if any(tree.is_in(step.commit) for tree in self._trees) else None
        found = {tree.change(following.commit, step.commit) for tree in self._trees} - {None}
        return found.pop() if len(found) == 1 else "modified" if found else None


class _Names:
    """What names the commits of one line, and what was said when it came to do so."""

    def __init__(self, store: Store, name: str | None, tip: str) -> None:
        self._tags: dict[str, list[str]] = {}
        self._worktrees: dict[str, list[str]] = {}
        owners = {name} if name is not None else set()
        for stratum in store.names():
            with suppress(StratumError):  # what is damaged, or was removed at this moment, is not this verb's to tell
                for tag, commit in store.tags.list(stratum).items():
                    self._tags.setdefault(commit, []).append(f"{stratum}:{tag}")
                    owners |= {stratum} if commit == tip else set()
            with suppress(StratumError):
                for tree in store.worktrees.list(stratum):
                    self._worktrees.setdefault(tree.commit, []).append(str(tree))
                    owners |= {stratum} if tree.commit == tip else set()
        self._why = reasons(store, owners)

    def logged(self, meta: CommitMeta, change: str | None) -> Logged:
        commit = meta.metadata_hash
        tags, worktrees = sorted(self._tags.get(commit, [])), sorted(self._worktrees.get(commit, []))
        return Logged(meta, tags, worktrees, self._why.get(commit), change)


def _raw(paths: Sequence[str]) -> list[bytes]:
    """The paths as trees have them; none where one is the whole tree. ``UsageError``."""
    from stratum.api.versions import path_in

    raw = [path_in(path) for path in paths]
    return raw if b"/" not in raw else []


def _within(wanted: Wanted) -> Callable[[str], bool]:
    """Whether a commit of that time (RFC 3339) is of the time that is wanted; one whose time cannot be read is."""
    if wanted.since is None and wanted.until is None:
        return lambda timestamp: True
    from datetime import datetime, timezone

    from stratum.api.versions import moment

    since, until = (moment(text) if text is not None else None for text in (wanted.since, wanted.until))

    def within(timestamp: str) -> bool:
        try:
            when: datetime = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
        except ValueError:
            return True
        when = when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)
        return (since is None or when >= since) and (until is None or when <= until)

    return within


def _never_there(store: Store, text: str, tip: str, paths: list[bytes]) -> NotFoundError:
    from stratum.tree.unknown import similar_path

    shown = ", ".join(map(path_text, paths))
    similar = similar_path(store.commits.open_tree(tip), paths[0])
    hint = f"did you mean {path_text(similar)}?" if similar is not None else "a path begins at the root of the commit"
    return NotFoundError(f"no commit of {text} that is here has {shown}", hint=hint)
