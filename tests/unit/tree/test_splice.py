"""Trees opened from a dump without reading it, and dumps made from another's lines: the same as doing all the work."""

from __future__ import annotations

import random
from typing import Any, SupportsIndex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError
from stratum.tree import diff
from stratum.tree.blocks import Span
from stratum.tree.diff import diff_trees
from stratum.tree.digest import merkle_summary, metadata_hash
from stratum.tree.dump import read_dump, write_dump
from stratum.tree.lazy import LazyDump
from stratum.tree.merkle import MerkleNodes
from stratum.tree.model import Directory, File, Inode, lookup, walk
from stratum.tree.splice import DumpText, kept_lines, splice_dump
from tests.support.effort import examples
from tests.support.trees import TreeBuilder, trees

Path = tuple[bytes, ...]


def directories(root: Directory) -> list[Path]:
    found: list[Path] = [()]
    for path, inode in walk(root):
        if path != b"/" and isinstance(inode, Directory):
            found.append(tuple(path[1:].split(b"/")))
    return found


def entries(root: Directory) -> list[Path]:
    return [tuple(path[1:].split(b"/")) for path, _ in walk(root) if path != b"/"]


def at(root: Directory, path: Path) -> Inode:
    found = lookup(root, b"/".join(path))
    assert found is not None
    return found


def put(root: Directory, path: Path, inode: Inode | None) -> Directory:
    """A tree with ``inode`` at ``path`` (None: nothing there) that shares everything else with ``root``."""
    children = dict(root.children)
    if len(path) > 1:
        below = children[path[0]]
        assert isinstance(below, Directory)
        children[path[0]] = put(below, path[1:], inode)
    elif inode is None:
        del children[path[0]]
    else:
        children[path[0]] = inode
    return root.with_children(children)


def change(root: Directory, rng: random.Random) -> Directory:
    """One change of a few kinds, chosen by ``rng`` alone."""
    paths = entries(root)
    if not paths:
        return put(root, (b"new",), File(0o100644, 0, 0, 1))
    path, directory = rng.choice(paths), rng.choice(directories(root))
    inode = at(root, path)
    kind = rng.randrange(5)
    if kind == 0:
        return put(root, path, None)
    if kind == 1:
        return put(root, path, File(0o100600, 1, 2, 3, size=70, digest=b"\7" * 32))
    if kind == 2:
        return put(root, (*directory, b"new"), File(0o100644, 0, 0, 1, size=1, content=b"x"))
    if kind == 3 and isinstance(inode, Directory):
        changed = inode.with_children(inode.children)
        changed.mtime += 1
        return put(root, path, changed)
    if directory[: len(path)] == path:
        return root
    moved = put(root, (*directory, b"moved"), inode)  # of a file: a further name
    return put(moved, path, None) if isinstance(inode, Directory) else moved


def open_dump(dump: bytes) -> Directory:
    return LazyDump(dump).root()


def source_of(opened: Directory) -> LazyDump:
    assert opened.region is not None
    return opened.region.source


def spliced(root: Directory, source: LazyDump | None = None) -> bytes:
    """The dump of a tree made from that of another (default: its own), and its Merkle root too checked on the way."""
    source = source or source_of(root)
    dump = splice_dump(root, source, kept_lines(root, source))
    whole = dump.join()
    assert dump.size == len(whole)
    assert metadata_hash(dump.buffers()) == metadata_hash(whole)
    steps = tuple(piece if isinstance(piece, Span) else len(piece) for piece in dump.pieces)
    nodes = MerkleNodes.of([source.dump]).spliced(steps, DumpText(dump).between)
    assert nodes.summary() == merkle_summary(whole)
    return whole


@settings(max_examples=examples(60), deadline=None)
@given(trees)
def test_an_opened_dump_is_the_tree_that_was_written(tree: Directory) -> None:
    dump = write_dump(tree)
    opened = open_dump(dump)
    assert spliced(opened) == dump
    assert [path for path, _ in walk(opened)] == [path for path, _ in walk(read_dump(dump))]
    assert write_dump(opened) == dump


@settings(max_examples=examples(100), deadline=None)
@given(trees, st.integers(0, 1 << 32), st.integers(1, 6))
def test_a_spliced_dump_is_the_written_one(tree: Directory, seed: int, changes: int) -> None:
    dump = write_dump(tree)
    plain, opened = read_dump(dump), open_dump(dump)
    source = source_of(opened)
    ours, theirs = random.Random(seed), random.Random(seed)
    for _ in range(changes):
        opened, plain = change(opened, ours), change(plain, theirs)
    assert spliced(opened, source) == write_dump(plain)


