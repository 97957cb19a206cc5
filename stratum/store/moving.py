"""Directories on their way into the store, which takes their files as its own: ``moving/<id>/``.

::

    moving/<id>/owner        flock'd by who moves it
    moving/<id>/plan.toml    [moving]  path (percent-encoded), name (NAME:TAG), keeps, inode numbers: parent (the
                             directory that it is in), inode (its own), place (the empty one that has its place
                             meanwhile); commit, once it is in the store
    moving/<id>/copy         an object that is copied before its file is put back (``ingest.leaving``)
    moving/<id>/source/      the directory itself; before it was taken, and after it was put back, the empty one

The directory comes here by one exchange with an empty one, so that nobody reaches its files by a path while they become
objects, and goes back by another. Objects are further names (link(2)) of its files, and it stays whole until the tag
names the commit: whoever finds it then, after a kill or a power cut, removes what the commit has; before that it is put
back. Nobody else looks in here: what it holds may be nowhere else, so no garbage collection removes anything.

What stays on another file system, or another mount of the same, cannot be taken so. It is copied where it is, and there
is a record as well, that only what the commit has is removed of it.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from stratum.errors import BusyError, ConflictError, DamagedError, StratumError, os_error_text
from stratum.store.layout import Layout, storage_error, storing
from stratum.store.tables import Tables, read_tables, write_tables
from stratum.sys.atomic import fsync_dir, write_atomic
from stratum.sys.locks import locked
from stratum.sys.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

OWNER, PLAN, SOURCE, COPY = "owner", "plan.toml", "source", "copy"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ELSEWHERE = (errno.EXDEV, errno.EBUSY, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What an exchange says of other file systems and mounts, of mount points, and where there is none."""
_STAYS = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT)
"""What rmdir(2) says of a directory with something in it, of one that is mounted over, and of none."""
_SAFE = "/!$&'()*+,;=:@ "


