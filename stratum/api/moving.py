"""``import --move`` and ``init --migrate --move``: a directory becomes a commit, and its files the store's own.

Where the store is on the same file system and mount, the directory is taken out of everybody's reach
(``store.moving``), and its files become objects as they are (``ingest.adopting``). Elsewhere it is copied, and then
removed. What is removed is only what the commit has, once the tag names it; all else stays where it was, and is told.

Whatever fails or interrupts it before that has the directory put back. What a kill leaves is put back, or finished, by
the next run for the same directory (``settle_move``).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import ConflictError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.store.moving import COPY, Moving

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.progress import Progress
    from stratum.store import Store
    from stratum.store.transaction import Transaction
    from stratum.tree.model import Directory

_SHOWN = 5


class Move:
    """One directory on its way. ``finish`` ends it, once its commit has a name; ``give_up`` before that."""

    def __init__(self, store: Store, moving: Moving) -> None:
        self.store = store
        self.moving = moving
        self._tree: Directory | None = None
        self._jobs = 1

    def read(self, tx: Transaction, jobs: int, devices: bool, progress: Progress | None) -> tuple[Directory, list[str]]:
        """The tree of the directory, with its objects in ``tx``; and warnings. ``ConflictError`` where somebody works
        in it or writes to it."""
        from stratum.ingest.directory import import_moved

        path, taken = self.moving.path, self.moving.is_taken
        root = self.moving.opened()
        try:
            tree, warnings, directories = import_moved(
                self.store,
                tx,
                root,
                os.fsencode(path),
                jobs=jobs,
                devices=devices,
                progress=progress,
                adopts=taken,
                failed=_failed,
            )
        finally:
            os.close(root)
        _refuse_users(path, directories)
        self._tree, self._jobs = tree, jobs
        return tree, warnings

    def made(self, commit: str) -> None:
        """The store has the directory as ``commit``, and the tag is about to name it."""
        self.moving.made(commit)

    def finish(self) -> list[str]:
        """Remove what the commit has, and the directory itself unless its place is to be mounted over; a line about
        what stays. ``StratumError`` where something cannot be removed: the next run goes on."""
        from stratum.ingest.leaving import remove_stored
        from stratum.sys.syscalls import syncfs

        assert self.moving.commit is not None
        if self.moving.is_over:
            self.moving.finish(keep=False)
            return []
        tree = self._tree or self.store.commits.tree(self.moving.commit)
        path = self.moving.path
        try:
            root = self.moving.opened()
            try:
                remove_stored(root, tree, self.store.objects, self._jobs)
                rest = sorted(os.listdir(root))
                told = self._stays(root, rest)
                syncfs(root)
            finally:
                os.close(root)
        except OSError as exc:
            raise StratumError(
                f"{path} is in the store, and not all of it could be removed: {os_error_text(exc)}",
                hint="run the same command again",
            ) from None
        self.moving.finish(keep=bool(rest))
        return told

    def _stays(self, root: int, rest: list[str]) -> list[str]:
        """Bring ``rest``, which the commit does not have as it is, back to where it was."""
        if not rest:
            return []
        where: Path = self.moving.path
        if self.moving.is_taken:
            place = self.moving.opened_place()
            if place is None:
                where = self.moving.source
            else:
                Moving.bring(root, place)
        shown = ", ".join(rest[:_SHOWN]) + (" and more" if len(rest) > _SHOWN else "")
        return [f"{shown} stays in {where}: it came or was changed meanwhile, or is a socket"]

    def give_up(self) -> None:
        """Put the directory back as it was. ``StratumError`` says where it is instead."""
        from stratum.ingest.leaving import make_as_it_was
        from stratum.sys.syscalls import syncfs

        moving = self.moving
        try:
            if moving.is_taken:
                root = moving.opened()
                try:
                    make_as_it_was(root, self.store.objects, os.fspath(moving.directory / COPY))
                    syncfs(root)
                finally:
                    os.close(root)
            moving.put_back()
        except OSError as exc:
            raise StratumError(
                f"{moving.path} cannot be put back as it was: {os_error_text(exc)}",
                hint=f"what was in it is in {moving.source}; run the same command again",
            ) from None
        moving.finish(keep=True)


@contextmanager
def moved(session: Session, store: Store, path: Path, name: str, *, keeps: bool = False) -> Iterator[Move]:
    """The directory ``path``, taken for the block, in which ``name`` (NAME:TAG) comes to name what was read of it.
    ``keeps``: its place stays, empty.

    It is put back where the block is left by an error, and where that did not ``finish``.
    """
    place = check_movable(session, store, path)
    move = Move(store, Moving.begin(store.layout, place, name, keeps=keeps))
    finished = False
    try:
        move.moving.take()
        yield move
        finished = move.moving.commit is not None
    except BaseException as exc:
        _give_up(move, exc)
        raise
    if not finished:
        move.give_up()


def _give_up(move: Move, why: BaseException) -> None:
    commit = move.moving.commit
    if commit is not None and _is_named(move.store, move.moving.name, commit):
        move.moving.close()  # it is in the store: the next run removes what is left of it
        return
    try:
        move.give_up()
    except StratumError as exc:
        first = f"{why.message}; and then: " if isinstance(why, StratumError) else ""
        raise StratumError(f"{first}{exc.message}", hint=exc.hint) from None


class Settled(NamedTuple):
    """What became of a directory that a killed run left: NAME:TAG, the commit where it is finished, None where it was
    put back, and what is to be told."""

    name: str
    commit: str | None
    told: list[str]


def settle_move(store: Store, path: Path) -> Settled | None:
    """Finish, or put back, what a killed run left of the directory ``path``; None where there is nothing. ``BusyError``
    where it is moved at this moment."""
    for moving in list(Moving.left(store.layout)):
        if moving.path != _real(path):
            continue
        with moving:
            moving.take_up()
            move = Move(store, moving)
            if moving.commit is not None and _is_named(store, moving.name, moving.commit):
                return Settled(moving.name, moving.commit, move.finish())
            with store.begin(f"putting {path} back"):
                pass  # it collects what the dead one had staged: further names of its files
            move.give_up()
            return Settled(moving.name, None, [])
    return None


def refuse_unfinished(store: Store, path: str) -> None:
    """``ConflictError`` where a killed run left the directory ``path`` on its way into the store."""
    if not os.path.lexists(store.layout.moving):
        return
    for moving in Moving.left(store.layout):
        if moving.path == _real(Path(path)):
            raise ConflictError(
                f"{path} was being moved into the store as {moving.name}, and that was interrupted",
                hint=f"finish that first: {moving.command}",
            )


def check_movable(session: Session, store: Store, path: Path) -> Path:
    """The real path of the directory. ``UsageError``, ``NotFoundError``, ``ConflictError`` where it cannot be moved."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as exc:
        raise StratumError(f"cannot look at {path}: {os_error_text(exc)}") from None
    if not stat.S_ISDIR(mode):
        link = stat.S_ISLNK(mode)
        raise UsageError(
            f"{path} is {'a symbolic link' if link else 'no directory'}, and what is moved is a directory",
            hint="name the directory itself" if link else "leave --move out",
        )
    place = _real(path)
    for inside, what in ((store.root, "the store"), (Path(session.config.runtime_dir), "the record of mounts")):
        real = Path(os.path.realpath(inside))
        if real.is_relative_to(place) or place.is_relative_to(real):
            raise UsageError(f"{path} cannot be moved into the store: {what} is in the same directory, {real}")
    _refuse_mounts(place)
    return place


