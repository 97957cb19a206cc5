"""What strata, commits and worktrees have of a store, what they share, and what a garbage collection would free.

Every figure is of bytes on disk (``st_blocks``) and of sizes (``st_size``). Of a stratum, commit or worktree:

- **total** is all that it needs: objects, the files that the trees of its commits are made of, which other commits may
  share, images, what was written in worktrees, and logs of histories with the contents that they name.
- **exclusive** is what would be freed, in the end, if it went. Of a commit: what no other commit needs that stays, and
  no history. Of a stratum: what no other stratum needs, its reflog included. Of a worktree: what nothing else needs
  but reflogs, which let go with their age. What is garbage already needs nothing.
- **remote** is what it needs and is not here, by its size; it counts nowhere else.
- **gc** is what a collection without options would free now: nothing where the tree of a commit that is kept is
  damaged, as a collection then refuses to go on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from stratum.api.maintenance import mounted_commits
from stratum.errors import DamagedError, NotFoundError
from stratum.frozen import field, frozen
from stratum.store.footprint import footprint
from stratum.store.forgetting import plan
from stratum.store.gc import leftovers, what_stays
from stratum.store.layout import storage_error
from stratum.store.reach import HISTORY, REFLOG, TAG, WORKTREE, Root, reachable
from stratum.store.retention import Retention
from stratum.store.sharing import Amount, measure
from stratum.sys.usage import Usage, disk_usage

if TYPE_CHECKING:
    from stratum.api.session import Session

_RUNNING = "what runs"
"""The user of objects that transactions need which run now."""


_Both = tuple[Amount, Amount]
"""What something needs, and what of it nobody else does."""


@frozen
class Size:
    """Bytes on ``disk``, and ``apparent`` size."""

    disk: int = 0
    apparent: int = 0

    def minus(self, other: Size) -> Size:
        """What is left without the ``other``."""
        return Size(self.disk - other.disk, self.apparent - other.apparent)


@frozen
class Share:
    """What something has of the store (see above). ``objects`` are how many objects it needs, here or not."""

    total: Size
    exclusive: Size
    remote: int
    objects: int
    gc: int

    @property
    def shared(self) -> Size:
        """What others need too."""
        return self.total.minus(self.exclusive)


@frozen
class StratumUsage:
    """A stratum: how many commits and worktrees it has, and its share."""

    name: str
    commits: int
    worktrees: int
    share: Share


@frozen
class CommitUsage:
    """A commit: the refs that name it, its time (RFC 3339; empty where its metadata cannot be read), what its image
    takes, and its share. ``why`` is why a collection keeps it, None where it would not."""

    commit: str
    refs: list[str]
    time: str
    image: Size
    why: str | None
    share: Share


@frozen
class WorktreeUsage:
    """A worktree: what was ``written`` in it and is in its directory, what the log of its history takes, and its share,
    which has both."""

    ref: str
    written: Size
    history: Size
    share: Share


@frozen
class StoreUsage:
    """The whole store: what its ``parts`` take (``store.footprint.PARTS``), how many ``objects`` and commits there are,
    what of commits is not here (``remote``), what a collection would free, and what the file system has left for who
    is not root (``free``). ``damaged`` says of commits and histories why they did not count."""

    parts: dict[str, Size]
    objects: int
    commits: int
    remote: int
    remote_objects: int
    gc: int
    free: int
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> Size:
        """All parts together."""
        return Size(*(sum(sizes) for sizes in zip(*((p.disk, p.apparent) for p in self.parts.values()), strict=True)))


class _Group(NamedTuple):
    """What is needed from some roots, and from no others: objects, the files of commits; and the commits."""

    objects: Amount
    own: Amount
    files: Usage
    own_files: Usage
    commits: set[str]

    def share(self, extra: Usage, gc: int) -> Share:
        """With what is nobody else's anyway."""
        return Share(
            _together(self.objects, self.files.plus(extra)),
            _together(self.own, self.own_files.plus(extra)),
            self.objects.remote,
            self.objects.objects + self.objects.remote_objects,
            gc,
        )


