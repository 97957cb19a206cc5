"""File contents: ``objects/ab/cdef...``, named by fs-verity digest, mode 0444, never changed once named.

The layout is composefs's digest store, so the directory is an overlayfs data layer as it stands. An object gets its
name only after its bytes are on disk (``store.transaction``), so a named object of the right size is whole; what a
failing disk did to it later is for ``verify`` to find.

This module is the one door to the objects: how they lie in their directory, and in those of transactions, which are
laid out like it (``Staging``), is known here only. Others ask for an object's ``state``, open it, or list them all.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path

from stratum.errors import DamagedError, NotFoundError
from stratum.frozen import frozen
from stratum.store.layout import Layout, storage_error
from stratum.sys.atomic import temporary_name
from stratum.sys.filesystems import keeps_times
from stratum.sys.syscalls import RENAME_NOREPLACE, renameat2
from stratum.tree.model import object_path

OBJECT_MODE = 0o444
_SHARD = r"[0-9a-f]{2}"
_REST = r"[0-9a-f]{62}"
_CHUNK = 1 << 20
_OBJECT_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST_FACTOR = 3


class State(Enum):
    """Where an object is. What that means for the commits that need it, ``store.residence`` says."""

    HERE = "here"
    MISSING = "missing"


@frozen
class Weight:
    """An object as it lies on disk: its size and the bytes it takes there, when it came (seconds since 1970), and how
    many names it has: one, but while it is in the landing too."""

    size: int
    usage: int
    came: float
    names: int = 1


@frozen
class NamesNow:
    """Of all names of objects: ``said`` is another once one came or went, ``changed`` is when one last did, in ns."""

    said: bytes
    changed: int


class Objects:
    """The objects of one store. Digests are 32 bytes."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._directory = os.fspath(layout.objects)

    @classmethod
    def below(cls, root: Path | str) -> Objects:
        """The objects of the store at ``root``, which somebody else opened and checked (for worker processes)."""
        return cls(Layout(Path(root)))

    @property
    def layers(self) -> tuple[Path, ...]:
        """The data layers of a mount (``mount.plan``), in the order in which an object is looked for in them."""
        return (self.layout.objects,)

    def path(self, digest: bytes) -> Path:
        """Where the object is or would be."""
        return Path(self._path(digest))

    def _path(self, digest: bytes) -> str:
        return f"{self._directory}/{_place(digest)}"

    def state(self, digest: bytes, size: int | None = None) -> State:
        """Where the object (of ``size`` bytes, where given) is. One of another size is damaged, and is not there."""
        found = self.size(digest)
        return State.MISSING if found is None or size not in (None, found) else State.HERE

    def has(self, digest: bytes, size: int | None = None) -> bool:
        """Whether the object is here, so that it need not be written."""
        return self.state(digest, size) is State.HERE

    def size(self, digest: bytes) -> int | None:
        """The object's size in bytes, or None where there is no such object."""
        try:
            return self._size(digest)
        except OSError as exc:
            raise storage_error(exc, f"look for object {digest.hex()}") from None

    def _size(self, digest: bytes) -> int | None:
        try:
            info = os.lstat(self._path(digest))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def weigh(self, digest: bytes) -> Weight | None:
        """The object as it lies on disk, or None where there is no such object."""
        try:
            info = os.lstat(self._path(digest))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise storage_error(exc, f"look for object {digest.hex()}") from None
        if not stat.S_ISREG(info.st_mode):
            return None
        return Weight(info.st_size, info.st_blocks * 512, info.st_mtime, info.st_nlink)

    def open(self, digest: bytes) -> int:
        """A read-only, close-on-exec descriptor of the object; ``NotFoundError`` where there is none."""
        path = self._path(digest)
        try:
            fd = self.layout.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFoundError(
                f"object {digest.hex()} is missing from the store", hint="pull the commit again, or restore a backup"
            ) from None
        except OSError as exc:
            raise storage_error(exc, f"open object {digest.hex()}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DamagedError(f"{path} is not a regular file")
        return fd

    @functools.cached_property
    def opener(self) -> Opener:
        """The same door for a server, which opens very many."""
        return Opener(self)

    def verify(self, digest: bytes, expected: int | None = None) -> int:
        """Read the whole object, but for its holes, and compare it with its name; its size.

        ``DamagedError`` where they differ, and, before anything is read, where it has not the ``expected`` size.
        """
        from io import FileIO

        from stratum.composefs.verity import VerityHasher
        from stratum.sys.holes import sparse_pieces

        hasher, size = VerityHasher(), 0
        fd = self.open(digest)
        try:
            found = os.fstat(fd).st_size
            if expected is not None and found != expected:
                raise DamagedError(f"object {digest.hex()} has {found} bytes instead of {expected}")
            with FileIO(fd, closefd=False) as file:
                for piece in sparse_pieces(file, found, _CHUNK):
                    if isinstance(piece, int):
                        hasher.update_zeros(piece)
                        size += piece
                    else:
                        hasher.update(piece)
                        size += len(piece)
        except OSError as exc:
            raise storage_error(exc, f"read object {digest.hex()}") from None
        finally:
            os.close(fd)
        if hasher.digest() != digest:
            raise DamagedError(f"object {digest.hex()} does not match its digest", hint="run 'stratum fsck'")
        return size

    def list(self) -> Iterator[tuple[bytes, int]]:
        """Every object as (digest, size), in the order of digests; files that no object can be are left out."""
        for digest in self.names():
            size = self.size(digest)
            if size is not None:
                yield digest, size

    def weights(self) -> Iterator[tuple[bytes, int, int]]:
        """Every object as (digest, bytes on disk, size), for who asks for all of them; in no order."""
        for path, is_ours in self.directories():
            if not is_ours or not stat.S_ISDIR(path.lstat().st_mode):
                continue
            fd = self.layout.open_beneath(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        try:
                            info = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:  # collected at this moment
                            continue
                        if stat.S_ISREG(info.st_mode) and re.fullmatch(_REST, entry.name):
                            yield bytes.fromhex(path.name + entry.name), info.st_blocks * 512, info.st_size
            except OSError as exc:
                raise storage_error(exc, f"list {path}") from None
            finally:
                os.close(fd)

    def names(self) -> Iterator[bytes]:
        """The digests that anything in the store is named by, be it an object or not, in order."""
        for path, is_ours in self.directories():
            if is_ours and stat.S_ISDIR(path.lstat().st_mode):
                for rest in filter(re.compile(_REST).fullmatch, self.layout.names_in(path)):
                    yield bytes.fromhex(path.name + rest)

    def directories(self) -> Iterator[tuple[Path, bool]]:
        """What is in the object directory, sorted: (path, whether it is named as a directory of objects is)."""
        for name in self.layout.names_in(self.layout.objects):
            yield self.layout.objects / name, re.fullmatch(_SHARD, name) is not None

    def names_now(self) -> NamesNow | None:
        """By what the names are told to be the same another time; None where the file system may not tell that."""
        try:
            fd = self.layout.open_beneath(self.layout.objects, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if not keeps_times(fd):
                    return None
                shards = sorted(filter(re.compile(_SHARD).fullmatch, os.listdir(fd)))
                found = [os.stat(shard, dir_fd=fd, follow_symlinks=False) for shard in shards]
            finally:
                os.close(fd)
        except OSError as exc:
            raise storage_error(exc, f"look at {self.layout.objects}") from None
        said = [
            (shard, info.st_dev, info.st_ino, info.st_mtime_ns, info.st_ctime_ns)
            for shard, info in zip(shards, found, strict=True)
        ]
        return NamesNow(repr(said).encode(), max([info.st_ctime_ns for info in found], default=0))

    def remove(self, digest: bytes, *, dry_run: bool = False) -> int:
        """Remove the object, or with ``dry_run`` only look at it; the bytes that it has on disk."""
        path = self._path(digest)
        try:
            usage = os.lstat(path).st_blocks * 512
            if not dry_run:
                os.unlink(path)
        except OSError as exc:
            raise storage_error(exc, f"remove {path}") from None
        return usage

    def many(self, expected: int = 0) -> Presence:
        """For asking of many objects, about ``expected`` of them, whether they are here."""
        return Presence(self, expected)

    def take_in(self, staging: Staging, staged: Iterable[tuple[bytes, str, int]], *, complete: bool = False) -> int:
        """Give each (digest, name in ``staging``, size), in the order of digests, its place in the store; how many were
        new.

        The bytes must be on disk already; making the new names durable, by a syncfs, is left to the caller. An object
        that is there with the same size is trusted and kept; one of another size is damaged and replaced. ``complete``:
        nobody else writes to ``staging`` meanwhile, so that a shard which the store has none of yet may move as a
        whole. Raises ``OSError``, and ``DamagedError`` where something else than a file has an object's name.
        """
        new, layout = 0, self.layout
        source = os.open(staging.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for first, group in itertools.groupby(staged, lambda item: item[0][0]):
                shard, objects = f"{first:02x}", [(digest.hex()[2:], name, size) for digest, name, size in group]
                if complete and _move_shard(layout, source, shard, objects):
                    new += len(objects)
                    continue
                _make_shard(layout, shard)
                target = layout.open_beneath(layout.objects / shard, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    new += sum(_name_object(source, name, target, rest, size) for rest, name, size in objects)
                finally:
                    os.close(target)
        finally:
            os.close(source)
        return new

    def share(self, staging: Staging, objects: Iterable[tuple[bytes, int]]) -> Sequence[bytes]:
        """Give each (digest, size) that is in ``staging`` a name in the store, besides the one that it has there; those
        that could not be named, as something else than a file has the name.

        Bytes on disk, and which of two objects of a name stays, is as in ``take_in``. What is not in ``staging`` any
        more is passed over. Raises ``OSError``.
        """
        refused: list[bytes] = []
        for shard, group in itertools.groupby(sorted(objects), lambda item: _place(item[0])[:2]):
            _make_shard(self.layout, shard)
            target = self.layout.open_beneath(self.layout.objects / shard, os.O_RDONLY | os.O_DIRECTORY)
            try:
                refused += [
                    digest
                    for digest, size in group
                    if not _link_object(staging.path(digest), target, _place(digest)[3:], size)
                ]
            finally:
                os.close(target)
        return refused

    def adopt(self, path: Path, digest: bytes, size: int) -> None:
        """Give the file at ``path``, whose bytes are on disk, its name in the store, durably. Raises as ``take_in``."""
        shard, rest = _place(digest).split("/")
        _make_shard(self.layout, shard)
        source = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            target = self.layout.open_beneath(self.layout.objects / shard, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if not _name_object(source, path.name, target, rest, size):
                    os.unlink(path.name, dir_fd=source)
                os.fsync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)


class Presence:
    """Whether objects are in the store, for those who ask of many: by one lstat an object, or by one listing of each
    shard where about as many are asked for (``expected``) as are there.

    What comes into the store meanwhile need not be seen; where it is written again, that is told when objects get their
    names. The caller holds the store lock shared, so that no object goes away.
    """

    def __init__(self, objects: Objects, expected: int) -> None:
        self._objects = objects
        self._expected = expected
        self._listing: bool | None = None
        self._there: set[bytes] = set()
        self._shards: dict[int, bool] = {}  # whether the store had it when it was first asked for

    def has(self, digest: bytes, size: int) -> bool:
        """Whether the store has the object; its size, ``size``, may or may not be looked at. ``StratumError``."""
        try:
            return digest in self._there if self._is_listed(digest[0]) else self.size(digest) == size
        except OSError as exc:
            raise storage_error(exc, f"look for object {digest.hex()}") from None

    def has_all(self, objects: Iterable[tuple[bytes, int]]) -> bool:
        """Whether the store has all of the objects (digest, size), as ``has`` says."""
        return next(self.absent(objects), None) is None

    def absent(self, objects: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
        """The digests of those of the objects (digest, size) that the store has not, as ``has`` says. What is listed is
        in memory a shard at a time."""
        asked = iter(objects)
        for first in asked:
            try:
                if self._is_worth_listing(first[0][0]):
                    yield from self._not_listed(itertools.chain((first,), asked))
                    return
            except OSError as exc:
                raise storage_error(exc, "look for objects") from None
            yield from (item[0] for item in itertools.chain((first,), asked) if not self.has(*item))

    def _not_listed(self, objects: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
        shards: list[list[bytes]] = [[] for _ in range(256)]
        for digest, _ in objects:
            shards[digest[0]].append(digest)
        for number, digests in enumerate(shards):
            names = {_place(digest)[3:]: digest for digest in digests}
            if names:
                yield from map(names.__getitem__, names.keys() - set(self._listed(f"{number:02x}")))

    def _is_listed(self, number: int) -> bool:
        """Whether all objects are listed, which the first question decides by the shard ``number``."""
        if self._listing is None:
            self._listing = self._is_worth_listing(number)
            if self._listing:
                self._there.update(*map(self._objects_in, range(256)))
        return self._listing

    def _is_worth_listing(self, number: int) -> bool:
        return len(self._objects_in(number)) * 256 < self._expected * _LIST_FACTOR

    def size(self, digest: bytes) -> int | None:
        """The object's size in bytes, or None where there is no such object. Raises ``OSError``."""
        number = digest[0]
        known = self._shards.get(number)
        if known is None:
            known = self._shards[number] = os.path.lexists(f"{self._objects._directory}/{number:02x}")
        return self._objects._size(digest) if known else None

    def _objects_in(self, number: int) -> list[bytes]:
        shard, is_rest = f"{number:02x}", re.compile(_REST).fullmatch
        return [bytes.fromhex(shard + rest) for rest in self._listed(shard) if is_rest(rest)]

    def _listed(self, shard: str) -> list[str]:
        try:
            return os.listdir(f"{self._objects._directory}/{shard}")
        except (FileNotFoundError, NotADirectoryError):
            return []


class Opener:
    """Opens objects in half the time: the directories that they lie in, 256 at most, stay open. Threads share one."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._shards: dict[str, int] = {}

    def open(self, digest: bytes) -> int:
        """As ``Objects.open``, which also says what is wrong where something is."""
        shard, _, name = _place(digest).partition("/")
        with contextlib.suppress(OSError):
            fd = os.open(name, _OBJECT_FLAGS, dir_fd=self._shard(shard))
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
        return self._objects.open(digest)

    def _shard(self, shard: str) -> int:
        known = self._shards.get(shard)
        if known is not None:
            return known
        layout = self._objects.layout
        made = layout.open_beneath(layout.objects / shard, os.O_PATH | os.O_DIRECTORY)
        kept = self._shards.setdefault(shard, made)
        if kept != made:
            os.close(made)
        return kept

    def __del__(self) -> None:
        for directory in self._shards.values():
            os.close(directory)


class Staging:
    """``directory``, where the objects of a transaction wait for their names, laid out like the store's."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._made: set[str] = set()

    @staticmethod
    def name(digest: bytes) -> str:
        """What the object is called in the directory."""
        return _place(digest)

    def path(self, digest: bytes) -> str:
        """Where the object is or would be."""
        return f"{self.directory}/{_place(digest)}"

    def place(self, digest: bytes) -> str:
        """The same, in a directory that exists now. Raises ``OSError``."""
        return f"{self.directory}/{self.made(digest)}"

    def made(self, digest: bytes) -> str:
        """``name``, in a directory that exists now. Raises ``OSError``."""
        name = _place(digest)
        shard = name[:2]
        if shard not in self._made:
            with contextlib.suppress(FileExistsError):  # another process's
                os.mkdir(f"{self.directory}/{shard}", 0o700)
            self._made.add(shard)
        return name


def _place(digest: bytes) -> str:
    return object_path(digest).decode()


def _make_shard(layout: Layout, shard: str) -> None:
    path = layout.objects / shard
    try:
        path.mkdir()
    except FileExistsError:
        return
    path.chmod(0o755)


def _move_shard(layout: Layout, source: int, shard: str, objects: Sequence[tuple[str, str, int]]) -> bool:
    """Make the directory ``shard`` in ``source`` the store's, where it has none and that one holds just ``objects``."""
    if os.path.lexists(layout.objects / shard) or any(name != f"{shard}/{rest}" for rest, name, _ in objects):
        return False
    fd = os.open(shard, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        if set(os.listdir(fd)) != {rest for rest, _, _ in objects}:
            return False
        os.fchmod(fd, 0o755)
    finally:
        os.close(fd)
    target = layout.open_beneath(layout.objects, os.O_RDONLY | os.O_DIRECTORY)
    try:
        renameat2(source, shard, target, shard, RENAME_NOREPLACE)
    except FileExistsError:
        return False  # somebody was faster
    finally:
        os.close(target)
    return True


def _name_object(source: int, name: str, shard: int, rest: str, size: int) -> bool:
    try:
        renameat2(source, name, shard, rest, RENAME_NOREPLACE)
    except FileExistsError:
        info = os.stat(rest, dir_fd=shard, follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode):
            raise DamagedError(f"the store has something else than a file in place of object ...{rest}") from None
        if info.st_size == size:
            return False
        os.rename(name, rest, src_dir_fd=source, dst_dir_fd=shard)
    return True


def _link_object(path: str, shard: int, rest: str, size: int) -> bool:
    """Link the file ``path`` as an object, unless it is gone; False where something else than a file has the name."""
    try:
        os.link(path, rest, dst_dir_fd=shard)
    except FileExistsError:
        info = os.stat(rest, dir_fd=shard, follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode):
            return False
        if info.st_size != size:
            beside = temporary_name()
            os.link(path, beside, dst_dir_fd=shard)
            os.rename(beside, rest, src_dir_fd=shard, dst_dir_fd=shard)
    except FileNotFoundError:
        pass
    return True
