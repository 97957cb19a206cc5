"""What changed between two trees, path by path. Pure.

Subtrees that both trees share as one object (as a commit's tree shares its base's), or that were opened from the same
lines of two dumps (``tree.lazy``), are skipped without a look inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stratum.tree.dump import count_links
from stratum.tree.model import Directory, File, Inode

ADDED = "added"
DELETED = "deleted"
MODIFIED = "modified"
TYPE_CHANGED = "type"
METADATA = "metadata"

_Compare = Callable[[bytes, Inode, Inode], "Change | None"]
_METADATA_FIELDS = ("mode", "uid", "gid", "mtime", "xattrs")


@dataclass(frozen=True, slots=True)
class Change:
    """One changed path (absolute, raw bytes).

    ``kind`` is one of the constants above; ``fields`` says what differs: ``content`` and, for ``modified`` and
    ``metadata``, any of mode, uid, gid, mtime, xattrs, links. ``old`` and ``new`` are the inodes, None where absent.
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

    def compare(path: bytes, a: Inode, b: Inode) -> Change | None:
        if a is b:
            return None
        if type(a) is not type(b) or (a.mode ^ b.mode) & 0o170000:
            return Change(path, TYPE_CHANGED, ("content",), a, b)
        fields = _changed_fields(a, b)
        if old_first.get(id(a)) != new_first.get(id(b)):
            fields.append("links")
        if isinstance(a, Directory) and isinstance(b, Directory) and fields == ["mtime"] and _entries_moved(a, b):
            fields = []
        if not fields:
            return None
        return Change(path, MODIFIED if "content" in fields else METADATA, tuple(fields), a, b)

    yield from _pairs(old, new, compare=compare)


def _pairs(old: Directory, new: Directory, compare: _Compare) -> Iterator[Change]:
    """Walk both trees side by side; iterative, so that depth costs no stack."""
    change = compare(b"/", old, new)
    if change is not None:
        yield change
    stack: list[Iterator[tuple[bytes, Inode | None, Inode | None]]] = [_side_by_side(b"/", old, new)]
    while stack:
        for path, a, b in stack[-1]:
            if a is not None and b is not None:
                change = compare(path, a, b)
                if change is not None:
                    yield change
            elif b is not None:
                yield Change(path, ADDED, (), None, b)
            else:
                yield Change(path, DELETED, (), a, None)
            inside_a = a if isinstance(a, Directory) else None
            inside_b = b if isinstance(b, Directory) else None
            if (inside_a is not None or inside_b is not None) and inside_a is not inside_b:
                stack.append(_side_by_side(path + b"/", inside_a, inside_b))
                break
        else:
            stack.pop()


def _side_by_side(
    prefix: bytes, old: Directory | None, new: Directory | None
) -> Iterator[tuple[bytes, Inode | None, Inode | None]]:
    before = old.children if old is not None else {}
    after = new.children if new is not None else {}
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if a is not b and not same_lines(a, b):
            yield prefix + name, a, b


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


def _entries_moved(a: Directory, b: Directory) -> bool:
    """Whether a name came, went or holds something else: each of these may move a directory's modification time."""
    if a.children.keys() != b.children.keys():
        return True
    return any(
        child is not b.children[name] and child.content_key() != b.children[name].content_key()
        for name, child in a.children.items()
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
