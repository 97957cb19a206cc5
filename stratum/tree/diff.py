"""What changed between two trees, path by path. Pure.

Subtrees that both trees share as one object (as a commit's tree shares its base's), or that were opened from the same
lines of two dumps (``tree.lazy``), are skipped without a look inside. Of others that were opened so, and are not large,
only those lines are read that differ, and those of the directories above them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from stratum.tree.dump import count_links
from stratum.tree.lazy import LazyDump
from stratum.tree.model import Directory, File, Inode, Region

ADDED = "added"
DELETED = "deleted"
MODIFIED = "modified"
TYPE_CHANGED = "type"
METADATA = "metadata"

_Compare = Callable[[bytes, Inode, Inode, "_Sides | None"], "Change | None"]
_METADATA_FIELDS = ("mode", "uid", "gid", "mtime", "xattrs")
_NARROWED = 1 << 18
"""Bytes of lines that are compared as text. More are read directory by directory, as most of them may be the same."""
_Children = Mapping[bytes, Inode]
_Sides = tuple[_Children, _Children]


@dataclass(frozen=True, slots=True)
class Change:
    """One changed path (absolute, raw bytes).

    ``kind`` is one of the constants above; ``fields`` says what differs: ``content`` and, for ``modified`` and
    ``metadata``, any of mode, uid, gid, mtime, xattrs, links. ``old`` and ``new`` are the inodes, None where absent; of
    directories that both trees have, what is in them need not be there.
    """

    path: bytes
    kind: str
    fields: tuple[str, ...]
    old: Inode | None
    new: Inode | None

    @property
    def size_change(self) -> int:
        """Bytes of file content gained (negative: lost) at this path."""
        return _size(self.new) - _size(self.old)


def diff_trees(old: Directory, new: Directory) -> Iterator[Change]:
    """Every changed path from ``old`` to ``new``, depth-first, names in byte order.

    A directory whose only difference is its modification time is left out where an entry of it was added, deleted or
    rewritten: that is what moved the time.
    """
    if old is new:
        return
    old_first, new_first = _first_names(old), _first_names(new)

    def compare(path: bytes, a: Inode, b: Inode, inside: _Sides | None) -> Change | None:
        if a is b:
            return None
        if type(a) is not type(b) or (a.mode ^ b.mode) & 0o170000:
            return Change(path, TYPE_CHANGED, ("content",), a, b)
        fields = _changed_fields(a, b)
        if old_first.get(id(a)) != new_first.get(id(b)):
            fields.append("links")
        if inside is not None and fields == ["mtime"] and _entries_moved(*inside):
            fields = []
        if not fields:
            return None
        return Change(path, MODIFIED if "content" in fields else METADATA, tuple(fields), a, b)

    yield from _pairs(old, new, compare=compare)


def _pairs(old: Directory, new: Directory, compare: _Compare) -> Iterator[Change]:
    """Walk both trees side by side; iterative, so that depth costs no stack."""
    top = _inside(old, new)
    change = compare(b"/", old, new, top)
    if change is not None:
        yield change
    stack = [_side_by_side(b"/", top)]
    while stack:
        for path, a, b in stack[-1]:
            inside: _Sides | None = None
            if isinstance(a, Directory) or isinstance(b, Directory):
                inside = _inside(a if isinstance(a, Directory) else None, b if isinstance(b, Directory) else None)
            if a is not None and b is not None:
                change = compare(path, a, b, inside)
                if change is not None:
                    yield change
            elif b is not None:
                yield Change(path, ADDED, (), None, b)
            else:
                yield Change(path, DELETED, (), a, None)
            if inside is not None:
                stack.append(_side_by_side(path + b"/", inside))
                break
        else:
            stack.pop()


def _side_by_side(prefix: bytes, inside: _Sides) -> Iterator[tuple[bytes, Inode | None, Inode | None]]:
    before, after = inside
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if a is not b and not same_lines(a, b):
            yield prefix + name, a, b


def _inside(old: Directory | None, new: Directory | None) -> _Sides:
    """What is in the two directories, without all that is the same in both, as far as that is known at once."""
    if old is not None and new is not None and _can_be_narrowed(old.region) and _can_be_narrowed(new.region):
        assert old.region is not None
        assert new.region is not None
        if old.region.prefix == new.region.prefix:
            return _narrowed(old.region, new.region)
    return old.children if old is not None else {}, new.children if new is not None else {}


def _can_be_narrowed(region: Region | None) -> bool:
    return (
        region is not None
        and region.end - region.inner <= _NARROWED
        and region.is_separate
        and not isinstance(region.source, _Lines)
    )


class _Lines(LazyDump):
    """Lines of a dump that differ from those of another, and all of directories above them."""


def _narrowed(old: Region, new: Region) -> _Sides:
    """What is in two regions, of which the lines that both have are left out, unless something below differs."""
    before, after = (region.source.dump[region.inner : region.end].splitlines(True) for region in (old, new))
    there, here = set(before), set(after)
    above: set[bytes] = set()
    for line in there ^ here:
        path = line.partition(b" ")[0]
        while len(path := path[: path.rfind(b"/")]) >= len(old.prefix) and path not in above:
            above.add(path)
    return _read(old.prefix, before, here, above), _read(new.prefix, after, there, above)


def _read(prefix: bytes, lines: Iterable[bytes], others: set[bytes], above: set[bytes]) -> _Children:
    text = b"".join([line for line in lines if line not in others or line.partition(b" ")[0] in above])
    source = _Lines(text)
    return source.children(Region(source, prefix, 0, 0, len(text)))


def same_lines(a: Inode | None, b: Inode | None) -> bool:
    """Whether two directories were opened from the same lines of two dumps, which say all of what is in them."""
    return (
        isinstance(a, Directory)
        and isinstance(b, Directory)
        and a.region is not None
        and b.region is not None
        and a.region.same_as(b.region)
    )


def _changed_fields(a: Inode, b: Inode) -> list[str]:
    fields = [] if a.content_key() == b.content_key() else ["content"]
    if a.metadata() != b.metadata():
        fields += [field for field in _METADATA_FIELDS if getattr(a, field) != getattr(b, field)]
    return fields


def _entries_moved(before: _Children, after: _Children) -> bool:
    """Whether a name came, went or holds something else: each of these may move a directory's modification time."""
    if before.keys() != after.keys():
        return True
    return any(
        child is not after[name] and child.content_key() != after[name].content_key()
        for name, child in before.items()
        if not isinstance(child, Directory)
    )


