"""Landing: objects are readable when verified, named when on disk, and nothing else ever gets a name."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.errors import BusyError, DamagedError, StratumError
from stratum.hydrate import landing as module
from stratum.hydrate import unpack
from stratum.hydrate.landing import Landing
from stratum.store import Store
from stratum.store.layout import NoSpaceError
from stratum.store.objects import Staging
from tests.support.fetching import until

DATA = random.Random(1).randbytes(10_000)
DIGEST = verity_digest(DATA)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def landed(store: Store, digest: bytes = DIGEST) -> Path:
    return store.layout.landing / digest.hex()[:2] / digest.hex()[2:]


def test_an_object_can_be_read_before_it_has_a_name_and_afterwards(store: Store) -> None:
    landing = Landing(store)
    landing.add(DIGEST, DATA)
    assert landing.has(DIGEST, len(DATA))
    assert not store.objects.has(DIGEST)
    assert landed(store).read_bytes() == DATA
    assert landed(store).stat().st_mode & 0o7777 == 0o444
    landing.publish()
    assert store.objects.verify(DIGEST) == len(DATA)
    assert landed(store).read_bytes() == DATA, "whoever was told of it finds it"
    landing.close()
    assert store.objects.path(DIGEST).stat().st_mode & 0o7777 == 0o444


def test_names_come_by_themselves_and_landing_is_left_when_that_is_long_ago(store: Store) -> None:
    landing = Landing(store, publish_seconds=0.05, kept_seconds=0.2)
    landing.add(DIGEST, DATA)
    until(lambda: store.objects.has(DIGEST))
    until(lambda: not landed(store).exists())
    assert store.objects.verify(DIGEST) == len(DATA)
    landing.close()


def test_what_nobody_asked_for_is_found_before_the_gate_and_shown_to_who_asks(store: Store) -> None:
    landing = Landing(store, publish_seconds=1000, kept_seconds=0)
    landing.putter.put(DIGEST, DATA, ahead=True)
    assert not landing.has(DIGEST, len(DATA))
    landing.landed(DIGEST, len(DATA), ahead=True)
    ahead = store.layout.ahead / DIGEST.hex()[:2] / DIGEST.hex()[2:]
    assert landing.has(DIGEST, len(DATA))
    assert ahead.read_bytes() == DATA
    assert not landed(store).exists()
    for _ in range(2):
        landing.show(DIGEST)
        assert landed(store).read_bytes() == DATA
    other = DATA[1:]
    landing.putter.put(verity_digest(other), other, ahead=True)
    landing.landed(verity_digest(other), len(other), ahead=True)
    landing.publish()
    for data in (DATA, other):
        assert store.objects.verify(verity_digest(data)) == len(data)
    landing.publish()
    assert not ahead.exists()
    assert not landed(store).exists()
    landing.show(verity_digest(other))  # whoever asked while it went: it is in the store
    landing.close()


def test_what_is_on_its_way_to_the_disk_has_landed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    landing = Landing(store, publish_seconds=1000)
    seen = []
    monkeypatch.setattr(module, "syncfs", lambda _fd: seen.append(landing.has(DIGEST, len(DATA))))
    landing.add(DIGEST, DATA)
    landing.close()
    assert seen == [True]


def test_many_bytes_are_named_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUBLISH_BYTES", len(DATA))
    landing = Landing(store, publish_seconds=1000)
    landing.add(DIGEST, DATA)
    until(lambda: store.objects.has(DIGEST))
    landing.close()


def test_what_is_not_what_its_digest_says_never_lands(store: Store) -> None:
    landing = Landing(store)
    with pytest.raises(DamagedError, match="do not match its digest"):
        landing.add(DIGEST, DATA[:-1])
    arriving = landing.arriving(DIGEST, len(DATA))
    arriving.write(DATA[:5000])
    with pytest.raises(DamagedError):
        arriving.done()
    arriving = landing.arriving(DIGEST, len(DATA))
    arriving.write(bytes(len(DATA)))
    with pytest.raises(DamagedError):
        arriving.done()
    assert not landing.has(DIGEST, len(DATA))
    assert not os.listdir(store.layout.landing / "new")
    landing.close()
    assert not store.objects.has(DIGEST)


def test_what_comes_in_pieces_lands_whole(store: Store) -> None:
    landing = Landing(store)
    arriving = landing.arriving(DIGEST, len(DATA))
    for start in range(0, len(DATA), 777):
        arriving.write(memoryview(DATA)[start : start + 777])
        assert not landing.has(DIGEST, len(DATA))
    arriving.done()
    assert landed(store).read_bytes() == DATA
    landing.close()
    assert store.objects.verify(DIGEST) == len(DATA)


def test_what_a_dead_worker_left_is_deleted_but_for_parts_and_directories(store: Store) -> None:
    landing = Landing(store, publish_seconds=1000)
    landing.add(DIGEST, DATA)
    part = landing.parts.directory / ("ab" * 32)
    part.write_bytes(b"some")
    (store.layout.landing / "new" / "17").write_bytes(b"half")
    landing._lock.release()  # as its death would
    directory = landed(store).parent
    inode = directory.stat().st_ino
    second = Landing(store)
    assert not landed(store).exists()
    assert directory.stat().st_ino == inode, "it is a layer of mounts"
    assert part.exists()
    assert not os.listdir(store.layout.landing / "new")
    assert not store.objects.has(DIGEST)
    second.close()


def test_a_landing_has_one_owner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OWNER_WAIT", 0.05)
    landing = Landing(store)
    with pytest.raises(BusyError, match="the landing of"):
        Landing(store)
    landing.close()
    Landing(store).close()


def test_a_damaged_object_of_the_name_is_replaced_and_a_whole_one_kept(store: Store) -> None:
    path = store.objects.path(DIGEST)
    path.parent.mkdir()
    path.write_bytes(DATA[:-1])
    landing = Landing(store)
    landing.add(DIGEST, DATA)
    landing.publish()
    assert path.read_bytes() == DATA
    inode = path.stat().st_ino
    landing.add(DIGEST, DATA)
    landing.publish()
    assert path.stat().st_ino == inode
    landing.close()
    assert not [name for name in os.listdir(path.parent) if name != path.name]


def test_something_else_than_a_file_in_its_place_is_told_and_in_nobodys_way(store: Store) -> None:
    other = random.Random(2).randbytes(5000)
    path = store.objects.path(DIGEST)
    path.mkdir(parents=True)
    log: list[str] = []
    landing = Landing(store, log=log.append)
    landing.add(DIGEST, DATA)
    landing.add(verity_digest(other), other)
    landing.publish()
    assert "something else than a file" in log[0]
    assert store.objects.has(verity_digest(other))
    assert landing.has(DIGEST, len(DATA))
    landing.close()


def failing(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, code: int) -> Callable[[], None]:
    """Have a function fail with an errno until the call that is returned."""
    real = getattr(owner, name)

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(owner, name, fails)
    return lambda: monkeypatch.setattr(owner, name, real)


def test_a_sync_that_failed_has_lost_bytes_so_nothing_of_it_gets_a_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    landing = Landing(store, log=log.append, publish_seconds=1000)
    landing.add(DIGEST, DATA)
    works = failing(monkeypatch, module, "syncfs", errno.EIO)
    landing.publish()
    assert "could not be written to disk" in log[0]
    works()
    landing.publish()
    assert not store.objects.has(DIGEST)
    assert not landing.has(DIGEST, len(DATA)), "it is fetched again when it is asked for"
    landing.add(DIGEST, DATA)
    landing.publish()
    assert store.objects.verify(DIGEST) == len(DATA)
    landing.close()


def test_names_that_cannot_be_given_are_given_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    landing = Landing(store, log=log.append, publish_seconds=1000)
    landing.add(DIGEST, DATA)
    works = failing(monkeypatch, os, "link", errno.ENOSPC)
    landing.publish()
    assert "get no names yet" in log[0]
    assert landing.has(DIGEST, len(DATA))
    works()
    landing.publish()
    assert store.objects.verify(DIGEST) == len(DATA)
    landing.close()


def in_pieces(landing: Landing) -> None:
    arriving = landing.arriving(DIGEST, len(DATA))
    arriving.write(DATA)
    arriving.done()


@pytest.mark.parametrize("call", ["write_all", "Staging.place"])
def test_a_full_disk_leaves_nothing_half_written(store: Store, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    landing = Landing(store)
    owners = [(module, call), (unpack, call)] if "." not in call else [(Staging, "place")]
    works = [failing(monkeypatch, owner, name, errno.ENOSPC) for owner, name in owners]
    with pytest.raises(NoSpaceError, match="write object"):
        landing.add(DIGEST, DATA)
    with pytest.raises(NoSpaceError):
        in_pieces(landing)
    assert not os.listdir(store.layout.landing / "new")
    assert not landing.has(DIGEST, len(DATA))
    for work in works:
        work()
    landing.add(DIGEST, DATA)
    landing.close()
    assert store.objects.verify(DIGEST) == len(DATA)


def test_room_is_made_before_something_is_written(store: Store) -> None:
    asked: list[int] = []
    landing = Landing(store, before=asked.append)
    landing.add(DIGEST, DATA)
    assert asked == [len(DATA)]
    landing.close()


def test_a_store_that_cannot_be_written_to_is_an_error(tmp_path: Path, store: Store) -> None:
    store.layout.landing.write_bytes(b"")
    with pytest.raises(StratumError, match="cannot write to"):
        Landing(store)
