"""Changes of a tree as a file system makes them: objects that are not touched stay, directories on the way are new."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from stratum.tree.model import Directory, File, Inode, with_xattrs
from tests.support.trees import files, mtimes, names, specials, symlinks


@dataclass
class Changes:
    """Steps of a kind, four numbers that choose among what there is, a name and an inode."""

    steps: list[tuple[str, int, int, bytes, Inode, int]]

    def applied(self, old: Directory) -> tuple[Directory, dict[bytes, bytes]]:
        """The tree after all steps, and the old paths of what has another name in it."""
        state = _State(old)
        for kind, a, b, name, inode, mtime in self.steps:
            getattr(state, kind)(a, b, name, inode, mtime)
        return state.tree(), state.moved()


class _Dir:
    """A directory in the making. ``source`` is what it was, ``changed`` whether it is to be a new object."""

    def __init__(self, source: Directory, origin: bytes | None) -> None:
        self.source = source
        self.origin = origin
        self.metadata = source.metadata()
        self.children: dict[bytes, Inode | _Dir] = {}
        for name, child in source.children.items():
            path = None if origin is None else origin.rstrip(b"/") + b"/" + name
            self.children[name] = _Dir(child, path) if isinstance(child, Directory) else child


class _State:
    def __init__(self, old: Directory) -> None:
        self.root = _Dir(old, b"/")

    def _dirs(self) -> list[_Dir]:
        found = [self.root]
        for directory in found:
            found += [child for child in directory.children.values() if isinstance(child, _Dir)]
        return found

    def _places(self, *, dirs: bool | None = None) -> list[tuple[_Dir, bytes]]:
        return [
            (directory, name)
            for directory in self._dirs()
            for name, child in directory.children.items()
            if dirs is None or isinstance(child, _Dir) is dirs
        ]

    def create(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        directory = self._dirs()[a % len(self._dirs())]
        directory.children[name] = inode

    def mkdir(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        directory = self._dirs()[a % len(self._dirs())]
        new = Directory(0o040755, 1, 2, mtime)
        directory.children.setdefault(name, _Dir(new, None))

    def delete(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        places = self._places()
        if places:
            directory, old = places[a % len(places)]
            del directory.children[old]

    def rename(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        self._move(self._places(), a, b, name)

    def rename_directory(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        self._move(self._places(dirs=True), a, b, name)

    def _move(self, places: list[tuple[_Dir, bytes]], a: int, b: int, name: bytes) -> None:
        if not places:
            return
        directory, old = places[a % len(places)]
        moved = directory.children.pop(old)
        left = self._dirs()
        target = left[b % len(left)]
        if b % 3:  # onto a name that is there
            name = min(target.children, default=name)
        target.children[name] = moved

    def exchange(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        places = self._places(dirs=True if mtime % 2 else None)
        if not places:
            return
        (one, old), (two, new) = places[a % len(places)], places[b % len(places)]
        first, second = one.children[old], two.children[new]
        if two in _below(first) or one in _below(second):
            return
        one.children[old], two.children[new] = second, first

    def link(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        places = self._places(dirs=False)
        if places:
            directory, old = places[a % len(places)]
            self._dirs()[b % len(self._dirs())].children[name] = directory.children[old]

    def unlink_a_copy(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        """The same values as another inode."""
        places = self._places(dirs=False)
        if places:
            directory, old = places[a % len(places)]
            child = directory.children[old]
            assert isinstance(child, Inode)
            directory.children[old] = with_xattrs(child, child.xattrs)

    def write(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        """Through all names of a file."""
        places = self._places(dirs=False)
        if not places or not isinstance(inode, File):
            return
        directory, old = places[a % len(places)]
        before = directory.children[old]
        if isinstance(before, File):
            for other, at in places:
                if other.children[at] is before:
                    other.children[at] = inode

    def touch(self, a: int, b: int, name: bytes, inode: Inode, mtime: int) -> None:
        directory = self._dirs()[a % len(self._dirs())]
        mode, uid, gid, old, xattrs = directory.metadata
        directory.metadata = (mode ^ (b % 2), uid, gid, mtime if b % 3 else old, xattrs)

    def tree(self) -> Directory:
        return _built(self.root)

    def moved(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        stack = [(b"/", self.root)]
        while stack:
            path, directory = stack.pop()
            for name, child in directory.children.items():
                if isinstance(child, _Dir):
                    here = path.rstrip(b"/") + b"/" + name
                    if child.origin is not None and child.origin != here:
                        found[here] = child.origin
                    stack.append((here, child))
        return found


def _below(child: Inode | _Dir) -> list[_Dir]:
    found = [child] if isinstance(child, _Dir) else []
    for directory in found:
        found += [inner for inner in directory.children.values() if isinstance(inner, _Dir)]
    return found


def _built(directory: _Dir) -> Directory:
    """What it was, where nothing in it changed."""
    children = {name: _built(child) if isinstance(child, _Dir) else child for name, child in directory.children.items()}
    source = directory.source
    same = children.keys() == source.children.keys() and all(
        source.children[name] is children[name] for name in children
    )
    if same and directory.metadata == source.metadata():
        return source
    return Directory(*directory.metadata, children=children)


KINDS = [name for name in vars(_State) if not name.startswith("_") and name not in ("tree", "moved")]
_numbers = st.integers(0, 60)
changes = st.builds(
    Changes,
    st.lists(
        st.tuples(st.sampled_from(KINDS), _numbers, _numbers, names, files | symlinks | specials, mtimes),
        max_size=12,
    ),
)
