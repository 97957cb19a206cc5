"""Hosts in one process that sync with each other: real stores, commits of small trees that are copied from one to the
other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stratum.api.merging import in_hand
from stratum.api.session import Session
from stratum.api.syncing import Exchanging, Met, ensure, meet
from stratum.config import load_config
from stratum.errors import DeniedError, NotFoundError, UnreachableError
from stratum.store.transaction import Transaction
from stratum.sync.merging import Conflict
from stratum.tree.model import Directory, File, walk
from tests.support.stores import directory, file

NAME, TAG = "app", "latest"


class Host:
    """A host of that name with a store of its own, and the stratum ``NAME``."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        environment = {"STRATUM_STORE": str(path / name), "STRATUM_RUNTIME_DIR": str(path / f"{name}-run")}
        self.session = Session(load_config(environment))
        self.store = self.session.create_store()
        self.store.peers.own(name)
        ensure(self.session, NAME)

    def knows(self, *others: Host, write: bool = True) -> None:
        """Know others, and share the stratum with them."""
        for other in others:
            self.store.peers.add(other.name, other.store.peers.own().certificate, None, "2025-01-01T00:00:00Z")
            self.store.peers.share(NAME, other.name, write=write)

    def commit(
        self,
        tree: Directory | Mapping[bytes, bytes],
        tag: str = TAG,
        *,
        parent: str | None = None,
        why: str = "commit of app+main",
    ) -> str:
        """Have the tag name the commit of a tree, as a commit does, made on ``parent``, or on what the tag names."""
        with self.store.begin("a test") as tx:
            if not isinstance(tree, Directory):
                tree = directory({path: file(tx, data) for path, data in tree.items()})
            before = parent or self.store.tags.find(NAME, tag)
            commit = self.store.commits.write(tx, tree, parent=before).metadata_hash
            self.store.tags.set(NAME, tag, commit, force=True, why=why)
        return commit

    def put(self, commit: str, tag: str = TAG) -> None:
        """Have the tag name a commit by hand."""
        self.store.tags.set(NAME, tag, commit, force=True, why="tag by hand")

    def tree(self, tag: str = TAG) -> Directory:
        return self.store.commits.tree(self.store.tags.get(NAME, tag))

    def files(self, tag: str = TAG) -> dict[bytes, bytes | None]:
        """What the tag shows: path -> content."""
        return {path[1:]: inode.content for path, inode in walk(self.tree(tag)) if isinstance(inode, File)}

    def tags(self) -> dict[str, str]:
        return self.store.tags.list(NAME)

    def conflicts(self, tag: str = TAG) -> list[Conflict]:
        with in_hand(self.session, NAME) as hand:
            return hand.book.conflicts(tag)

    def sync(self, other: Host, *, breaks_after: int | None = None) -> Met:
        """Sync with another, which is away ``breaks_after`` so many requests."""
        return meet(self.session, NAME, lambda: Link(self, other, breaks_after), other.name)


class Link:
    """``other`` as a peer of ``host`` (``api.syncing.Peer``)."""

    lazy = False

    def __init__(self, host: Host, other: Host, breaks_after: int | None) -> None:
        self.name = other.name
        self._host = host
        self._other = other
        self._left = breaks_after
        self._exchange = Exchanging(other.session)

    def _request(self) -> None:
        if self._left == 0:
            raise UnreachableError(f"peer {self.name} is away")
        self._left = self._left - 1 if self._left is not None else None

    def _may_write(self) -> bool:
        return self._other.store.peers.get(self._host.name).strata[NAME]

    def moves(self, stratum: str) -> bytes:
        self._request()
        return self._exchange.offered(stratum, self._host.name, writable=self._may_write())

    def send_moves(self, stratum: str, data: bytes) -> bytes:
        self._request()
        answer = self._exchange.receive(stratum, self._host.name, data, writable=self._may_write())
        self._request()  # it took them, and the answer does not arrive
        return answer

    def pull(self, tx: Transaction, stratum: str, commit: str) -> None:
        self._request()
        if not self._other.store.commits.exists(commit):
            raise NotFoundError(f"peer {self.name} has no {commit}")
        _copy(self._other, self._host, commit)
        tx.hold(commit)

    def push(self, stratum: str, commit: str) -> None:
        self._request()
        if not self._may_write():
            raise DeniedError(f"{self._host.name} may only read {stratum}")
        _copy(self._host, self._other, commit)
        with self._other.store.locks.moves(NAME):
            self._other.store.moves.own(NAME, [commit])

    def close(self) -> None:
        pass


def _copy(source: Host, to: Host, commit: str) -> None:
    tree, meta = source.store.commits.tree(commit), source.store.commits.meta(commit)
    with to.store.begin("a test") as tx:
        assert to.store.commits.write(tx, tree, parent=meta.parent_commit).metadata_hash == commit
