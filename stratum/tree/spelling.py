"""Names that differ in case only, as file systems take them that ignore it. Pure.

Two names are one where they are equal after ``str.casefold`` (Unicode's full case folding); nothing is normalised, so
composed and decomposed letters differ. Names that are not UTF-8 are one only where they are equal.
"""

from __future__ import annotations

from stratum.tree.merge import Task, run_deep
from stratum.tree.model import Directory, Inode, Whiteout, walk

Pair = tuple[bytes, bytes]
"""Two paths of one directory whose names differ in case only."""


def folded(name: bytes) -> bytes:
    """What equal names have in common."""
    if name.isascii():
        return name.lower()
    try:
        return name.decode("utf-8").casefold().encode("utf-8")
    except UnicodeDecodeError:
        return name


def twins(tree: Directory) -> list[Pair]:
    """The names in ``tree`` that differ in case only from an earlier one of their directory, with that; in byte order.
    What a layer deletes is no name of it."""
    found: list[Pair] = []
    for path, inode in walk(tree):
        if isinstance(inode, Directory):
            first: dict[bytes, bytes] = {}
            for name in sorted(name for name, child in inode.children.items() if not isinstance(child, Whiteout)):
                other = first.setdefault(folded(name), name)
                if other is not name:
                    found.append((_joined(path, name), _joined(path, other)))
    return found


def differing(below: Directory, layer: Directory) -> list[Pair]:
    """The names in ``layer`` that differ in case only from one of ``below`` that it does not hide, with that."""
    found: list[Pair] = []
    left: list[tuple[bytes, Directory, Directory]] = [(b"/", below, layer)] if not layer.opaque else []
    while left:
        path, under, over = left.pop()
        known = _spellings(under)
        for name, inode in over.children.items():
            if name not in under.children:
                other = known.get(folded(name))
                gone = other is None or isinstance(over.children.get(other), Whiteout) or isinstance(inode, Whiteout)
                if other is not None and not gone:
                    found.append((_joined(path, name), _joined(path, other)))
            elif isinstance(inode, Directory) and not inode.opaque:
                child = under.children[name]
                if isinstance(child, Directory):
                    left.append((_joined(path, name), child, inode))
    return sorted(found)


def respelled(below: Directory | None, layer: Directory) -> tuple[Directory, list[Pair]]:
    """``layer`` with each name, of files and directories, spelled as the one of ``below`` that it is; and which are
    spelled anew, with what they are now.

    A name that is in ``below`` as it stands stays. Where the layer has several names that are one, they become one: as
    below, else as the first in byte order. Directories are merged then; of files the one that was spelled right stays,
    else the last in byte order. What the layer deletes beside what it brings under that name is deleted first.
    """
    job = _Respelling()
    return run_deep(job.directory(b"/", below, layer)), sorted(job.pairs)


class _Respelling:
    def __init__(self) -> None:
        self.pairs: list[Pair] = []

    def directory(self, path: bytes, below: Directory | None, layer: Directory) -> Task[Directory]:
        under = below if below is not None and not layer.opaque else None
        children: dict[bytes, Inode] = {}
        for target, names in self._targets(path, under, layer).items():
            inode = layer.children[names[0]]
            for name in names[1:]:
                inode = yield _one(inode, layer.children[name])
            if isinstance(inode, Directory):
                child = under.children.get(target) if under is not None else None
                inode = yield self.directory(
                    _joined(path, target), child if isinstance(child, Directory) else None, inode
                )
            children[target] = inode
        if len(children) == len(layer.children) and all(layer.children.get(n) is c for n, c in children.items()):
            return layer
        return Directory(*layer.metadata(), children=children, opaque=layer.opaque)

    def _targets(self, path: bytes, under: Directory | None, layer: Directory) -> dict[bytes, list[bytes]]:
        """How each name is to be spelled -> the names that are so, the one that counts most last."""
        known = _spellings(under) if under is not None else {}
        there = under.children if under is not None else {}
        names = sorted(layer.children)
        right = {folded(name): name for name in reversed(names) if name in there}
        targets: dict[bytes, list[bytes]] = {}
        first: dict[bytes, bytes] = {}
        for name in names:
            key = folded(name)
            target = name if name in there else right.get(key) or known.get(key) or first.setdefault(key, name)
            targets.setdefault(target, []).append(name)
            if target != name:
                self.pairs.append((_joined(path, name), _joined(path, target)))
        for target, same in targets.items():
            if target in layer.children and target in there:
                same.remove(target)
                same.append(target)
        return targets


def _one(first: Inode, second: Inode) -> Task[Inode]:
    """Two entries of a layer that become one; ``second`` counts more."""
    if isinstance(first, Directory) and isinstance(second, Directory):
        children = dict(first.children)
        for name, inode in second.children.items():
            before = children.get(name)
            children[name] = inode if before is None else (yield _one(before, inode))
        return Directory(*second.metadata(), children=children, opaque=first.opaque or second.opaque)
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Whiteout):
            if isinstance(other, Directory):
                return Directory(*other.metadata(), children=other.children, opaque=True)
            return other
    return second


def _spellings(directory: Directory) -> dict[bytes, bytes]:
    """What names have in common -> the name, the first in byte order."""
    return {folded(name): name for name in sorted(directory.children, reverse=True)}


def _joined(path: bytes, name: bytes) -> bytes:
    return path.rstrip(b"/") + b"/" + name
