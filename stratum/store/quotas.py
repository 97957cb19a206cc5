"""How much worktrees may take: project quotas of the store's file system, where that has them (``sys.quota``).

A worktree with a ``limit`` has a project of its own: that of its ``workdir`` and ``upperdir``, which hand it on to all
that overlayfs makes in them. What a commit takes out of the upperdir is copied, so it is the store's and counted no
more once the upperdir is empty. The number is on record in the workdir itself, which no program that has the worktree
mounted reaches; the limit in the worktree's meta.toml and in the file system's own record of the quota.

Numbers are drawn from a range that other programs leave alone (the kubelet counts up from 1048577, others from 1). A
number is taken by giving it to a new directory; if the file system then counts one inode for it, nobody else has it. So
two stores of one file system, or processes, never take the same one. What deleted worktrees leave (a limit of which
nothing is used) is cleared by who removes the worktree, and by garbage collections.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError, UnsupportedError, os_error_text
from stratum.store.layout import Layout, storing
from stratum.store.upperdirs import holds_nothing
from stratum.sys.quota import Quota, hands_on, is_limited, join, project_of, quota_of, quotas, set_limits

if TYPE_CHECKING:
    from stratum.store.transaction import Transaction, Transactions

FIRST, LAST = 1 << 30, (1 << 31) - 1
"""The projects of worktrees."""
ROOM = 1 << 20
"""Bytes that what overlayfs makes for a mount takes at most."""
_TRIES = 64


class Quotas:
    """The projects of one store's worktrees."""

    def __init__(self, layout: Layout, transactions: Transactions) -> None:
        self._layout = layout
        self._transactions = transactions
        self._tried: list[str | None] = []

    @property
    def missing(self) -> str | None:
        """Why worktrees cannot be limited here; None where they can. Tried on the store's file system, until the answer
        is one that stays."""
        if not self._tried:
            try:
                with self._transactions.begin("trying quotas") as tx:
                    self._tried.append(self._try(tx))
            except OSError as exc:
                return os_error_text(exc)
            except StratumError as exc:
                return exc.message
        return self._tried[0]

    def _try(self, tx: Transaction) -> str | None:
        root = self._layout.root
        with _opened(root) as fd:
            if project_of(fd) is None or quota_of(fd, 0) is None:
                return f"the file system of {root} keeps no project quotas"
            if hands_on(fd):
                return f"{root} is in a project of its own, as which all of it is counted"
        path = tx.new_path("try")
        tx.make_directory(path, 0o700)
        with _opened(path) as fd:
            project = self._take(fd)
            if not is_limited(fd):
                return f"the file system of {root} counts project quotas and does not enforce them (option prjquota)"
        path.rmdir()
        self.forget(project)
        return None

    def check(self) -> None:
        """``UnsupportedError`` where worktrees cannot be limited."""
        if self.missing is not None:
            raise UnsupportedError(
                f"a worktree's size cannot be limited: {self.missing}",
                hint="put the store on XFS or on ext4 (features project and quota), mounted with the option prjquota",
            )

    # Taking part

    def begin(self, upperdir: Path, workdir: Path, limit: int) -> None:
        """Have two new directories, which are empty, be of a project of their own that may take ``limit`` bytes, or any
        number where that is 0. Raises ``UnsupportedError``, ``StratumError``."""
        self.check()
        with storing(f"limit what is in {upperdir.parent}"), _opened(workdir) as fd:
            project = self._take(fd)
            set_limits(fd, project, limit)
            self._join(upperdir, project)

    def go_on(self, directory: Path, workdir: Path) -> None:
        """Have a new directory, which is empty, be of the project of a worktree's ``workdir``, if that has one."""
        with storing(f"limit what is in {directory}"):
            project = _project(workdir)
            if project is not None:
                self._join(directory, project)

    def _join(self, directory: Path, project: int) -> None:
        with _opened(directory) as fd:
            join(fd, project)

    def _join_below(self, workdir: Path, project: int) -> None:
        """Have what a mount that is there makes in its workdir be of the project: nothing else could be renamed from
        there into the upperdir. What an older mount left there, the next one makes anew."""
        with os.scandir(workdir) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    self._join(Path(entry.path), project)

    def _take(self, directory: int) -> int:
        """Give the open directory a project that nothing else has."""
        for _ in range(_TRIES):
            project = FIRST | int.from_bytes(os.urandom(4), "little") >> 2
            if quota_of(directory, project):
                continue
            join(directory, project)
            found = quota_of(directory, project)
            if found is not None and found.inodes == 1:
                return project
        raise StratumError("no number for a project quota was free")

    # What is taken, and may be

    def usage(self, workdir: Path) -> Quota | None:
        """What a worktree takes, its two directories included; None where nobody counts it. Costs the same however much
        there is."""
        with storing(f"look at {workdir}"):
            project = _project(workdir)
            if project is None:
                return None
            with _opened(workdir) as fd:
                return quota_of(fd, project)

    def limit(self, what: str, upperdir: Path, workdir: Path, limit: int) -> None:
        """Have the worktree ``what`` take ``limit`` bytes at most; 0 is no limit. Its upperdir is of its project again,
        if a program that has it mounted took it out.

        ``UnsupportedError`` where nothing can be limited, or where it has no project and something in it.
        """
        self.check()
        with storing(f"limit {what}"), _opened(workdir) as fd:
            project = _project(workdir)
            if project is None and not holds_nothing(upperdir):
                raise UnsupportedError(
                    f"what is in {what} was written when nobody kept count of it, so it cannot be limited",
                    hint="commit it while it is not in use, which empties it; or make another of its last commit",
                )
            if project is None:
                project = self._take(fd)
                self._join_below(workdir, project)
            with _opened(upperdir) as upper:
                if project_of(upper) != project or not hands_on(upper):
                    join(upper, project)
            set_limits(fd, project, limit)

    @contextmanager
    def roomy(self, workdir: Path, limit: int) -> Iterator[None]:
        """While a worktree with this limit is mounted, have room for what overlayfs makes in its workdir: where a full
        one could not be mounted, nobody could remove anything from it. Afterwards the limit is what it is to be, also
        if an earlier call was cut short."""
        found = self.usage(workdir)
        project = self.project(workdir)
        if found is None or project is None:
            yield
            return
        with _opened(workdir) as fd:
            full = limit > 0 and found.bytes + ROOM > limit
            with storing(f"limit what is in {workdir.parent}"):
                if full:
                    set_limits(fd, project, found.bytes + ROOM)
            try:
                yield
            finally:
                if full or not limit <= found.limit < limit + ROOM:
                    with storing(f"limit what is in {workdir.parent}"):
                        set_limits(fd, project, limit)

    def project(self, workdir: Path) -> int | None:
        """The project of a worktree, None where it has none or that cannot be told."""
        with suppress(OSError):
            return _project(workdir)
        return None

    def forget(self, project: int) -> None:
        """Take the limit off a project whose worktree is gone, so that nothing of it is left on record."""
        with suppress(OSError), _opened(self._layout.root) as fd:
            set_limits(fd, project, 0)

    def forget_unused(self) -> None:
        """Take the limits off projects that nothing is of any more: a worktree has two inodes, if nothing else."""
        with suppress(OSError), _opened(self._layout.root) as fd:
            unused = [project for project, quota in quotas(fd, FIRST, LAST) if not quota.inodes and quota]
            for project in unused:
                set_limits(fd, project, 0)


def _project(workdir: Path) -> int | None:
    """The project of a workdir, if it is one of ours."""
    with _opened(workdir) as fd:
        project = project_of(fd)
    return project if project is not None and FIRST <= project <= LAST else None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
