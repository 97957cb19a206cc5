"""How dumps are stored: whatever is written on what, and whatever is removed meanwhile, each commit that is there is
read back as it was, with few reads, and its layers are what every artifact's are."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError, NotFoundError
from stratum.store import Store
from stratum.store.frames import Frames
from stratum.store.treerecord import FRAME_MAX, LEVEL_MAX, FrameRef, join_file, split_file
from stratum.store.treewriter import Stored, in_two
from stratum.tree.cutting import split_dump
from stratum.tree.dump import write_dump
from stratum.tree.model import Directory, File
from stratum.tree.zstdframe import compress
from tests.support.effort import examples
from tests.support.piled import small_piles
from tests.support.stores import check, directory, spoil_tree


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Trees of some hundred files are stored in all the ways that large ones are."""
    with small_piles(whole=600, small=330, cap=1500, below=2, piece=700, mask=3):
        yield


def two_commits(store: Store, root: Directory) -> tuple[str, str]:
    """The commit of a tree, and one that was made on it."""
    with store.begin("a test") as tx:
        first = store.commits.write(tx, root).metadata_hash
    known = store.commits.open_tree(first)
    with store.begin("a test") as tx:
        return first, store.commits.write(tx, changed(known, random.Random(1), 1), known=known).metadata_hash


def tree_of(contents: dict[tuple[int, int], int]) -> Directory:
    """A tree with a file with this content at each (directory, name)."""
    root = directory({})
    for (where, name), content in contents.items():
        inside = root.children.setdefault(b"dir%d" % where, directory({}))
        assert isinstance(inside, Directory)
        inside.children[b"%d" % name] = file_of(content)
    return root


def file_of(content: int) -> File:
    return File(0o100644, 0, 0, content * 7919**4 % 10**18, size=8, content=b"%08d" % content)


def changed(root: Directory, rng: random.Random, count: int) -> Directory:
    """The tree, opened or not, with so many files changed, and perhaps a directory gone or come."""
    children = dict(root.children)
    for _ in range(count):
        place = b"dir%d" % rng.randrange(8)
        inside = children.get(place) or directory({})
        assert isinstance(inside, Directory)
        names = dict(inside.children)
        names.pop(b"%d" % rng.randrange(40), None)
        names[b"%d" % rng.randrange(40)] = file_of(rng.randrange(1 << 20))
        children[place] = inside.with_children(names)
    if rng.random() < 0.1:
        children.pop(b"dir%d" % rng.randrange(8), None)
    return root.with_children(children)


def whole(store: Store, commit: str) -> bytes:
    dump = store.commits.dump(commit)
    assert dump.text is not None
    return dump.text


def check_stored(store: Store, expected: dict[str, bytes]) -> None:
    """All commits are there as they were, few records below each, and have the layers that cutting gives."""
    assert store.commits.list() == sorted(expected)
    for commit, dump in expected.items():
        assert whole(store, commit) == dump
        chain = store.trees.chain(commit)
        assert len(chain) <= LEVEL_MAX + 1
        layers = list(store.trees.layers(commit))
        pieces = [store.trees.frame(layer.frame) if layer.frame is not None else layer.piece for layer in layers]
        assert pieces == list(split_dump(dump))


