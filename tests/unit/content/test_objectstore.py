"""Contents in a bucket: what their objects are called, and that no reference is lost between writers that race or
die."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from stratum.c4.ids import C4Id, id_of_bytes
from stratum.content import ObjectStore
from stratum.errors import BusyError, DamagedError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.bucket import ALWAYS, BucketStore, Entry, When, open_bucket
from stratum.oci.target import parse_target

LARGE = bytes(range(256)) * (1 << 12) + b"!"


class DeadError(Exception):
    """The process died at this request."""


class Wire(BucketStore):
    """A bucket whose requests are counted, and which may end a process before one of them."""

    def __init__(self, inner: BucketStore) -> None:
        self.inner, self.bucket = inner, inner.bucket
        self.done = 0
        self.dies_at: int | None = None

    def _request(self) -> None:
        if self.done == self.dies_at:
            raise DeadError
        self.done += 1

    def get(self, key: str, limit: int) -> tuple[bytes, str]:
        self._request()
        return self.inner.get(key, limit)

    def read(self, key: str) -> Iterator[bytes]:
        self._request()
        return self.inner.read(key)

    def read_range(self, key: str, start: int, size: int) -> bytes:
        self._request()
        return self.inner.read_range(key, start, size)

    def head(self, key: str) -> Entry | None:
        self._request()
        return self.inner.head(key)

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        self._request()
        return self.inner.list(prefix, after)

    def put(self, key: str, data: bytes, *, when: When = ALWAYS) -> str:
        self._request()
        return self.inner.put(key, data, when=when)

    def put_stream(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        self._request()
        self.inner.put_stream(key, pieces, size)

    def delete(self, keys: Iterable[str]) -> None:
        self._request()
        self.inner.delete(keys)

    def server_time(self) -> float:
        return self.inner.server_time()


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[BucketStore]:
    target = parse_target(f"memory://{tmp_path.name.replace('_', '-')}/store").bucket
    assert target is not None
    with open_bucket(target, Access()) as opened:
        opened.ready_to_write()
        yield opened


def keys(bucket: BucketStore) -> set[str]:
    return {entry.key for entry in bucket.list("")} - {"conditions.json", "clock"}


def taken(store: ObjectStore, c4id: C4Id) -> bytes:
    with store.get(c4id) as stream:
        return stream.read()


def count(store: ObjectStore, c4id: C4Id) -> int:
    number = 0
    while store.has(c4id):
        store.delete(c4id)
        number += 1
    return number


def test_what_is_where(bucket: BucketStore) -> None:
    store = ObjectStore(bucket)
    c4id = store.put(b"one")
    assert keys(bucket) == {c4id}, "one reference needs no record"
    store.put(b"one")
    assert keys(bucket) == {c4id, f"counts/{c4id}"}
    assert bucket.get(f"counts/{c4id}", 100)[0] == b'{"references": 2}\n'
    assert count(store, c4id) == 2
    assert keys(bucket) == {f"counts/{c4id}"}
    assert bucket.get(f"counts/{c4id}", 100)[0] == b'{"references": 0}\n'


def test_a_tree(bucket: BucketStore) -> None:
    """What another program has put at any depth is read, and goes."""
    store = ObjectStore(bucket, tree=True)
    c4id = store.put(b"one")
    assert keys(bucket) == {f"c4/{c4id[2:4]}/{c4id}"}
    for depth in range(5):
        data = b"depth %d" % depth
        other = id_of_bytes(data)
        bucket.put("/".join([other[2 * level : 2 * level + 2] for level in range(depth)] + [other]), data)
        assert store.has(other)
        assert taken(store, other) == data
        store.put(data)
        assert count(store, other) == 2
    with pytest.raises(NotFoundError):
        store.delete(id_of_bytes(b"depth 1"))


def test_what_another_program_put_counts_once(bucket: BucketStore) -> None:
    store, c4id = ObjectStore(bucket), id_of_bytes(b"theirs")
    bucket.put(c4id, b"theirs")
    assert taken(store, c4id) == b"theirs"
    store.put(b"theirs")
    assert count(store, c4id) == 2


def test_a_small_content_takes_two_requests(bucket: BucketStore) -> None:
    wire = Wire(bucket)
    ObjectStore(wire).put(b"one")
    assert wire.done == 2


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("verb", ["put", "delete"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_who_dies_in_between_takes_no_reference_of_others(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch, data: bytes, verb: str, before: int
) -> None:
    """At any request: what others put stays, and what is put after is there; nothing is in the way for good."""
    monkeypatch.setattr("stratum.content.objectstore.LEASE", 0.05)
    c4id, wire, died = id_of_bytes(data), Wire(bucket), True
    step = 0
    while died:
        store = ObjectStore(bucket)
        assert count(store, c4id) <= before + 2
        for _ in range(before):
            store.put(data)
        wire.done, wire.dies_at, died = 0, step, False
        try:
            dying = ObjectStore(wire)
            dying.put(data) if verb == "put" else dying.delete(c4id)
        except DeadError:
            died = True
        except NotFoundError:
            assert not before
        if before - (verb == "delete") > 0:
            assert taken(store, c4id) == data
        other = ObjectStore(bucket)
        other.put(data)
        assert taken(other, c4id) == data
        assert before - (verb == "delete") + 1 <= count(other, c4id) <= before + 2
        step += 1
    assert step >= 2


def test_a_put_waits_for_a_removal(bucket: BucketStore) -> None:
    """Whoever puts what is about to be removed, has it afterwards."""

    class Slow(Wire):
        def delete(self, keys: Iterable[str]) -> None:
            removing.set()
            assert putting.wait(60)
            super().delete(keys)

    class Looking(Wire):
        def get(self, key: str, limit: int) -> tuple[bytes, str]:
            found = super().get(key, limit)
            looks.append(key)
            if len(looks) == 2:
                putting.set()
            return found

    removing, putting = threading.Event(), threading.Event()
    looks: list[str] = []
    c4id = ObjectStore(bucket).put(b"one")
    with ThreadPoolExecutor(2) as pool:
        deleted = pool.submit(ObjectStore(Slow(bucket)).delete, c4id)
        assert removing.wait(60)
        put = pool.submit(ObjectStore(Looking(bucket)).put, b"one")
        deleted.result()
        assert put.result() == c4id
    assert taken(ObjectStore(bucket), c4id) == b"one"
    assert count(ObjectStore(bucket), c4id) == 1


def test_who_is_late_removes_nothing(bucket: BucketStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remover that slept while others took it for dead."""
    store = ObjectStore(bucket)
    c4id = store.put(b"one")

    class Sleeping(Wire):
        def put(self, key: str, data: bytes, *, when: When = ALWAYS) -> str:
            version = super().put(key, data, when=when)
            monkeypatch.setattr("stratum.content.objectstore.LEASE", 0.0)
            ObjectStore(bucket).put(b"one")
            return version

    with pytest.raises(BusyError, match="took too long"):
        ObjectStore(Sleeping(bucket)).delete(c4id)
    assert taken(store, c4id) == b"one"


