"""A store: its parts, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stratum.errors import ExistsError, NotFoundError
from stratum.store.dialects import dialect_of
from stratum.store.images import Images
from stratum.store.layout import Layout, create_layout, open_layout, storing
from stratum.store.locks import StoreLocks
from stratum.store.namespaces import Namespaces
from stratum.store.objects import Objects
from stratum.store.resolve import Refs

if TYPE_CHECKING:
    from stratum.store.blobs import Blobs
    from stratum.store.bootmounts import BootMounts
    from stratum.store.changes import Changes
    from stratum.store.commits import Commits
    from stratum.store.histories import Histories
    from stratum.store.keeping import Keeping
    from stratum.store.moves import Moves
    from stratum.store.offers import Offers
    from stratum.store.outlines import Outlines
    from stratum.store.past import Past
    from stratum.store.peerbook import PeerBook
    from stratum.store.profiles import Profiles
    from stratum.store.promises import Promises
    from stratum.store.reflog import Reflog
    from stratum.store.repositories import Repositories
    from stratum.store.residence import Residence
    from stratum.store.sources import Sources
    from stratum.store.tags import Tags
    from stratum.store.transaction import Transaction, Transactions
    from stratum.store.trees import Trees
    from stratum.store.uploads import Uploads
    from stratum.store.worktrees import Worktrees
    from stratum.tree.blocks import Dump
    from stratum.tree.overlay import Dialect


T = TypeVar("T")


class _Later:
    """Stands for what ``make`` makes, which is asked for when this is first used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)


def _later(make: Callable[[], T]) -> T:
    return _Later(make)  # type: ignore[return-value]  # it has all that the T has


