"""Layers applied to trees, layers made from trees, and rebase."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from stratum.tree.dump import count_links, read_dump, write_dump
from stratum.tree.lazy import LazyDump
from stratum.tree.merge import apply_layer, common_ground, make_layer, rebase
from stratum.tree.model import Directory, File, Inode, Symlink, Whiteout, lookup, walk


def directory(children: dict[bytes, Inode] | None = None, *, mode: int = 0o755, mtime: int = 0, opaque: bool = False):
    return Directory(stat.S_IFDIR | mode, 0, 0, mtime, children=children, opaque=opaque)


def file(content: bytes = b"", *, mode: int = 0o644, mtime: int = 0) -> File:
    return File(stat.S_IFREG | mode, 0, 0, mtime, size=len(content), content=content or None)


def nested(names: int, leaf: Inode) -> Directory:
    inode = leaf
    for _ in range(names):
        inode = directory({b"d": inode})
    assert isinstance(inode, Directory)
    return inode


NAMES = st.sampled_from([b"a", b"b", b"c"])
SHARED = st.integers(0, 2)


@st.composite
def trees(draw: st.DrawFn, layer: bool = False) -> Directory:
    """Small trees with few names and values, so that two of them collide everywhere; some inodes have several names."""
    pool = [file(bytes([0x30 + i])) for i in range(3)]

    def build(depth: int) -> Directory:
        children: dict[bytes, Inode] = {}
        for name in draw(st.sets(NAMES)):
            kind = draw(st.sampled_from(["file", "file", "link", "symlink"] + ["dir"] * depth + ["whiteout"] * layer))
            if kind == "dir":
                children[name] = build(depth - 1)
            elif kind == "link":
                children[name] = pool[draw(SHARED)]
            elif kind == "symlink":
                children[name] = Symlink(stat.S_IFLNK | 0o777, 0, 0, 0, target=b"a")
            elif kind == "whiteout":
                children[name] = Whiteout()
            else:
                children[name] = file(b"0" * draw(SHARED), mtime=draw(SHARED))
        return directory(children, mtime=draw(SHARED), opaque=layer and draw(st.booleans()))

    return build(3)


def expected_merge(base: Inode | None, layer: Inode) -> Inode:
    """overlayfs in four lines, recursive and without any sharing of directories."""
    if not isinstance(layer, Directory):
        return layer
    below = base.children if isinstance(base, Directory) and not layer.opaque else {}
    children = {name: child for name, child in below.items() if name not in layer.children}
    for name, child in layer.children.items():
        if not isinstance(child, Whiteout):
            children[name] = expected_merge(below.get(name), child)
    return layer.with_children(children)


def assert_same(a: Inode, b: Inode) -> None:
    assert isinstance(a, Directory)
    assert isinstance(b, Directory)
    assert write_dump(a).decode().splitlines() == write_dump(b).decode().splitlines()


def assert_commit_tree(root: Directory) -> None:
    for path, inode in walk(root):
        assert not isinstance(inode, Whiteout), path
        assert not (isinstance(inode, Directory) and inode.opaque), path


@given(trees(), trees(layer=True))
def test_apply_is_overlayfs(base: Directory, layer: Directory) -> None:
    before = write_dump(base)
    merged = apply_layer(base, layer)
    assert_commit_tree(merged)
    assert_same(merged, expected_merge(base, layer))
    assert write_dump(base) == before


@given(trees(), trees(layer=True), trees(layer=True))
def test_layers_stack_in_order(base: Directory, first: Directory, second: Directory) -> None:
    merged = apply_layer(apply_layer(base, first), second)
    assert_same(merged, expected_merge(expected_merge(base, first), second))


@given(trees(), trees())
def test_made_layer_gives_the_tree_back(base: Directory, merged: Directory) -> None:
    layer = make_layer(base, merged)
    assert_same(apply_layer(base, layer), merged)


@given(trees(), trees(layer=True))
def test_made_layer_of_a_tree_that_shares_inodes_with_its_base(base: Directory, changes: Directory) -> None:
    merged = apply_layer(base, changes)
    assert_same(apply_layer(base, make_layer(base, merged)), merged)


@given(trees())
def test_made_layer_of_nothing_is_empty(base: Directory) -> None:
    layer = make_layer(base, base)
    assert not layer.children
    assert apply_layer(base, layer) is base


def test_unchanged_subtrees_are_shared() -> None:
    kept = directory({b"x": file(b"x")})
    base = directory({b"kept": kept, b"changed": directory({b"deep": directory({b"y": file(b"y")})})})
    layer = directory({b"changed": directory({b"z": file(b"z")})})
    merged = apply_layer(base, layer)
    assert merged.children[b"kept"] is kept
    assert lookup(merged, b"/changed/deep") is lookup(base, b"/changed/deep")
    assert set(make_layer(base, merged).children) == {b"changed"}


def test_hard_links_of_the_base_stay() -> None:
    inode = file(b"one")
    base = directory({b"a": inode, b"b": inode, b"c": file()})
    merged = apply_layer(base, directory({b"c": Whiteout()}))
    assert merged.children[b"a"] is merged.children[b"b"]


def test_a_new_name_for_an_inode_brings_all_its_names_into_the_layer() -> None:
    inode = file(b"one")
    base = directory({b"a": inode, b"b": inode})
    merged = directory({b"a": inode, b"b": inode, b"c": inode})
    assert set(make_layer(base, merged).children) == {b"a", b"b", b"c"}


def test_a_separated_hard_link_is_in_the_layer() -> None:
    inode = file(b"one")
    base = directory({b"a": inode, b"b": inode})
    merged = directory({b"a": inode, b"b": file(b"one")})
    layer = make_layer(base, merged)
    assert set(layer.children) == {b"b"}
    assert_same(apply_layer(base, layer), merged)


def test_an_inode_moved_away_from_an_equal_one() -> None:
    inode = file(b"one")
    base = directory({b"a": inode})
    merged = directory({b"a": file(b"one"), b"b": inode})
    assert_same(apply_layer(base, make_layer(base, merged)), merged)


DEPTH = 2000


def test_depth_costs_no_stack() -> None:
    base, other = nested(DEPTH, file(b"1")), nested(DEPTH, file(b"2"))
    layer = make_layer(base, other)
    merged = apply_layer(base, layer)
    assert write_dump(merged) == write_dump(other)
    assert write_dump(rebase(base, other, base).tree) == write_dump(other)
    assert write_dump(rebase(base, base, other).tree) == write_dump(other)
    newer = nested(DEPTH, file(b"3"))
    result = rebase(base, other, newer)
    assert result.conflicts == [b"/d" * DEPTH]


# --- rebase ---------------------------------------------------------------------------------------------------------


@given(trees(), trees(layer=True))
def test_rebase_with_one_side_unchanged_is_the_other_side(old: Directory, changes: Directory) -> None:
    changed = apply_layer(old, changes)
    assert_same(rebase(old, changed, old).tree, changed)
    assert rebase(old, changed, old).conflicts == []
    assert_same(rebase(old, old, changed).tree, changed)
    assert rebase(old, old, changed).conflicts == []


@given(trees(), trees())
def test_rebase_onto_the_same_tree(old: Directory, both: Directory) -> None:
    result = rebase(old, both, both)
    assert_same(result.tree, both)
    assert result.conflicts == []


def own(tree: Directory, path: bytes) -> object:
    """What a leaf path of a tree holds, None where it is no leaf."""
    inode = lookup(tree, path)
    return None if inode is None or isinstance(inode, Directory) else (inode.metadata(), inode.content_key())


def value(tree: Directory, path: bytes) -> object:
    """The same without the modification time."""
    inode = lookup(tree, path)
    if inode is None or isinstance(inode, Directory):
        return None
    return (inode.mode, inode.uid, inode.gid, inode.xattrs, inode.content_key())


def linked(*roots: Directory) -> bool:
    """Whether an inode of one of the trees has several names."""
    return any(count_links(root) for root in roots)


@given(trees(), trees(layer=True), trees(layer=True))
def test_rebase_takes_each_file_from_the_side_that_changed_it(
    old: Directory, ours: Directory, theirs: Directory
) -> None:
    merged, new = apply_layer(old, ours), apply_layer(old, theirs)
    result = rebase(old, merged, new)
    assert_commit_tree(result.tree)
    seen = {p for tree in (old, merged, new, result.tree) for p, i in walk(tree) if not isinstance(i, Directory)}
    for path in seen:
        held = own(result.tree, path)
        assert held in (own(merged, path), own(new, path), None)
        if own(merged, path) is not None and value(merged, path) != value(old, path):
            assert held == own(merged, path), path
        if own(merged, path) is not None and own(merged, path) == own(old, path) and not linked(merged, old, new):
            assert held == own(new, path), path
    result_again = rebase(old, merged, new)
    assert_same(result.tree, result_again.tree)


def test_both_sides_are_kept_where_they_differ_in_place() -> None:
    old = directory({b"a": file(b"a"), b"b": file(b"b"), b"logs": directory({b"1": file(b"1")}, mtime=1)})
    merged = directory(
        {b"a": file(b"A"), b"b": file(b"b"), b"logs": directory({b"1": file(b"1"), b"2": file()}, mtime=2)}
    )
    new = directory({b"a": file(b"a"), b"logs": directory({b"1": file(b"1"), b"3": file()}, mtime=3)})
    result = rebase(old, merged, new)
    assert result.conflicts == []
    expected = {b"1": file(b"1"), b"2": file(), b"3": file()}
    assert_same(result.tree, directory({b"a": file(b"A"), b"logs": directory(expected, mtime=2)}))


def test_a_directory_metadata_change_of_the_new_base_survives_a_change_inside() -> None:
    old = directory({b"d": directory({b"x": file(b"1")}, mtime=1)})
    merged = directory({b"d": directory({b"x": file(b"2")}, mtime=2)})
    new = directory({b"d": directory({b"x": file(b"1")}, mode=0o700, mtime=3)})
    result = rebase(old, merged, new)
    assert result.conflicts == []
    assert_same(result.tree, directory({b"d": directory({b"x": file(b"2")}, mode=0o700, mtime=2)}))


def test_the_worktree_wins_a_conflict_and_it_is_listed() -> None:
    old = directory({b"f": file(b"old"), b"gone": file(b"g"), b"kept": file(b"k")})
    merged = directory({b"f": file(b"mine"), b"kept": file(b"K")})
    new = directory({b"f": file(b"theirs"), b"gone": file(b"G")})
    result = rebase(old, merged, new)
    assert result.conflicts == [b"/f", b"/gone", b"/kept"]
    assert_same(result.tree, merged)


def test_theirs_wins_a_conflict_where_that_is_wanted() -> None:
    old = directory({b"f": file(b"old"), b"gone": file(b"g"), b"d": directory({b"x": file(b"x")})})
    merged = directory({b"f": file(b"mine"), b"d": directory({b"x": file(b"X")}), b"own": file(b"o")})
    new = directory({b"f": file(b"theirs"), b"gone": file(b"G")})
    result = rebase(old, merged, new, theirs=True)
    assert result.conflicts == [b"/d", b"/d/x", b"/f", b"/gone"]
    assert_same(result.tree, directory({b"f": file(b"theirs"), b"gone": file(b"G"), b"own": file(b"o")}))


@given(trees(), trees(layer=True), trees(layer=True))
def test_only_conflicts_depend_on_whose_version_is_wanted(old: Directory, ours: Directory, theirs: Directory) -> None:
    merged, new = apply_layer(old, ours), apply_layer(old, theirs)
    mine, other = rebase(old, merged, new), rebase(old, merged, new, theirs=True)
    assert mine.conflicts == other.conflicts
    if not mine.conflicts:
        assert_same(mine.tree, other.tree)


def test_a_time_alone_is_never_in_the_way_of_the_other_sides_change() -> None:
    old = directory({b"a": file(b"a"), b"b": file(b"b"), b"c": file(b"c"), b"gone": directory({b"x": file(b"x")})})
    merged = directory({b"a": file(b"A"), b"b": file(b"b", mtime=5), b"c": file(b"c", mtime=5)})
    new = directory(
        {
            b"a": file(b"a", mtime=7),
            b"b": file(b"B", mtime=7),
            b"c": file(b"c"),
            b"gone": directory({b"x": file(b"x", mtime=7)}),
        }
    )
    result = rebase(old, merged, new)
    assert result.conflicts == []
    assert_same(result.tree, directory({b"a": file(b"A"), b"b": file(b"B", mtime=7), b"c": file(b"c", mtime=5)}))


@given(trees(), trees(), trees(), trees())
def test_a_ground_that_is_not_known_takes_nothing_back(
    first: Directory, second: Directory, merged: Directory, new: Directory
) -> None:
    """What either ground would do without a conflict is done only where the other would do the same."""
    result = rebase(common_ground([first, second]), merged, new)
    guesses = [rebase(ground, merged, new) for ground in (first, second)]
    if linked(first, second, merged, new):
        return
    told = set(result.conflicts)
    for path in {p for tree in (merged, new) for p, i in walk(tree) if not isinstance(i, Directory)}:
        above = {path[:end] for end in range(1, len(path) + 1) if end == len(path) or path[end : end + 1] == b"/"}
        if not above & told:
            held = value(result.tree, path)
            wanted = [value(guess.tree, path) for guess in guesses if not above & set(guess.conflicts)]
            assert all(held == other for other in wanted), path


@given(trees(), trees(), trees())
def test_a_ground_that_is_known_twice_is_that_ground(ground: Directory, merged: Directory, new: Directory) -> None:
    one, twice = rebase(ground, merged, new), rebase(common_ground([ground, ground]), merged, new)
    assert one.conflicts == twice.conflicts
    assert_same(one.tree, twice.tree)


def test_equal_changes_on_both_sides_are_no_conflict() -> None:
    old = directory({b"f": file(b"old"), b"gone": file(b"g")})
    changed = directory({b"f": file(b"new"), b"both": file(b"b")})
    result = rebase(old, changed, directory({b"f": file(b"new"), b"both": file(b"b")}))
    assert result.conflicts == []
    assert_same(result.tree, changed)


def test_a_directory_dropped_by_the_new_base_comes_back_with_the_changed_entries_only() -> None:
    old = directory({b"d": directory({b"x": file(b"x"), b"y": file(b"y")})})
    merged = directory({b"d": directory({b"x": file(b"X"), b"y": file(b"y")})})
    result = rebase(old, merged, directory({b"d": file(b"a file now")}))
    assert result.conflicts == [b"/d", b"/d/x"]
    assert_same(result.tree, directory({b"d": directory({b"x": file(b"X")})}))


def test_a_directory_dropped_by_the_new_base_is_gone_where_nothing_changed_in_it() -> None:
    old = directory({b"d": directory({b"x": file(b"x")}), b"e": file(b"e")})
    merged = directory({b"d": directory({b"x": file(b"x")}), b"e": file(b"E")})
    result = rebase(old, merged, directory({b"e": file(b"e")}))
    assert result.conflicts == []
    assert_same(result.tree, directory({b"e": file(b"E")}))


def test_a_directory_deleted_by_the_worktree_stays_deleted() -> None:
    old = directory({b"d": directory({b"x": file(b"x")})})
    new = directory({b"d": directory({b"x": file(b"x"), b"y": file()}, mtime=5)})
    result = rebase(old, directory(), new)
    assert result.conflicts == [b"/d"]
    assert_same(result.tree, directory())


def test_a_directory_whose_time_alone_moved_is_no_conflict_to_its_deletion() -> None:
    old = directory({b"d": directory({b"x": file(b"x")})})
    result = rebase(old, directory(), directory({b"d": directory({b"x": file(b"x")}, mtime=5)}))
    assert result.conflicts == []
    assert_same(result.tree, directory())


def test_a_hard_link_made_in_the_worktree_survives_a_rebase() -> None:
    inode = file(b"1")
    old = directory({b"a": file(b"1"), b"z": file(b"z")})
    merged = directory({b"a": inode, b"b": inode, b"z": old.children[b"z"]})
    new = directory({b"a": file(b"1"), b"z": file(b"Z")})
    result = rebase(old, merged, new)
    assert result.tree.children[b"a"] is result.tree.children[b"b"]
    assert result.conflicts == []
    assert own(result.tree, b"/z") == own(new, b"/z")


@given(trees(), st.integers(0, 1 << 16), st.booleans())
def test_trees_that_are_read_as_they_are_looked_at_are_merged_alike(old: Directory, seed: int, keep: bool) -> None:
    """Also where most of their lines are the same, and never read."""
    wide = directory({b"%d" % n: directory({b"f": file(b"%d" % n)}) for n in range(4)} | {b"t": old})
    sides = [wide]
    for number in (1, 2):
        changed = b"%d" % (seed >> 4 * number & 3)
        children = {name: child for name, child in wide.children.items() if name != changed or seed >> number & 256}
        sides.append(directory({**children, b"t": directory({**old.children, b"n%d" % number: file()})}))
    dumps = [write_dump(side) for side in sides]
    whole = rebase(*map(read_dump, dumps), keep_changed=keep)
    opened = rebase(*(LazyDump(dump).root() for dump in dumps), keep_changed=keep)
    assert write_dump(opened.tree) == write_dump(whole.tree)
    assert opened[1:] == whole[1:]


def test_rebase_shares_the_new_base() -> None:
    old = directory({b"a": directory({b"x": file(b"x")}), b"b": file()})
    new = directory({b"a": directory({b"x": file(b"X")}), b"b": file()})
    merged = old.with_children({**old.children, b"b": file(b"changed")})
    result = rebase(old, merged, new)
    assert result.tree.children[b"a"] is new.children[b"a"]