@pytest.mark.usefixtures("small")
@settings(max_examples=examples(30), deadline=None)
@given(seed=st.integers(0, 1 << 32), spread=st.sampled_from([1, 1, 3, 30]), where=st.uuids())
def test_what_is_written_on_whatever_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, spread: int, where: uuid.UUID
) -> None:
    store, rng = Store.create(tmp_path_factory.mktemp("trees") / str(where)), random.Random(seed)
    expected: dict[str, bytes] = {}
    gone: dict[str, bytes] = {}
    root = tree_of({(n % 8, n // 8): n for n in range(rng.randrange(120))})
    for _ in range(25):
        base = rng.choice(sorted(expected)) if expected else None
        known = store.commits.open_tree(base) if base is not None and rng.random() < 0.8 else None
        if base is not None:
            root = known if known is not None else store.commits.tree(base)
        made = changed(root, rng, rng.randrange(spread + 1))
        with store.begin("a test") as tx:
            parent = rng.choice([None, base, *sorted(expected)])
            near = base if rng.random() < 0.8 else None
            meta = store.commits.write(tx, made, known=known, near=near, parent=parent)
        expected[meta.metadata_hash] = write_dump(made)
        if rng.random() < 0.3:
            going = rng.sample(sorted(expected), rng.randrange(len(expected)))
            with store.locks.store(exclusive=True):
                store.commits.remove(going)
            gone |= {commit: expected.pop(commit) for commit in going}
    check_stored(store, expected)
    for commit in store.trees.grounds():
        assert store.trees.chain(commit)
        assert b"".join(store.trees.pieces(commit)) == gone[commit]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mounted", [False, True])
def test_levels_are_used_and_bounded(store: Store, mounted: bool) -> None:
    """Of a line of many commits of one other file each, of which each is made on the one before, or all on one."""
    rng, levels, expected, sizes = random.Random(3), list[int](), dict[str, bytes](), list[int]()
    root, known, parent = tree_of({(n % 8, n // 8): n for n in range(300)}), None, None
    for _ in range(120):
        with store.begin("a test") as tx:
            meta = store.commits.write(tx, root, known=known, parent=parent)
        parent = meta.metadata_hash
        if known is None or not mounted:
            root = known = store.commits.open_tree(parent)
        expected[parent] = whole(store, parent)
        levels.append(store.trees.record(parent).level)
        sizes.append(store.layout.commit(parent).stat().st_size)
        root = changed(root, rng, 1)
    assert set(levels) >= {0, 1, 2, 3}
    assert levels.count(0) < 20
    assert sorted(sizes)[100] < 1200
    check_stored(store, expected)


@pytest.mark.usefixtures("small")
def test_whole_ones_share_what_did_not_change(store: Store) -> None:
    """Of much that changed in one directory, with a commit of little between."""
    rng, made, known = random.Random(3), list[str](), None
    root = tree_of({(n % 8, n // 8): n for n in range(300)})
    for count in (0, 1, 80):
        many = tree_of({(4, n): rng.randrange(1 << 25) for n in range(count)}).children
        root = root.with_children(root.children | many)
        with store.begin("a test") as tx:
            made.append(store.commits.write(tx, root, known=known).metadata_hash)
        root = known = store.commits.open_tree(made[-1])
    first, middle, last = map(store.trees.record, made)
    assert [first.level, middle.level, last.level] == [0, 1, 0]
    shared = set(first.frames) & set(last.frames)
    assert len(shared) > len(first.frames) // 2
    assert {ref.sha256 for ref in (*first.frames, *last.frames)} == set(store.trees.frames())
    check_stored(store, {commit: whole(store, commit) for commit in made})


@pytest.mark.usefixtures("small")
def test_a_commit_that_is_a_ground_comes_back_as_it_was_stored(store: Store) -> None:
    """It cannot be stored on one that is stored on it."""
    root = tree_of({(n % 8, n // 8): n for n in range(300)})
    first, second = two_commits(store, root)
    before = store.trees.record(first)
    assert store.trees.record(second).ground == first
    with store.locks.store(exclusive=True):
        store.commits.remove([first])
    assert (store.commits.list(), store.trees.grounds()) == ([second], [first])
    with pytest.raises(NotFoundError):
        store.commits.dump(first)
    with store.begin("a test") as tx:
        assert store.commits.write(tx, root, near=second).metadata_hash == first
    assert store.trees.record(first) == before
    check(store)


def test_frames_that_a_dump_came_in_are_kept_as_they_are(store: Store) -> None:
    root = tree_of({(n % 8, n // 8): n for n in range(5000)})
    text = write_dump(root)
    cuts = [0, text.find(b"\n", 100_000) + 1, len(text)]
    pieces = [text[start:end] for start, end in pairwise(cuts)]
    given_frames = [Stored(compress(piece), len(piece)) for piece in pieces]
    with store.begin("a test") as tx:
        meta = store.commits.write(tx, root, frames=given_frames)
    record = store.trees.record(meta.metadata_hash)
    assert [store.trees.frame_file(ref.sha256) for ref in record.frames] == [frame.data for frame in given_frames]
    assert whole(store, meta.metadata_hash) == text


def test_damage_is_told_and_never_another_tree(store: Store) -> None:
    root = tree_of({(n % 8, n // 8): n for n in range(5000)})
    first, second = two_commits(store, root)
    frame = store.trees.frame_path(store.trees.record(first).frames[0].sha256)
    good = frame.read_bytes()
    for bad in (b"", good[:-1], good + b"x", good[:50] + b"x" + good[51:], compress(b"/ 0\n"), bytes(FRAME_MAX * 2)):
        frame.write_bytes(bad)
        for commit in (first, second):
            with pytest.raises(DamagedError):
                store.commits.dump(commit)
    frame.unlink()
    for commit in (first, second):
        with pytest.raises(DamagedError, match="is missing"):
            store.commits.dump(commit)
    frame.symlink_to("/etc/passwd")
    with pytest.raises(DamagedError, match="symbolic link"):
        store.commits.dump(first)
    frame.unlink()
    frame.write_bytes(good)
    assert whole(store, second)
    spoil_tree(store, first)
    with pytest.raises(DamagedError, match=first):
        store.commits.dump(second)
    path, other = store.layout.commit(first), store.layout.commit(second)
    metadata = split_file(path.read_bytes(), "it")[0]
    path.write_bytes(join_file(metadata, split_file(other.read_bytes(), "it")[1]))
    with pytest.raises(DamagedError, match=first):  # one stored on itself
        store.commits.dump(first)
    path.unlink()
    with pytest.raises(DamagedError, match=f"{second} is stored on the tree of commit {first}, which is lost"):
        store.commits.dump(second)


def test_a_frame_that_is_there_is_not_written_again_and_a_damaged_one_is(store: Store) -> None:
    frames, data = Frames(store.layout), compress(b"/ 0\n")
    for content in (data, data[:-1]):
        with store.begin("a test") as tx:
            digest = tx.add_frame(data)
            assert tx.add_frame(data) == digest
            tx.publish_objects()
        path = frames.path(digest)
        assert frames.file(digest) == data
        inode = path.stat().st_ino
        with store.begin("a test") as tx:
            tx.add_frame(data)
            tx.publish_objects()
        assert path.stat().st_ino == inode
        path.write_bytes(content)
    assert list(frames.list()) == [digest]
    assert not frames.holds(digest, data)
    with pytest.raises(DamagedError):
        frames.lines(FrameRef(digest, 5))


def test_every_second_call_is_made_by_another_thread_in_order() -> None:
    """Errors come where their results would have."""
    before = threading.active_count()
    assert list(in_two(lambda n: n * n, range(7))) == [n * n for n in range(7)]
    threads = set(in_two(lambda _: threading.get_ident(), range(4)))
    assert len(threads) == 2
    assert list(in_two(lambda _: threading.get_ident(), range(1))) == [threading.get_ident()]

    def reciprocal(number: int) -> float:
        return 1 / (number - 3)

    seen = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(in_two(reciprocal, range(9)))
    made = in_two(reciprocal, range(9))
    assert [next(made) for _ in range(2)] == [-1 / 3, -1 / 2]
    made.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before