class Store(Refs):
    """An open store. Holds no descriptors and no locks between calls; several may be open on one directory.

    Parts that a mount has no need of are loaded when they are first used.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.locks = StoreLocks(layout)
        self.objects = Objects(layout)
        self.images = Images(layout, self.locks, _later(lambda: self.commits), _later(lambda: self._outlines))
        self.namespaces = Namespaces(layout, self.locks, _later(lambda: self.transactions))

    @cached_property
    def blobs(self) -> Blobs:
        """What others pushed."""
        from stratum.store.blobs import Blobs

        return Blobs(self.layout)

    @cached_property
    def boot_mounts(self) -> BootMounts:
        """What is mounted at every start of the machine."""
        from stratum.store.bootmounts import BootMounts

        return BootMounts(self.layout, _later(lambda: self.transactions))

    @cached_property
    def changes(self) -> Changes:
        """The commits of what worktrees showed after a CHANGE."""
        from stratum.store.changes import Changes

        return Changes(self.histories, self.commits, self.worktrees, self.begin)

    @cached_property
    def commits(self) -> Commits:
        """The commits."""
        from stratum.store.commits import Commits

        return Commits(self.layout, self.residence, self.sources, self.transactions, self.trees)

    @cached_property
    def histories(self) -> Histories:
        """The histories of worktrees."""
        from stratum.store.histories import Histories

        return Histories(self.layout)

    @cached_property
    def keeping(self) -> Keeping:
        """The rules of residence."""
        from stratum.store.keeping import Keeping

        return Keeping(self.layout, self.locks, self.transactions, self.namespaces)

    @cached_property
    def offers(self) -> Offers:
        """What is kept of computed artifacts."""
        from stratum.store.offers import Offers

        return Offers(self.layout)

    @cached_property
    def moves(self) -> Moves:
        """The moves of tags of strata that are synced."""
        from stratum.store.moves import Moves

        return Moves(self.layout, self.transactions, self.namespaces)

    @cached_property
    def _outlines(self) -> Outlines:
        from stratum.store.outlines import Outlines

        return Outlines(self.layout, self.transactions)

    @cached_property
    def past(self) -> Past:
        """What refs named once."""
        from stratum.store.past import Past

        return Past(self.layout, self.commits, self.reflog)

    @cached_property
    def peers(self) -> PeerBook:
        """The key of this host, and the peers that it knows."""
        from stratum.store.peerbook import PeerBook

        return PeerBook(self.layout)

    @cached_property
    def profiles(self) -> Profiles:
        """What was read first of commits that were mounted."""
        from stratum.store.profiles import Profiles

        return Profiles(self.layout)

    @cached_property
    def promises(self) -> Promises:
        """What peers count on."""
        from stratum.store.promises import Promises

        return Promises(self.layout, self.peers)

    @cached_property
    def reflog(self) -> Reflog:
        """What moved, when and why."""
        from stratum.store.reflog import Reflog

        return Reflog(self.layout)

    @cached_property
    def repositories(self) -> Repositories:
        """What others pushed, repository by repository."""
        from stratum.store.repositories import Repositories

        return Repositories(self.layout, self.blobs)

    @cached_property
    def residence(self) -> Residence:
        """What commits need, and whether it is here."""
        from stratum.store.residence import Residence

        return Residence(self.objects, self.sources, self._dump)

    @cached_property
    def sources(self) -> Sources:
        """Where the objects of commits can be fetched from."""
        from stratum.store.sources import Sources

        return Sources(self.layout)

    @cached_property
    def tags(self) -> Tags:
        """The tags."""
        from stratum.store.tags import Tags

        return Tags(*self._parts)

    @cached_property
    def worktrees(self) -> Worktrees:
        """The worktrees."""
        from stratum.store.worktrees import Worktrees

        return Worktrees(*self._parts)

    @property
    def _parts(self) -> tuple[Layout, StoreLocks, Transactions, Namespaces, Commits, Reflog]:
        """What tags and worktrees are made with."""
        transactions, commits = _later(lambda: self.transactions), _later(lambda: self.commits)
        return self.layout, self.locks, transactions, self.namespaces, commits, _later(lambda: self.reflog)

    @cached_property
    def transactions(self) -> Transactions:
        """The only way into the store."""
        from stratum.store.transaction import Transactions

        return Transactions(self.layout, self.locks, self.objects)

    @cached_property
    def trees(self) -> Trees:
        """How the trees of commits are stored."""
        from stratum.store.trees import Trees

        return Trees(self.layout)

    @cached_property
    def uploads(self) -> Uploads:
        """Blobs on their way."""
        from stratum.store.uploads import Uploads

        return Uploads(self.layout, self.locks, self.blobs, self.repositories)

    @classmethod
    def open(cls, path: Path) -> Store:
        """The store at ``path``; reading works on a read-only one. ``NotFoundError``, ``UnsupportedError`` (format,
        owner), ``DamagedError``."""
        return cls(open_layout(path))

    @classmethod
    def create(cls, path: Path) -> Store:
        """A new, empty store at ``path``. ``ExistsError``, or ``UsageError`` where something else is there."""
        return cls(create_layout(path))

    @classmethod
    def open_or_create(cls, path: Path) -> Store:
        """The store at ``path``, made first where there is nothing."""
        try:
            return cls.open(path)
        except NotFoundError:
            pass
        try:
            return cls.create(path)
        except ExistsError:  # another process made it meanwhile
            return cls.open(path)

    @cached_property
    def dialect(self) -> Dialect:
        """The dialect of its worktrees' upperdirs and of all its mounts: that of who owns the store."""
        with storing(f"look at {self.root}"):
            return dialect_of(self.root)

    @property
    def root(self) -> Path:
        """The store's directory, absolute and without symbolic links."""
        return self.layout.root

    def begin(
        self, what: str = "writing", *, resumable: bool = False, apart: bool = False
    ) -> AbstractContextManager[Transaction]:
        """A transaction (``Transactions.begin``)."""
        return self.transactions.begin(what, resumable=resumable, apart=apart)

    def _dump(self, commit: str) -> Dump:
        return self.commits.dump(commit)

    def names(self) -> list[str]:
        """The strata, sorted."""
        return self.namespaces.list()

    def each_worktree(self) -> Iterator[tuple[str, str]]:
        """(stratum, worktree) of each worktree, sorted; a stratum that is removed meanwhile has none."""
        for name in self.names():
            try:
                worktrees = self.worktrees.names(name)
            except NotFoundError:
                continue
            for worktree in worktrees:
                yield name, worktree

    def users_of(self, commit: str) -> list[str]:
        """The refs that name the commit: ``NAME:TAG`` of tags, ``NAME+WORKTREE`` of heads and bases; sorted."""
        users = []
        for name in self.names():
            users += [f"{name}:{tag}" for tag, found in self.tags.list(name).items() if found == commit]
            users += [str(w.ref) for w in self.worktrees.list(name) if commit in (w.base_commit, w.head)]
        return sorted(users)

    def remove(self, name: str) -> None:
        """Remove a stratum (``Namespaces.remove``)."""
        self.namespaces.remove(name)
