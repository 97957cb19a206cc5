"""What uses the disk (``api.shares``), and what a removal would free."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from stratum.api.folding import fold_all
from stratum.api.shares import CommitUsage, Share, StoreUsage, StratumUsage, Survey, WorktreeUsage
from stratum.errors import UnsupportedError
from stratum.frozen import field, frozen
from stratum.refs import Ref, parse_lasting, parse_ref

if TYPE_CHECKING:
    from stratum.api.session import Session

Pair = tuple[str, str]
_Row = TypeVar("_Row", StratumUsage, CommitUsage, WorktreeUsage)


@frozen
class DiskUsage:
    """What was asked for, each sorted: that first of which the most is exclusive."""

    store: StoreUsage
    strata: list[StratumUsage] = field(default_factory=list)
    commits: list[CommitUsage] = field(default_factory=list)
    worktrees: list[WorktreeUsage] = field(default_factory=list)


def disk_usage(
    session: Session,
    refs: Sequence[str] = (),
    *,
    strata: bool = True,
    commits: bool = False,
    worktrees: bool = False,
) -> DiskUsage:
    """What uses the disk: of what ``refs`` name, strata (NAME alone), commits and worktrees, or of all strata; with
    ``commits`` or ``worktrees`` of those in the strata instead; without ``strata`` of the store alone.

    A store that cannot be written can be asked. ``NotFoundError``; ``DamagedError`` where it is not known who needs
    what.
    """
    store = session.store
    names, some, pairs = _asked(session, refs)
    with _surveyed(session) as survey:
        if not refs:
            names = list(store.names())
        if commits:
            some += survey.commits_of(names) if refs else survey.all_commits()
        if worktrees:
            pairs += [pair for pair in store.each_worktree() if pair[0] in names]
        rows = names if strata and not (commits or worktrees) else []
        return DiskUsage(
            survey.store(),
            _sorted([survey.stratum(name) for name in dict.fromkeys(rows)], lambda row: row.name),
            _sorted(survey.commits(some), lambda row: row.commit),
            _sorted([survey.worktree(*pair) for pair in dict.fromkeys(pairs)], lambda row: row.ref),
        )


def freed_by_removal(session: Session, ref: Ref) -> Share:
    """What removing a tag, a worktree or a stratum would free in the end: its share, of which ``exclusive`` says it.
    Raises as ``disk_usage``."""
    apart = [(ref.name, ref.tag)] if ref.tag is not None else []
    with _surveyed(session, apart) as survey:
        if ref.tag is not None:
            return survey.tag(ref.name, ref.tag)
        if ref.worktree is not None:
            return survey.worktree(ref.name, ref.worktree).share
        return survey.stratum(ref.name).share


@contextmanager
def _surveyed(session: Session, apart: Collection[Pair] = ()) -> Iterator[Survey]:
    """A survey, in a block in which nothing is collected."""
    foldable = fold_all(session, dry_run=True).folded
    with ExitStack() as locks:
        with suppress(UnsupportedError):  # whoever may only read the store does without
            locks.enter_context(session.store.locks.store())
        yield Survey(session, foldable, apart)


def _asked(session: Session, refs: Sequence[str]) -> tuple[list[str], list[str], list[Pair]]:
    """The strata, commits and worktrees that the refs name."""
    store = session.store
    names, commits, pairs = list[str](), list[str](), list[Pair]()
    for text in refs:
        ref = parse_ref(text)
        if ref.change is not None:  # it may have no commit yet, and nothing is made here
            parse_lasting(text)
        if ref.live:
            pairs.append(store.resolve_worktree(ref, create=False))
        elif ref.bare and (store.namespaces.exists_name(ref.name) or not store.commits.find(ref.name)):
            store.namespaces.check(ref.name)
            names.append(ref.name)
        else:
            commits.append(store.resolve_commit(ref))
    return names, commits, pairs


def _sorted(rows: list[_Row], name: Callable[[_Row], str]) -> list[_Row]:
    return sorted(rows, key=lambda row: (-row.share.exclusive.disk, name(row)))