def _real(path: Path) -> Path:
    """The path of the directory without links above it."""
    absolute = Path(os.path.abspath(path))
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def _refuse_mounts(place: Path) -> None:
    from stratum.sys import mountinfo

    for entry in mountinfo.read():
        mountpoint = Path(entry.mountpoint)
        if mountpoint != place and mountpoint.is_relative_to(place):
            raise ConflictError(
                f"{mountpoint} is a mount, which cannot be moved into the store",
                hint="unmount it first, or leave --move out",
            )


def _refuse_users(path: Path, directories: set[tuple[int, int]]) -> None:
    """``ConflictError`` where a process has one of the directories in the hand: it could open files in there."""
    from stratum.sys.proc import users_of_directories

    users = users_of_directories(directories)
    if users:
        shown = ", ".join(f"{pid} ({command})" for pid, command in users[:_SHOWN])
        raise ConflictError(
            f"{path} is in use by {'process' if len(users) == 1 else 'processes'} {shown}",
            hint="stop what works in there, or leave that directory, and run it again",
        )


def _failed(exc: OSError, where: str) -> StratumError:
    from stratum.ingest.reader import source_error

    if exc.errno == errno.EBUSY:
        return ConflictError(
            f"{where} is open for writing, or was changed at this moment",
            hint="stop what writes there, and run it again",
        )
    return source_error(exc, where)


def _is_named(store: Store, name: str, commit: str) -> bool:
    """Whether the tag NAME:TAG names the commit, which the store has."""
    stratum, _, tag = name.partition(":")
    try:
        return store.tags.find(stratum, tag) == commit and store.commits.exists(commit)
    except StratumError:
        return False
