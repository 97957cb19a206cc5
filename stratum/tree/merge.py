"""Layers onto trees: apply, make and rebase. Pure.

A layer is a tree that may hold ``Whiteout`` nodes and opaque directories. Applying it is additive and the layer wins:
a whiteout deletes, an opaque directory hides what is below it, a directory over a directory merges, anything else
replaces. The metadata of a directory is the layer's. Whatever did not change is shared with the input, not copied.

Every function here is safe for any depth: the work is done by generators that ``run_deep`` keeps on a list.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import copy
from typing import Any, NamedTuple, TypeVar

from stratum.tree.dump import count_links
from stratum.tree.model import Directory, Inode, Whiteout, Xattrs, walk

_T = TypeVar("_T")
Task = Generator["Task[Any]", Any, _T]


def run_deep(task: Task[_T]) -> _T:
    """Run a generator that yields generators of the same kind and is sent their return values."""
    stack: list[Task[Any]] = [task]
    value: Any = None
    while stack:
        inner, value = _step(stack[-1], value)
        if inner is None:
            stack.pop()
        else:
            stack.append(inner)
    result: _T = value
    return result


def _step(task: Task[Any], value: Any) -> tuple[Task[Any] | None, Any]:
    """The next inner task, or (None, the return value)."""
    try:
        return task.send(value), None
    except StopIteration as stop:
        return None, stop.value


# --- applying -------------------------------------------------------------------------------------------------------


def apply_layer(base: Directory, layer: Directory) -> Directory:
    """The tree that shows ``layer`` over ``base``, as overlayfs would; it has no whiteout and nothing opaque in it."""
    return run_deep(_apply(base, layer))


def _apply(base: Inode | None, layer: Directory) -> Task[Directory]:
    below = base if isinstance(base, Directory) and not layer.opaque else None
    source = below if below is not None else layer
    children = dict(below.children) if below is not None else {}
    for name, node in layer.children.items():
        if isinstance(node, Whiteout):
            children.pop(name, None)
        elif isinstance(node, Directory):
            children[name] = yield _apply(below.children.get(name) if below is not None else None, node)
        else:
            children[name] = node
    if not source.opaque and source.metadata() == layer.metadata() and _same_children(source.children, children):
        return source
    return layer.with_children(children)


def _same_children(a: dict[bytes, Inode], b: dict[bytes, Inode]) -> bool:
    return len(a) == len(b) and all(b.get(name) is child for name, child in a.items())


# --- making ---------------------------------------------------------------------------------------------------------


def make_layer(base: Directory, merged: Directory) -> Directory:
    """The smallest layer that turns ``base`` into ``merged``: ``apply_layer`` of it over ``base`` dumps as ``merged``.

    An inode with several names is in the layer under all of them as soon as one of them changed.
    """
    layer = run_deep(_make(base, merged, _KeptLinks(base, merged)))
    return layer if layer is not None else merged.with_children({})


def _make(base: Directory, merged: Directory, kept: _KeptLinks) -> Task[Directory | None]:
    """The layer for one directory, or None where nothing in it changed."""
    if merged is base and not kept.any:
        return None
    children: dict[bytes, Inode] = {name: Whiteout() for name in base.children if name not in merged.children}
    for name, inode in merged.children.items():
        below = base.children.get(name)
        if isinstance(inode, Directory):
            if isinstance(below, Directory):
                inner = yield _make(below, inode, kept)
                if inner is not None:
                    children[name] = inner
            else:
                children[name] = inode
        elif not kept(below, inode):
            children[name] = inode
    if not children and merged.metadata() == base.metadata():
        return None
    return merged.with_children(children)


class _KeptLinks:
    """Which names of ``merged`` a layer may leave to ``base``: same value, and the same names for the inode.

    A base inode can stand for at most one inode of the merged tree, and only where every name of that one is a name
    of the base inode too; where the merged tree has the base inode itself anywhere, for no other one.
    """

    def __init__(self, base: Directory, merged: Directory) -> None:
        self._base_links = count_links(base)
        self._merged_links = count_links(merged)
        self.any = bool(self._base_links or self._merged_links)
        self._claims: dict[int, int] = {}  # id(base inode) -> id(merged inode)
        self._in_merged = {id(inode) for _, inode in walk(merged)}
        if self.any:
            self._claim(base, merged)

    def __call__(self, below: Inode | None, inode: Inode) -> bool:
        if below is None or not self._may_stand_for(below, inode):
            return False
        if self._linked(below, inode):
            return self._claims.get(id(below)) == id(inode)
        return True

    def _may_stand_for(self, below: Inode, inode: Inode) -> bool:
        return below is inode or (id(below) not in self._in_merged and same_value(below, inode))

    def _linked(self, below: Inode | None, inode: Inode) -> bool:
        return id(inode) in self._merged_links or (below is not None and id(below) in self._base_links)

    def _claim(self, base: Directory, merged: Directory) -> None:
        candidates: dict[int, Inode | None] = {}  # id(merged inode) -> the one base inode at all its names
        stack: list[tuple[Directory | None, Directory]] = [(base, merged)]
        while stack:
            below_directory, directory = stack.pop()
            for name, inode in directory.children.items():
                below = below_directory.children.get(name) if below_directory is not None else None
                if isinstance(inode, Directory):
                    stack.append((below if isinstance(below, Directory) else None, inode))
                elif self._linked(below, inode):
                    if below is not None and not self._may_stand_for(below, inode):
                        below = None
                    if candidates.setdefault(id(inode), below) is not below:
                        candidates[id(inode)] = None
        for key, candidate in candidates.items():
            if candidate is not None:
                self._claims.setdefault(id(candidate), key)


def same_value(a: Inode, b: Inode) -> bool:
    """Whether two inodes are equal in type, metadata and content (for directories: without their children)."""
    return a is b or (
        isinstance(a, Directory) == isinstance(b, Directory)
        and a.metadata() == b.metadata()
        and a.content_key() == b.content_key()
    )


# --- rebasing -------------------------------------------------------------------------------------------------------


class Rebased(NamedTuple):
    """The tree, the paths (absolute, raw bytes, sorted) that both sides had changed, and those of them that are as the
    new base has them."""

    tree: Directory
    conflicts: list[bytes]
    taken: frozenset[bytes]


def rebase(
    old_base: Directory, merged: Directory, new_base: Directory, *, theirs: bool = False, keep_changed: bool = False
) -> Rebased:
    """Carry what ``merged`` changed over ``old_base`` onto ``new_base``.

    Paths are compared one by one, by value and by which other names the inode has. Where both sides changed a path in
    different ways, it is listed, and ``merged`` wins, or ``new_base`` with ``theirs``; a deletion counts as a change, a
    modification time alone as none that could be in the way of the other side's. A directory is merged entry by entry
    and field by field. A directory that the new base dropped or replaced is listed where ``merged`` had changed
    something in it, and comes back with just those entries, unless ``theirs``.

    With ``keep_changed``, never together with ``theirs``, what one side removed and the other changed is listed and
    stays as changed, whichever side that was; of a directory, just the entries that were changed in it.
    """
    job = _Rebase(old_base, merged, new_base, theirs, keep_changed)
    tree = run_deep(job.directory(b"", old_base, merged, new_base))
    assert tree is not None  # only a directory that new_base lacks can go
    return Rebased(tree, sorted(job.conflicts), frozenset(path for path, taken in job.conflicts.items() if taken))


class _Rebase:
    """One rebase: the trees' hard links and the conflicts found so far."""

    def __init__(
        self, old: Directory, merged: Directory, new: Directory, theirs: bool, keep_changed: bool = False
    ) -> None:
        self._theirs = theirs
        self._keep_changed = keep_changed
        self._swapped = False
        self._old, self._merged, self._new = _link_names(old), _link_names(merged), _link_names(new)
        self._linked = bool(self._old or self._merged or self._new)
        self.conflicts: dict[bytes, bool] = {}  # path -> whether the new base's version was taken

    def _mirrored(self) -> _Rebase:
        """The same job with the sides swapped, which lists its conflicts here."""
        job = copy(self)
        job._merged, job._new, job._swapped = self._new, self._merged, not self._swapped
        return job

    def _conflict(self, path: bytes, *, theirs: bool) -> None:
        self.conflicts[path] = theirs is not self._swapped

    def directory(
        self, path: bytes, old: Directory | None, merged: Directory, new: Directory | None
    ) -> Task[Directory | None]:
        """The result for a directory of ``merged``; None where ``new`` has none and ``merged`` changed nothing."""
        if new is not None and not self._linked:
            if _is_same(merged, old):
                return new
            if _is_same(new, old):
                return merged
        names = dict.fromkeys(merged.children)
        names.update(dict.fromkeys(new.children if new is not None else ()))
        before, fresh = old.children if old is not None else {}, new.children if new is not None else {}
        children: dict[bytes, Inode] = {}
        known = len(self.conflicts)
        for name in names:
            child = yield self._entry(path + b"/" + name, before.get(name), merged.children.get(name), fresh.get(name))
            if child is not None:
                children[name] = child
        if new is not None:
            return self._with_metadata(path or b"/", old, merged, new, children)
        untouched = not children and len(self.conflicts) == known
        if untouched and old is not None and _own_fields(old) == _own_fields(merged):
            return None
        self._conflict(path, theirs=self._theirs)
        return None if self._theirs else merged.with_children(children)

    def _entry(self, path: bytes, old: Inode | None, merged: Inode | None, new: Inode | None) -> Task[Inode | None]:
        if isinstance(merged, Directory) and (isinstance(new, Directory) or isinstance(old, Directory)):
            inner = yield self.directory(
                path,
                old if isinstance(old, Directory) else None,
                merged,
                new if isinstance(new, Directory) else None,
            )
            return inner if inner is not None else new
        if self._keep_changed and merged is None and isinstance(old, Directory) and isinstance(new, Directory):
            kept: Directory | None = yield self._mirrored().directory(path, old, new, None)
            return kept
        if not _differ(old, self._old, merged, self._merged):
            return new
        if not _differ(old, self._old, new, self._new, times=False):
            return merged
        if not _differ(old, self._old, merged, self._merged, times=False):
            return new
        if _differ(merged, self._merged, new, self._new, times=False):
            theirs = self._theirs or (self._keep_changed and merged is None)
            self._conflict(path, theirs=theirs)
            return new if theirs else merged
        return merged

    def _with_metadata(
        self, path: bytes, old: Directory | None, merged: Directory, new: Directory, children: dict[bytes, Inode]
    ) -> Directory:
        fields: list[Any] = []
        for field in ("mode", "uid", "gid", "mtime", "xattrs"):
            ours, theirs = getattr(merged, field), getattr(new, field)
            before = getattr(old, field) if old is not None else None
            both = field != "mtime" and ours not in (before, theirs) and theirs != before
            if both:
                self._conflict(path, theirs=self._theirs)
            fields.append(theirs if ours == before or (both and self._theirs) else ours)
        for side in (new, merged):
            if side.metadata() == tuple(fields) and _same_children(side.children, children):
                return side
        return Directory(*fields, children=children)


