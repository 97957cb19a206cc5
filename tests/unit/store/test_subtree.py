"""What differs between the trees of commits, by what they are stored as: the same answer as the whole dumps give."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError, NotFoundError
from stratum.store import Store
from stratum.store.subtree import Differing, Subtree
from stratum.tree.escape import escape
from stratum.tree.model import Directory, File, Inode
from tests.support.effort import examples
from tests.support.piled import piled, small_piles
from tests.support.stores import commit, directory, file, spoil_tree

NAMES = st.sampled_from([b"a", b"a b", b"ab", b"b", b"\xff", b"-"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: b"/" + b"/".join(names))
FILES = st.dictionaries(PATHS, st.sampled_from([b"1", b"2", b"x" * 60]), max_size=6)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def tree_of(files: dict[bytes, bytes]) -> Directory:
    """A tree with these files; one that is in the way of another's directory goes."""
    inner = dict[bytes, dict[bytes, bytes]]()
    children: dict[bytes, Inode] = {}
    for path, data in files.items():
        name, slash, rest = path.removeprefix(b"/").partition(b"/")
        if slash:
            inner.setdefault(name, {})[rest] = data
        else:
            children[name] = File(0o100644, 0, 0, 0, size=len(data), content=data)
    return directory({**children, **{name: tree_of(below) for name, below in inner.items()}})


def lines_at(dump: bytes, path: bytes) -> list[list[bytes]]:
    """The path's lines, but for how many names a file has."""
    own = escape(path)
    lines = [line.split(b" ") for line in dump.split(b"\n")]
    inside = own.rstrip(b"/") + b"/"
    return [line[:3] + line[4:] for line in lines if line[0] == own or line[0].startswith(inside)]


def assert_as_the_dumps_say(store: Store, commits: list[str], paths: list[bytes]) -> None:
    dumps = {made: b"".join(store.commits.dump(made)) for made in commits}
    differing = Differing(store.trees)
    for old in commits:
        assert list(differing.lines(old)) == dumps[old].removesuffix(b"\n").split(b"\n")
        for new in commits:
            before, after = (set(dumps[one].split(b"\n")) for one in (old, new))
            assert differing.between(old, new) == (before - after, after - before)
            for path in paths:
                mine, other = lines_at(dumps[old], path), lines_at(dumps[new], path)
                change = "modified" if mine and other else "added" if other else "deleted"
                assert Subtree(differing, path).change(old, new) == (None if mine == other else change)
    for path in paths:
        for one, dump in dumps.items():
            assert Subtree(differing, path).is_in(one) is bool(lines_at(dump, path))


@settings(max_examples=examples(40))
@given(st.lists(FILES, min_size=2, max_size=4), st.lists(PATHS, min_size=1, max_size=3))
def test_it_is_what_the_dumps_say(
    tmp_path_factory: pytest.TempPathFactory, trees: list[dict[bytes, bytes]], paths: list[bytes]
) -> None:
    store = Store.create(tmp_path_factory.mktemp("subtree") / "store")
    with small_piles():
        made = []
        for files in trees:
            with store.begin("a test") as tx:
                made.append(store.commits.write(tx, tree_of(files), near=made[-1] if made else None).metadata_hash)
    assert_as_the_dumps_say(store, made, [*paths, b"/"])


def test_trees_that_are_stored_on_one_another(store: Store) -> None:
    with small_piles():
        made = list(piled(store, 5, 24))
    store.commits.remove(made[::4])
    assert store.trees.grounds()
    assert_as_the_dumps_say(store, store.commits.list(), [b"/", b"/file-01", b"/file-17", b"/file-4"])


def test_little_is_read_of_a_large_tree(store: Store) -> None:
    children = {b"%05d-%b" % (n, b"x" * 80): File(0o100644, 0, 0, n, size=1, content=b"1") for n in range(6000)}
    with store.begin("a test") as tx:
        made = [store.commits.write(tx, directory({b"d": directory(children), b"e": directory({})})).metadata_hash]
    for name in (b"01000-a", b"02000-b", b"new"):
        base = store.commits.open_tree(made[-1])
        inner = base.children[b"d"]
        assert isinstance(inner, Directory)
        with store.begin("a test") as tx:
            changed = inner.with_children({**inner.children, name: file(tx, b"2")})
            root = base.with_children({**base.children, b"d": changed})
            made.append(store.commits.write(tx, root, known=base).metadata_hash)
    assert len(list(store.trees.frames())) > 4
    for sha256 in store.trees.frames():
        store.trees.frame_path(sha256).unlink()
    differing = Differing(store.trees)
    for (old, new), name in zip(pairwise(made), (b"01000-a", b"02000-b", b"new"), strict=True):
        assert Subtree(differing, b"/d/" + name).change(old, new) == "added"
        assert Subtree(differing, b"/e").change(old, new) is None
        assert len(differing.between(old, new)[1]) == 1


def test_a_damaged_tree(store: Store) -> None:
    made, other = commit(store, {b"a": b"1"}), commit(store, {b"a": b"2"})
    spoil_tree(store, made)
    asked: list[Callable[[], object]] = [
        lambda: Subtree(Differing(store.trees), b"/a").is_in(made),
        lambda: Differing(store.trees).between(made, other),
        lambda: Differing(store.trees).between(other, made),
        lambda: list(Differing(store.trees).lines(made)),
    ]
    for ask in asked:
        with pytest.raises(DamagedError, match=made):
            ask()
    with pytest.raises(NotFoundError):
        Differing(store.trees).between(other, "0" * 64)