def _first_names(root: Directory) -> dict[int, tuple[bytes, bytes]]:
    return {key: names[0] for key, names in linked_names(root).items()}


def linked_names(root: Directory) -> dict[int, list[tuple[bytes, bytes]]]:
    """``id(inode)`` -> where its names are, each as the directory's path with a slash behind it and the name, in the
    order of a dump, for hard-linked inodes only. The directories' paths are shared, as whole paths can be many times
    the tree."""
    separate: set[int] = set()
    inner: list[Directory] = [root]
    for directory in inner:
        if directory.region is not None and directory.region.is_separate:
            separate.add(id(directory))
        else:
            inner += [child for child in directory.children.values() if isinstance(child, Directory)]
    links = count_links(root, separate)
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    stack: list[tuple[bytes, Directory, Iterator[bytes]]] = []
    if links:
        stack.append((b"/", root, iter(sorted(root.children))))
    while stack:
        prefix, directory, names = stack[-1]
        for name in names:
            child = directory.children[name]
            if isinstance(child, Directory):
                if id(child) not in separate:
                    stack.append((prefix + name + b"/", child, iter(sorted(child.children))))
                    break
            elif id(child) in links:
                found.setdefault(id(child), []).append((prefix, name))
        else:
            stack.pop()
    return found


def _size(inode: Inode | None) -> int:
    return inode.size if isinstance(inode, File) else 0