class Survey:
    """What a store holds at one moment. The caller holds the store's lock, shared, for as long as it is used.

    ``apart`` are tags, (stratum, tag), that are to be asked about by themselves; ``foldable`` what folding would free
    of worktrees on disk, by their refs. Raises ``DamagedError`` where it is not known who needs what.
    """

    def __init__(self, session: Session, foldable: Mapping[str, int], apart: Collection[tuple[str, str]] = ()) -> None:
        self._store = store = session.store
        self._foldable = foldable
        rules, forgetting = Retention(), plan(store, session.config.history_max)
        self._expired = forgetting.expired
        logs = {pair: store.histories.needed_by(*pair) for pair in store.histories.each() if pair not in self._expired}
        watched = {commit: f"history of {'+'.join(pair)}" for pair, (_, named) in logs.items() for commit in named}
        roots = what_stays(store, rules, mounted_commits(session), watched)
        self._kept, self._mentioned = roots.kept, roots.mentioned
        self._reached = reachable(store, rules, roots.kept, {pair: named for pair, (_, named) in logs.items()}, apart)
        self._logs = {Root(HISTORY, *pair): digests - forgetting.going for pair, (digests, _) in logs.items()}
        self._commits = list(store.commits.list())
        self._garbage = [commit for commit in self._commits if commit not in roots.kept]
        others: dict[object, Iterable[bytes]] = {_RUNNING: store.transactions.needed()}
        others.update(self._logs.items())
        self._sharing = measure(store, self._commits, others)
        self._footprint = footprint(store.layout)
        self._trees = self._sharing.trees(self._footprint)
        self._needing = self._sharing.mask([*roots.kept, *self._logs, _RUNNING])
        self._refuses = any(commit in roots.kept for commit in self._sharing.damaged)
        self._counts = _counted(self._reached.values())
        self._lasting = _counted(commits for root, commits in self._reached.items() if root.kind != REFLOG)

    def commits_of(self, names: Collection[str]) -> list[str]:
        """The commits that are kept because of these strata, and the garbage that they left."""
        kept = (commits for root, commits in self._reached.items() if root.stratum in names)
        left = (commit for commit in self._garbage if not self._owners(commit).isdisjoint(names))
        return sorted(set(left).union(*kept))

    def all_commits(self) -> list[str]:
        """The commits of the store."""
        return self._commits

    def _owners(self, garbage: str) -> set[str]:
        """The strata that a commit was in that goes, as far as reflogs tell."""
        return self._mentioned.get(garbage, set())

    def _group(self, mine: Callable[[Root], bool], counts: Mapping[str, int]) -> _Group:
        """What is needed from roots that are ``mine``; ``counts`` says from how many in all each commit is reached."""
        chosen = {root: commits for root, commits in self._reached.items() if mine(root)}
        own_counts = _counted(chosen.values())
        commits = set(own_counts)
        others = {commit for commit, count in counts.items() if count > own_counts[commit]}
        sharing, trees, files = self._sharing, self._trees, self._footprint.of_commit
        users = sharing.mask([*commits, *filter(chosen.__contains__, self._logs)])
        rest = sharing.mask([*others, _RUNNING, *(log for log in self._logs if log not in chosen)])
        return _Group(
            sharing.total(users),
            sharing.own(users, rest),
            _usage(trees.total(users)).plus(*map(files, commits)),
            _usage(trees.own(users, rest)).plus(*map(files, commits - others)),
            commits,
        )

    def stratum(self, name: str) -> StratumUsage:
        """The usage of a stratum."""
        found = self._group(lambda root: root.stratum == name, self._counts)
        parts = self._footprint.worktrees, self._footprint.histories
        extra = Usage().plus(*(usage for part in parts for pair, usage in part.items() if pair[0] == name))
        folded = sum(size for ref, size in self._foldable.items() if ref.partition("+")[0] == name)
        share = found.share(extra, self._freed(self._left_by(name) + folded))
        return StratumUsage(name, len(found.commits), len(self._store.worktrees.names(name)), share)

    def _freed(self, size: int) -> int:
        """What a collection frees that would take ``size`` bytes."""
        return 0 if self._refuses else size

    def _left_by(self, name: str) -> int:
        """Bytes on disk of the garbage that is of this stratum and of no other."""
        mine = [commit for commit in self._garbage if self._owners(commit) == {name}]
        users, others = self._sharing.mask(mine), self._sharing.mask(set(self._garbage).difference(mine))
        found = self._sharing.own(users, others | self._needing), self._trees.own(users, others | self._needing)
        return sum(own.disk for own in found) + sum(self._footprint.of_commit(commit).disk for commit in mine)

    def worktree(self, name: str, worktree: str) -> WorktreeUsage:
        """The usage of a worktree."""
        pair, ref = (name, worktree), f"{name}+{worktree}"
        mine = {Root(WORKTREE, *pair), Root(HISTORY, *pair)}
        written = self._footprint.worktrees.get(pair, Usage())
        log = self._footprint.histories.get(pair, Usage())
        found = self._group(mine.__contains__, self._lasting)
        return WorktreeUsage(
            ref, _size(written), _size(log), found.share(written.plus(log), self._freed(self._foldable.get(ref, 0)))
        )

    def tag(self, name: str, tag: str) -> Share:
        """The share of a tag that was to be ``apart``: what nothing else needs but reflogs is exclusive."""
        return self._group(lambda root: root == Root(TAG, name, tag), self._lasting).share(Usage(), 0)

    def commits(self, wanted: Iterable[str]) -> list[CommitUsage]:
        """The usage of commits."""
        wanted = list(dict.fromkeys(wanted))
        users: dict[str, list[str]] = {}
        for commit, ref in self._refs() if wanted else ():
            users.setdefault(commit, []).append(ref)
        amounts, trees = (shares.each(wanted, self._needing) for shares in (self._sharing, self._trees))
        return [
            self._commit(commit, sorted(users.get(commit, ())), amounts[commit], trees[commit]) for commit in wanted
        ]

    def _refs(self) -> Iterable[tuple[str, str]]:
        for name in self._store.names():
            for tag, commit in self._store.tags.list(name).items():
                yield commit, f"{name}:{tag}"
            for tree in self._store.worktrees.list(name):
                for commit in {tree.base_commit, tree.commit}:
                    yield commit, str(tree)

    def _commit(self, commit: str, refs: list[str], objects: _Both, trees: _Both) -> CommitUsage:
        files, why, time = self._footprint.of_commit(commit), self._kept.get(commit), ""
        with suppress(DamagedError, NotFoundError):
            time = self._store.commits.meta(commit).timestamp
        exclusive = _together(objects[1].plus(trees[1]), files)
        share = Share(
            _together(objects[0].plus(trees[0]), files),
            exclusive,
            objects[0].remote,
            objects[0].objects + objects[0].remote_objects,
            self._freed(exclusive.disk) if why is None else 0,
        )
        image = _size(self._footprint.images.get(commit, Usage()))
        return CommitUsage(commit, refs, time, image, why, share)

    def store(self) -> StoreUsage:
        """The usage of the whole store."""
        everything, layout = self._sharing.unneeded(0), self._store.layout
        parts = {part: _size(usage) for part, usage in self._footprint.parts.items()}
        parts["objects"] = _together(everything, self._footprint.parts["objects"])
        left = leftovers(self._store, self._kept, lambda digest: bool(self._sharing.users_of(digest) & self._needing))
        gc = (
            self._sharing.unneeded(self._needing).disk
            + self._trees.unneeded(self._needing).disk
            + sum(usage.disk for commit, usage in self._footprint.beside.items() if commit not in self._kept)
            + sum(map(disk_usage, left))
            + sum(self._footprint.histories.get(pair, Usage()).disk for pair in self._expired)
            + sum(self._foldable.values())
        )
        try:
            free = os.statvfs(layout.root)
        except OSError as exc:
            raise storage_error(exc, f"look at the file system of {layout.root}") from None
        return StoreUsage(
            parts,
            everything.objects,
            len(self._commits),
            everything.remote,
            everything.remote_objects,
            self._freed(gc),
            free.f_bavail * free.f_frsize,
            {str(user): problem for user, problem in self._sharing.damaged.items()},
        )


def _counted(sets: Iterable[Iterable[str]]) -> Counter[str]:
    return Counter(commit for commits in sets for commit in commits)


def _together(objects: Amount, files: Usage) -> Size:
    return Size(objects.disk + files.disk, objects.size + files.size)


def _usage(amount: Amount) -> Usage:
    return Usage(amount.disk, amount.size)


def _size(usage: Usage) -> Size:
    return Size(usage.disk, usage.size)
