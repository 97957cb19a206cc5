"""Fetching small objects from a place that may lie, lack or change: what is asked for, or EIO, and nothing else."""

from __future__ import annotations

import errno
import random
import tarfile
import threading
from pathlib import Path

import pytest

from stratum.errors import UsageError
from stratum.frozen import replace
from stratum.hydrate import remote, wants
from stratum.hydrate.fetch import Fetcher
from stratum.hydrate.landing import Landing
from stratum.oci.access import Access
from stratum.oci.layout import Layout
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.store.residence import Condition
from stratum.transfer.push import push
from tests.support import stores
from tests.support.fetching import READER, Answers, Partial, get, partial, small_files, until


@pytest.fixture
def lazy(tmp_path: Path) -> Partial:
    return partial(tmp_path, small_files())


def requests(fetcher: Fetcher) -> int:
    return sum(int(source["requests"]) for source in fetcher.status()["sources"])


def test_what_is_wanted_comes_with_all_of_its_frame(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        first, *others = lazy.in_order()
        assert fetcher.condition(first) == "unreal"
        assert get(fetcher, first) == [0]
        lazy.check(first)
        assert fetcher.condition(first) in ("landed", "here")
        until(lambda: sum(fetcher.condition(digest) != "unreal" for digest in others) > 5)
        assert fetcher.status()["objects"] > 5


def test_all_that_is_read_is_right_in_any_order(lazy: Partial) -> None:
    order = lazy.in_order()
    random.Random(3).shuffle(order)
    with lazy.fetcher() as fetcher:
        for digest in order:
            assert get(fetcher, digest) == [0]
            lazy.check(digest)
    for digest in order:
        assert lazy.store.objects.verify(digest) == len(lazy.contents[digest])
    assert not lazy.log


def test_reading_on_costs_a_request_for_some_frames_and_each_byte_about_once(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        for digest in lazy.in_order():
            assert get(fetcher, digest) == [0]
        (source,) = fetcher.status()["sources"]
        assert source["requests"] < 30
        assert source["bytes"] < 1.5 * sum(path.stat().st_size for path in lazy.packs)


def test_a_thousand_readers_of_one_object_fetch_it_once(lazy: Partial) -> None:
    answers = Answers()
    digest = lazy.in_order()[-1]
    with lazy.fetcher() as fetcher:
        threads = [threading.Thread(target=fetcher.want, args=(digest, READER, answers)) for _ in range(1000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(answers.wait(1000)) == {0}
        until(lambda: fetcher.status()["wanted"] == 0)
        assert requests(fetcher) <= 3  # the object's frames, and what is ahead of it
        lazy.check(digest)


def test_what_no_source_lists_is_not_there(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        assert get(fetcher, bytes(32)) == [errno.ENOENT]
        assert fetcher.size(bytes(32)) is None
        assert not fetcher.is_large(bytes(32))
        with pytest.raises(UsageError, match="'some' cannot be fetched ahead"):
            fetcher.prefetch("some")


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "lie":
        data[:: 1 << 12] = bytes(byte ^ 0x55 for byte in data[:: 1 << 12])
    elif how == "short":
        del data[1000:]
    elif how == "zeros":
        data = bytearray(len(data))
    path.chmod(0o644)
    path.write_bytes(data) if how != "gone" else path.unlink()


@pytest.mark.parametrize("how", ["lie", "short", "zeros", "gone"])
def test_a_place_that_lies_gives_eio_and_the_other_place_gives_the_object(lazy: Partial, how: str) -> None:
    digest = lazy.in_order()[3]
    (pack,) = lazy.packs
    good = pack.read_bytes()
    damage(pack, how)
    with lazy.fetcher() as fetcher:
        assert get(fetcher, digest) == [errno.EIO]
        (source,) = fetcher.status()["sources"]
        assert source["state"] == ("gone" if how == "gone" else "damaged")
        assert source["since"]
        (failed,) = fetcher.status()["failed"]
        assert failed["object"] == digest.hex()
        if how == "gone":
            assert "removed what this commit needs" in source["error"]
    second = lazy.place.with_name("second")
    (second / "blobs" / "sha256").mkdir(parents=True)
    (second / "blobs" / "sha256" / pack.name).write_bytes(good)
    other = replace(lazy.source, reference=f"oci:{second}@{lazy.source.manifest}")
    with lazy.store.begin() as tx:
        lazy.store.sources.record(tx, lazy.commit, other, None)
        lazy.store.sources.record(tx, lazy.commit, lazy.source, None)
    assert lazy.store.sources.of(lazy.commit)[0] == lazy.source, "the one that lies is asked first"
    with lazy.fetcher() as fetcher:
        for wanted in lazy.in_order():
            assert get(fetcher, wanted) == [0]
            lazy.check(wanted)


def test_a_frame_with_one_bad_object_keeps_the_others(lazy: Partial) -> None:
    """Here the catalog is wrong of one object, which then has nowhere else to come from."""
    catalog_path = lazy.store.sources.catalog_path(lazy.source.manifest)
    bad, *others = lazy.in_order()
    number = lazy.catalog.find(bad)
    assert number is not None
    data = bytearray(catalog_path.read_bytes())
    at = data.index(bad) + 32
    data[at : at + 8] = (int.from_bytes(data[at : at + 8], "little") + 1).to_bytes(8, "little")
    catalog_path.write_bytes(data)
    with lazy.fetcher() as fetcher:
        assert get(fetcher, bad) == [errno.EIO]
        assert fetcher.condition(bad) == "unreal"
        assert any(fetcher.condition(digest) != "unreal" for digest in others[:3])


def test_a_source_that_is_away_fails_at_once_after_a_few_times(lazy: Partial) -> None:
    first = lazy.in_order()[0]
    source = replace(lazy.source, reference=f"127.0.0.1:1/app@{lazy.source.manifest}", plain_http=True)
    with lazy.store.begin() as tx:
        lazy.store.sources.forget(tx, lazy.commit, lazy.source.reference)
        lazy.store.sources.record(tx, lazy.commit, source, None)
    with lazy.fetcher() as fetcher:
        for _ in range(5):
            assert get(fetcher, first) == [errno.EIO]
        (condition,) = fetcher.status()["sources"]
        assert condition["state"] == "away"
        assert condition["requests"] >= 3
        for _ in range(5):
            assert get(fetcher, first) == [errno.EIO]
        assert fetcher.status()["sources"][0]["requests"] == condition["requests"], "the breaker is open"
        assert fetcher.status()["failed"][-1]["error"]


def test_readers_wait_for_ever_where_that_was_asked_for(lazy: Partial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wants, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(remote, "AVOID_SECONDS", 0.01)
    digest = lazy.in_order()[0]
    (pack,) = lazy.packs
    away = pack.with_name("away")
    pack.rename(away)
    answers = Answers()
    with lazy.fetcher(wait=True) as fetcher:
        fetcher.want(digest, READER, answers)
        until(lambda: requests(fetcher) >= 3)
        assert not answers.codes
        away.rename(pack)
        assert answers.wait() == [0]
        lazy.check(digest)
        pack.rename(away)
        fetcher.want(lazy.in_order()[-1], READER, answers)
    assert answers.wait(2)[1] == errno.EIO, "an end is an end"


def test_a_place_without_ranges_gives_whole_packs_once(lazy: Partial, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an old registry is: the contract of a place allows for it."""
    monkeypatch.setattr(Layout, "read_range", lambda *_: None)
    with lazy.fetcher() as fetcher:
        for digest in lazy.in_order():
            assert get(fetcher, digest) == [0]
            lazy.check(digest)


def test_an_archive_is_a_place_too(lazy: Partial) -> None:
    archive = lazy.place.with_name("archive.tar")
    with tarfile.open(archive, "w") as tar:
        for name in ("oci-layout", "blobs", "index.json"):
            tar.add(lazy.place / name, name)
    with lazy.store.begin() as tx:
        lazy.store.sources.forget(tx, lazy.commit, lazy.source.reference)
        moved = replace(lazy.source, reference=f"oci-archive:{archive}@{lazy.source.manifest}")
        lazy.store.sources.record(tx, lazy.commit, moved, None)
    with lazy.fetcher() as fetcher:
        for digest in lazy.in_order():
            assert get(fetcher, digest) == [0]
            lazy.check(digest)


def test_all_of_it_is_fetched_when_nobody_waits_and_the_commit_is_whole_then(lazy: Partial) -> None:
    assert lazy.store.sources.is_partial(lazy.commit)
    with lazy.fetcher() as fetcher:
        fetcher.prefetch("all")
        until(lambda: not fetcher.status()["prefetch"]["running"])
        (asked,) = fetcher.status()["prefetch"]["asked"]
        assert asked["done"] == asked["of"] > 0
        assert not lazy.store.sources.is_partial(lazy.commit)
    stores.check(lazy.store)
    assert lazy.store.residence.condition(lazy.commit, *next(lazy.catalog.digests())) is Condition.REAL


def test_what_one_run_read_is_fetched_before_the_next_one_asks(tmp_path: Path, lazy: Partial) -> None:
    order = random.Random(5).sample(lazy.in_order(), 10)
    with lazy.fetcher() as fetcher:
        for digest in order:
            assert get(fetcher, digest) == [0]
    profile = lazy.store.profiles.read(lazy.commit)
    assert profile is not None
    other = Store.create(tmp_path / "other")
    from tests.support.pulling import pull

    pull(other, parse_target(lazy.source.reference), Access(), lazy=True)
    other.profiles.write(lazy.commit, profile)
    again = Partial(other, lazy.commit, lazy.place, lazy.contents)
    with again.fetcher() as fetcher:
        fetcher.prefetch("profile")
        until(lambda: not fetcher.status()["prefetch"]["running"])
        before = requests(fetcher)
        for digest in order:
            assert get(fetcher, digest) == [0]
            again.check(digest)
        assert fetcher.status()["hits"] == len(order)
        assert before >= 1


def test_a_damaged_profile_or_somebody_elses_changes_nothing(lazy: Partial) -> None:
    lazy.store.profiles.write(lazy.commit, b"stratprf" + bytes(100))
    with lazy.fetcher() as fetcher:
        fetcher.prefetch("profile")
        assert get(fetcher, lazy.in_order()[0]) == [0]


def test_objects_of_two_artifacts_come_from_both(tmp_path: Path) -> None:
    """A commit that was made of two that are not here inherits the sources of both."""
    left, right = (partial(tmp_path / name, small_files(20, seed)) for name, seed in (("left", 1), ("right", 2)))
    with left.store.begin() as tx:
        left.store.sources.record(
            tx, left.commit, right.source, right.store.sources.catalog_path(right.source.manifest).read_bytes()
        )
    left.contents.update(right.contents)
    with left.fetcher() as fetcher:
        for digest in right.in_order()[:3] + left.in_order()[:3]:
            assert get(fetcher, digest) == [0]
            left.check(digest)


def test_who_read_what_is_counted(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        get(fetcher, *lazy.in_order()[:2])
        status = fetcher.status()
        assert status["asks"] == 2
        (reader,) = status["readers"]
        assert reader["program"] == "cat"
        assert reader["bytes"] > 0
        assert status["largest"][0]["bytes"] > 0


def test_what_has_landed_is_passed_on_and_counted_as_any_other_want(lazy: Partial) -> None:
    with lazy.fetcher() as fetcher:
        first, second = lazy.in_order()[:2]
        assert not fetcher.pass_on(first), "it is not here"
        assert not fetcher.pass_on(bytes(32)), "no source lists it"
        assert get(fetcher, first) == [0]
        until(lambda: fetcher.condition(second) == "landed")
        assert fetcher.pass_on(second)
        status = fetcher.status()
        assert (status["asks"], status["hits"]) == (2, 1)
        fetcher.close()
        assert not fetcher.pass_on(second), "it has ended"


def test_the_end_answers_all(lazy: Partial) -> None:
    answers = Answers()
    landing = Landing(lazy.store)
    with lazy.fetcher(landing) as fetcher:
        for digest in lazy.in_order():
            fetcher.want(digest, READER, answers)
    assert len(answers.wait(len(lazy.in_order()))) == len(lazy.in_order())
    fetcher.want(lazy.in_order()[0], READER, answers)
    landing.close()
    assert set(answers.codes) <= {0, errno.EIO}


def test_two_mounts_share_what_landed(lazy: Partial) -> None:
    landing = Landing(lazy.store)
    with lazy.fetcher(landing) as first, lazy.fetcher(landing) as second:
        digest = lazy.in_order()[0]
        assert get(first, digest) == [0]
        assert get(second, digest) == [0]
        assert requests(second) == 0 or second.status()["hits"] == 1
    landing.close()


def test_what_a_push_sent_can_be_fetched_again(tmp_path: Path) -> None:
    """A commit of several packs, of which a later push took some over."""
    origin = Store.create(tmp_path / "origin")
    files = small_files(30)
    first = stores.commit(origin, files)
    push(origin, first, parse_target(f"oci:{tmp_path / 'place'}:v1"), Access())
    files |= {b"new": random.Random(9).randbytes(70_000)}
    second = stores.commit(origin, files)
    push(origin, second, parse_target(f"oci:{tmp_path / 'place'}:v1"), Access())
    from stratum.composefs.verity import verity_digest
    from tests.support.pulling import pull

    store = Store.create(tmp_path / "store")
    pull(store, parse_target(f"oci:{tmp_path / 'place'}:v1"), Access(), lazy=True)
    lazy = Partial(store, second, tmp_path / "place", {verity_digest(data): data for data in files.values()})
    with lazy.fetcher() as fetcher:
        for digest in lazy.contents:
            assert get(fetcher, digest) == [0]
            lazy.check(digest)
