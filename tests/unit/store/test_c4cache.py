"""What is remembered of objects for their C4 IDs is right or not there, whatever happens to it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.store import Store, c4cache
from stratum.store.c4cache import C4Cache
from stratum.store.gc import collect
from stratum.store.retention import Retention
from tests.support import stores


def known(count: int, start: int = 0) -> dict[bytes, bytes]:
    """Digest -> SHA-512 of so many contents."""
    contents = [b"%d" % number for number in range(start, start + count)]
    return {verity_digest(data): hashlib.sha512(data).digest() for data in contents}


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def test_what_was_put_is_known(store: Store) -> None:
    cache, some, others = C4Cache(store.layout), known(300), known(100, 1000)
    assert cache.get(some) == {}
    cache.put(some)
    cache.put(dict(list(some.items())[:10]))
    assert cache.get([*others, *some, *some]) == some
    C4Cache(store.layout).put(others)
    assert cache.get([*others, *some]) == some | others
    for digest, value in (some | others).items():
        assert cache.get([digest]) == {digest: value}
    cache.put({})
    assert cache.get([bytes(32), b"\xff" * 32]) == {}


@pytest.mark.parametrize("what", ["cut", "flipped", "empty", "grown", "another's", "swapped", "open to others"])
def test_what_is_damaged_is_not_known(store: Store, what: str) -> None:
    cache, some = C4Cache(store.layout), known(600)
    cache.put(some)
    paths = sorted(store.layout.c4_cache.iterdir())
    path, other = paths[0], paths[1]
    data = bytearray(path.read_bytes())
    if what == "cut":
        path.write_bytes(data[:-1])
    elif what == "flipped":
        data[-5] ^= 1
        path.write_bytes(data)
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "grown":
        path.write_bytes(data + bytes(96))
    elif what == "another's":
        path.write_bytes(other.read_bytes())
    elif what == "swapped":
        path.unlink()
        path.symlink_to(other)
    else:
        path.chmod(0o666)
    shard = int(path.name, 16)
    assert cache.get(some) == {digest: value for digest, value in some.items() if digest[0] != shard}
    cache.put(some)
    assert cache.get(some) == some


def test_writers_at_once_may_lose_some_and_spoil_nothing(store: Store) -> None:
    everything = known(400)
    items = list(everything.items())

    def work(start: int) -> None:
        cache = C4Cache(store.layout)
        for at in range(start, 400, 40):
            cache.put(dict(items[at : at + 10]))
            found = cache.get(everything)
            assert found.items() <= everything.items()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(0, 40, 10)))
    assert C4Cache(store.layout).get(everything).items() <= everything.items()


def test_few_and_many_of_a_large_file(store: Store) -> None:
    cache = C4Cache(store.layout)
    some = {bytes([7, number]) + bytes(30): bytes([number]) * 64 for number in range(0, 200, 2)}
    cache.put(some)
    for count in (1, 3, 50, 100):
        asked = [bytes([7, number]) + bytes(30) for number in range(2 * count)]
        assert cache.get(asked) == {digest: some[digest] for digest in asked if digest in some}
    assert cache.get([bytes([7, 255]) + bytes(30), bytes([7]) + bytes(31)]) == {bytes([7]) + bytes(31): bytes(64)}


def test_it_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c4cache, "MOST", 20)
    cache = C4Cache(store.layout)
    some = {bytes([7, number]) + bytes(30): bytes([number]) * 64 for number in range(50)}
    for digest, value in some.items():
        cache.put({digest: value})
        assert cache.get([digest]) == {digest: value}, "what is new is known"
    found = cache.get(some)
    assert len(found) == 20
    assert found.items() <= some.items()
    cache.put(some)
    assert len(cache.get(some)) == 20


def test_a_place_that_cannot_be_written_to(store: Store) -> None:
    cache = C4Cache(store.layout)
    store.layout.c4_cache.parent.mkdir(exist_ok=True)
    store.layout.c4_cache.write_text("a file")
    cache.put(known(5))
    assert cache.get(known(5)) == {}
    cache.drop(lambda digest: False)


def test_a_collection_forgets_what_is_gone(store: Store) -> None:
    stays, goes = b"a" * 5000, b"b" * 5000
    store.tags.set("app", "latest", stores.commit(store, {b"stays": stays}), why="a test")
    stores.commit(store, {b"goes": goes})
    cache = C4Cache(store.layout)
    both = {verity_digest(data): hashlib.sha512(data).digest() for data in (stays, goes)}
    cache.put(both)
    with store.locks.store(exclusive=True):
        collect(store, Retention(timedelta()), {}, dry_run=True)
        assert cache.get(both) == both
        collect(store, Retention(timedelta()), {})
    assert set(cache.get(both)) == {verity_digest(stays)}
    assert len(os.listdir(store.layout.c4_cache)) == 1
