"""Garbage collection of an object store: what stays, what goes and when, what is read, what stops it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import pytest

from stratum.errors import BusyError, ConflictError, DamagedError, NotFoundError
from stratum.oci.access import Access
from stratum.oci.bucket import BucketStore, open_bucket
from stratum.oci.bucketname import Bucket
from stratum.oci.descriptor import Descriptor, describe, digest_of
from stratum.oci.guard import Machine, is_gone, this_who
from stratum.oci.mediatypes import INDEX_OF_MANIFESTS_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from stratum.oci.objectstore import ObjectStore
from stratum.oci.remote import CollectedError, Upload
from stratum.oci.sweeprecord import LIMITS, LOOKING, SWEEP_KEY, PushRecord, SweepRecord, Who
from stratum.oci.target import Target
from stratum.transfer.digestset import DigestSet
from stratum.transfer.placegc import CONTENTS, KINDS, MANIFESTS, METADATA, NAMES, UNKNOWN, PlaceCollected, collect_place
from stratum.transfer.sweeplease import SweepLease

PACK = "application/vnd.stratum.objects.v1.tar+zstd"
TREE = "application/vnd.stratum.tree.v1+zstd"


@pytest.fixture
def bucket() -> Bucket:
    return Bucket("memory", token_hex(8), "team/app")


@pytest.fixture
def place(bucket: Bucket) -> Iterator[ObjectStore]:
    with ObjectStore(Target(bucket=bucket), Access(), writes=True) as place:
        yield place


def told(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def put(place: ObjectStore, data: bytes, media_type: str = PACK) -> Descriptor:
    blob = describe(media_type, data)
    place.put_blob(Upload.of_bytes(blob, data))
    return blob


def manifest(*blobs: Descriptor, **more: object) -> bytes:
    value = {"schemaVersion": 2, "mediaType": MANIFEST_MEDIA_TYPE, "config": told(blobs[0])}
    return json.dumps({**value, "layers": [told(blob) for blob in blobs[1:]], **more}).encode()


def index(*manifests: bytes) -> bytes:
    entries = [told(describe(MANIFEST_MEDIA_TYPE, data)) for data in manifests]
    value = {"schemaVersion": 2, "mediaType": INDEX_OF_MANIFESTS_MEDIA_TYPE, "manifests": entries}
    return json.dumps(value).encode()


def push(place: ObjectStore, tag: str, *contents: bytes, **more: object) -> bytes:
    data = manifest(put(place, tag.encode(), TREE), *(put(place, each) for each in contents), **more)
    place.put_manifest(data, tag)
    return data


def blobs(store: BucketStore) -> set[str]:
    return {entry.key[-64:] for entry in store.list("blobs/")}


def hexes(*datas: bytes) -> set[str]:
    return {digest_of(data)[7:] for data in datas}


def removed(done: PlaceCollected) -> dict[str, int]:
    return {kind: done.removed[kind].objects for kind in KINDS if done.removed[kind].objects}


def ended(place: ObjectStore) -> BucketStore:
    """The store, when the push is over."""
    place._guard.close()
    return place.bucket


def test_what_tags_lead_to_stays_and_the_rest_goes(place: ObjectStore) -> None:
    one = push(place, "one", b"shared", b"1")
    two = push(place, "two", b"shared", b"2")
    put(place, b"left by a push that was cut short")
    store = ended(place)
    before = blobs(store)
    assert collect_place(store, 0, dry_run=True).removed[UNKNOWN].objects == 1
    assert blobs(store) == before
    assert not list(store.list("gc/"))
    assert removed(collect_place(store, 0)) == {UNKNOWN: 1}
    assert blobs(store) == hexes(one, two, b"one", b"two", b"shared", b"1", b"2")
    place.remove_tag("one")
    assert place.list_tags() == ["two"]
    done = collect_place(store, 0)
    assert removed(done) == {MANIFESTS: 1, METADATA: 1, CONTENTS: 1, NAMES: 1}
    assert done.removed[CONTENTS].bytes == 1
    assert blobs(store) == hexes(two, b"two", b"shared", b"2")
    assert (done.tags, done.manifests, done.kept.objects, done.missing) == (1, 1, 4, 0)
    assert removed(collect_place(store, 0)) == {}
    place.put_manifest(two, "one")  # a name that was removed can be given again
    assert place.list_tags() == ["one", "two"]


def test_only_what_has_had_no_name_for_the_age_goes(place: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    push(place, "one", b"1")
    store = ended(place)
    place.remove_tag("one")
    times = {"now": 0.0}
    monkeypatch.setattr(
        "stratum.oci.bucketremote.RemoteBucket._entry",
        _later(times, monkeypatch),
    )
    first = collect_place(store, 3600)
    assert removed(first) == {}
    assert sum(amount.objects for amount in first.waiting.values()) == 4
    assert first.due is not None
    assert first.due == pytest.approx(first.time + 3600, abs=5)
    times["now"] = 3500.0
    assert removed(collect_place(store, 3600)) == {}
    times["now"] = 3605.0
    assert sum(removed(collect_place(store, 3600)).values()) == 4
    assert blobs(store) == set()


def _later(times: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> object:
    """The server's clock is later for what is written from now on: for the record of the collection."""
    from stratum.oci.bucketremote import RemoteBucket

    real = RemoteBucket._entry

    def entry(self: RemoteBucket, key: str, meta: object) -> object:
        found = real(self, key, meta)
        return replace(found, modified=found.modified + times["now"]) if key == SWEEP_KEY else found

    return entry


