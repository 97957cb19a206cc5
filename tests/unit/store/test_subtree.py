"""One path in many commits, by what their stored dumps share: the same answer as the whole dumps give."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum import zstd
from stratum.errors import DamagedError
from stratum.store import Store
from stratum.store.commits import DUMP
from stratum.store.frames import MAGIC
from stratum.store.subtree import Differing, Subtree
from stratum.tree.dump import write_dump
from stratum.tree.escape import escape
from stratum.tree.model import Directory, File, Inode
from tests.support.effort import examples
from tests.support.stores import directory, file

NAMES = st.sampled_from([b"a", b"a b", b"ab", b"b", b"\xff", b"-"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: b"/" + b"/".join(names))
FILES = st.dictionaries(PATHS, st.sampled_from([b"1", b"2", b"x" * 60]), max_size=6)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def tree_of(files: dict[bytes, bytes], made: Callable[[bytes], Inode]) -> Directory:
    inner = dict[bytes, dict[bytes, bytes]]()
    children: dict[bytes, Inode] = {}
    for path, data in files.items():
        name, slash, rest = path.removeprefix(b"/").partition(b"/")
        if slash:
            inner.setdefault(name, {})[rest] = data
        else:
            children[name] = made(data)
    return directory({**children, **{name: tree_of(below, made) for name, below in inner.items()}})


def commit(store: Store, files: dict[bytes, bytes]) -> str:
    with store.begin("a test") as tx:
        return store.commits.write(tx, tree_of(files, lambda data: file(tx, data))).metadata_hash


def dump_of(files: dict[bytes, bytes]) -> bytes:
    """The dump of a tree with these files; one that is in the way of another's directory goes."""
    return write_dump(tree_of(files, lambda data: File(0o100644, 0, 0, 0, size=len(data), content=data)))


def in_frames(dump: bytes, modulus: int) -> bytes:
    """A dump in frames that are cut wherever the bytes before say so: what dumps share is in equal frames."""
    cuts = [0, *(n for n in range(3, len(dump)) if sum(dump[n - 3 : n]) % modulus == 0), len(dump)]
    return b"".join(zstd.compress(dump[a:b], 1) for a, b in pairwise(cuts) if a < b)


def lines_at(dump: bytes, path: bytes) -> list[list[bytes]]:
    """The path's lines, but for how many names a file has."""
    own = escape(path)
    lines = [line.split(b" ") for line in dump.split(b"\n")]
    inside = own.rstrip(b"/") + b"/"
    return [line[:3] + line[4:] for line in lines if line[0] == own or line[0].startswith(inside)]


@settings(max_examples=examples(40))
@given(st.lists(FILES, min_size=2, max_size=4), st.lists(PATHS, min_size=1, max_size=3), st.integers(20, 400))
def test_it_is_what_the_dumps_say(trees: list[dict[bytes, bytes]], paths: list[bytes], modulus: int) -> None:
    dumps = {str(number): dump_of(files) for number, files in enumerate(trees)}
    stored = {number: in_frames(dump, modulus) for number, dump in dumps.items()}
    for old, new in pairwise(stored):
        before, after = (set(dumps[number].split(b"\n")) for number in (old, new))
        assert Differing(stored.__getitem__).between(old, new) == (before - after, after - before)
    for path in (*paths, b"/"):
        subtree = Subtree(stored.__getitem__, path)
        for old, new in pairwise(stored):
            assert subtree.is_same(old, new) is (lines_at(dumps[old], path) == lines_at(dumps[new], path))
        for number, dump in dumps.items():
            assert list(Differing(stored.__getitem__).lines(number)) == dump.removesuffix(b"\n").split(b"\n")
            assert Subtree(stored.__getitem__, path).is_in(number) is bool(lines_at(dump, path))
            assert subtree.is_in(number) is bool(lines_at(dump, path))


def test_a_large_tree(store: Store) -> None:
    """Of several frames, as they are written."""
    made = [commit(store, {b"/d%02d/%05d-%b" % (n // 1000, n, b"x" * 80): b"1" for n in range(23_000)})]
    assert store.commits.stored_dump(made[0]).count(MAGIC) >= 4
    for name in (b"20000-a", b"20500-b", b"20999-z", b"new"):
        base = store.commits.open_tree(made[-1])
        with store.begin("a test") as tx:
            inner = base.children[b"d20"]
            assert isinstance(inner, Directory)
            inner = inner.with_children({**inner.children, name: file(tx, b"2")})
            root = base.with_children({**base.children, b"d20": inner})
            made.append(store.commits.write(tx, root, known=base).metadata_hash)
    for path, changes in {
        b"/d20": [1, 2, 3, 4],
        b"/d20/20500-b": [2],
        b"/d20/new": [4],
        b"/d00": [],
        b"/d21": [],
        b"/d30": [],
    }.items():
        subtree = Subtree(store.commits.stored_dump, path)
        assert [n for n in range(1, 5) if not subtree.is_same(made[n - 1], made[n])] == changes
        backwards = Subtree(store.commits.stored_dump, path)
        assert [n for n in range(4, 0, -1) if not backwards.is_same(made[n], made[n - 1])] == changes[::-1]


@pytest.mark.parametrize("damage", [b"", b"nothing", b"\x28\xb5\x2f\xfd", zstd.compress(b"x" * 1_000_000, 1)])
def test_a_damaged_dump(store: Store, damage: bytes) -> None:
    made, other = commit(store, {b"/a": b"1"}), commit(store, {b"/a": b"2"})
    path = store.layout.commit(made) / DUMP
    path.chmod(0o644)
    path.write_bytes(damage)
    with pytest.raises(DamagedError, match=made):
        Subtree(store.commits.stored_dump, b"/a").is_in(made)
    for pair in ((made, other), (other, made)):
        with pytest.raises(DamagedError, match=made):
            Subtree(store.commits.stored_dump, b"/a").is_same(*pair)
