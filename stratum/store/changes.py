"""What a worktree showed after each operation of its history: ``NAME+WORKTREE@CHANGE`` as a tree, and as a commit.

A state is the base of the epoch that the CHANGE is in, with the records up to it carried out on that. A ``version``
record does not change the tree that follows it, as the path lost that content again before anybody looked; of the
CHANGE itself it is what the path had.

The worktree itself can be gone: its history outlives it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, UsageError
from stratum.frozen import frozen
from stratum.refs import DEFAULT_WORKTREE, Ref

if TYPE_CHECKING:
    from stratum.store.commits import Commits
    from stratum.store.histories import Histories
    from stratum.store.transaction import Transaction
    from stratum.store.worktrees import Worktrees
    from stratum.tree.model import Directory, Inode
    from stratum.tree.oplog import Record

_TRACED_MAX = 100
"""Paths of which the records are kept while one is traced."""

Begin = Callable[[str], AbstractContextManager["Transaction"]]


@frozen
class State:
    """What ``name+worktree`` showed after ``record``, the last of ``records``, those of its epoch so far; ``base`` is
    the commit that they began with, with the tree ``ground``.

    Files in ``tree`` whose content nobody knows are regular ones with a size and neither digest nor content.
    """

    name: str
    worktree: str
    record: Record
    base: str
    ground: Directory
    tree: Directory
    records: list[Record]

    def __str__(self) -> str:
        return f"{self.name}+{self.worktree}@{self.record.n}"

    def before(self) -> Directory:
        """What the worktree showed before the operation, in the same epoch."""
        return replayed(self.ground, self.records[:-1])

    def whole(self) -> tuple[Directory, list[bytes]]:
        """(the tree without the files whose content nobody knows, their paths)."""
        from stratum.tree.unknown import unknown_files, without

        unknown = unknown_files(self.tree, self.ground)
        return (without(self.tree, unknown), unknown) if unknown else (self.tree, unknown)


class Changes:
    """The states of the worktrees of one store."""

    def __init__(self, histories: Histories, commits: Commits, worktrees: Worktrees, begin: Begin) -> None:
        self._histories = histories
        self._commits = commits
        self._worktrees = worktrees
        self._begin = begin
        self._last: State | None = None

    def worktree_of(self, ref: Ref) -> tuple[str, str]:
        """(stratum, worktree) whose history ``ref`` is about; NAME alone is its ``main``. ``NotFoundError`` where it
        has none, ``UsageError`` for a ref that names a commit."""
        if ref.past:
            raise UsageError(f"{ref} is a commit; a worktree is needed here", hint="name it as NAME+WORKTREE")
        name, worktree = ref.name, ref.worktree or DEFAULT_WORKTREE
        if self._histories.settings(name, worktree) is None and not self._histories.last(name, worktree):
            self._worktrees.check(name, worktree)
            raise NotFoundError(
                f"{name}+{worktree} has no history", hint=f"'stratum history on {name}+{worktree}' begins one"
            )
        return name, worktree

    def state(self, ref: Ref) -> State:
        """The state that a ref with a CHANGE names.

        The caller holds the store's lock where it goes on to read contents. ``NotFoundError`` where there is no such
        CHANGE, with those there are; ``DamagedError`` where the log, or the base of the epoch, is.
        """
        assert ref.change is not None
        name, worktree = self.worktree_of(ref)
        last = self._last
        if last is not None and (last.name, last.worktree, last.record.n) == (name, worktree, ref.change):
            return last
        records = list(self._histories.epoch(name, worktree, ref.change))
        base = records[0].commit
        assert base is not None
        if not self._commits.exists(base):
            raise DamagedError(
                f"{ref} cannot be put together: its base, commit {base}, is not in the store", hint="run 'stratum fsck'"
            )
        ground = self._commits.open_tree(base)
        self._last = State(name, worktree, records[-1], base, ground, replayed(ground, records), records)
        return self._last

    def traced(self, ref: Ref, path: bytes) -> tuple[Inode, str] | None:
        """(the file, link or device at ``path`` in the state that a ref with a CHANGE names, the base of that epoch),
        by the records that bear on it alone. None where that cannot be told so, and where nothing is there: then the
        whole ``state`` tells."""
        from stratum.tree.oplog import LOST
        from stratum.tree.tracing import WholeTreeError, traced

        whose, n = self.worktree_of(ref), ref.change or 0
        about = functools.lru_cache(_TRACED_MAX)(functools.partial(self._histories.about, *whose))
        records = [record for record in about(path) if record.n <= n]
        base = next((record for record in reversed(records) if record.op == "base"), None)
        if base is None or base.commit is None or not self._commits.exists(base.commit):
            return None
        known = self._histories.is_whole(*whose, base.n, n)
        lost = any(record.why == LOST for record in records if record.op == "gap" and record.n > base.n)
        between = records[-1].n == n and records[-1].op == "version"
        if lost or between or not known:
            return None
        try:
            inode = traced(about, self._commits.open_tree(base.commit), path, base.n, n)
        except WholeTreeError:
            return None
        return (inode, base.commit) if inode is not None else None

    def commit(self, ref: Ref) -> str:
        """The commit of the state that a ref with a CHANGE names, made where there is none; without the files whose
        content nobody knows. A garbage collection takes it where nothing comes to name it.

        Raises as ``state`` does, and what writing a commit raises.
        """
        from datetime import datetime

        with self._begin(f"making a commit of {ref}") as tx:
            state = self.state(ref)
            tree, unknown = state.whole()
            origin = {"kind": "history", "worktree": f"{state.name}+{state.worktree}", "change": state.record.n}
            meta = self._commits.write(
                tx,
                tree,
                parent=state.base,
                origin={**origin, **({"left_out": len(unknown)} if unknown else {})},
                timestamp=datetime.fromisoformat(state.record.when.replace("Z", "+00:00")),
                known=state.ground,
            )
            return meta.metadata_hash


def replayed(ground: Directory, records: Iterable[Record]) -> Directory:
    """What ``ground`` is after ``records``, with what the last one had in between where that is a ``version``.
    ``DamagedError``."""
    from stratum.tree.model import Directory, lookup
    from stratum.tree.operations import Operation
    from stratum.tree.oplog import inode_of
    from stratum.tree.replay import Replay

    replay, last = Replay(ground), None
    for record in records:
        last = record
        replay.apply(record)
    if last is None or last.op != "version" or last.path is None or last.entry is None:
        return replay.root
    there, above = lookup(replay.root, last.path), lookup(replay.root, last.path.rpartition(b"/")[0])
    if isinstance(above, Directory) and not isinstance(there, Directory):
        if there is not None:
            replay.apply(Operation("delete", last.path))
        replay.apply(Operation("create", last.path, inode_of(last.entry)))
    return replay.root