class Moving:
    """A directory on its way, and the record of it. ``path`` is where it was, ``name`` the tag (NAME:TAG) that is to
    name its commit, ``commit`` that one once the store has it; ``keeps`` whether the place stays, empty, to be mounted
    over. A context manager, which closes what is open."""

    def __init__(self, directory: Path, path: Path, name: str, keeps: bool) -> None:
        self.directory = directory
        self.keeps = keeps
        self.path = path
        self.name = name
        self.commit: str | None = None
        self._inodes = (0, 0, 0)  # of the parent, the directory and the empty one
        self._opened = ExitStack()
        self._parent = self._here = -1
        self._place: int | None = None

    @property
    def command(self) -> str:
        """What goes on where this was interrupted."""
        path, stratum = shlex.quote(str(self.path)), self.name.partition(":")[0]
        return (
            f"stratum init {stratum} {path} --migrate --move"
            if self.keeps
            else f"stratum import --move {path} {self.name}"
        )

    @property
    def source(self) -> Path:
        """Where the directory is while it is taken."""
        return self.directory / SOURCE

    @classmethod
    def begin(cls, layout: Layout, path: Path, name: str, *, keeps: bool) -> Moving:
        """Record that the directory ``path`` (absolute, without links) is to be moved. ``StratumError``."""
        moving = cls(layout.moving / os.urandom(8).hex(), path, name, keeps)
        try:
            with storing("write to the store"):
                layout.moving.mkdir(0o700, exist_ok=True)
                moving.directory.mkdir(0o700)
                moving.source.mkdir(0o700)
                moving._opened.enter_context(locked(moving.directory / OWNER, timeout=0))
                moving._open(None)
                info = os.stat(path.name, dir_fd=moving._parent, follow_symlinks=False)
                place = os.open(moving.source, _DIRECTORY)
                try:
                    os.fchown(place, info.st_uid, info.st_gid)
                    os.fchmod(place, stat.S_IMODE(info.st_mode))
                    moving._inodes = (os.fstat(moving._parent).st_ino, info.st_ino, os.fstat(place).st_ino)
                finally:
                    os.close(place)
                moving._write()
                fsync_dir(layout.moving)
                fsync_dir(layout.root)
        except BaseException:
            moving.close()
            moving.drop()
            raise
        return moving

    @classmethod
    def left(cls, layout: Layout) -> Iterator[Moving]:
        """Records of whoever was killed, and of who moves now; those without a plan are removed, as nothing was taken.
        ``DamagedError`` names one that cannot be read."""
        for name in layout.names_in(layout.moving):
            directory = layout.moving / name
            moving = cls.read(layout, directory)
            if moving is not None:
                yield moving
                continue
            with suppress(BusyError, OSError), locked(directory / OWNER, timeout=0):
                cls(directory, Path("/"), "", False).drop()

    @classmethod
    def read(cls, layout: Layout, directory: Path) -> Moving | None:
        """What the record ``directory`` says; None where there is no plan, and nothing was taken. ``DamagedError``."""
        where = directory / PLAN
        try:
            plan = parse_plan(layout.read_beneath(where), str(where))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise storage_error(exc, f"read {where}") from None
        moving = cls(directory, Path(os.fsdecode(plan.path)), plan.name, plan.keeps)
        moving.commit, moving._inodes = plan.commit, plan.inodes
        return moving

    def take_up(self) -> None:
        """Go on with what somebody left. ``BusyError`` where that one lives."""
        with storing(f"take up the move of {self.path}"):
            self._opened.enter_context(locked(self.directory / OWNER, timeout=0, what=f"the move of {self.path}"))
            self._open(self._inodes[0])
            self._place = self._opened_place()

    def _open(self, parent: int | None) -> None:
        """``parent``: the inode number that the directory above must have."""
        self._here = os.open(self.directory, _DIRECTORY)
        self._opened.callback(os.close, self._here)
        self._parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._opened.callback(os.close, self._parent)
        if parent is not None and os.fstat(self._parent).st_ino != parent:
            raise ConflictError(
                f"{self.path.parent} is another directory than when {self.path} was taken from there",
                hint=f"what was in it is in {self.source}: move it to where it belongs",
            )

    def _write(self) -> None:
        table = {"path": quote_from_bytes(os.fsencode(self.path), safe=_SAFE), "name": self.name, "keeps": self.keeps}
        numbers = dict(zip(("parent", "inode", "place"), self._inodes, strict=True))
        made = {} if self.commit is None else {"commit": self.commit}
        write_atomic(self.directory / PLAN, write_tables({"moving": table | numbers | made}, str(self.path)), 0o600)
        fsync_dir(self.directory)

    @property
    def is_taken(self) -> bool:
        """Whether the directory is here."""
        return self._inode(SOURCE, self._here) == self._inodes[1]

    @property
    def is_over(self) -> bool:
        """Whether all is done but for the end of the record."""
        return self._inode(SOURCE, self._here) is None

    def take(self) -> bool:
        """Bring the directory here; False where that cannot be done, as it is on another file system or mount.
        ``ConflictError`` where it is another one than before, ``StratumError`` in the kernel's words."""
        try:
            self._exchange()
        except OSError as exc:
            if exc.errno in _ELSEWHERE:
                return False
            raise StratumError(f"cannot move {self.path}: {os_error_text(exc)}") from None
        self._place = self._opened_place()
        if not self.is_taken:
            with storing(f"put {self.path} back"):
                self._exchange()
            raise ConflictError(f"{self.path} was replaced by something else meanwhile", hint="run it again")
        return True

    def put_back(self) -> None:
        """Bring the directory back to where it was, where it was taken. ``StratumError`` says where it is instead."""
        if not self.is_taken:
            return
        try:
            if self._inode(self.path.name, self._parent) is None:
                os.rename(SOURCE, self.path.name, src_dir_fd=self._here, dst_dir_fd=self._parent)
                self._sync()
            else:
                self._exchange()
                self._bring_along()
        except OSError as exc:
            raise StratumError(
                f"{self.path} cannot be put back: {os_error_text(exc)}", hint=f"what was in it is in {self.source}"
            ) from None

    def _bring_along(self) -> None:
        """Move what somebody put into the empty directory to the one that has its place again. ``OSError`` where a name
        is taken there."""
        place = os.open(SOURCE, _DIRECTORY, dir_fd=self._here)
        try:
            self.bring(place, self.opened())
        finally:
            os.close(place)

    @staticmethod
    def bring(source: int, target: int) -> None:
        """Move all entries of the open directory ``source`` to ``target``, which is closed. ``OSError`` for those that
        cannot be moved, once all others were."""
        failed: OSError | None = None
        try:
            for name in os.listdir(source):
                try:
                    renameat2(source, name, target, name, RENAME_NOREPLACE)
                except OSError as exc:  # noqa: PERF203  each for itself
                    failed = exc
            os.fsync(target)
        finally:
            os.close(target)
        if failed is not None:
            raise failed

    def _exchange(self) -> None:
        renameat2(self._parent, self.path.name, self._here, SOURCE, RENAME_EXCHANGE)
        self._sync()

    def _sync(self) -> None:
        # Both are of one file system, whose journal has the two names in one step.
        os.fsync(self._parent)
        os.fsync(self._here)

    def made(self, commit: str) -> None:
        """Record, durably, that the store has the directory as ``commit``, which the tag is about to name."""
        self.commit = commit
        with storing(f"record the move of {self.path}"):
            self._write()

    def opened(self) -> int:
        """A descriptor of the directory, wherever it is. ``ConflictError`` where it is another one, ``OSError``."""
        taken = self.is_taken
        fd = os.open(SOURCE if taken else self.path.name, _DIRECTORY, dir_fd=self._here if taken else self._parent)
        if os.fstat(fd).st_ino != self._inodes[1]:
            os.close(fd)
            raise ConflictError(f"{self.path} was replaced by something else meanwhile", hint="nothing was removed")
        return fd

    def opened_place(self) -> int | None:
        """A descriptor of the empty directory that has its place, or None where that is gone, or was covered by a mount
        before this process took it up."""
        return os.dup(self._place) if self._place is not None else None

    def _opened_place(self) -> int | None:
        try:
            fd = os.open(self.path.name, _DIRECTORY, dir_fd=self._parent)
        except OSError:
            return None
        self._opened.callback(os.close, fd)
        return fd if os.fstat(fd).st_ino == self._inodes[2] else None

    def finish(self, *, keep: bool) -> None:
        """End the record of a directory that is empty now, or was put back (``keep``). The place where it was goes too,
        where that is empty, unless it is one that stays. ``StratumError``."""
        if not (keep or self.keeps) and (self.is_taken or self._inode(self.path.name, self._parent) == self._inodes[1]):
            try:
                os.rmdir(self.path.name, dir_fd=self._parent)
            except OSError as exc:
                if exc.errno not in _STAYS:
                    raise storage_error(exc, f"remove {self.path}") from None
        self.close()
        self.drop()

    def drop(self) -> None:
        """Remove the record, unless a directory with anything in it is here."""
        with suppress(FileNotFoundError):
            try:
                os.rmdir(self.source)
            except OSError as exc:
                if not isinstance(exc, FileNotFoundError):
                    return
        with suppress(OSError):
            for name in sorted(os.listdir(self.directory), key=lambda name: name == OWNER):
                os.unlink(self.directory / name)
            os.rmdir(self.directory)

    @staticmethod
    def _inode(name: str, directory: int) -> int | None:
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Close what is open, and let others take it up."""
        self._opened.close()

    def __enter__(self) -> Moving:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()


class Plan(NamedTuple):
    """What ``plan.toml`` says."""

    path: bytes
    name: str
    keeps: bool
    commit: str | None
    inodes: tuple[int, int, int]


def parse_plan(data: bytes, where: str) -> Plan:
    """Read a plan; ``DamagedError`` names ``where``."""
    tables = Tables(read_tables(data, where), where)
    path = unquote_to_bytes(tables.text("moving", "path"))
    if not path.startswith(b"/") or b"\0" in path:
        raise DamagedError(f"{where}: the path of what is moved is no absolute path")
    parent, inode, place = (tables.count("moving", key) for key in ("parent", "inode", "place"))
    commit = tables.hash("moving", "commit") if tables.has("moving", "commit") else None
    return Plan(path, tables.text("moving", "name"), tables.flag("moving", "keeps"), commit, (parent, inode, place))


def left_by(layout: Layout, directory: Path) -> str:
    """What to say of a record whose owner is dead."""
    try:
        moving = Moving.read(layout, directory)
    except StratumError as exc:
        return f"{exc.message}; what was moved is in {directory / SOURCE}"
    if moving is None:
        return "it is left of a move that had not begun; the next one removes it"
    said = f"{moving.path} was being moved into the store, and that was interrupted"
    return f"{said}; what finishes it, or puts it back: {moving.command}"
