"""A commit that is here in part is a content store: near what is here, far what its sources have."""

from __future__ import annotations

import contextlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.content import CachedStore
from stratum.errors import DamagedError, NotFoundError, StratumError, UnsupportedError
from stratum.hydrate.fetch import Fetcher
from stratum.store import Store
from stratum.transfer.packs import LARGE_OBJECT
from tests.support.fetching import Partial, get, partial, small_files

LARGE = bytes(range(256)) * (LARGE_OBJECT // 256) + b"end"


@pytest.fixture
def lazy(tmp_path: Path) -> Partial:
    return partial(tmp_path, {**small_files(40), b"large": LARGE})


def taken(fetcher: Fetcher, digest: bytes) -> bytes:
    with fetcher.content.get(digest) as stream:
        return stream.read()


def requests(fetcher: Fetcher) -> int:
    return sum(int(source["requests"]) for source in fetcher.status()["sources"])


def spoil(lazy: Partial, digest: bytes, data: bytes) -> Path:
    """Have ``data`` be where the object is, in the store."""
    path = lazy.store.objects.path(digest)
    path.chmod(0o644)
    path.write_bytes(data)
    return path


def test_each_object_is_there_and_is_fetched_when_it_is_read(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        store = fetcher.content
        assert isinstance(store, CachedStore)
        for digest, data in lazy.contents.items():
            assert store.size(digest) == len(data)
            assert taken(fetcher, digest) == data
            assert store.near.has(digest)
        before = requests(fetcher)
        assert all(taken(fetcher, digest) == data for digest, data in lazy.contents.items())
        assert requests(fetcher) == before, "all of it is near"
    for digest in lazy.contents:
        lazy.store.objects.verify(digest)


def test_what_mounts_and_programs_want_is_fetched_once(lazy: Partial) -> None:
    digest = lazy.in_order()[0]
    with lazy.fetcher() as fetcher, ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(taken, fetcher, digest) for _ in range(4)]
        asked = [pool.submit(get, fetcher, digest) for _ in range(4)]
        assert {reader.result() for reader in readers} == {lazy.contents[digest]}
        assert [each.result() for each in asked] == [[0]] * 4
        assert requests(fetcher) <= 3  # its frames, and what is ahead of it


def test_what_no_source_has(lazy: Partial) -> None:
    missing = bytes(32)
    with lazy.fetcher() as fetcher:
        assert not fetcher.content.has(missing)
        with pytest.raises(NotFoundError, match="no source"):
            fetcher.content.get(missing)


def test_damage_here_is_fetched_again(lazy: Partial) -> None:
    """It goes into the quarantine; where others use the store it is left, and read from the source."""
    digests = [lazy.in_order()[0], verity_digest(LARGE)]
    with lazy.fetcher() as fetcher:
        assert [taken(fetcher, digest) for digest in digests] == [lazy.contents[digest] for digest in digests]
    for digest in digests:
        data = lazy.contents[digest]
        path = spoil(lazy, digest, data[:-1] + b"?")
        with lazy.fetcher() as fetcher:
            with Store.open(lazy.store.root).locks.store():
                assert taken(fetcher, digest) == data
            assert path.read_bytes() != data
            assert taken(fetcher, digest) == data
        lazy.store.objects.verify(digest)
        (kept,) = lazy.store.root.glob(f"quarantine/*/objects/{digest.hex()[:2]}/{digest.hex()[2:]}")
        assert kept.read_bytes().endswith(b"?")


def test_a_source_that_lies(lazy: Partial) -> None:
    for pack in lazy.packs:
        data = bytearray(pack.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
        pack.write_bytes(data)
    right = 0
    with lazy.fetcher() as fetcher:
        for digest, data in lazy.contents.items():
            with contextlib.suppress(StratumError):
                assert taken(fetcher, digest) == data
                right += 1
    assert 0 < right < len(lazy.contents)


def test_nothing_is_stored_or_deleted_by_this_way(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        with pytest.raises(UnsupportedError):
            fetcher.content.put(b"new")
        with pytest.raises(UnsupportedError):
            fetcher.content.delete(lazy.in_order()[0])
        with pytest.raises(UnsupportedError):
            fetcher.content.near.delete(lazy.in_order()[0])


def test_what_is_near_by_is_a_store_of_its_own(lazy: Partial) -> None:
    """It lists what has its name, keeps what it is given, and gives nothing that is damaged."""
    with lazy.fetcher() as fetcher:
        near, digest = fetcher.content.near, lazy.in_order()[0]
        assert near.keep(io.BytesIO(lazy.contents[digest])) == digest
        assert near.has(digest)
        assert near.put(lazy.contents[lazy.in_order()[1]]) == lazy.in_order()[1]
        fetcher.landing.publish()
        assert {entry[:2] for entry in near.entries()} == {
            (each, len(lazy.contents[each])) for each in lazy.in_order()[:2]
        }
        assert taken(fetcher, digest) == lazy.contents[digest]
        assert requests(fetcher) == 0
    spoil(lazy, digest, b"?" * len(lazy.contents[digest]))
    with lazy.fetcher() as fetcher, pytest.raises(DamagedError), fetcher.content.near.get(digest) as stream:
        stream.read()


def test_after_the_end(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        fetcher.close()
        for digest in (lazy.in_order()[0], verity_digest(LARGE)):
            assert not fetcher.content.near.has(digest)
            assert fetcher.content.near.size(digest) is None
            with pytest.raises(StratumError):
                fetcher.content.get(digest).read()
