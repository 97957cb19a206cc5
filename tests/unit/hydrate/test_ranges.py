"""Large objects: read in parts, each verified, from a place that may lie; whole ones become ordinary objects."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError
from stratum.hydrate import wants
from stratum.hydrate.fetch import Fetcher
from stratum.hydrate.landing import Landing
from stratum.hydrate.parts import CHUNK, Part
from stratum.transfer.packs import LARGE_OBJECT
from tests.support.chunks import level1_hashes
from tests.support.fetching import READER, Answers, Partial, get, partial, read, until

SIZE = LARGE_OBJECT + 3 * CHUNK + 12345
LARGE = b"".join(random.Random(n).randbytes(SIZE // 16) + bytes(SIZE // 16) for n in range(8))
LARGE += random.Random(9).randbytes(SIZE - len(LARGE))
DIGEST = verity_digest(LARGE)


@pytest.fixture
def lazy(tmp_path: Path) -> Partial:
    return partial(tmp_path, {b"large": LARGE, b"small": LARGE[:5000]})


def requests(fetcher: Fetcher) -> int:
    return sum(int(source["requests"]) for source in fetcher.status()["sources"])


def pack_of(lazy: Partial) -> Path:
    number = lazy.catalog.find(DIGEST)
    assert number is not None
    return lazy.blob(lazy.catalog.packs[lazy.catalog.member(number).pack].pack.sha256)


def damage(path: Path, at: int) -> bytes:
    """Flip bits of a file; what it was."""
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:at] + bytes(byte ^ 255 for byte in good[at : at + 100]) + good[at + 100 :])
    return good


def test_a_mebibyte_in_the_middle_costs_three_requests_at_most(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        assert fetcher.is_large(DIGEST)
        assert read(fetcher, DIGEST, SIZE // 2, 1 << 20) == (0, LARGE[SIZE // 2 : SIZE // 2 + (1 << 20)])
        assert requests(fetcher) <= 3
        assert fetcher.condition(DIGEST) == "unreal"


def test_any_range_is_right(lazy: Partial) -> None:
    rng = random.Random(4)
    with lazy.fetcher() as fetcher:
        for _ in range(40):
            start = rng.randrange(SIZE + 1000)
            size = rng.choice([0, 1, 4096, 100_000, 1 << 20, 5 << 20])
            assert read(fetcher, DIGEST, start, size) == (0, LARGE[start : start + size])
        assert read(fetcher, bytes(32), 0, 1) == (errno.ENOENT, b"")


def test_who_reads_on_has_more_fetched_ahead(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        for start in range(0, SIZE, 1 << 20):
            assert read(fetcher, DIGEST, start, 1 << 20) == (0, LARGE[start : start + (1 << 20)])
        (source,) = fetcher.status()["sources"]
        assert source["requests"] < 16
        assert source["bytes"] < 1.2 * pack_of(lazy).stat().st_size


def test_one_that_is_whole_becomes_an_ordinary_object_and_mounts_are_told(lazy: Partial) -> None:
    told: list[bytes] = []
    with lazy.fetcher(realized=told.append) as fetcher:
        for start in range(0, SIZE, 1 << 20):
            read(fetcher, DIGEST, start, 1 << 20)
        until(lambda: told == [DIGEST])
        assert fetcher.condition(DIGEST) == "here"
        assert lazy.store.objects.verify(DIGEST) == SIZE
        assert lazy.store.objects.path(DIGEST).stat().st_mode & 0o7777 == 0o444
        assert read(fetcher, DIGEST, 77, 100) == (0, LARGE[77:177])
        assert not list((lazy.store.layout.landing / "parts").iterdir())
        lazy.store.objects.remove(DIGEST)  # it may be evicted, and come again
        assert read(fetcher, DIGEST, 77, 100) == (0, LARGE[77:177])
        assert fetcher.condition(DIGEST) == "unreal"


def test_a_place_that_lies_gives_eio_for_that_part_only(lazy: Partial) -> None:
    pack = pack_of(lazy)
    good = damage(pack, pack.stat().st_size // 2)
    with lazy.fetcher() as fetcher:
        assert read(fetcher, DIGEST, 0, 1 << 20) == (0, LARGE[: 1 << 20])
        middle = SIZE // 2 - (SIZE // 2) % CHUNK
        answers = {read(fetcher, DIGEST, start, CHUNK)[0] for start in range(middle - 4 * CHUNK, middle + CHUNK, CHUNK)}
        assert errno.EIO in answers
        assert fetcher.status()["sources"][0]["state"] == "damaged"
        assert fetcher.status()["failed"]
    pack.write_bytes(good)
    with lazy.fetcher() as fetcher:
        for start in range(0, SIZE, 1 << 20):
            assert read(fetcher, DIGEST, start, 1 << 20) == (0, LARGE[start : start + (1 << 20)])


def test_hashes_that_do_not_lead_to_the_digest_are_not_used(lazy: Partial) -> None:
    (blob,) = [pack.verity for pack in lazy.catalog.packs if pack.verity is not None]
    damage(lazy.blob(blob.sha256), 40)
    with lazy.fetcher() as fetcher:  # without hashes, all of it is fetched first
        assert read(fetcher, DIGEST, SIZE // 2, 100) == (0, LARGE[SIZE // 2 : SIZE // 2 + 100])
        assert lazy.store.objects.verify(DIGEST) == SIZE


def test_without_hashes_all_of_it_comes_before_the_first_byte(tmp_path: Path) -> None:
    lazy = partial(tmp_path, {b"large": LARGE})
    lazy.forget_hashes()
    with lazy.fetcher() as fetcher:
        answers = Answers()
        for start in (SIZE - 10, 0, SIZE // 2):
            fetcher.read_range(DIGEST, start, 10, READER, answers)
        assert answers.wait(3) == [0, 0, 0]
        assert set(answers.data) == {LARGE[at : at + 10] for at in (SIZE - 10, 0, SIZE // 2)}
        assert lazy.store.objects.verify(DIGEST) == SIZE


def test_without_hashes_a_lie_is_never_given_out(tmp_path: Path) -> None:
    lazy = partial(tmp_path, {b"large": LARGE})
    lazy.forget_hashes()
    pack = pack_of(lazy)
    good = damage(pack, pack.stat().st_size // 2)
    with lazy.fetcher() as fetcher:
        assert read(fetcher, DIGEST, 0, 10) == (errno.EIO, b"")
        assert not lazy.store.objects.has(DIGEST)
    pack.write_bytes(good)
    with lazy.fetcher() as fetcher:
        assert read(fetcher, DIGEST, 0, 10) == (0, LARGE[:10])
        assert lazy.store.objects.verify(DIGEST) == SIZE


@pytest.mark.parametrize("lie", [False, True])
def test_what_an_earlier_worker_fetched_is_used_once_it_is_verified(lazy: Partial, lie: bool) -> None:
    with lazy.fetcher() as fetcher:
        assert read(fetcher, DIGEST, 0, 4 << 20) == (0, LARGE[: 4 << 20])
        before = requests(fetcher)
        assert before > 1
    part = lazy.store.layout.landing / "parts" / DIGEST.hex()
    assert part.stat().st_size == SIZE
    if lie:  # as a disk may, after a power cut
        with part.open("r+b") as file:
            file.seek(CHUNK + 17)
            file.write(b"something else")
        Path(f"{part}.map").write_bytes(b"\1" * 1000)
    with lazy.fetcher() as fetcher:
        assert read(fetcher, DIGEST, 0, 4 << 20) == (0, LARGE[: 4 << 20])
        assert (requests(fetcher) == 0) is not lie
        for start in range(0, SIZE, 1 << 20):
            assert read(fetcher, DIGEST, start, 1 << 20) == (0, LARGE[start : start + (1 << 20)])
        until(lambda: lazy.store.objects.has(DIGEST))
    assert lazy.store.objects.verify(DIGEST) == SIZE


def test_all_of_it_can_be_fetched_by_who_wants_the_whole_and_in_the_background(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        assert get(fetcher, DIGEST) == [0]
        until(lambda: lazy.store.objects.has(DIGEST))
        assert get(fetcher, DIGEST) == [0]
    lazy.store.objects.remove(DIGEST)
    with lazy.fetcher() as fetcher:
        fetcher.prefetch("all")
        until(lambda: not fetcher.status()["prefetch"]["running"])
        assert lazy.store.objects.verify(DIGEST) == SIZE
        assert not lazy.store.sources.is_partial(lazy.commit)


def test_the_parts_that_one_run_read_are_fetched_before_the_next_one_asks(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        for start in (SIZE // 2, 0):
            assert read(fetcher, DIGEST, start, 4096)[0] == 0
    for left in (lazy.store.layout.landing / "parts").iterdir():
        left.unlink()
    with lazy.fetcher() as fetcher:
        fetcher.prefetch("profile")
        until(lambda: not fetcher.status()["prefetch"]["running"])
        before = requests(fetcher)
        for start in (SIZE // 2, 0):
            assert read(fetcher, DIGEST, start, 4096) == (0, LARGE[start : start + 4096])
        assert requests(fetcher) == before > 0


def test_readers_of_large_objects_wait_for_ever_where_that_was_asked_for(
    lazy: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stratum.hydrate.fetch.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("stratum.hydrate.remote.AVOID_SECONDS", 0.01)
    assert wants.RETRY_SECONDS
    pack = pack_of(lazy)
    away = pack.with_name("away")
    pack.rename(away)
    answers = Answers()
    with lazy.fetcher(wait=True) as fetcher:
        fetcher.read_range(DIGEST, 100, 100, READER, answers)
        until(lambda: requests(fetcher) >= 4)
        assert not answers.codes
        away.rename(pack)
        assert answers.wait() == [0]
        assert answers.data == [LARGE[100:200]]


def test_two_mounts_share_the_parts(lazy: Partial) -> None:
    landing = Landing(lazy.store)
    with lazy.fetcher(landing) as first, lazy.fetcher(landing) as second:
        assert read(first, DIGEST, 0, CHUNK) == (0, LARGE[:CHUNK])
        before = requests(second)
        assert read(second, DIGEST, 0, CHUNK) == (0, LARGE[:CHUNK])
        assert requests(second) == before == 0
        for start in range(0, SIZE, 1 << 20):
            assert read(second, DIGEST, start, 1 << 20) == (0, LARGE[start : start + (1 << 20)])
        until(lambda: lazy.store.objects.has(DIGEST))
        assert read(first, DIGEST, 5 << 20, 100) == (0, LARGE[5 << 20 :][:100])
    landing.close()


def test_a_chunk_is_believed_by_its_hash_only(tmp_path: Path) -> None:
    adopted: list[bytes] = []
    part = Part(tmp_path, lambda path, fd, digest, size: adopted.append(digest), DIGEST, SIZE)
    hashes = level1_hashes([LARGE])
    with pytest.raises(DamagedError, match="do not lead to its digest"):
        part.use_hashes(hashes[:-1] + b"x")
    part.use_hashes(hashes)
    with pytest.raises(DamagedError, match=f"at {CHUNK} do not match"):
        part.put(1, LARGE[:CHUNK])
    with pytest.raises(DamagedError):
        part.put(0, LARGE[: CHUNK - 1])
    assert not part.has(1)
    for chunk in range(part.chunks):
        assert not part.complete()
        part.put(chunk, LARGE[chunk * CHUNK : (chunk + 1) * CHUNK])
    assert part.complete()
    assert adopted == [DIGEST]
    part.close()


def test_nothing_of_a_whole_that_was_given_up_is_among_the_parts(tmp_path: Path) -> None:
    """Neither wrong bytes where the object has zeros, nor an end that is missing."""
    part = Part(tmp_path, lambda *_: None, DIGEST, SIZE)
    try:
        part.begin_whole()
        part.append(memoryview(b"lies" * (SIZE // 8)))
        part.abandon_whole()
        part.use_hashes(level1_hashes([LARGE]))
        for chunk in range(part.chunks):
            assert not part.has(chunk)
            part.put(chunk, LARGE[chunk * CHUNK : (chunk + 1) * CHUNK])
        assert part.read(0, SIZE) == LARGE
    finally:
        part.close()
