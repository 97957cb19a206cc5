"""What every content store has to hold to (``stratum.content.base``): the tests that each implementer runs.

A new store is a class of tests with a ``Pantry`` of it as the fixture ``pantry``.
"""

from __future__ import annotations

import io
import os
import random
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import pytest

from stratum.c4.ids import C4Id, id_of_bytes, id_of_digest
from stratum.content import ContentStore
from stratum.content.streams import PIECE
from stratum.errors import DamagedError, NotFoundError, UsageError

SMALL = b"a content"
LARGE = random.Random(5).randbytes(PIECE + 300_077)
SIZES = (0, 1, 4096, PIECE, PIECE + 1)

HOSTILE = (
    "",
    "c4",
    "../../../etc/passwd",
    "c4/" + "1" * 87,
    "c4" + "1" * 87 + "/",
    "c4" + "1" * 87 + "\n",
    "c4" + "0" * 88,
    "c4" + "z" * 88,
    "c4" + "1" * 89,
    "c4" + "1" * 86 + "\0\0",
    "." * 90,
    "x" * 5000,
    None,
    b"c4" + b"1" * 88,
    7,
)
"""What is no ID, and would be a path elsewhere."""


class Pantry(ABC):
    """One store of the kind that is tested; nothing is in it."""

    lasts = True
    """Whether another object for the same store finds what was put by the first."""

    @abstractmethod
    def open(self) -> ContentStore[C4Id]:
        """The store; another object each time, where it lasts."""

    @abstractmethod
    def spoil(self, c4id: C4Id, data: bytes) -> None:
        """Have ``data`` be where the content is."""


class Pipe(io.RawIOBase):
    """A stream that cannot be rewound, and gives little at a time."""

    def __init__(self, data: bytes, *, fails: bool = False) -> None:
        self._file = io.BytesIO(data)
        self._fails = fails

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(min(size, 100_001))
        if not data and self._fails:
            raise OSError("the pipe broke")
        return data


def taken(store: ContentStore[C4Id], c4id: C4Id) -> bytes:
    """All of a content."""
    with store.get(c4id) as stream:
        return stream.read()


def given(store: ContentStore[C4Id], c4id: C4Id) -> bytes:
    """What a store gives of a content that it notices to be damaged."""
    found = b""
    with pytest.raises(DamagedError, match=c4id), store.get(c4id) as stream:  # noqa: PT012  # what came before counts
        while piece := stream.read(100_000):
            found += piece
    return found


def count(store: ContentStore[C4Id], c4id: C4Id, most: int = 1000) -> int:
    """How many references the store counts; they are gone then."""
    number = 0
    while store.has(c4id):
        store.delete(c4id)
        number += 1
        assert number < most, "the content never goes"
    return number