def test_stores_that_race(bucket: BucketStore) -> None:
    """As if they were processes: nothing is common to them but the bucket. A busy server's answer to a write may be
    lost, which may leave a reference too many; none is one too few."""
    contents = [b"%d" % number for number in range(3)]

    def work(seed: int) -> list[int]:
        mine, chance, store = [0] * len(contents), random.Random(seed), ObjectStore(bucket)
        for _ in range(40):
            number = chance.randrange(len(contents))
            c4id = id_of_bytes(contents[number])
            if mine[number] and chance.random() < 0.6:
                store.delete(c4id)
                mine[number] -= 1
            else:
                store.put(contents[number])
                mine[number] += 1
            if mine[number]:
                assert taken(store, c4id) == contents[number]
        return mine

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(work, range(4)))
    for data, expected in zip(contents, map(sum, zip(*counts, strict=True)), strict=True):
        assert expected <= count(ObjectStore(bucket), id_of_bytes(data)) <= expected + 1


def test_a_record_that_is_damaged(bucket: BucketStore) -> None:
    store = ObjectStore(bucket)
    c4id = store.put(b"one")
    for data in (
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"references": -1}',
        b'{"references": true}',
        b'{"references": "2"}',
        b"[" * 900,
    ):
        bucket.put(f"counts/{c4id}", data)
        with pytest.raises(DamagedError, match="references") as caught:
            store.delete(c4id)
        assert f"counts/{c4id}" in caught.value.hint
        assert taken(store, c4id) == b"one"
    bucket.put(f"counts/{c4id}", b" " * 5000)
    with pytest.raises(DamagedError):
        store.put(b"one")


def test_a_large_content_waits_where_it_is_told(bucket: BucketStore, tmp_path: Path) -> None:
    class Full(Wire):
        def put_stream(self, key: str, pieces: Iterable[bytes], size: int) -> None:
            spooled.append(len(list(tmp_path.iterdir())))
            super().put_stream(key, pieces, size)

    spooled: list[int] = []
    store = ObjectStore(Full(bucket), spool=tmp_path)
    c4id = store.put(LARGE)
    assert taken(store, c4id) == LARGE
    assert spooled, "it was sent as a stream"
    assert not list(tmp_path.iterdir()), "what waited has no name, and is gone"
    with pytest.raises(StratumError, match="No such file"):
        ObjectStore(bucket, spool=tmp_path / "none").put(LARGE)


def test_what_is_put_side_by_side_comes_in_order(bucket: BucketStore) -> None:
    store = ObjectStore(bucket)
    assert list(store.put_all(b"%d" % number for number in range(50))) == [
        id_of_bytes(b"%d" % number) for number in range(50)
    ]

    def breaking() -> Iterator[bytes | BinaryIO]:
        yield b"first"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(store.put_all(breaking()))
