"""What the parts of a store take on disk, but for its objects (``store.sharing``): found by a walk, nothing is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.frozen import field, frozen
from stratum.refs import is_hash, is_name
from stratum.store.images import SUFFIX
from stratum.store.objects import Objects
from stratum.sys.usage import Usage, usage_of

if TYPE_CHECKING:
    from stratum.store.layout import Layout

Pair = tuple[str, str]
"""A stratum and a worktree of it."""


@frozen
class Footprint:
    """What the file of each commit takes, or ground (``records``), what is ``beside`` it, and its image, where there is
    one; each of the ``frames`` (SHA-256) of trees; what each worktree takes with what was written in it, and the log of
    each history, also where its worktree is gone. ``parts`` are all parts of the store, these as sums, and add up to
    the whole but for its objects."""

    records: dict[str, Usage] = field(default_factory=dict)
    beside: dict[str, Usage] = field(default_factory=dict)
    frames: dict[bytes, Usage] = field(default_factory=dict)
    images: dict[str, Usage] = field(default_factory=dict)
    worktrees: dict[Pair, Usage] = field(default_factory=dict)
    histories: dict[Pair, Usage] = field(default_factory=dict)
    parts: dict[str, Usage] = field(default_factory=dict)

    def of_commit(self, commit: str) -> Usage:
        """What is the commit's alone: what is beside its file, and its image."""
        return self.beside.get(commit, Usage()).plus(self.images.get(commit, Usage()))


PARTS = (
    "objects",
    "metadata",
    "images",
    "worktrees",
    "histories",
    "refs",
    "catalogs",
    "packs",
    "pushed",
    "cache",
    "landing",
    "transactions",
    "quarantine",
    "other",
)
"""Of a store, as ``Footprint.parts`` has them; ``objects`` are the directories that objects are in."""
_TOP = {
    "sources": "catalogs",
    "profiles": "catalogs",
    "offers": "catalogs",
    "blobs": "pushed",
    "landing": "landing",
    "ahead": "landing",
    "tmp": "transactions",
    "quarantine": "quarantine",
    "moving": "transactions",
}


def footprint(layout: Layout) -> Footprint:
    """What everything takes now. ``StratumError`` where the store cannot be listed."""
    found = Footprint(parts=dict.fromkeys(PARTS, Usage()))
    _add(found, "other", _itself(layout.root))
    for name, path in _entries(layout, layout.root):
        read = _READ.get(name)
        if read is not None:
            read(layout, found, path)
        else:
            _add(found, _TOP.get(name, "other"), usage_of(path))
    return found


def _objects(layout: Layout, found: Footprint, directory: Path) -> None:
    for path in (directory, *(shard for shard, _ in Objects(layout).directories())):
        _add(found, "objects", _itself(path))


def _removed(layout: Layout, found: Footprint, directory: Path) -> None:
    _add(found, "histories", _itself(directory))
    for stratum, path in _entries(layout, directory):
        _histories(layout, found, stratum, path)


def _cache(layout: Layout, found: Footprint, directory: Path) -> None:
    _add(found, "cache", _itself(directory))
    for kind, path in _entries(layout, directory):
        if kind == "images":
            _images(layout, found, path)
        else:
            _add(found, "packs" if kind == "packs" else "cache", usage_of(path))


def _records(layout: Layout, found: Footprint, directory: Path) -> None:
    _add(found, "metadata", _itself(directory))
    for name, path in _entries(layout, directory):
        usage, commit = usage_of(path), name.partition(".")[0]
        if is_hash(commit):
            part = found.records if commit == name else found.beside
            part[commit] = part.get(commit, Usage()).plus(usage)
        _add(found, "metadata", usage)


def _frames(layout: Layout, found: Footprint, directory: Path) -> None:
    _add(found, "metadata", _itself(directory))
    for shard, path in _entries(layout, directory):
        _add(found, "metadata", _itself(path))
        for name, file in _entries(layout, path):
            usage = usage_of(file)
            if is_hash(shard + name):
                found.frames[bytes.fromhex(shard + name)] = usage
            _add(found, "metadata", usage)


def _images(layout: Layout, found: Footprint, directory: Path) -> None:
    _add(found, "images", _itself(directory))
    for name, path in _entries(layout, directory):
        usage = usage_of(path)
        if is_hash(commit := name.removesuffix(SUFFIX)):
            found.images[commit] = usage
        _add(found, "images", usage)


def _refs(layout: Layout, found: Footprint, directory: Path) -> None:
    _add(found, "refs", _itself(directory))
    for name, path in _entries(layout, directory):
        if not is_name(name):
            _add(found, "refs", usage_of(path))
            continue
        _add(found, "refs", _itself(path))
        for part, below in _entries(layout, path):
            if part == "worktrees":
                _add(found, "refs", _itself(below))
                for worktree, tree in _entries(layout, below):
                    usage = usage_of(tree)
                    _add(found, "refs" if worktree.endswith(".lock") else "worktrees", usage)
                    owner = worktree.removeprefix(".").removesuffix(".retired")
                    if is_name(owner):
                        found.worktrees[name, owner] = found.worktrees.get((name, owner), Usage()).plus(usage)
            elif part == "history":
                _histories(layout, found, name, below)
            else:
                _add(found, "refs", usage_of(below))


def _repositories(layout: Layout, found: Footprint, directory: Path) -> None:
    """Of what was pushed, what is no link to a blob."""
    _add(found, "pushed", _itself(directory))
    for _, repository in _entries(layout, directory):
        _add(found, "pushed", _itself(repository))
        for _, part in _entries(layout, repository):
            _add(found, "pushed", _itself(part))
            for _, path in _entries(layout, part):
                if path.is_dir() or path.lstat().st_nlink == 1:
                    _add(found, "pushed", usage_of(path))


def _histories(layout: Layout, found: Footprint, name: str, directory: Path) -> None:
    _add(found, "histories", _itself(directory))
    for worktree, path in _entries(layout, directory):
        found.histories[name, worktree] = usage_of(path)
        _add(found, "histories", found.histories[name, worktree])


def _entries(layout: Layout, directory: Path) -> Iterator[tuple[str, Path]]:
    """(name, path) of what is in a directory; nothing where something else has its place, which fsck tells of."""
    if directory.is_symlink() or not directory.is_dir():
        return
    for name in layout.names_in(directory):
        yield name, directory / name


def _itself(path: Path) -> Usage:
    """A directory without what is in it."""
    try:
        info = path.lstat()
    except OSError:
        return Usage()
    return Usage(info.st_blocks * 512, info.st_size, 1)


def _add(found: Footprint, part: str, usage: Usage) -> None:
    found.parts[part] = found.parts[part].plus(usage)


_READ: Mapping[str, Callable[[Layout, Footprint, Path], None]] = {
    "objects": _objects,
    "commits": _records,
    "grounds": _records,
    "frames": _frames,
    "refs": _refs,
    "histories": _removed,
    "repositories": _repositories,
    "cache": _cache,
}
"""What is looked into, by its name in the store."""
