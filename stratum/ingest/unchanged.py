"""A directory that is just as it was at its last import: its commit is known without its tree being built.

One file for each source directory and user, beside the one of ``ingest.statcache`` and treated like it::

    head             1 where device nodes were asked for; number of chunks, of objects, bytes of the names, of what was
                     left out by rule, by size: six u32; files, directories, file systems that were left out: three u64;
                     commit, SHA-256 of what was to be left out: 32 bytes each
    chunks           SHA-256 of what lstat says (``sys.manystat``) of ``CHUNK`` files each, as they are named
    objects          digest (32 bytes), size (u64) of each that the commit needs
    names            deflated; of each directory its path, with a slash at its end, and the names in it, a NUL after
                     each but the last; two NULs after each directory. Where the path begins with a slash, too, the
                     SHA-256 of all that is in there comes before the names, in hexadecimal digits
    left out         deflated; paths, a slash behind those of directories, a NUL after each: those that a rule leaves
                     out, those that are too large

All little-endian. It is only written for an import that left nothing out unasked and after which every single inode may
be trusted by the rule of ``ingest.statcache``. So the same answers mean the same tree: a directory whose change time
stands still has the same names in it, on file systems that are known to keep that (``sys.filesystems``; elsewhere it is
listed), and each of them is the same inode in the same state. What was left out may change, as long as it would be left
out again. The commit and all its objects must still be in the store.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from stratum.errors import StratumError
from stratum.ingest.selection import NOTHING, Entry, Excludes, LeftOut
from stratum.ingest.staging import open_source
from stratum.ingest.statcache import StatCache, source_cache, tells_changes
from stratum.store import Store
from stratum.store.cachefile import CacheFile
from stratum.sys.filesystems import keeps_times
from stratum.sys.manystat import ROW_SIZE, ManyStat, columns, device_of, row
from stratum.tree.model import Directory, File

CHUNK = 1024
_FORM = "listing of an import 4"
_FORM_OF_NAMES = "names of objects 1"
_HEAD = struct.Struct("<6I3Q32s32s")
_OBJECT = struct.Struct("<32sQ")
_DIGEST_SIZE = hashlib.sha256().digest_size
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TOP = b"./"


class Listing:
    """What an import saw, for ``remember``. ``final`` is the tree that it made, or None where that is not all that is
    there, or may not be trusted to be so the next time."""

    def __init__(self) -> None:
        self.final: Directory | None = None
        self.excludes, self.left_out = NOTHING, LeftOut()
        self._digests: list[bytes] = []
        self._rows = bytearray()
        self._names = zlib.compressobj(1)
        self._named = bytearray()
        self._left = bytearray(), bytearray()
        self._devices: dict[int, bytes] = {}
        self._keeps: dict[int, bool] = {}
        self._began = time.time_ns()
        self.is_doubtful = False
        """Whether what says what else is left out may have changed while it was read."""

    def begin(self, info: os.stat_result, excludes: Excludes, left_out: LeftOut) -> None:
        """The source itself is as ``info``; ``left_out`` will count what ``excludes`` leave out of it."""
        self.excludes, self.left_out, self._began = excludes, left_out, time.time_ns()
        self._add_row(info)

    def add(self, fd: int, info: os.stat_result, path: bytes, entries: Sequence[Entry]) -> None:
        """The open directory ``fd`` (``info``), ``path`` below the source with a slash at its end, has ``entries``."""
        path = path or _TOP
        if info.st_dev not in self._keeps:
            self._keeps[info.st_dev] = keeps_times(fd)
        parts = [path] if self._keeps[info.st_dev] else [b"/" + path, _digest_of_names(fd)]
        self._record(parts, entries)

    def leave(self, path: bytes, name: str, info: os.stat_result, /, *, large: bool, rules: bool) -> None:
        """An entry was left out (``ingest.selection.Leave``)."""
        slash = b"/" if stat.S_ISDIR(info.st_mode) else b""
        self._left[large].extend(path + os.fsencode(name) + slash + b"\0")
        if rules:  # so it must stay as it is
            self.is_doubtful |= not tells_changes(info.st_ctime_ns, self._began)
            self._record([path or _TOP], [(name, info)])

    def _record(self, parts: list[bytes], entries: Sequence[Entry]) -> None:
        for name, entry in entries:
            parts.append(os.fsencode(name))
            self._add_row(entry)
        parts.append(b"\0")
        self._named += self._names.compress(b"\0".join(parts))

    def _add_row(self, info: os.stat_result) -> None:
        device = self._devices.get(info.st_dev)
        if device is None:
            device = self._devices[info.st_dev] = device_of(info.st_dev)
        self._rows += row(info, device)
        if len(self._rows) == CHUNK * ROW_SIZE:
            self._end_chunk()

    def _end_chunk(self) -> None:
        if self._rows:
            self._digests.append(_digest_of_columns(columns(self._rows)))
            self._rows.clear()

    def finished(self) -> tuple[list[bytes], list[bytes]]:
        """The digests of the chunks, and the deflated parts of the file; once everything was added."""
        self._end_chunk()
        self._named += self._names.flush()
        return self._digests, [bytes(self._named), *(zlib.compress(paths, 1) for paths in self._left)]


def find_unchanged(
    store: Store,
    path: Path,
    *,
    devices: bool = False,
    excludes: Excludes = NOTHING,
    left_out: LeftOut | None = None,
) -> str | None:
    """The commit that the directory ``path`` became when it was last imported, where an import would make the same.

    None where that is not known; nothing is raised for what an import raises errors for. ``left_out`` is filled as an
    import fills it, where the commit is known.
    """
    source = os.fsencode(os.path.realpath(path))
    file = _cache(store, source)
    try:
        known = _Known.parse(file.load())
        if known is None or (known.devices, known.excludes) != (devices, _digest_of_excludes(excludes)):
            return None
        if not store.commits.exists(known.commit):
            return None
        left = _is_same(path, known, excludes)
    except (OSError, StratumError, zlib.error):
        return None
    if left is None or not _has_objects(store, source, known):
        return None
    if left_out is not None:
        left_out.take(left)
    file.touch()
    StatCache(store.objects, source).touch()
    return known.commit


def remember(store: Store, path: Path, listing: Listing, commit: str, *, devices: bool = False) -> None:
    """``path`` as it is in ``listing`` became ``commit``. Failing to write that down is no error."""
    if listing.final is None or listing.is_doubtful:
        return
    digests, deflated = listing.finished()
    objects = bytearray()
    for digest, size in dict(_objects(listing.final)).items():
        objects += _OBJECT.pack(digest, size)
    left = listing.left_out
    head = _HEAD.pack(
        devices,
        len(digests),
        len(objects) // _OBJECT.size,
        *map(len, deflated),
        left.files,
        left.directories,
        left.file_systems,
        bytes.fromhex(commit),
        _digest_of_excludes(listing.excludes),
    )
    _cache(store, os.fsencode(os.path.realpath(path))).save(head, b"".join(digests), objects, *deflated)


def _objects(tree: Directory) -> Iterator[tuple[bytes, int]]:
    """Digest and size of each file that has an object, some of them more than once."""
    stack = [tree]
    while stack:
        for inode in stack.pop().children.values():
            if isinstance(inode, Directory):
                stack.append(inode)
            elif isinstance(inode, File) and inode.digest is not None:
                yield inode.digest, inode.size


def _cache(store: Store, source: bytes) -> CacheFile:
    return source_cache(store.layout, source, _FORM, ".listing")


class _Known(NamedTuple):
    """What the file says."""

    devices: bool
    commit: str
    excludes: bytes
    left_out: LeftOut
    digests: Sequence[bytes]
    objects: memoryview
    deflated: Sequence[memoryview]

    @classmethod
    def parse(cls, data: memoryview | None) -> _Known | None:
        if data is None:
            return None
        devices, chunks, objects, *rest = _HEAD.unpack_from(data)
        *lengths, files, directories, file_systems, commit, excludes = rest
        parts = []
        for length in (_HEAD.size, chunks * _DIGEST_SIZE, objects * _OBJECT.size, *lengths):
            parts.append(data[:length])
            data = data[length:]
        digests = [bytes(parts[1][at : at + _DIGEST_SIZE]) for at in range(0, len(parts[1]), _DIGEST_SIZE)]
        left = LeftOut(files, directories, file_systems)
        return cls(bool(devices), commit.hex(), excludes, left, digests, parts[2], parts[3:])


def _is_same(path: Path, known: _Known, excludes: Excludes) -> LeftOut | None:
    """What is left out where the directory ``path`` is as it was, None where it is not. ``OSError``, ``zlib.error``."""
    root = open_source(os.fspath(path), _OPEN)
    try:
        look, expected = ManyStat(root, CHUNK).columns, iter(known.digests)
        paths = [b"."]
        for directory in zlib.decompress(known.deflated[0]).split(b"\0\0")[:-1]:
            prefix, *names = directory.split(b"\0")
            if prefix.startswith(b"/"):  # what lstat says of it is looked at after that, and is not enough
                prefix = prefix[1:]
                if _digest_of_names_in(root, prefix) != names.pop(0):
                    return None
            if prefix == _TOP:
                prefix = b""
            paths += [prefix + name for name in names]
            while len(paths) >= CHUNK:
                if _digest_of_columns(look(paths[:CHUNK])) != next(expected, None):
                    return None
                del paths[:CHUNK]
        if paths and _digest_of_columns(look(paths)) != next(expected, None):
            return None
        return _left_out(root, known, excludes) if next(expected, None) is None else None
    finally:
        os.close(root)


def _left_out(root: int, known: _Known, excludes: Excludes) -> LeftOut | None:
    """What is left out, counted anew; None where something else would be."""
    counted = LeftOut(file_systems=known.left_out.file_systems)
    by_rule, large = (zlib.decompress(part).split(b"\0")[:-1] for part in known.deflated[1:])
    for paths, least in ((by_rule, -1), (large, excludes.larger_than or 0)):
        for path in paths:
            info = os.stat(path.removesuffix(b"/"), dir_fd=root, follow_symlinks=False)
            if info.st_size <= least or stat.S_ISDIR(info.st_mode) != path.endswith(b"/"):
                return None
            counted.add(info)
    before = known.left_out
    same = (counted.files, counted.directories) == (before.files, before.directories)
    return counted if same else None


def _has_objects(store: Store, source: bytes, known: _Known) -> bool:
    """Whether the store has all objects of the commit. Once it is known to, no name of an object may go."""
    file, now = source_cache(store.layout, source, _FORM_OF_NAMES, ".objects"), time.time_ns()
    names = store.objects.names_now()
    said = bytes.fromhex(known.commit) + (names.said if names is not None else b"")
    if names is not None and (file.load() or b"") == said:
        file.touch()
        return True
    if not store.residence.has_all(list(_OBJECT.iter_unpack(known.objects))):
        return False
    if names is not None and tells_changes(names.changed, now):
        file.save(said)
    return True


def _digest_of_columns(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _digest_of_excludes(excludes: Excludes) -> bytes:
    return hashlib.sha256(repr(excludes).encode()).digest()


def _digest_of_names(directory: int) -> bytes:
    names = b"\0".join(sorted(map(os.fsencode, os.listdir(directory))))
    return hashlib.sha256(names).hexdigest().encode()


def _digest_of_names_in(root: int, path: bytes) -> bytes:
    fd = open_source(path, _OPEN | os.O_NOFOLLOW, root)
    try:
        return _digest_of_names(fd)
    finally:
        os.close(fd)
