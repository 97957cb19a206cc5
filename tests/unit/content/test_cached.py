"""A near store before a far one: what is fetched, what is kept, what goes."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from stratum.c4.ids import C4Id, id_of_bytes
from stratum.content import CachedStore, ContentSource, LocalStore, MemoryStore
from stratum.content.base import Stream
from stratum.content.streams import PIECE
from stratum.errors import DamagedError, NotFoundError, StratumError, UnreachableError, UnsupportedError

LARGE = bytes(range(251)) * 5_000


class Far(MemoryStore):
    """A far store that notes what is read from it, may be away, and may make readers wait."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[C4Id] = []
        self.is_away = False
        self.gate: threading.Event | None = None

    def get(self, content_id: C4Id) -> BinaryIO:
        self.reads.append(content_id)
        if self.gate is not None:
            assert self.gate.wait(60)
        if self.is_away:
            raise UnreachableError("the far store cannot be reached")
        return super().get(content_id)

    def put(self, stream: Stream) -> C4Id:
        if self.is_away:
            raise UnreachableError("the far store cannot be reached")
        return super().put(stream)


def taken(store: ContentSource[C4Id], c4id: C4Id) -> bytes:
    with store.get(c4id) as stream:
        return stream.read()


@pytest.fixture
def far() -> Far:
    return Far()


@pytest.fixture
def near(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "near", durable=False)


def path_of(near: LocalStore, c4id: C4Id) -> Path:
    return near.root / "c4" / c4id[2:4] / c4id


def test_what_was_read_once_is_near(near: LocalStore, far: Far) -> None:
    ids = [far.put(data) for data in (b"one", LARGE)]
    store = CachedStore(near, far)
    for c4id in ids * 3:
        assert id_of_bytes(taken(store, c4id)) == c4id
    assert far.reads == ids
    far.is_away = True
    again = CachedStore(LocalStore(near.root), far)
    assert taken(again, ids[1]) == LARGE
    assert again.has(ids[0])


def test_what_is_put_is_near_and_far(near: LocalStore, far: Far) -> None:
    store = CachedStore(near, far)
    c4id = store.put(io.BytesIO(LARGE))
    assert far.has(c4id)
    assert taken(store, c4id) == LARGE
    assert far.reads == []
    store.put(LARGE)
    store.delete(c4id)
    assert near.has(c4id), "a reference is left"
    store.delete(c4id)
    assert not near.has(c4id)
    assert not far.has(c4id)


def test_a_put_that_fails_leaves_nothing(near: LocalStore, far: Far) -> None:
    far.is_away = True
    store = CachedStore(near, far)
    with pytest.raises(UnreachableError):
        store.put(b"one")
    assert not near.has(id_of_bytes(b"one"))


@pytest.mark.parametrize("data", [b"one" * 100, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "of another process"])
def test_damage_near_by_comes_from_far_again(near: LocalStore, far: Far, data: bytes, known: bool) -> None:
    """Nobody sees any of it; but for what is damaged after this process compared it, and is too large for one look."""
    c4id = far.put(data)
    store = CachedStore(near, far)
    assert taken(store, c4id) == data
    assert taken(store, c4id) == data
    path_of(near, c4id).write_bytes(data[:-1] + b"!")
    if not known:
        store = CachedStore(LocalStore(near.root), far)
    elif len(data) > PIECE:
        with pytest.raises(DamagedError):
            taken(store, c4id)
    assert taken(store, c4id) == data
    assert far.reads == [c4id, c4id]
    assert path_of(near, c4id).read_bytes() == data


def test_damage_far_away_is_told_and_not_kept(near: LocalStore, far: Far) -> None:
    store = CachedStore(near, far)
    for data in (b"one", LARGE):
        c4id = far.put(data)
        far._held[c4id].data = data[:-1]
        with pytest.raises(DamagedError, match=c4id):
            taken(store, c4id)
        assert not near.has(c4id)


def test_who_wants_the_same_waits_for_one_fetch(near: LocalStore, far: Far) -> None:
    c4id = far.put(LARGE)
    store, far.gate = CachedStore(near, far), threading.Event()
    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(taken, store, c4id) for _ in range(6)]
        while not far.reads:
            pass
        far.gate.set()
        assert all(reader.result() == LARGE for reader in readers)
    assert far.reads == [c4id]


