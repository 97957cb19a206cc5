"""Operations between two trees, carried out on the first, give the second, and each of them leaves a tree."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError
from stratum.tree.dump import read_dump, write_dump
from stratum.tree.lazy import LazyDump
from stratum.tree.model import Directory, File, Inode, Special, Symlink, lookup, walk
from stratum.tree.operations import Operation, operations
from stratum.tree.oplog import Record, encode, entry_of, parse
from stratum.tree.replay import Replay
from tests.support.effort import examples
from tests.support.trees import trees
from tests.unit.tree.tree_changes import Changes, changes


def file(content: bytes = b"", mtime: int = 0) -> File:
    return File(stat.S_IFREG | 0o644, 0, 0, mtime, size=len(content), content=content or None)


def directory(children: dict[bytes, Inode] | None = None, mtime: int = 0, mode: int = 0o755) -> Directory:
    return Directory(stat.S_IFDIR | mode, 0, 0, mtime, children=children)


def names_in(root: Directory) -> Callable[[Inode], Sequence[bytes]]:
    """``names_of`` by a full walk."""
    names: dict[int, list[bytes]] = {}
    for path, inode in walk(root):
        names.setdefault(id(inode), []).append(path)
    return lambda inode: names[id(inode)] if len(names[id(inode)]) > 1 else ()


def check(old: Directory, new: Directory, moved: dict[bytes, bytes] | None = None) -> list[Operation]:
    """Carry out what is found, with and without knowing the names; the operations where they are known."""
    before, after = write_dump(old), write_dump(new)
    found = []
    for names_of in (None, names_in(new)):
        found = operations(old, new, names_of, moved=moved)
        replay, whole = Replay(old), Replay(old)
        for number, operation in enumerate(found, 1):
            replay.apply(operation)
            whole.apply(recorded(number, operation))
            write_dump(replay.root)
        assert write_dump(replay.root) == write_dump(whole.root) == after
        assert write_dump(old) == before
    return found


def recorded(number: int, operation: Operation) -> Record:
    """The operation as the log gives it back."""
    inode = operation.inode
    entry = None if inode is None else entry_of(inode)
    found = parse(
        encode(
            Record(
                number,
                "2026-11-29T23:59:01.123Z",
                operation.op,
                operation.path,
                entry=entry,
                link=operation.link,
                was=operation.was,
            )
        )[:-1]
    )
    assert found is not None
    return found


def told(old: Directory, new: Directory, moved: dict[bytes, bytes] | None = None) -> list[str]:
    return [
        " ".join([found.op, *(path.decode() for path in (found.path, found.link, found.was) if path is not None)])
        for found in check(old, new, moved)
    ]


@settings(max_examples=examples(60))
@given(trees, trees)
def test_any_two_trees(old: Directory, new: Directory) -> None:
    check(old, new)


@settings(max_examples=examples(120))
@given(trees, changes, st.booleans())
def test_any_change_of_a_tree(old: Directory, steps: Changes, hinted: bool) -> None:
    new, moved = steps.applied(old)
    check(old, new, moved if hinted else None)


@settings(max_examples=examples(60))
@given(trees, changes, st.dictionaries(st.binary(max_size=6), st.binary(max_size=6)))
def test_wrong_hints_change_nothing(old: Directory, steps: Changes, wrong: dict[bytes, bytes]) -> None:
    new, _ = steps.applied(old)
    paths = [path for path, _ in walk(old)] + [path for path, _ in walk(new)]
    moved = dict(zip(paths, reversed(paths), strict=True))
    check(old, new, {b"/" + key: b"/" + value for key, value in wrong.items()} | moved)


@settings(max_examples=examples(40))
@given(trees, changes)
def test_the_same_where_no_object_is_shared(old: Directory, steps: Changes) -> None:
    new, moved = steps.applied(old)
    check(LazyDump(write_dump(old)).root(), LazyDump(write_dump(new)).root(), moved)
    check(read_dump(write_dump(old)), read_dump(write_dump(new)), moved)


@settings(max_examples=examples(50))
@given(trees)
def test_nothing_between_equal_trees(tree: Directory) -> None:
    assert operations(tree, read_dump(write_dump(tree))) == []
    assert operations(LazyDump(write_dump(tree)).root(), tree, names_in(tree)) == []


def test_what_a_save_looks_like() -> None:
    old = directory({b"f": file(b"1"), b"g": file(b"g")})
    new = directory({b"f": file(b"2"), b"g": old.children[b"g"]}, mtime=5)
    assert told(old, new) == ["write /f", "mtime /"]


def test_a_content_becomes_known() -> None:
    common = (stat.S_IFREG | 0o644, 0, 0, 0)
    old, new = directory({b"f": File(*common, size=70)}), directory({b"f": File(*common, size=70, digest=b"d" * 32)})
    [found] = operations(old, new)
    assert (found.op, found.path) == ("write", b"/f")
    for one, two in ((old, new), (new, old), (directory(), old)):
        replay = Replay(one)
        for number, operation in enumerate(operations(one, two), 1):
            replay.apply(recorded(number, operation))
        assert operations(replay.root, two) == []


def test_metadata() -> None:
    old = directory({b"f": file(b"1"), b"d": directory()})
    new = directory({b"f": file(b"1", mtime=3), b"d": directory(mode=0o700)})
    assert told(old, new) == ["setattr /d", "setattr /f"]


def test_a_rename_moves_what_is_below() -> None:
    inner = directory({b"f": file(b"1"), b"s": directory()})
    old = directory({b"a": inner})
    assert told(old, directory({b"b": inner})) == ["rename /b /a"]
    assert told(old, directory({b"new": directory({b"b": inner})})) == ["mkdir /new", "rename /new/b /a"]


def test_a_renamed_directory_that_was_written_to_needs_a_hint() -> None:
    kept = directory({b"x": file(b"x")})
    old = directory({b"a": directory({b"f": file(b"1"), b"kept": kept})})
    new = directory({b"b": directory({b"f": file(b"2"), b"kept": kept}, mtime=9)})
    assert told(old, new, {b"/b": b"/a"}) == ["rename /b /a", "write /b/f", "mtime /b"]
    assert told(old, new) == ["mkdir /b", "rename /b/kept /a/kept", "delete /a/f", "delete /a", "create /b/f"]


def test_a_rename_within_a_renamed_directory() -> None:
    inside = file(b"1")
    old = directory({b"a": directory({b"f": inside})})
    new = directory({b"b": directory({b"g": inside}, mtime=9)})
    assert told(old, new, {b"/b": b"/a"}) == ["rename /b /a", "rename /b/g /b/f", "mtime /b"]


def test_a_file_is_replaced_by_a_rename() -> None:
    temporary = file(b"2")
    old = directory({b"f": file(b"1"), b"f.new": temporary})
    assert told(old, directory({b"f": temporary})) == ["rename /f /f.new"]


def test_a_directory_is_replaced_by_another() -> None:
    fresh = directory({b"new": file(b"2")})
    old = directory({b"d": directory({b"old": file(b"1")}), b"d.new": fresh})
    assert told(old, directory({b"d": fresh})) == ["delete /d/old", "delete /d", "rename /d /d.new"]


def test_exchanged_directories() -> None:
    one, two = directory({b"1": file(b"1")}), directory({b"2": file(b"2")})
    assert told(directory({b"a": one, b"b": two}), directory({b"a": two, b"b": one})) == [
        "rename /.stratum-moved-0 /a",
        "rename /a /b",
        "rename /b /.stratum-moved-0",
    ]


def test_a_directory_moved_below_its_own_old_name() -> None:
    deep = directory({b"deep": file(b"1")})
    outer = directory({b"sub": deep, b"f": file(b"2")})
    emptied = directory({b"f": outer.children[b"f"]})
    new = directory({b"d": directory({**deep.children, b"d": emptied}, mtime=1)})
    assert told(directory({b"d": outer}), new, {b"/d": b"/d/sub", b"/d/d": b"/d"}) == [
        "rename /.stratum-moved-0 /d",
        "rename /d /.stratum-moved-0/sub",
        "rename /d/d /.stratum-moved-0",
        "mtime /d",
    ]


def test_a_type_changes() -> None:
    old = directory({b"d": directory({b"f": file(b"1")}), b"f": file(b"2")})
    link = Symlink(stat.S_IFLNK | 0o777, 0, 0, 0, target=b"t")
    new = directory({b"d": file(b"3"), b"f": directory({b"l": link, b"p": Special(stat.S_IFIFO | 0o600, 0, 0, 0)})})
    assert told(old, new) == [
        "delete /f",
        "delete /d/f",
        "delete /d",
        "create /d",
        "mkdir /f",
        "symlink /f/l",
        "special /f/p",
    ]


def test_hard_links_are_made_broken_and_written_through() -> None:
    shared, other = file(b"1"), file(b"2")
    one = directory({b"a": shared})
    two = directory({b"a": shared, b"b": shared})
    assert told(one, two) == ["link /b /a"]
    assert told(two, one) == ["delete /b"]
    assert told(two, directory({b"a": other, b"b": other})) == ["write /a", "write /b /a"]
    assert told(two, directory({b"a": shared, b"b": file(b"1")})) == ["setattr /b"]
    assert told(two, directory({b"a": file(b"1"), b"b": shared})) == ["setattr /a"]
    assert told(directory({b"a": shared, b"b": file(b"1")}), two) == ["setattr /b /a"]


def test_names_that_are_not_those_of_the_inode_are_not_believed() -> None:
    old, new = directory({b"x": file(b"1")}), directory({b"x": file(b"1"), b"a": file(b"2")})
    found = operations(old, new, lambda inode: [b"/x", b"/a", b"/nothing"])
    assert [operation.link for operation in found] == [None]


def test_a_small_change_looks_at_nothing_else() -> None:
    """Directories that both trees share are not even read."""
    children = {b"f": file(b"1"), **{b"d%d" % n: directory({b"inside": file(b"2")}) for n in range(9)}}
    old = LazyDump(write_dump(directory(children))).root()
    new = old.with_children({**old.children, b"f": file(b"3")})
    assert [operation.op for operation in operations(old, new, lambda inode: ())] == ["write"]
    assert not any("children" in vars_of(child) for child in old.children.values() if isinstance(child, Directory))


def vars_of(tree: Directory) -> set[str]:
    """The slots of a directory that are set, without reading what is in it."""
    try:
        Directory.__dict__["children"].__get__(tree)
    except AttributeError:
        return set()
    return {"children"}


BASE = directory({b"d": directory({b"f": file(b"1")}), b"e": directory(), b"f": file(b"2")})


@pytest.mark.parametrize(
    "operation",
    [
        Operation("create", b"/f", file()),
        Operation("create", b"/nothing/f", file()),
        Operation("create", b"/f/f", file()),
        Operation("create", b"/", file()),
        Operation("create", b"relative", file()),
        Operation("create", b"/x"),
        Operation("create", b"/x", directory()),
        Operation("mkdir", b"/x", file()),
        Operation("mkdir", b"/", directory()),
        Operation("symlink", b"/x", file()),
        Operation("special", b"/x", file()),
        Operation("write", b"/x", file()),
        Operation("write", b"/d", file()),
        Operation("setattr", b"/f", directory()),
        Operation("mtime", b"/f", file()),
        Operation("link", b"/x", file()),
        Operation("link", b"/x", link=b"/nothing"),
        Operation("link", b"/x", link=b"/d"),
        Operation("delete", b"/x"),
        Operation("delete", b"/d"),
        Operation("delete", b"/"),
        Operation("rename", b"/x"),
        Operation("rename", b"/x", was=b"/nothing"),
        Operation("rename", b"/x", was=b"/"),
        Operation("rename", b"/d/x", was=b"/d"),
        Operation("rename", b"/nothing/x", was=b"/f"),
        Operation("rename", b"/e", was=b"/f"),
        Operation("rename", b"/f", was=b"/d"),
        Operation("rename", b"/f", was=b"/f"),
        Operation("eat", b"/f"),
    ],
)
def test_what_cannot_have_been_done_is_damage_and_changes_nothing(operation: Operation) -> None:
    replay = Replay(BASE)
    replay.apply(Operation("create", b"/d/g", file()))
    before = write_dump(replay.root)
    with pytest.raises(DamagedError, match="cannot be carried out on"):
        replay.apply(operation)
    assert write_dump(replay.root) == before


def test_a_root_that_was_taken_stays() -> None:
    replay = Replay(BASE)
    roots = [(replay.root, write_dump(BASE))]
    for operation in (
        Operation("create", b"/d/g", file(b"g")),
        Operation("setattr", b"/d", directory(mode=0o700)),
        Operation("rename", b"/e/d", was=b"/d"),
        Operation("mtime", b"/", directory(mtime=7)),
        Operation("write", b"/e/d/g", file(b"G")),
        Operation("link", b"/e/h", link=b"/e/d/g"),
        Operation("delete", b"/e/d/g"),
        Operation("version", b"/e/h", file(b"no change")),
    ):
        replay.apply(operation)
        roots.append((replay.root, write_dump(replay.root)))
    assert [write_dump(root) for root, _ in roots] == [dump for _, dump in roots]
    assert lookup(replay.root, b"/e/d/f") is lookup(BASE, b"/d/f")