def test_indexes_subjects_and_referrers(place: ObjectStore) -> None:
    inner, other = manifest(put(place, b"c"), put(place, b"l")), manifest(put(place, b"d"))
    for data in (inner, other):
        put(place, data, MANIFEST_MEDIA_TYPE)
    absent = manifest(describe(PACK, b"nowhere"))
    both = index(inner, absent)
    place.put_manifest(both, "multi")
    subject = push(place, "subject", b"s")
    about = told(describe(MANIFEST_MEDIA_TYPE, subject))
    referrer = manifest(put(place, b"profile"), artifactType="x/y", subject=about)
    place.put_referrer(referrer)
    signed = push(place, "signature", b"sig", subject=about)
    store = ended(place)
    assert removed(collect_place(store, 0)) == {UNKNOWN: 2}  # ``other`` with its blob, which nothing names
    keep = hexes(inner, b"c", b"l", both)
    about_subject = hexes(subject, b"subject", b"s", referrer, b"profile", signed, b"signature", b"sig")
    assert blobs(store) == keep | about_subject
    place.remove_tag("subject")
    assert CONTENTS not in removed(collect_place(store, 0))  # a tag leads to it, by what refers to it
    assert blobs(store) == keep | about_subject
    place.remove_tag("signature")
    for _ in range(2):  # first the list of referrers, then what only that named
        collect_place(store, 0)
    assert blobs(store) == keep
    assert not list(store.list("referrers/"))


def test_manifests_are_read_once(place: ObjectStore) -> None:
    for number in range(20):
        push(place, f"v{number}", b"shared", bytes([number]))
    store = ended(place)
    assert collect_place(store, 0).manifests_read == 20
    assert collect_place(store, 0).manifests_read == 0
    push(place, "new", b"n")
    ended(place)
    assert collect_place(store, 0).manifests_read == 1
    (first, *_) = [entry.key for entry in store.list("gc/manifests/")]
    store.put(first, store.get(first, 1 << 20)[0][:-3])
    store.put("gc/tags", b"nonsense")
    done = collect_place(store, 0)  # records that are damaged are made anew
    assert (done.manifests, removed(done)) == (21, {})
    assert done.manifests_read
    for number in range(20):
        place.remove_tag(f"v{number}")
    collect_place(store, 0)
    assert blobs(store) == hexes(push(place, "new", b"n"), b"new", b"n")


