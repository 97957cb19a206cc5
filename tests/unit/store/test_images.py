"""Images are a cache: made when they are needed, byte for byte the same again, and gone where they take too much."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.composefs.erofs.writer import image_pieces
from stratum.errors import DamagedError, StratumError
from stratum.store import Store
from stratum.store.imageroom import Room, Shown
from stratum.store.images import LOCK, MIN_AGE
from tests.support.stores import commit, leftovers

LONG_AGO = 10_000.0


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def age(store: Store, made: str, seconds: float) -> None:
    path = store.images.path(made)
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def names(store: Store) -> set[str]:
    return set(os.listdir(store.layout.images)) - {LOCK}


def commits(store: Store, count: int) -> list[str]:
    """Commits with images, the first of which were needed longest ago."""
    made = [commit(store, {b"%d" % number: b"x" * 100}) for number in range(count)]
    for number, each in enumerate(made):
        store.images.ensure(each)
        age(store, each, LONG_AGO - number)
    return made


def limit(store: Store, images: int, *shown: str, unknown: bool = False) -> Room:
    size = store.images.total() // max(len(store.images.list()), 1)
    return Room(images * size + size // 2, lambda: Shown(shown, unknown))


def test_an_image_is_made_when_it_is_needed_and_is_what_the_tree_gives(store: Store) -> None:
    made = commit(store, {b"a": b"x" * 100, b"b": b"y"})
    assert not store.layout.images.exists()
    assert store.images.list() == {}
    assert store.images.size(made) is None
    with pytest.raises(FileNotFoundError):
        store.images.check(made, store.commits.tree(made))
    image = store.images.ensure(made)
    content, inode = image.read_bytes(), image.stat().st_ino
    assert content == b"".join(image_pieces(store.commits.tree(made)))
    assert image.stat().st_mode & 0o7777 == 0o644
    assert store.images.size(made) == len(content)
    assert [path.name for path in store.layout.commit(made).parent.iterdir()] == [made]
    age(store, made, 100)
    used = image.stat().st_mtime
    assert store.images.ensure(made).stat().st_ino == inode
    assert image.stat().st_mtime > used + 90
    assert names(store) == {image.name}
    assert store.images.drop(made)
    assert not store.images.drop(made)
    assert store.images.ensure(made).read_bytes() == content
    assert not leftovers(store)


def test_what_is_no_whole_image_of_ours_is_made_anew(store: Store, tmp_path: Path) -> None:
    made = commit(store, {b"a": b"x" * 100})
    image = store.images.ensure(made)
    content = image.read_bytes()
    (tmp_path / "target").write_bytes(content)

    def theirs() -> None:
        os.chown(image, 1234, 1234)

    for spoil in (
        lambda: image.write_bytes(content[:-1]),
        lambda: image.write_bytes(content + bytes(4096)),
        lambda: image.write_bytes(b""),
        lambda: image.write_bytes(bytes(8192)),
        lambda: image.chmod(0o666),
        lambda: (image.unlink(), image.symlink_to(tmp_path / "target")),
        lambda: (image.unlink(), os.mkfifo(image)),
        theirs if os.geteuid() == 0 else image.unlink,
    ):
        spoil()
        assert store.images.ensure(made).read_bytes() == content
        assert not image.is_symlink()
        store.images.check(made, store.commits.tree(made))
    assert (tmp_path / "target").read_bytes() == content
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedError, match="not the image"):
        store.images.check(made, store.commits.tree(made))


def test_what_is_in_the_way_is_told(store: Store, tmp_path: Path) -> None:
    made = commit(store, {b"a": b"x" * 100})
    (store.root / "cache").mkdir(exist_ok=True)
    store.layout.images.write_text("in the way")
    with pytest.raises(StratumError, match="cache/images"):
        store.images.ensure(made)
    store.layout.images.unlink()
    (tmp_path / "elsewhere").mkdir()
    store.layout.images.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="symbolic link"):
        store.images.ensure(made)
    assert not os.listdir(tmp_path / "elsewhere")
    store.layout.images.unlink()
    store.images.path(made).mkdir(parents=True)
    with pytest.raises(StratumError, match="Is a directory"):
        store.images.ensure(made)


def test_the_oldest_go_where_all_take_too_much(store: Store) -> None:
    made = commits(store, 5)
    assert store.images.trim(limit(store, 5)).count == 0
    dry = store.images.trim(limit(store, 3), dry_run=True)
    assert dry.count == 2
    assert len(store.images.list()) == 5
    store.images.ensure(made[0])
    assert store.images.trim(limit(store, 3)) == dry
    assert set(store.images.list()) == {made[0], made[3], made[4]}
    assert store.images.trim(limit(store, 1, made[3])).count == 1
    assert set(store.images.list()) == {made[0], made[3]}
    short = store.images.trim(Room(0, lambda: Shown([made[3]])))
    assert (short.count, short.short) == (0, store.images.total())
    os.utime(store.images.path(made[0]), (4e9, 4e9))  # the clock was wrong once
    assert store.images.trim(Room(0)).count == 2
    assert store.images.list() == {}


def test_a_new_one_makes_old_ones_go_and_stays(store: Store) -> None:
    made = commits(store, 3)
    new = commit(store, {b"new": b"x" * 100})
    store.images.ensure(new, lambda: Room(0))
    assert set(store.images.list()) == {new}
    store.images.ensure(made[0], lambda: Room(0))
    assert set(store.images.list()) == {new, made[0]}
    age(store, new, MIN_AGE + 1)
    store.images.ensure(new, lambda: Room(0))  # nothing was made, so nothing goes
    assert set(store.images.list()) == {new, made[0]}

    def damaged() -> Room:
        raise DamagedError("the limits cannot be read")

    assert store.images.ensure(made[1], damaged).exists()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[None]:
    with path.open("rb"):
        yield


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY)
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ):
        os.close(fd)
        yield


@contextlib.contextmanager
def another_process(path: Path) -> Iterator[None]:
    code = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.communicate()


@pytest.mark.parametrize("using", [opened, mapped, another_process])
def test_what_is_open_somewhere_stays(store: Store, using: object) -> None:
    made = commits(store, 2)
    with using(store.images.path(made[0])):  # type: ignore[operator]  # one of three functions
        assert store.images.is_in_use(made[0])
        assert store.images.trim(Room(0)).count == 1
        assert set(store.images.list()) == {made[0]}
    assert not store.images.is_in_use(made[0])
    assert store.images.trim(Room(0)).count == 1


def test_trees_that_stand_in_for_images_go_alike(store: Store) -> None:
    made = commits(store, 2)
    for number, each in enumerate(made):
        with store.begin("a test") as tx:
            new = tx.new_path("tree")
            new.mkdir()
            (new / "file").write_bytes(b"x" * 10000)
            place = store.images.outlines.take_in(tx, new, each)
        assert store.images.find_tree(each) == place
        os.utime(f"{place}.used", (number, number))
    trees = store.images.outlines.list()
    assert {kept.disk for kept in trees.values()} == {12288 + 4096}
    os.unlink(f"{place}.used")
    assert store.images.outlines.list() == {made[0]: trees[made[0]], made[1]: trees[made[1]]._replace(used=0)}
    assert store.images.trim(Room(0, lambda: Shown([made[0]], unknown=True))).count == 1  # the image of the other
    assert set(store.images.outlines.list()) == set(made)
    assert store.images.trim(Room(0, lambda: Shown([made[0]]))).count == 1
    assert sorted(os.listdir(store.layout.trees)) == [made[0], f"{made[0]}.used"]
    assert store.images.find_tree(made[1]) is None


def test_what_is_nobodys_can_be_collected(store: Store) -> None:
    made = commits(store, 2)
    for name in ("evil", "0" * 64, f"{made[0]}.cfs.bak", f"{made[0]}.lock", "\udcff\n.cfs"):
        (store.layout.images / name).write_text("x")
    store.layout.trees.mkdir()
    for name in (made[0], "0" * 64):
        (store.layout.trees / name).mkdir()
        (store.layout.trees / f"{name}.used").write_text("4096")
    (store.layout.trees / "strange").symlink_to("/etc")
    trees = {made[0], f"{made[0]}.used"}
    stay = {LOCK, *(f"{each}.cfs" for each in made)}
    found = {*(set(os.listdir(store.layout.images)) - stay), *(set(os.listdir(store.layout.trees)) - trees)}
    assert {path.name for path in store.images.others()} == found
    assert set(store.images.list()) == set(made)
    taken = store.images.remove_all(made[0], dry_run=True)
    assert taken == store.images.path(made[0]).stat().st_blocks * 512 + 4096
    assert store.images.remove_all(made[0]) == taken
    assert store.images.remove_all(made[0]) == 0
    assert (list(store.images.list()), list(store.images.outlines.list())) == ([made[1]], ["0" * 64])
