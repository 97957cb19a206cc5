"""Objects as FUSE files: their numbers follow from their digests, and what is read is never short."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from stratum.hydrate.large import FIRST_NODE, DoneReading, ObjectFiles
from stratum.store.catalog import Blob, Catalog, NewPack, write_catalog
from stratum.store.layout import Layout
from stratum.store.objects import Objects
from stratum.sys.actors import Actor
from stratum.tree.model import object_path

SIZE = 10_000


class Remote:
    """A fetcher whose objects all have ``SIZE`` bytes of ``x``; what is wanted lands at once, or fails."""

    def __init__(self, landing: Path) -> None:
        self.landing = landing
        self.large = False
        self.code = 0
        self.answer = b""
        self.wanted: list[bytes] = []

    def size(self, digest: bytes) -> int | None:
        return SIZE

    def is_large(self, digest: bytes) -> bool:
        return self.large

    def condition(self, digest: bytes) -> str:
        return "landed" if (self.landing / os.fsdecode(object_path(digest))).exists() else "unreal"

    def pass_on(self, digest: bytes) -> bool:
        return self.condition(digest) == "landed"

    def want(self, digest: bytes, reader: Actor | None, done: object) -> None:
        self.wanted.append(digest)
        if not self.code:
            path = self.landing / os.fsdecode(object_path(digest))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x" * SIZE)
        done(self.code)  # type: ignore[operator]

    def read_range(self, digest: bytes, start: int, size: int, reader: Actor | None, done: DoneReading) -> None:
        done(self.code, self.answer)


def catalog(*digests: bytes) -> Catalog:
    members = [(digest, place * SIZE, SIZE) for place, digest in enumerate(digests)]
    return Catalog(write_catalog([NewPack(Blob(bytes(32), 9), [(9, SIZE * len(digests))], members)]))


ONE, ALIKE, OTHER = b"1" * 32, b"1" * 31 + b"2", b"2" * 32


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "landing").mkdir()
    return Remote(tmp_path / "landing")


def files(remote: Remote, *catalogs: Catalog, told: list[str] | None = None) -> ObjectFiles:
    objects = Objects(Layout(remote.landing.parent / "store"))
    became_native = None if told is None else lambda: told.append("now")
    return ObjectFiles(remote, catalogs, objects, remote.landing, became_native)


def read(found: ObjectFiles, digest: bytes, start: int, size: int) -> tuple[int, bytes]:
    answers: list[tuple[int, bytes]] = []
    found.read(digest, start, size, None, lambda code, data: answers.append((code, data)))
    assert len(answers) == 1
    return answers[0]


def test_an_object_has_the_same_number_with_any_server(remote: Remote) -> None:
    node = files(remote, catalog(ONE, OTHER)).node_of(ONE)
    assert node is not None
    assert files(remote, catalog(OTHER), catalog(ONE)).digest_of(node) == ONE
    assert files(remote, catalog(OTHER)).digest_of(node) is None


@pytest.mark.parametrize("node", [0, 1, 4096, FIRST_NODE - 1, FIRST_NODE, 2 * FIRST_NODE, 2**64 - 1])
def test_other_numbers_are_no_objects(remote: Remote, node: int) -> None:
    assert files(remote, catalog(ONE)).digest_of(node) is None


def test_objects_that_would_have_one_number_have_none(remote: Remote) -> None:
    for catalogs in ([catalog(ONE, ALIKE)], [catalog(ONE), catalog(ALIKE)]):
        found = files(remote, *catalogs)
        assert found.node_of(ONE) is None
        assert found.node_of(ALIKE) is None


def test_what_is_read_is_fetched_once_and_told_of_once(remote: Remote) -> None:
    told: list[str] = []
    found = files(remote, catalog(ONE), told=told)
    assert read(found, ONE, 0, 100) == (0, b"x" * 100)
    assert read(found, ONE, SIZE - 10, 100) == (0, b"x" * 10)
    assert read(found, ONE, SIZE, 100) == (0, b"")
    assert read(found, ONE, SIZE + 5, 100) == (0, b"")
    assert remote.wanted == [ONE]
    assert told == ["now"]


def test_a_failed_fetch_is_an_error_and_not_the_last(remote: Remote) -> None:
    found = files(remote, catalog(ONE))
    remote.code = errno.ENOSPC
    assert read(found, ONE, 0, 100) == (errno.ENOSPC, b"")
    remote.code = 0
    assert read(found, ONE, 0, 100) == (0, b"x" * 100)


def test_less_than_there_is_would_be_read_as_zeros_and_is_an_error(remote: Remote) -> None:
    remote.large = True
    found = files(remote, catalog(ONE))
    for answer in (b"", b"x" * 99, b"x" * 101):
        remote.answer = answer
        assert read(found, ONE, 0, 100) == (errno.EIO, b"")
    remote.answer = b"x" * 100
    assert read(found, ONE, 0, 100) == (0, b"x" * 100)
    landed = remote.landing / os.fsdecode(object_path(ONE))
    landed.parent.mkdir()
    landed.write_bytes(b"x" * (SIZE - 1))
    assert read(found, ONE, SIZE - 50, 100) == (errno.EIO, b"")