def test_the_limit(near: LocalStore, far: Far) -> None:
    """What was not used for the longest time goes; what is read stays; what is larger than the limit is not kept."""
    ids = [far.put(bytes([number]) * 1000) for number in range(30)]
    huge = far.put(bytes(10_001))
    store = CachedStore(near, far, limit=10_000)
    with store.get(ids[0]) as reading:
        for number, c4id in enumerate(ids):
            taken(store, ids[1])
            taken(store, c4id)
            assert sum(entry[1] for entry in near.entries()) <= 10_000
            assert near.has(ids[0]), "it is being read"
            assert number < 1 or near.has(ids[1]), "it was used all the time"
        assert reading.read() == bytes(1000)
    assert near.has(ids[-1])
    assert not near.has(ids[5])
    assert taken(store, huge) == bytes(10_001)
    assert not near.has(huge)
    assert near.has(ids[-1]), "nothing had to go for what is not kept"


def test_the_limit_holds_for_what_is_put(near: LocalStore, far: Far) -> None:
    class Pipe(io.RawIOBase):
        rest = 20

        def read(self, size: int = -1, /) -> bytes:
            self.rest -= 1
            return bytes([self.rest]) * 1000 if self.rest > 0 else b""

    store = CachedStore(near, far, limit=10_000)
    for number in range(30):
        assert far.has(store.put(bytes([number]) * 1000))
        assert sum(entry[1] for entry in near.entries()) <= 10_000
    pipe: BinaryIO = Pipe()  # type: ignore[assignment]
    assert far.size(store.put(pipe)) == 19_000
    assert sum(entry[1] for entry in near.entries()) <= 10_000


def test_all_of_it_is_being_read(near: LocalStore, far: Far) -> None:
    ids = [far.put(bytes([number]) * 1000) for number in range(4)]
    store = CachedStore(near, far, limit=2500)
    streams = [store.get(c4id) for c4id in ids]
    assert sum(entry[1] for entry in near.entries()) == 2000
    for number, stream in enumerate(streams):
        assert stream.read() == bytes([number]) * 1000
        stream.close()
    assert not store._reading, "a stream that is closed keeps nothing"


def test_two_processes_share_a_limit(near: LocalStore, far: Far) -> None:
    one, other = (CachedStore(LocalStore(near.root, durable=False), far, limit=20_000) for _ in range(2))
    for number in range(60):
        c4id = far.put(b"%4d" % number * 250)
        taken((one, other)[number % 2], c4id)
        assert sum(entry[1] for entry in near.entries()) <= 20_000 + 2 * 2000


def test_threads_under_a_limit(near: LocalStore, far: Far) -> None:
    ids = [far.put(b"%4d" % number * 250) for number in range(20)]
    store = CachedStore(near, far, limit=5000)

    def read(start: int) -> None:
        for number in range(60):
            c4id = ids[(start * 7 + number * 3) % 20]
            assert id_of_bytes(taken(store, c4id)) == c4id

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert sum(entry[1] for entry in near.entries()) <= 5000
    assert not store._reading
    assert not store._coming


def test_what_is_on_its_way_counts(near: LocalStore, far: Far) -> None:
    """Four are fetched at once where three have room: one of them is not kept."""
    ids = [far.put(bytes([number]) * 1000) for number in range(4)]
    store, far.gate = CachedStore(near, far, limit=3000), threading.Event()
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(taken, store, c4id) for c4id in ids]
        while len(far.reads) < 4:
            pass
        far.gate.set()
        assert [reader.result() for reader in readers] == [bytes([number]) * 1000 for number in range(4)]
    assert sum(entry[1] for entry in near.entries()) == 3000
    assert not store._expected


def test_a_near_store_that_cannot_be_written_to(far: Far) -> None:
    class Full(MemoryStore):
        def keep(self, stream: Stream) -> C4Id:
            raise StratumError("No space left on device")

    store = CachedStore(Full(), far)
    c4id = far.put(LARGE)
    assert taken(store, c4id) == LARGE
    assert taken(store, store.put(b"one")) == b"one"
    far.is_away = True
    with pytest.raises(UnreachableError):
        store.get(c4id)


def test_what_is_behind_may_be_for_reading_only(near: LocalStore, far: Far) -> None:
    class Source(ContentSource[C4Id]):
        def get(self, content_id: C4Id) -> BinaryIO:
            return far.get(content_id)

        def size(self, content_id: C4Id) -> int | None:
            return far.size(content_id)

    c4id = far.put(b"one")
    store = CachedStore(near, Source())
    assert taken(store, c4id) == b"one"
    with pytest.raises(UnsupportedError):
        store.put(b"two")
    with pytest.raises(UnsupportedError):
        store.delete(c4id)


def test_deleting_what_is_near_only(near: LocalStore, far: Far) -> None:
    c4id = near.put(b"one")
    store = CachedStore(near, far)
    with pytest.raises(NotFoundError):
        store.delete(c4id)
    assert not store.has(c4id)