def _is_same(directory: Directory, old: Directory | None) -> bool:
    """Whether two directories are one, or have the same lines in their dumps, of which nobody has read any."""
    if directory is old or old is None or directory.region is None or old.region is None:
        return directory is old
    return directory.region.same_as(old.region)


_LinkNames = dict[int, tuple[bytes, ...]]


def _link_names(root: Directory) -> _LinkNames:
    """``id(inode)`` -> all its paths, for hard-linked inodes."""
    unlinked = root.region is not None and not root.region.has_links  # and need not be read to know it
    links = {} if unlinked else count_links(root)
    names: dict[int, list[bytes]] = {}
    if links:
        for path, inode in walk(root):
            if id(inode) in links:
                names.setdefault(id(inode), []).append(path)
    return {key: tuple(paths) for key, paths in names.items()}


def _differ(a: Inode | None, a_names: _LinkNames, b: Inode | None, b_names: _LinkNames, *, times: bool = True) -> bool:
    """Whether one path of two trees holds different things; directories with all below, their times aside.

    Without ``times`` the modification time of anything is left aside.
    """
    pairs: list[tuple[Inode | None, Inode | None]] = [(a, b)]
    linked = bool(a_names or b_names)
    while pairs:
        a, b = pairs.pop()
        if a is None or b is None:
            if a is not b:
                return True
        elif isinstance(a, Directory) and isinstance(b, Directory):
            if a is b and not linked:
                continue
            if _own_fields(a) != _own_fields(b) or a.children.keys() != b.children.keys():
                return True
            pairs.extend((child, b.children[name]) for name, child in a.children.items())
        elif not (same_value(a, b) if times else _same_but_time(a, b)) or a_names.get(id(a)) != b_names.get(id(b)):
            return True
    return False


