"""The one door to the objects: what it says of one and of many, and that nobody goes around it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import stratum
from stratum.errors import DamagedError, NotFoundError
from stratum.store import Store
from stratum.store.objects import Objects, Staging, State
from stratum.tree.model import object_path

PACKAGE = Path(stratum.__file__).parent
KNOW_THE_LAYOUT = {
    "store/objects.py",
    "tree/model.py",  # which says what it is
    "fs/contents.py",  # a layer's contents lie as a store's objects do
    "composefs/erofs/survey.py",  # an image names objects by it
    "composefs/erofs/writer.py",
    "metafs/answers.py",  # so does what is shown of an image
    "ingest/removing.py",  # what a move left may be an object by its other name
    "mount/probe.py",
    "transfer/packs.py",  # and so do the members of a pack
}


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def put(store: Store, *contents: bytes) -> list[bytes]:
    with store.begin("a test") as tx:
        digests = [tx.add_bytes(data) for data in contents]
        tx.publish_objects()
    return digests


def test_an_object_of_another_size_or_kind_is_not_here(store: Store) -> None:
    one, two = put(store, b"1" * 100, b"2" * 100)
    assert store.objects.state(one) is store.objects.state(one, 100) is State.HERE
    assert store.objects.state(one, 99) is store.objects.state(bytes(32)) is State.MISSING
    store.objects.path(two).unlink()
    store.objects.path(two).symlink_to(store.objects.path(one))
    assert store.objects.state(two) is State.MISSING
    assert Objects.below(store.root).state(one) is State.HERE


def test_who_opens_many_opens_nothing_else(store: Store, tmp_path: Path) -> None:
    one, two, three = put(store, b"1" * 100, b"2" * 100, b"3" * 100)
    opener = store.objects.opener
    for digest in (one, two, three, one):
        fd = opener.open(digest)
        assert os.read(fd, 1) in b"123"
        os.close(fd)
    for digest in (one, two):
        store.objects.path(digest).unlink()
    store.objects.path(two).symlink_to(store.objects.path(three))
    with pytest.raises(NotFoundError):
        opener.open(one)
    with pytest.raises(DamagedError, match="symbolic link"):
        opener.open(two)
    again = Objects.below(store.root).opener
    shard = store.objects.path(three).parent
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="symbolic link"):
        again.open(three)


@pytest.mark.parametrize("expected", [0, 1, 1000, 1 << 20])
def test_asking_for_many_is_asking_for_each(store: Store, expected: int) -> None:
    digests = put(store, *(b"%d" % number * 100 for number in range(300)))
    (store.layout.objects / "ab").mkdir(exist_ok=True)
    (store.layout.objects / "ab" / "no object").touch()
    presence = store.objects.many(expected)
    for digest in digests:
        size = store.objects.size(digest)
        assert size is not None
        assert presence.has(digest, size)
        assert presence.size(digest) == size
        other = digest[:-1] + bytes((digest[-1] ^ 1,))
        assert not presence.has(other, size)
        assert presence.size(other) is None
    asked = {digest: store.objects.size(digest) or 0 for digest in digests}
    others = {digest[:-1] + bytes((digest[-1] ^ 1,)): size for digest, size in asked.items()}
    assert store.objects.many(expected).has_all(asked.items())
    assert set(store.objects.many(expected).absent((asked | others).items())) == others.keys()


@pytest.mark.parametrize("expected", [0, 1 << 20])
def test_nothing_is_in_what_is_no_directory(store: Store, expected: int) -> None:
    (store.layout.objects / "ab").touch()
    assert not store.objects.many(expected).has(b"\xab" * 32, 1)
    assert store.objects.state(b"\xab" * 32) is State.MISSING


def test_staging_is_laid_out_like_the_store(store: Store, tmp_path: Path) -> None:
    staging = Staging(str(tmp_path / "staging"))
    os.mkdir(staging.directory)
    digests = [bytes((number % 3,)) * 31 + bytes((number,)) for number in range(9)]
    for digest in digests:
        Path(staging.place(digest)).write_bytes(b"x")
        assert Path(staging.directory, staging.name(digest)) == Path(staging.path(digest))
        assert Path(staging.path(digest)).relative_to(staging.directory) == store.objects.path(digest).relative_to(
            store.layout.objects
        )
    assert store.objects.take_in(staging, [(digest, staging.name(digest), 1) for digest in sorted(digests)]) == 9
    assert [digest for digest, _ in store.objects.list()] == sorted(digests)


def test_nobody_else_knows_where_objects_lie() -> None:
    found = [path for path in PACKAGE.rglob("*.py") if "object_path" in path.read_text()]
    assert {path.relative_to(PACKAGE).as_posix() for path in found} == KNOW_THE_LAYOUT
    assert object_path(bytes(32)) == b"00/" + b"0" * 62