class ContentContract:
    """Put, get, has, delete."""

    @pytest.fixture
    def pantry(self) -> Pantry:
        raise NotImplementedError

    @pytest.fixture
    def store(self, pantry: Pantry) -> ContentStore[C4Id]:
        return pantry.open()

    def test_what_is_put_is_given(self, pantry: Pantry, store: ContentStore[C4Id]) -> None:
        for size in SIZES:
            data = LARGE[:size]
            c4id = store.put(io.BytesIO(data))
            assert c4id == id_of_bytes(data)
            assert store.has(c4id)
            assert store.size(c4id) == size
            assert taken(store, c4id) == data
        if pantry.lasts:
            other = pantry.open()
            assert all(taken(other, id_of_bytes(LARGE[:size])) == LARGE[:size] for size in SIZES)

    def test_bytes_and_pipes(self, store: ContentStore[C4Id]) -> None:
        assert taken(store, store.put(LARGE)) == LARGE
        pipe: BinaryIO = Pipe(SMALL + LARGE)  # type: ignore[assignment]
        assert taken(store, store.put(pipe)) == SMALL + LARGE
        rest = io.BytesIO(b"head" + SMALL)
        rest.seek(4)
        assert store.put(rest) == id_of_bytes(SMALL)

    def test_streams_are_files(self, store: ContentStore[C4Id]) -> None:
        c4id = store.put(LARGE)
        with store.get(c4id) as stream:
            assert stream.readable()
            assert not stream.writable()
            assert stream.read(0) == b""
            assert stream.read(10) == LARGE[:10]
            buffer = bytearray(100)
            assert stream.readinto(buffer) == 100  # type: ignore[attr-defined]
            assert bytes(buffer) == LARGE[10:110]
            assert stream.read() == LARGE[110:]
            assert stream.read() == b""
        with store.get(c4id) as left_early:
            assert left_early.read(1) == LARGE[:1]

    def test_many_at_once(self, store: ContentStore[C4Id]) -> None:
        contents = [b"%d" % (number % 20) for number in range(40)] + [LARGE, SMALL]
        ids = list(store.put_all(io.BytesIO(data) for data in contents))
        assert ids == [id_of_bytes(data) for data in contents]
        assert taken(store, id_of_bytes(b"7")) == b"7"
        assert taken(store, ids[-2]) == LARGE
        assert count(store, id_of_bytes(b"7")) == 2
        assert count(store, ids[-1]) == 1

    def test_references_are_counted(self, pantry: Pantry, store: ContentStore[C4Id]) -> None:
        c4id = store.put(SMALL)
        assert store.put(io.BytesIO(SMALL)) == c4id
        store.delete(c4id)
        second = pantry.open() if pantry.lasts else store
        assert taken(second, c4id) == SMALL, "one reference is left"
        second.delete(c4id)
        assert not store.has(c4id)
        with pytest.raises(NotFoundError):
            store.get(c4id)
        assert store.put(SMALL) == c4id
        assert count(store, c4id) == 1, "nothing is left of the count"
        for _ in range(5):
            store.put(LARGE)
        assert count(store, id_of_bytes(LARGE)) == 5

    def test_what_is_not_there(self, store: ContentStore[C4Id]) -> None:
        missing = id_of_bytes(b"nothing")
        assert not store.has(missing)
        assert store.size(missing) is None
        with pytest.raises(NotFoundError, match=missing):
            store.get(missing)
        with pytest.raises(NotFoundError, match=missing):
            store.delete(missing)

    def test_what_is_no_id(self, store: ContentStore[C4Id]) -> None:
        for name in HOSTILE:
            for method in (store.get, store.has, store.size, store.delete):
                with pytest.raises(UsageError):
                    method(name)  # type: ignore[arg-type]

    def test_what_is_no_stream(self, store: ContentStore[C4Id]) -> None:
        for wrong in (io.StringIO("text"), "text", 7, None):
            with pytest.raises(UsageError):
                store.put(wrong)  # type: ignore[arg-type]

    def test_a_stream_that_breaks(self, store: ContentStore[C4Id]) -> None:
        for data in (SMALL, LARGE):
            pipe: BinaryIO = Pipe(data, fails=True)  # type: ignore[assignment]
            with pytest.raises(OSError, match="the pipe broke"):
                store.put(pipe)
            assert not store.has(id_of_bytes(data))

    def test_damage(self, pantry: Pantry, store: ContentStore[C4Id]) -> None:
        """What is damaged is never given as a whole, and is right again when it was put again."""
        for data in (SMALL, LARGE):
            for spoilt in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], data + b"!"):
                c4id = store.put(data)
                pantry.spoil(c4id, spoilt)
                found = given(store, c4id)
                assert found != data
                assert data.startswith(found) or spoilt.startswith(found)
                if len(spoilt) <= PIECE:
                    assert found == b"", "what is looked at in one piece is not given at all"
                store.put(data)
                assert taken(store, c4id) == data

    def test_threads(self, store: ContentStore[C4Id]) -> None:
        """Each reference that threads count is there, however they come together."""
        contents = [b"%d" % number for number in range(4)] + [LARGE]

        def work(seed: int) -> list[int]:
            mine, chance = [0] * len(contents), random.Random(seed)
            for _ in range(8):
                number = chance.randrange(len(contents))
                c4id = id_of_bytes(contents[number])
                if mine[number] and chance.random() < 0.5:
                    store.delete(c4id)
                    mine[number] -= 1
                else:
                    assert store.put(io.BytesIO(contents[number])) == c4id
                    mine[number] += 1
                if mine[number]:
                    assert taken(store, c4id) == contents[number]
            return mine

        with ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(work, range(4)))
        for data, expected in zip(contents, map(sum, zip(*counts, strict=True)), strict=True):
            assert count(store, id_of_bytes(data)) == expected

    def test_nothing_is_left_open(self, store: ContentStore[C4Id]) -> None:
        c4id = store.put(LARGE)
        store.get(c4id).close()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(8):
            store.put(SMALL)
            with store.get(c4id) as stream:
                stream.read(10)
            store.get(c4id).close()
            with pytest.raises(NotFoundError):
                store.get(id_of_digest(bytes(64)))
        assert len(os.listdir("/proc/self/fd")) <= before + 2