@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_manifest_stops_all_of_it(place: ObjectStore, known: bool) -> None:
    data = push(place, "one", b"1")
    put(place, b"garbage")
    store = ended(place)
    if known:
        collect_place(store, 3600)
    key = f"blobs/sha256/{digest_of(data)[7:]}"
    for spoil in (lambda: store.put(key, data + b" "), lambda: store.delete([key])):
        spoil()
        before = blobs(store)
        with pytest.raises(DamagedError, match="nothing was deleted") as caught:
            collect_place(store, 0)
        assert digest_of(data) in caught.value.message
        assert blobs(store) == before
        with pytest.raises(DamagedError):
            collect_place(store, 0, dry_run=True)
    store.put(key, data)
    store.put("tags/bad", b"{}")
    with pytest.raises(DamagedError, match="the tag bad is damaged"):
        collect_place(store, 0)
    store.put("tags/bad", b"")
    assert removed(collect_place(store, 0)) == {UNKNOWN: 1, NAMES: 1}


def test_what_is_not_ours_is_counted_and_stays(place: ObjectStore, bucket: Bucket) -> None:
    push(place, "one", b"1")
    store = ended(place)
    strange = [
        "README.txt",
        "blobs/md5/0",
        "blobs/sha256/short",
        "gc/notes",
        "inner/blobs/sha256/" + "0" * 64,
        "tags.bak",
    ]
    for key in strange:
        store.put(key, b"not ours")
    with open_bucket(replace(bucket, prefix="team"), Access()) as above:
        above.put("blobs/sha256/" + "1" * 64, b"of another place")
    done = collect_place(store, 0)
    assert (removed(done), done.others.objects, done.others.bytes) == ({}, 6, 48)
    assert done.other_keys == sorted(strange)
    assert all(store.head(key) for key in strange)
    with open_bucket(replace(bucket, prefix="team"), Access()) as above:
        assert above.head("blobs/sha256/" + "1" * 64)


def test_missing_blobs_are_counted(place: ObjectStore) -> None:
    push(place, "one", b"1", b"2")
    store = ended(place)
    store.delete([f"blobs/sha256/{next(iter(hexes(b'2')))}"])
    assert collect_place(store, 0).missing == 1
    # A push finds that out, and sends it again.
    with pytest.raises(CollectedError, match="removed since"):
        place.put_manifest(manifest(describe(TREE, b"one"), describe(PACK, b"2")), "other")


def test_a_place_where_nothing_is(place: ObjectStore) -> None:
    with pytest.raises(NotFoundError, match="neither tags nor blobs"):
        collect_place(place.bucket, 0)
    assert not list(place.bucket.list(""))
    push(place, "one", b"1")
    store = ended(place)
    place.remove_tag("one")
    for _ in range(2):
        collect_place(store, 0)
    assert not blobs(store)


def test_one_collects_and_others_say_who(place: ObjectStore) -> None:
    push(place, "one", b"1")
    store = ended(place)
    who = this_who()
    with SweepLease(store, Machine()), pytest.raises(BusyError, match=f"process {who.pid} on") as caught:
        collect_place(store, 0)
    assert "last heard of" in caught.value.message
    collect_place(store, 0)
    dead = replace(who, started=who.started + 1)
    assert is_gone(dead)
    assert not is_gone(replace(dead, boot="another"))
    assert not is_gone(who)
    _leave(store, dead)
    with pytest.raises(BusyError, match="ended by force"):
        collect_place(store, 0)
    assert collect_place(store, 0, machine=Machine(limits=replace(LIMITS, grace=-1))).taken_over


