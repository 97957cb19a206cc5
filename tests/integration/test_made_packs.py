"""Packs that are made for several clients: each piece once, in bounded room, and nothing is left of it."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.store import Store, madepacks
from stratum.store.budget import Budget
from stratum.store.madepacks import PIECE, MadePacks

pytestmark = pytest.mark.root
FREE = Budget(min_free=0)


class Pack:
    """A pack that counts which pieces of it are made."""

    def __init__(self, number: int, size: int) -> None:
        self.data = random.Random(number).randbytes(size)
        self.name = hashlib.sha256(self.data).hexdigest()
        self.made: list[int] = []

    def read(self, start: int, end: int) -> Iterator[bytes]:
        self.made.append(start)
        for at in range(start, end, 100_000):
            yield self.data[at : min(at + 100_000, end)]

    def asked(self, packs: MadePacks) -> bool:
        """Whether it is kept once somebody asked for it."""
        packs.ask(self.name, len(self.data))
        kept = packs.take(self.name)
        if kept is not None:
            packs.give_back(kept)
        return kept is not None


def files() -> int:
    """How many files without a name this process has open."""
    names = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(os.path.lexists(name) and os.readlink(name).endswith("(deleted)") for name in names)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def test_who_asks_second_has_it_kept_and_each_piece_is_made_once(store: Store) -> None:
    packs, pack, before = MadePacks(store.layout, FREE, 10 << 20), Pack(1, 3 * PIECE + 12345), files()
    assert not pack.asked(packs)
    assert files() == before
    assert pack.asked(packs)
    start = threading.Barrier(6)

    def client(number: int) -> bytes:
        kept = packs.take(pack.name)
        assert kept is not None
        start.wait()
        at, came = number * 1000, b""
        while at < len(pack.data):
            end = kept.made_until(at)
            if end == at:
                assert packs.make(pack.name, at, pack.read)
                end = kept.made_until(at)
            came += os.pread(kept.fileno(), end - at, at)
            at = end
        packs.give_back(kept)
        return came

    with ThreadPoolExecutor(6) as pool:
        for number, came in enumerate(pool.map(client, range(6))):
            assert came == pack.data[number * 1000 :]
    assert sorted(pack.made) == [0, PIECE, 2 * PIECE, 3 * PIECE]
    assert files() == before + 1
    assert sorted(os.listdir(store.root)) == sorted(os.listdir(Store.create(store.root.parent / "other").root))


def test_room_is_bounded_and_what_is_read_stays(store: Store) -> None:
    packs = MadePacks(store.layout, FREE, 5 * PIECE)
    first, second, third, large = Pack(1, 2 * PIECE), Pack(2, 2 * PIECE), Pack(3, 3 * PIECE), Pack(4, 6 * PIECE)
    before = files()
    for pack in (first, second, third, large):
        assert not pack.asked(packs)
    assert first.asked(packs)
    assert second.asked(packs)
    assert not large.asked(packs)
    used = packs.take(first.name)
    assert used is not None
    assert packs.make(first.name, 0, first.read)
    assert third.asked(packs)  # for which the second goes, as the first is read
    assert packs.take(second.name) is None
    other = packs.take(third.name)
    assert other is not None
    assert not second.asked(packs)
    packs.give_back(used)
    packs.give_back(other)
    assert second.asked(packs)
    assert files() == before + 2
    assert packs.take(first.name) is None
    for budget, most, kept in (
        (FREE, 0, False),
        (Budget(min_free=99, is_set=True), 5 * PIECE, False),
        (Budget(min_free=99), 5 * PIECE, True),
    ):
        packs = MadePacks(store.layout, budget, most)
        assert [first.asked(packs) for _ in range(3)] == [False, kept, kept]


def test_what_nobody_asks_for_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(madepacks, "_LOOK_EACH", 0.01)
    packs, pack, before = MadePacks(store.layout, FREE, 5 * PIECE), Pack(1, PIECE), files()
    assert not pack.asked(packs)
    assert pack.asked(packs)
    kept = packs.take(pack.name)
    assert kept is not None
    monkeypatch.setattr(madepacks, "KEPT", 0.0)
    assert files() == before + 1  # somebody has it
    packs.give_back(kept)
    while files() > before:
        pass
    assert packs.take(pack.name) is None
    assert not pack.asked(packs)


def test_what_cannot_be_made_is_not_kept(store: Store, tmp_path: Path) -> None:
    pack, wrong = Pack(1, 2 * PIECE), Pack(2, 2 * PIECE)

    def fails(start: int, end: int) -> Iterator[bytes]:
        yield pack.data[:10]
        raise DamagedError("an object is gone")

    packs = MadePacks(store.layout, FREE, 5 * PIECE)
    assert not pack.asked(packs)
    assert pack.asked(packs)
    kept = packs.take(pack.name)
    assert kept is not None
    with pytest.raises(DamagedError):
        packs.make(pack.name, 0, fails)
    assert kept.made_until(0) == 0
    assert packs.make(pack.name, 0, pack.read)
    assert not packs.make(pack.name, PIECE, wrong.read)  # other bytes than its name says
    assert packs.take(pack.name) is None
    assert not packs.make(pack.name, 0, pack.read)
    packs.give_back(kept)

    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", disk], check=True)
    try:
        packs = MadePacks(Store.create(disk / "store").layout, FREE, 5 * PIECE)
        assert not pack.asked(packs)
        assert pack.asked(packs)
        kept = packs.take(pack.name)
        assert kept is not None
        assert packs.make(pack.name, 0, pack.read)
        with pytest.raises(OSError, match="No space left"):
            (disk / "full").write_bytes(bytes(4 << 20))
        assert not packs.make(pack.name, PIECE, pack.read)
        packs.give_back(kept)
    finally:
        subprocess.run(["umount", disk], check=True)
