"""Worktrees: ``refs/<name>/worktrees/<wt>/{upperdir,workdir,meta.toml,lease.toml,mark}``.

``upperdir`` and ``workdir`` are the kernel's (overlayfs over the base commit). An overlay shows the owner, mode, mtime
and xattrs of the upperdir itself as those of its root, so a new upperdir gets them from the root of the base commit's
tree. meta.toml::

    [worktree]  name, base_commit, head? (the last commit: made from it, or that it was reset to or rebased onto),
                forked_from (the commit that its line of work began with: where it was made, or reset or rebased to
                another line), created, last_modified, description, dialect? ("user": of the mounts that write its
                upperdir; absent: root's), limit? (bytes that upperdir and workdir may take, 0 for any number of which
                is kept count: ``store.quotas``; versions that do not know it leave it out)

A worktree comes, goes, and gets an empty upperdir over another base by one rename of its whole directory, so base and
upperdir always fit together. ``mark`` tells of copies without extended attributes (``sys.copymark``). lease.toml, where
it exists, says who holds the worktree and what is to be done when it is released (``store.holders``); unlike the mount
state it survives a reboot.

Whoever works on a worktree (mounts it, commits it, changes its base) holds its lock.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.errors import DamagedError, ExistsError, NotFoundError
from stratum.frozen import replace
from stratum.refs import check_name, is_name
from stratum.store.clock import rfc3339, utc_now
from stratum.store.dialects import dialect_of
from stratum.store.holders import Lease, lease_from
from stratum.store.layout import Layout, Names, storage_error, storing
from stratum.store.locks import WORKTREE_WAIT, StoreLocks
from stratum.store.namespaces import Namespaces, similar
from stratum.store.tables import Tables, read_tables, write_tables
from stratum.store.upperdirs import (
    another_dialect,
    dress_upperdir,
    holds_nothing,
    out_of_reach,
    shows_base,
    within_reach,
)
from stratum.store.worktree import InterruptedSwitch, Worktree, meta_of, worktree_from
from stratum.sys import copymark
from stratum.sys.atomic import fsync_dir
from stratum.tree.overlay import Dialect
from stratum.tree.rootchange import AS_IT_IS, RootChange

if TYPE_CHECKING:
    from stratum.store.commits import Commits
    from stratum.store.quotas import Quotas
    from stratum.store.reflog import Reflog
    from stratum.store.transaction import Transaction, Transactions

_SWITCH = "switch.toml"


_Worktrees = list[Worktree]


class Worktrees:
    """The worktrees of one store."""

    def __init__(
        self,
        layout: Layout,
        locks: StoreLocks,
        transactions: Transactions,
        namespaces: Namespaces,
        commits: Commits,
        reflog: Reflog,
    ) -> None:
        self._layout = layout
        self._locks = locks
        self._transactions = transactions
        self._namespaces = namespaces
        self._commits = commits
        self._reflog = reflog

    @functools.cached_property
    def quotas(self) -> Quotas:
        """How much worktrees may take."""
        from stratum.store.quotas import Quotas

        return Quotas(self._layout, self._transactions)

    @functools.cached_property
    def dialect(self) -> Dialect:
        """The dialect of new upperdirs and of all mounts: that of who owns the store."""
        with storing(f"look at {self._layout.root}"):
            return dialect_of(self._layout.root)

    # Reading

    def names(self, name: str) -> Names:
        """The worktrees of stratum ``name``, sorted. ``NotFoundError`` where there is no such stratum."""
        self._namespaces.check(name)
        return [worktree for worktree in self._layout.names_in(self._layout.worktrees(name)) if is_name(worktree)]

    def list(self, name: str) -> _Worktrees:
        """All worktrees of stratum ``name``, sorted by name; one that is removed meanwhile is left out."""
        found = []
        for worktree in self.names(name):
            with suppress(NotFoundError):
                found.append(self.get(name, worktree))
        return found

    def exists(self, name: str, worktree: str) -> bool:
        """Whether there is such a worktree. ``DamagedError`` where something else has its name."""
        path = self._layout.worktree(check_name(name), check_name(worktree, "worktree name"))
        if not os.path.lexists(path):
            return False
        try:
            self._check_directory(path)
        except DamagedError:
            if os.path.lexists(path):
                raise
            return False  # it was removed at this moment
        return True

    def _check_directory(self, path: Path) -> None:
        try:
            os.close(self._layout.open_beneath(path, os.O_PATH | os.O_DIRECTORY))
        except (FileNotFoundError, NotADirectoryError):
            raise _no_directory(path) from None
        except OSError as exc:
            raise storage_error(exc, f"look at {path}") from None

    def check(self, name: str, worktree: str) -> None:
        """``NotFoundError`` where there is no such worktree, with those of similar names; ``DamagedError``."""
        if not self.exists(name, worktree):
            raise NotFoundError(
                f"there is no worktree {name}+{worktree}",
                hint=similar(worktree, self.names(name), f"make it with: stratum worktree add {name}+{worktree} BASE"),
            )

    def get(self, name: str, worktree: str) -> Worktree:
        """The worktree; ``NotFoundError``, ``DamagedError``."""
        try:
            return self._get(check_name(name), check_name(worktree, "worktree name"))
        except DamagedError:
            self.check(name, worktree)  # there is none, or not any more
            raise

    def _get(self, name: str, worktree: str) -> Worktree:
        directory = self._layout.worktree(name, worktree)
        table = self._read(directory / "meta.toml")
        if table is None:
            raise DamagedError(f"worktree {name}+{worktree} has lost its meta.toml", hint="run 'stratum fsck'")
        fields = Tables(table, str(directory / "meta.toml"))
        for part in (f"{directory}/upperdir", f"{directory}/workdir"):
            try:
                info = os.lstat(part)
            except FileNotFoundError:
                raise _no_directory(part) from None
            except OSError as exc:
                raise storage_error(exc, f"look at {part}") from None
            if not stat.S_ISDIR(info.st_mode):
                raise _no_directory(part)
        return worktree_from(fields, name, worktree, directory)

    # Upperdirs

    def readable(self, worktree: Worktree) -> Dialect | None:
        """The dialect in which the upperdir of ``worktree`` is to be read, None where it need not be, as it shows its
        base. ``UnsupportedError`` where it cannot be read from this user namespace (``store.upperdirs``), or was
        written by mounts of another dialect than the store's."""
        ours, upperdir = self.dialect, worktree.upperdir
        with storing(f"look at {upperdir}"):
            if worktree.dialect is not ours and not holds_nothing(upperdir):
                raise another_dialect(str(worktree), worktree.dialect)
            if within_reach(ours):
                return ours
            if shows_base(upperdir, ours, self._layout.root):
                return None
        raise out_of_reach(str(worktree), ours)

    def is_untouched(self, worktree: Worktree) -> bool:
        """Whether it shows its base and nothing else; False also where that is not known. Raises ``OSError``."""
        return worktree.dialect is self.dialect and shows_base(worktree.upperdir, self.dialect, self._layout.root)

    def check_removable(self, worktree: Worktree) -> None:
        """``UnsupportedError`` where the upperdir holds anything that cannot be removed from this user namespace."""
        if within_reach(self.dialect):
            return
        with storing(f"look at {worktree.upperdir}"):
            if not (holds_nothing(worktree.upperdir) or self.is_untouched(worktree)):
                raise out_of_reach(str(worktree), self.dialect)

    def adopt(self, worktree: Worktree) -> Worktree:
        """``worktree``, whose upperdir is about to be mounted, with the store's dialect noted. The caller holds its
        lock. Raises as ``readable`` does."""
        if worktree.dialect is self.dialect:
            return worktree
        self.readable(worktree)
        new = replace(worktree, dialect=self.dialect)
        with self._transactions.begin(f"adopting {worktree}") as tx:
            tx.place_file(meta_of(new), worktree.directory / "meta.toml")
            mark = self._put_mark(worktree.directory, durable=True)
            if mark is not None:
                tx.place_file(mark, worktree.directory / copymark.FILE)
        return new

    # Changing

    @contextmanager
    def lock(self, name: str, worktree: str, *, timeout: float = WORKTREE_WAIT) -> Iterator[None]:
        """Hold the worktree's lock (reentrant in a thread). ``BusyError`` after ``timeout`` seconds."""
        check_name(worktree, "worktree name")
        self._namespaces.check(name)
        with self._locks.worktree(name, worktree, timeout=timeout):
            yield

    def create(
        self,
        name: str,
        worktree: str,
        base_commit: str,
        description: str = "",
        *,
        why: str = "",
        root: RootChange = AS_IT_IS,
        limit: int | None = None,
    ) -> Worktree:
        """Make a worktree over ``base_commit``, and the stratum where it is missing. ``root`` is what its root
        directory has other than the base's, as an uncommitted change; ``limit`` as in ``Worktree``.

        ``ExistsError``, ``NotFoundError`` (the commit), ``StratumError`` where the root's owner or xattrs cannot be
        set, ``UnsupportedError`` where nothing can be limited.
        """
        check_name(name)
        check_name(worktree, "worktree name")
        self._check_commit(base_commit)
        with self._transactions.begin(f"making worktree {name}+{worktree}") as tx, self._locks.ref(name):
            if self._namespaces.exists(name) and self.exists(name, worktree):
                raise ExistsError(
                    f"the worktree {name}+{worktree} exists already",
                    hint=f"use another name, or remove it first: stratum worktree remove {name}+{worktree}",
                )
            now = rfc3339(utc_now())
            made = Worktree(
                name,
                worktree,
                base_commit,
                None,
                now,
                now,
                description,
                self._layout.worktree(name, worktree),
                forked_from=base_commit,
                dialect=self.dialect,
                limit=limit,
            )
            directory = self._build(tx, made, self.new_upperdir(tx, base_commit, root), None, None)
            self._namespaces.ensure(tx, name)
            tx.sync()
            self._reflog.append(name, "worktree", worktree, None, base_commit, why)
            self._make_lock_file(name, worktree)
            tx.place(directory, made.directory)
        return made

    def _make_lock_file(self, name: str, worktree: str) -> None:
        """Make the file of the worktree's lock, as none can be made once the disk is full. The lock is not taken."""
        path = self._layout.worktree_lock(name, worktree)
        flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(OSError):  # who takes the lock says what is wrong with it
            parent = self._layout.open_beneath(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.close(os.open(path.name, flags, 0o600, dir_fd=parent))
            finally:
                os.close(parent)

    def new_upperdir(
        self, tx: Transaction, base_commit: str, change: RootChange = AS_IT_IS, *, of: Worktree | None = None
    ) -> Path:
        """An empty upperdir for ``base_commit`` in the transaction's directory, for ``renew`` of the worktree ``of``.
        ``UnsupportedError`` where it cannot get its owner from this user namespace."""
        root = change.applied(self._commits.root(base_commit))
        if not within_reach(self.dialect) and (root.uid, root.gid) != (os.geteuid(), os.getegid()):
            raise out_of_reach("a worktree", self.dialect)
        path = tx.new_path("upperdir")
        tx.make_directory(path, 0o700)
        if of is not None and of.limit is not None:
            self.quotas.go_on(path, of.workdir)
        dress_upperdir(path, root, self.dialect)
        if not change:
            from stratum.store.untouched import note_root

            note_root(path, root, self.dialect)
        return path

    def _build(
        self, tx: Transaction, worktree: Worktree, upperdir: Path, lease: Lease | None, old: Worktree | None
    ) -> Path:
        """A worktree's directory, complete but for its place, which is that of ``old``."""
        directory = tx.new_path("worktree")
        tx.make_directory(directory, 0o700)
        tx.make_directory(directory / "workdir", 0o700)
        if worktree.limit is not None:
            if old is not None:
                self.quotas.go_on(directory / "workdir", old.workdir)
            else:
                self.quotas.begin(upperdir, directory / "workdir", worktree.limit)
        mark = self._put_mark(directory)
        if mark is not None:
            tx.write_file(directory / copymark.FILE, mark)
        tx.write_file(directory / "meta.toml", meta_of(worktree))
        if lease is not None:
            tx.write_file(directory / "lease.toml", lease.to_toml())
        try:
            os.rename(upperdir, directory / "upperdir")
        except OSError as exc:
            raise storage_error(exc, f"make worktree {worktree}") from None
        return directory

    def _put_mark(self, directory: Path, *, durable: bool = False) -> bytes | None:
        try:
            mark = copymark.put_mark(directory, users=self.dialect is Dialect.USER)
            if durable:
                fsync_dir(directory)
            return mark
        except OSError as exc:
            raise storage_error(exc, f"mark {directory}") from None

    def _mark_older(self, tx: Transaction, directory: Path) -> None:
        """Mark a worktree that a version made which did not mark any."""
        if not copymark.has_mark(directory):
            mark = self._put_mark(directory, durable=True)
            if mark is not None:
                tx.place_file(mark, directory / copymark.FILE)

    def prepare_head(self, tx: Transaction, name: str, worktree: str, head: str) -> None:
        """Write what ``set_head`` will write if that is in this second: it then waits for the disk once less."""
        tx.prepare_file(meta_of(replace(self.get(name, worktree), head=head, last_modified=rfc3339(utc_now()))))

    def set_head(
        self, name: str, worktree: str, head: str, *, why: str = "", tx: Transaction | None = None
    ) -> Worktree:
        """Record ``head`` as the last commit made from it, in ``tx`` or a transaction of its own."""
        with self.lock(name, worktree):
            old = self.get(name, worktree)
            new = replace(old, head=head, last_modified=rfc3339(utc_now()))
            begun = nullcontext(tx) if tx is not None else self._transactions.begin(f"moving {old}")
            with begun as within, self._locks.ref(name):
                self._check_commit(head)
                self._log_move(old, new, why)
                within.place_file(meta_of(new), old.directory / "meta.toml")
                self._mark_older(within, old.directory)
            return new

    def note(self, name: str, worktree: str, commit: str, why: str) -> None:
        """Have the reflog name a commit of the worktree's content that its head does not move to."""
        with self._locks.ref(name):
            self._reflog.append(name, "worktree", worktree, commit, self.get(name, worktree).commit, why)

    def renew(self, tx: Transaction, wanted: Worktree, upperdir: Path | None = None, *, why: str = "") -> Worktree:
        """Put a worktree on the base, head and beginning that ``wanted`` has, with another upperdir, in one step:
        fast-forward, reset, rebase.

        ``upperdir`` (from ``new_upperdir``, filled as need be) defaults to an empty one. The old upperdir is deleted
        when ``tx`` ends, so nothing may have it mounted then. The caller holds the worktree's lock.
        """
        with self.lock(wanted.name, wanted.worktree):
            upperdir = upperdir or self.new_upperdir(tx, wanted.base_commit, of=wanted)
            old, new, directory = self._build_new(tx, wanted, upperdir)
            self.check_removable(old)
            tx.sync()
            with self._locks.ref(new.name):
                self._log_move(old, new, why)
                tx.exchange(directory, old.directory)
            return new

    def switch(self, tx: Transaction, wanted: Worktree, upperdir: Path, mount_id: int | None, *, why: str) -> Worktree:
        """As ``renew``, for a worktree whose old upperdir is mounted: that is kept, retired, until ``drop_retired``.

        ``mount_id`` is the mount that shows the old upperdir. The retired directory is at
        ``worktrees/.<wt>.retired``; the new one has a ``switch.toml`` until the switch is over::

            [switch]  mount_id?

        The exchange of the two is one step, so with a switch.toml in the worktree's directory the retired one is the
        old, and without it one that never came into use. The caller holds the worktree's lock, and nothing is left of
        an interrupted switch.
        """
        with self.lock(wanted.name, wanted.worktree):
            old, new, directory = self._build_new(tx, wanted, upperdir)
            table = {} if mount_id is None else {"mount_id": str(mount_id)}
            tx.write_file(directory / _SWITCH, write_tables({"switch": table}, "a switch"))
            retired = self._retired_path(new.name, new.worktree)
            with self._locks.ref(new.name):
                self._log_move(old, new, why)
                tx.place(directory, retired)
                tx.exchange(retired, old.directory)
            return new

    def _build_new(self, tx: Transaction, wanted: Worktree, upperdir: Path) -> tuple[Worktree, Worktree, Path]:
        """(the worktree as it is, as it is to be, the directory that is to take the old one's place)."""
        old = self.get(wanted.name, wanted.worktree)
        for commit in {wanted.base_commit, wanted.commit}:
            self._check_commit(commit)
        new = replace(wanted, last_modified=rfc3339(utc_now()), dialect=self.dialect)
        return old, new, self._build(tx, new, upperdir, self.lease(new.name, new.worktree), old)

    def _log_move(self, old: Worktree, new: Worktree, why: str) -> None:
        if old.commit != new.commit:
            self._reflog.append(new.name, "worktree", new.worktree, old.commit, new.commit, why)

    def undo_switch(self, tx: Transaction, name: str, worktree: str) -> None:
        """Take back a switch whose mount was not switched: the retired directory is the worktree again."""
        with self.lock(name, worktree):
            retired = self._retired_path(name, worktree)
            tx.exchange(retired, self._layout.worktree(name, worktree))
            self._transactions.discard(retired)

    def has_leftovers(self, name: str, worktree: str) -> bool:
        """Whether an interrupted switch left anything."""
        directory = self._layout.worktree(check_name(name), check_name(worktree, "worktree name"))
        return os.path.lexists(directory / _SWITCH) or os.path.lexists(self._retired_path(name, worktree))

    def interrupted_switch(self, name: str, worktree: str) -> InterruptedSwitch | None:
        """What a switch that did not come to its end left, or None. One that never came into use is not told of."""
        directory = self._layout.worktree(check_name(name), check_name(worktree, "worktree name"))
        table = self._read(directory / _SWITCH)
        if table is None:
            return None
        fields = Tables(table, str(directory / _SWITCH))
        mount_id = fields.text("switch", "mount_id") if fields.has("switch", "mount_id") else ""
        retired = self._retired_path(name, worktree)
        meta = self._read(retired / "meta.toml")
        if meta is None:
            return InterruptedSwitch(None, None)
        was = worktree_from(Tables(meta, str(retired / "meta.toml")), name, worktree, retired)
        old = replace(
            self.get(name, worktree), base_commit=was.base_commit, head=None, directory=retired, dialect=was.dialect
        )
        return InterruptedSwitch(old, int(mount_id) if mount_id.isdecimal() else None)

    def drop_retired(self, name: str, worktree: str) -> None:
        """End a switch: nothing has the retired upperdir mounted, and what it holds is committed or not wanted.

        Also clears away one that never came into use. The caller holds the worktree's lock.
        """
        with self.lock(name, worktree):
            for path in (
                self._retired_path(name, worktree),
                self._layout.worktree(name, worktree) / _SWITCH,
            ):
                if os.path.lexists(path):
                    self._transactions.discard(path)

    def _retired_path(self, name: str, worktree: str) -> Path:
        return self._layout.worktrees(name) / f".{worktree}.retired"

    def remove(self, name: str, worktree: str, *, why: str = "") -> None:
        """Remove the worktree and everything in its upperdir, in one step. That nothing has it mounted, and that no
        uncommitted work is lost, is the caller's to check. ``NotFoundError``, ``BusyError``."""
        with self.lock(name, worktree):
            commit = project = None
            with suppress(DamagedError):
                tree = self.get(name, worktree)
                self.check_removable(tree)
                commit = tree.commit
                project = self.quotas.project(tree.workdir) if tree.limit is not None else None
            with self._locks.ref(name):
                from stratum.store.reflog import remove_logged

                path = self._layout.worktree(name, worktree)
                remove_logged(self._reflog, self._transactions, path, name, "worktree", worktree, commit, why)
            if project is not None:
                self.quotas.forget(project)

    def set_limit(self, name: str, worktree: str, limit: int) -> Worktree:
        """Have it take ``limit`` bytes at most beyond its base, also while it is mounted; 0 is no limit.

        ``UnsupportedError`` where nothing can be limited, or where nobody kept count of it and it is not empty.
        """
        with self.lock(name, worktree):
            old = self.get(name, worktree)
            new = replace(old, limit=limit)
            self.quotas.limit(str(old), old.upperdir, old.workdir, limit)
            if new != old:
                with self._transactions.begin(f"limiting {old}") as tx:
                    tx.place_file(meta_of(new), old.directory / "meta.toml")
            return new

    def _check_commit(self, commit: str) -> None:
        if not self._commits.exists(commit):
            raise NotFoundError(f"there is no commit {commit}")

    # Leases

    def lease(self, name: str, worktree: str) -> Lease | None:
        """Who holds the worktree, or None. ``DamagedError`` where lease.toml is none."""
        path = self._layout.worktree(check_name(name), check_name(worktree, "worktree name")) / "lease.toml"
        table = self._read(path)
        if table is None:
            return None
        return lease_from(table, str(path))

    def set_lease(self, name: str, worktree: str, lease: Lease) -> None:
        """Record who holds the worktree, replacing what was recorded. The caller holds the worktree's lock."""
        with self.lock(name, worktree), self._transactions.begin(f"leasing {name}+{worktree}") as tx:
            tx.place_file(lease.to_toml(), self.get(name, worktree).directory / "lease.toml")

    def clear_lease(self, name: str, worktree: str) -> None:
        """Forget who held the worktree. The caller holds the worktree's lock."""
        with self.lock(name, worktree):
            path = self._layout.worktree(name, worktree) / "lease.toml"
            if path.is_symlink() or path.exists():
                self._transactions.discard(path)

    def _read(self, path: Path) -> dict[str, Any] | None:
        data = self._layout.content_of(path)
        if data is None:
            return None
        return read_tables(data, str(path))


def _no_directory(path: Path | str) -> DamagedError:
    return DamagedError(f"{path} is missing or not a directory", hint="run 'stratum fsck'")