def _leave(store: BucketStore, who: Who, *keys: str) -> None:
    """The record of a collection that died while it deleted."""
    record = SweepRecord("0" * 32, who, LOOKING, "1" * 32, None, 0, keys)
    store.put(SWEEP_KEY, record.to_bytes(token_hex(4)))


def test_one_that_was_taken_over_deletes_nothing_more(place: ObjectStore) -> None:
    push(place, "one", b"1")
    store = ended(place)
    key = f"blobs/sha256/{next(iter(hexes(b'1')))}"
    lease = SweepLease(store, Machine()).__enter__()
    lease.look([key])
    _leave(store, replace(this_who(), host="another"), key)
    with pytest.raises(ConflictError, match="taken over"):
        lease.delete([key], 1)
    assert store.head(key)


def test_a_push_waits_for_a_collection_and_ignores_a_dead_one(bucket: Bucket) -> None:
    slept: list[float] = []
    with open_bucket(bucket, Access()) as store:
        wanted = f"blobs/sha256/{next(iter(hexes(b'1')))}"

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                store.delete([wanted])
                _leave(store, this_who())  # the next batch has other keys

        with ObjectStore(Target(bucket=bucket), Access(), writes=True, machine=Machine(sleep=sleep)) as place:
            data = manifest(put(place, b"1"))
            _leave(store, this_who(), wanted)
            with pytest.raises(CollectedError):
                place.put_manifest(data, "one")
            assert len(slept) == 3
            put(place, b"1")
            place.put_manifest(data, "one")
            assert len(slept) == 3
        _leave(store, this_who(), wanted)
        impatient = Machine(limits=replace(LIMITS, stale=-1), sleep=sleep)
        with ObjectStore(Target(bucket=bucket), Access(), writes=True, machine=impatient) as place:
            place.put_manifest(data, "two")
        assert len(slept) == 3
        assert not list(store.list("gc/pushes/"))


def test_a_push_that_died_is_forgotten_after_a_day(place: ObjectStore) -> None:
    push(place, "one", b"1")
    store, key = ended(place), f"gc/pushes/{'a' * 32}-0"
    put(place, b"unnamed")
    ended(place)
    record = PushRecord(None, "tags/new", *hexes(b"m"), (), tuple(hexes(b"unnamed")))
    store.put(key, record.to_bytes())
    done = collect_place(store, 0)
    assert (done.pushes, removed(done)) == (1, {})
    assert store.head(key)
    done = collect_place(store, 0, machine=Machine(limits=replace(LIMITS, forgotten=-1)))
    assert (done.pushes, removed(done)) == (0, {UNKNOWN: 1})
    assert store.head(key) is None
    store.put(key, b"nonsense")
    with pytest.raises(DamagedError, match="the record of a push"):
        collect_place(store, 0)


def test_blobs_that_came_after_a_push_began_stay(place: ObjectStore) -> None:
    push(place, "one", b"1")
    put(place, b"being sent")
    done = collect_place(place.bucket, 0)
    assert (removed(done), done.waiting[UNKNOWN].objects) == ({}, 1)
    ended(place)
    assert removed(collect_place(place.bucket, 0)) == {UNKNOWN: 1}


def test_a_directory_is_collected_too(tmp_path: Path) -> None:
    with ObjectStore(Target(bucket=Bucket("file", str(tmp_path / "place"))), Access(), writes=True) as place:
        keep = push(place, "one", b"1")
        put(place, b"garbage")
        store = ended(place)
        assert removed(collect_place(store, 0)) == {UNKNOWN: 1}
        assert blobs(store) == hexes(keep, b"one", b"1")


def test_a_set_of_digests() -> None:
    digests, found = [digest_of(str(number).encode())[7:] for number in range(3000)], DigestSet()
    assert all(found.add(digest) for digest in digests[:2000])
    assert not any(found.add(digest) for digest in digests[:2000])
    assert len(found) == 2000
    assert [digest in found for digest in digests] == [True] * 2000 + [False] * 1000
