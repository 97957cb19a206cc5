"""Commits that are found from others: what a tag or worktree named at a moment, and the generations before a commit.

The reflog says what was named. A moment without a fraction is that second as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.errors import NotFoundError
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, Ref
from stratum.store.commits import Commits
from stratum.store.layout import Layout
from stratum.store.reflog import Reflog

if TYPE_CHECKING:
    from datetime import datetime

    from stratum.store.reflog import Kind, ReflogEntry


class Past:
    """The past of the refs of one store."""

    def __init__(self, layout: Layout, commits: Commits, reflog: Reflog) -> None:
        self.layout = layout
        self.commits = commits
        self._reflog = reflog

    def knows(self, ref: Ref) -> bool:
        """Whether the reflog tells anything of what ``ref`` names."""
        return any(_is_of(ref, entry) for entry in self._reflog.read(ref.name))

    def named(self, ref: Ref) -> str:
        """The commit that ``ref`` named at its moment ``when``. NAME alone was its ``main``, where it had one then, or
        else its ``latest``.

        ``UsageError`` for what is no moment. ``NotFoundError`` where it named nothing then, and where the commit is not
        in the store any more.
        """
        from datetime import datetime, timedelta

        from stratum.tree.timewords import parse_when

        assert ref.when is not None
        when = parse_when(ref.when, datetime.now().astimezone(), datetime.astimezone)
        entries = [entry for entry in self._reflog.read(ref.name) if _is_of(ref, entry)]
        bound = when if when.microsecond else when + timedelta(microseconds=999_999)
        until = [entry for entry in entries if _time(entry) <= bound]
        last = {(entry.kind, entry.which): entry for entry in until}
        found = next((entry for entry in (last.get(place) for place in _places(ref)) if entry and entry.new), None)
        if found is None or found.new is None:
            raise _named_nothing(ref, when, entries, until)
        if not self.commits.exists(found.new):
            raise NotFoundError(
                f"{_named(ref)} was commit {found.new} then, which is not in this store any more",
                hint=f"'stratum log --reflog {_named(ref)}' lists what it named; 'stratum gc --help' says what stays",
            )
        return found.new

    def before(self, commit: str, back: int, text: str) -> str:
        """The commit ``back`` generations before ``commit``, which is what ``text`` starts from.

        ``NotFoundError`` where there are not so many, with the number there is, and where it is not in the store.
        ``DamagedError``.
        """
        from stratum.store.ancestry import Ancestry

        left = back
        for step in Ancestry(self).line(commit):
            if left == 0:
                return step.commit
            if step.missing and (left <= len(step.missing) or step.is_last):
                lost = step.missing[min(left, len(step.missing)) - 1]
                raise NotFoundError(
                    f"{text}~{back} is not in this store: commit {lost} was collected by gc, or never pulled",
                    hint=f"'stratum log {text}' shows those that are",
                )
            left -= 1 + len(step.missing)
        count = back - left - 1
        raise NotFoundError(
            f"there is no {text}~{back}: before {text} there {'is' if count < 2 else 'are'} {count or 'no'}"
            f" commit{'s' if count > 1 else ''}",
            hint=f"'stratum log {text}' shows what there is",
        )


def _places(ref: Ref) -> list[tuple[Kind, str]]:
    """(kind, name) of what ``ref`` may have named, the first that was there first."""
    if ref.worktree is not None:
        return [("worktree", ref.worktree)]
    if ref.tag is not None:
        return [("tag", ref.tag)]
    return [("worktree", DEFAULT_WORKTREE), ("tag", DEFAULT_TAG)]


def _is_of(ref: Ref, entry: ReflogEntry) -> bool:
    return (entry.kind, entry.which) in _places(ref)


def _named(ref: Ref) -> str:
    return str(Ref(ref.name, tag=ref.tag, worktree=ref.worktree))


def _time(entry: ReflogEntry) -> datetime:
    """When a move was; the beginning of all time where that cannot be read."""
    from datetime import datetime, timezone

    try:
        when = datetime.fromisoformat(entry.when.replace("Z", "+00:00"))
    except ValueError:
        when = datetime.min
    return when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)


def _named_nothing(ref: Ref, when: datetime, entries: list[ReflogEntry], until: list[ReflogEntry]) -> NotFoundError:
    then = when.isoformat(sep=" ", timespec="seconds")
    whose = _named(ref)
    if until:
        told = f"it was removed at {until[-1].when}"
    elif entries:
        told = f"its reflog begins at {entries[0].when}"
    else:
        told = "it has no reflog"
    return NotFoundError(
        f"{whose} named nothing at {then}: {told}",
        hint=f"'stratum log --reflog {whose}' lists what it named" if entries else "",
    )