@pytest.mark.parametrize("seed", range(4))
def test_a_large_tree_is_spliced_like_a_small_one(seed: int) -> None:
    dump = write_dump(TreeBuilder(seed).tree(1500))
    rng = random.Random(seed)
    for _ in range(examples(3)):
        opened, plain = open_dump(dump), read_dump(dump)
        source = source_of(opened)
        number = rng.randrange(1 << 32)
        changed = change(opened, random.Random(number))
        expected = write_dump(change(plain, random.Random(number)))
        assert spliced(changed, source) == expected
        assert read_dump(expected)


def test_what_nobody_looks_into_is_not_read() -> None:
    root = Directory(0o40755, 0, 0, 0)
    for outer in (b"a", b"b"):
        root.children[outer] = Directory(0o40755, 0, 0, 0, children={b"in": Directory(0o40755, 0, 0, 0)})
    opened = open_dump(write_dump(root))
    source = source_of(opened)
    changed = put(opened, (b"a", b"new"), File(0o100644, 0, 0, 0))
    assert len(kept_lines(changed, source)) == 2  # a/in and b
    with pytest.raises(AttributeError):
        Directory.__dict__["children"].__get__(opened.children[b"b"])  # the slot itself is empty


def test_lines_of_unchanged_neighbours_are_taken_over() -> None:
    root = Directory(0o40755, 0, 0, 0)
    for outer in (b"a", b"b"):
        files: dict[bytes, Inode] = {b"%d" % number: File(0o100644, 0, 0, number) for number in range(9)}
        root.children[outer] = Directory(0o40755, 0, 0, 0, children=files)
    opened = open_dump(write_dump(root))
    source = source_of(opened)
    changed = put(opened, (b"a", b"4"), File(0o100600, 0, 0, 1))
    new = [
        piece for piece in splice_dump(changed, source, kept_lines(changed, source)).pieces if isinstance(piece, bytes)
    ]
    assert [line.split(b" ")[0] for line in b"".join(new).splitlines()] == [b"/", b"/a", b"/a/4"]
    for moved, kept in ((b"x", True), (b"7", True), (b"x", False), (b"7", False)):
        inode = at(opened, (b"a", b"3"))
        further = put(changed, (b"b", moved), inode)  # a second name, or another
        again = further if kept else put(further, (b"a", b"3"), None)
        assert spliced(again, source) == write_dump(again)
        assert (b" 2 0 0 0 0.3 " in spliced(again, source)) == kept


@pytest.mark.parametrize("narrowed", [0, 2000, 1 << 18])
def test_differences_of_two_opened_dumps_are_those_of_the_trees(narrowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "_NARROWED", narrowed)
    rng = random.Random(5)
    for seed in range(6):
        old = write_dump(TreeBuilder(seed).tree(400))
        changed = read_dump(old)
        for _ in range(3):
            changed = change(changed, rng)
        new = write_dump(changed)
        plain = [(c.path, c.kind, c.fields) for c in diff_trees(read_dump(old), read_dump(new))]
        opened = [(c.path, c.kind, c.fields) for c in diff_trees(open_dump(old), open_dump(new))]
        assert opened == plain


def test_a_line_that_is_none_is_an_error_when_it_is_reached() -> None:
    dump = write_dump(Directory(0o40755, 0, 0, 0, children={b"a": File(0o100644, 0, 0, 0)}))
    opened = open_dump(dump.replace(b"/a ", b"/a  "))
    with pytest.raises(DamagedError, match="canonical form"):
        _ = opened.children
    with pytest.raises(DamagedError):
        open_dump(b"")


class CountedBytes(bytes):
    """A dump that counts how much of it is copied to be compared."""

    copied = 0

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        found = super().__getitem__(key)
        if isinstance(found, bytes):
            CountedBytes.copied += len(found)
        return found


@pytest.mark.parametrize("where", [0, 1, 1000, 2039, 2040])
def test_a_change_deep_down_is_found_by_comparing_each_line_a_few_times(where: int) -> None:
    def nested(changed: int) -> bytes:
        tree = Directory(0o40755, 0, 0, 0, children={b"leaf": File(0o100644, 0, 0, changed == 2040)})
        for depth in reversed(range(2040)):
            beside: dict[bytes, Inode] = {b"a": File(0o100644, 0, 0, 0), b"z": File(0o100644, 0, 0, changed == depth)}
            tree = Directory(0o40755, 0, 0, 0, children=beside | {b"d": tree})
        return write_dump(tree)

    CountedBytes.copied = 0
    old, new = (open_dump(CountedBytes(nested(changed))) for changed in (-1, where))
    (change,) = diff_trees(old, new)
    assert change.path == b"/d" * where + (b"/leaf" if where == 2040 else b"/z")
    assert CountedBytes.copied < 10 * len(source_of(old).dump)
