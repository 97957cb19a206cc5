"""A directory that is just as it was at its last import: its commit is known without its tree being built.

One file for each source directory and user, beside the one of ``ingest.statcache`` and treated like it::

    head             1 where device nodes were asked for; number of directories, of objects: three u32; commit: 32 bytes
    directories      SHA-256 of what was taken of each directory (``_digest``), depth first, in the order in which they
                     list their names; before them that of the source itself
    objects          digest (32 bytes), size (u64) of each that the commit needs

All little-endian. It is only written for an import that left nothing out and after which every single inode may be
trusted by the rule of ``ingest.statcache``; so an equal listing, which has the names as well as each inode's change
time, means an equal tree. The commit and all its objects must still be in the store.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stratum.errors import StratumError
from stratum.ingest.selection import NOTHING, Entry, Excludes, LeftOut, Place, Selection, below
from stratum.ingest.staging import open_source
from stratum.ingest.statcache import StatCache, source_cache
from stratum.store import Store
from stratum.store.cachefile import CacheFile
from stratum.tree.model import Directory, File

_FORM = "listing of an import 2"
_HEAD = struct.Struct("<III32s")
_OBJECT = struct.Struct("<32sQ")
_DIGEST_SIZE = hashlib.sha256().digest_size
_MARSHAL_VERSION = 2  # the last that writes equal values as equal bytes
_DEPTH_MAX = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Listing:
    """What an import saw, for ``remember``: one digest a directory.

    ``final`` is the tree that it made, or None where that is not all that is there, or may not be trusted to be so the
    next time.
    """

    digests: list[bytes] = field(default_factory=list)
    final: Directory | None = None

    def add(self, entries: Iterable[Entry]) -> None:
        """One more directory has ``entries``."""
        self.digests.append(_digest(entries))


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
        if known is None or known.devices != devices or not store.commits.exists(known.commit):
            return None
        left = _is_listed(path, known.digests, excludes)
    except (OSError, StratumError):
        return None
    if left is None:
        return None
    if left_out is not None:
        left_out.take(left)
    if not store.residence.has_all(known.objects):
        return None
    file.touch()
    StatCache(store.objects, source).touch()
    return known.commit


def remember(store: Store, path: Path, listing: Listing, commit: str, *, devices: bool = False) -> None:
    """``path`` as it is in ``listing`` became ``commit``. Failing to write that down is no error."""
    if listing.final is None:
        return
    objects = bytearray()
    for digest, size in dict(_objects(listing.final)).items():
        objects += _OBJECT.pack(digest, size)
    head = _HEAD.pack(devices, len(listing.digests), len(objects) // _OBJECT.size, bytes.fromhex(commit))
    source = os.fsencode(os.path.realpath(path))
    _cache(store, source).save(head, b"".join(listing.digests), objects)


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


@dataclass(frozen=True, slots=True)
class _Known:
    """What the file says."""

    devices: bool
    commit: str
    digests: Sequence[bytes]
    objects: Sequence[tuple[bytes, int]]

    @classmethod
    def parse(cls, data: memoryview | None) -> _Known | None:
        if data is None:
            return None
        devices, directories, _, commit = _HEAD.unpack_from(data)
        start = _HEAD.size + directories * _DIGEST_SIZE
        digests = [bytes(data[at : at + _DIGEST_SIZE]) for at in range(_HEAD.size, start, _DIGEST_SIZE)]
        return cls(bool(devices), commit.hex(), digests, list(_OBJECT.iter_unpack(data[start:])))


def _digest(entries: Iterable[Entry]) -> bytes:
    """Of names, types, permissions, owners, link counts, sizes, inode numbers and times, in their order."""
    seen = [(name, info[:7], info.st_mtime_ns, info.st_ctime_ns) for name, info in entries]
    return hashlib.sha256(marshal.dumps(seen, _MARSHAL_VERSION)).digest()


def root_entry(info: os.stat_result) -> list[Entry]:
    """The listing that has the source itself in it."""
    return [("", info)]


def _is_listed(path: Path, digests: Sequence[bytes], excludes: Excludes) -> LeftOut | None:
    """What was left out where listing ``path`` and all below gives ``digests``, None where it does not. ``OSError`` and
    ``StratumError`` where something cannot be listed."""
    expected = iter(digests)
    opened = [open_source(os.fspath(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        top = os.fstat(opened[0])
        if _digest(root_entry(top)) != next(expected, None):
            return None
        selection, place = Selection(excludes, top.st_dev), Place()
        entered: list[tuple[Place, Iterator[str]]] = []  # what is still to be listed, for each of opened
        while (inner := _subdirectories(selection, place, opened[-1], next(expected, None))) is not None:
            entered.append(inner)
            while (name := next(entered[-1][1], None)) is None:
                if len(entered) == 1:
                    return selection.left_out if next(expected, None) is None else None
                entered.pop()
                os.close(opened.pop())
            if len(opened) == _DEPTH_MAX:
                return None
            opened.append(open_source(name, _OPEN, opened[-1]))
            place = below(entered[-1][0], os.fsencode(name))
        return None
    finally:
        for fd in opened:
            os.close(fd)


def _subdirectories(
    selection: Selection, place: Place, fd: int, digest: bytes | None
) -> tuple[Place, Iterator[str]] | None:
    """The subdirectories of the open directory ``fd``, and the rules for them; None where what is taken of it does not
    give ``digest``."""
    with os.scandir(fd) as listing:
        entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in listing]
    place, entries = selection.chosen(fd, place, os.fstat(fd), entries)
    if _digest(entries) != digest:
        return None
    return place, iter([name for name, info in entries if stat.S_ISDIR(info.st_mode)])