def alike(a: Inode | None, b: Inode | None, *, deep: bool) -> bool:
    """Whether a path holds the same on two sides, times and names of hard links aside. Directories with all that is
    below, or, where that is not ``deep``, only as they are themselves."""
    if deep or a is None or b is None:
        return not _differ(a, {}, b, {}, times=False)
    return _same_but_time(a, b)


def _same_but_time(a: Inode, b: Inode) -> bool:
    same_kind = isinstance(a, Directory) == isinstance(b, Directory)
    return same_kind and _own_fields(a) == _own_fields(b) and a.content_key() == b.content_key()


def _own_fields(inode: Inode) -> tuple[int, int, int, Xattrs]:
    return (inode.mode, inode.uid, inode.gid, inode.xattrs)


# --- grounds --------------------------------------------------------------------------------------------------------


class Unknown(Inode):
    """In the ground of a rebase: what was here is not known, so whatever a side holds counts as changed."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(0, 0, 0, 0)

    def content_key(self) -> object:
        return object()


def common_ground(trees: Sequence[Directory]) -> Directory:
    """The ground of a rebase (its ``old_base``) where any of ``trees``, at least one, may be the right one: what all of
    them hold alike, and ``Unknown`` wherever they differ. So nothing is taken for unchanged by one guess alone."""
    ground = trees[0]
    for other in trees[1:]:
        job = _Ground(ground, other)
        ground = run_deep(job.directory(ground, other))
    return ground


class _Ground:
    """The ground of two trees."""

    def __init__(self, first: Directory, second: Directory) -> None:
        self._first, self._second = _link_names(first), _link_names(second)
        self._linked = bool(self._first or self._second)

    def directory(self, first: Directory, second: Directory) -> Task[Directory]:
        if first is second and not self._linked:
            return first
        children: dict[bytes, Inode] = {}
        for name in dict.fromkeys((*first.children, *second.children)):
            a, b = first.children.get(name), second.children.get(name)
            if isinstance(a, Directory) and isinstance(b, Directory):
                children[name] = yield self.directory(a, b)
            elif a is not None and not isinstance(a, Directory) and not _differ(a, self._first, b, self._second):
                children[name] = a
            else:
                held = [side for side in (a, b) if isinstance(side, Directory)]
                children[name] = (yield self._unknown(held[0])) if held else Unknown()
        alike = zip(first.metadata(), second.metadata(), strict=True)
        fields: list[Any] = [one if one == other else None for one, other in alike]
        return Directory(*fields, children=children)

    def _unknown(self, directory: Directory) -> Task[Directory]:
        """A directory of which nothing is known but the names that were there."""
        children: dict[bytes, Inode] = {}
        for name, child in directory.children.items():
            children[name] = (yield self._unknown(child)) if isinstance(child, Directory) else Unknown()
        unknown: Any = None
        return Directory(unknown, unknown, unknown, unknown, unknown, children=children)
