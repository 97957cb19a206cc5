"""Pushes, removals of tags and collections of one object store, in any interleaving of their requests, with kills.

The code is the real one, over a simulated store (``tests.support.simbucket``). After each request that deletes or names
something, whatever has a name must be whole. In the end, when nobody else is there, all else goes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import ConflictError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.bucketname import Bucket
from stratum.oci.bucketstore import ALWAYS
from stratum.oci.descriptor import Descriptor, describe, digest_of
from stratum.oci.links import links_of
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.oci.objectstore import ObjectStore
from stratum.oci.remote import CollectedError, Upload
from stratum.oci.sweeprecord import LIMITS, Limits
from stratum.oci.target import Target
from stratum.transfer.placegc import PlaceCollected, collect_place
from tests.support.effort import examples
from tests.support.simbucket import Actor, SimBucket, World

BLOBS = [f"blob {number}".encode() for number in range(6)]
LAYER = "application/vnd.stratum.objects.v1.tar+zstd"
TARGET = Target(bucket=Bucket("memory", "sim"))
DAY = 86400.0


def manifest(blobs: list[int], subject: bytes | None = None) -> bytes:
    value: dict[str, object] = {"schemaVersion": 2, "mediaType": MANIFEST_MEDIA_TYPE}
    layers = [describe(LAYER, BLOBS[number]) for number in blobs]
    value["config"] = told(layers[0])
    value["layers"] = [told(blob) for blob in layers[1:]]
    if subject is not None:
        value["subject"] = told(describe(MANIFEST_MEDIA_TYPE, subject))
    return json.dumps(value).encode()


def told(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def needed(world: World) -> set[str]:
    """The keys that names lead to; an error where one is not there."""
    left: list[tuple[str, str]] = []
    keys: set[str] = set()
    for key, (data, _, _) in world.objects.items():
        if key.startswith("tags/") and data:
            left.append((json.loads(data)["digest"].partition(":")[2], key))
        elif key.startswith("referrers/"):
            left += [(digest, key) for digest in links_of(data).manifests]
    while left:
        digest, why = left.pop()
        key = f"blobs/sha256/{digest}"
        assert key in world.objects, f"{why} leads to {key}, which is gone"
        keys.add(key)
        for blob in links_of(world.objects[key][0]).blobs:
            assert f"blobs/sha256/{blob}" in world.objects, f"{why} needs blob {blob}, which is gone"
            keys.add(f"blobs/sha256/{blob}")
    return keys


def whole(world: World) -> None:
    needed(world)


def place(actor: Actor) -> ObjectStore:
    return ObjectStore(TARGET, Access(), writes=True, bucket=SimBucket(actor), machine=actor.machine)


def send(store: ObjectStore, blobs: list[int]) -> None:
    for number in blobs:
        blob = describe(LAYER, BLOBS[number])
        if not store.has_blob(blob):
            store.put_blob(Upload.of_bytes(blob, BLOBS[number]))


def push(tag: str, blobs: list[int]) -> Callable[[Actor], None]:
    def work(actor: Actor) -> None:
        for _ in range(8):
            with place(actor) as store, suppress(CollectedError):
                send(store, blobs)
                store.put_manifest(manifest(blobs), tag)
                return

    return work


def refer(blobs: list[int], subject: list[int]) -> Callable[[Actor], None]:
    """As a profile is sent: after its subject was."""

    def work(actor: Actor) -> None:
        with place(actor) as store, suppress(CollectedError):
            send(store, blobs)
            store.put_referrer(manifest(blobs, manifest(subject)))

    return work


def retag(old: str, new: str) -> Callable[[Actor], None]:
    """As a tag is set for a manifest that is there by its digest."""

    def work(actor: Actor) -> None:
        with place(actor) as store, suppress(NotFoundError, CollectedError):
            store.put_manifest(store.get_manifest(store.get_manifest(old)[1])[0], new)

    return work


def untag(tag: str) -> Callable[[Actor], None]:
    def work(actor: Actor) -> None:
        with place(actor) as store, suppress(NotFoundError, ConflictError):
            store.remove_tag(tag)

    return work


def collect(age: float, times: int = 2) -> Callable[[Actor], None]:
    def work(actor: Actor) -> None:
        for _ in range(times):
            with suppress(ConflictError):  # another one is there, or took over
                collect_place(SimBucket(actor), age, machine=actor.machine)

    return work


def alone(world: World, age: float = 0) -> PlaceCollected:
    """A collection when nobody else is there."""
    found: list[PlaceCollected] = []
    actor = world.start(
        lambda actor: found.append(collect_place(SimBucket(actor), age, machine=actor.machine)), alone=True
    )
    if actor.error is not None:
        raise actor.error
    return found[0]


def seed(world: World) -> None:
    """Two tags, a list of referrers, and what a push left that was cut short."""
    for work in (push("a", [0, 1, 2]), push("b", [1, 3]), refer([4], [0, 1, 2])):
        world.start(work, alone=True)
    world.put(f"blobs/sha256/{digest_of(BLOBS[5])[7:]}", BLOBS[5], ALWAYS)


numbers = st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)
tags = st.sampled_from(["a", "b", "c"])
works = st.one_of(
    st.builds(push, tags, numbers),
    st.builds(refer, numbers, numbers),
    st.builds(retag, tags, tags),
    st.builds(untag, tags),
    st.builds(collect, st.sampled_from([0.0, 0.0, 50.0])),
)
UNPROTECTED = replace(LIMITS, young=-1e9)
"""Limits by which the age of a blob says nothing: all depends on the protocol."""
limits = st.sampled_from([LIMITS, UNPROTECTED])
actors = st.lists(works, min_size=1, max_size=4).map(lambda some: [collect(0), *some])
turns = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12), st.integers(0, 60)), max_size=60)
"""Which actor, how many requests, and what happens before: kills and long times are rare."""


@given(actors, turns, limits)
@settings(max_examples=examples(50), deadline=None)
def test_whatever_the_order_names_are_whole_and_the_rest_goes(
    works: list[Callable[[Actor], None]], turns: list[tuple[int, int, int]], limits: Limits
) -> None:
    world = World(whole, limits)
    seed(world)
    try:
        for work in works:
            world.start(work)
        for which, count, event in turns:
            left = world.waiting
            if not left:
                break
            actor = left[which % len(left)]
            if event >= 58:
                actor.turn(kill=event == 58)
                continue
            world.pass_time({55: 700.0, 56: 2000.0, 57: 2 * DAY}.get(event, 0.0))
            for _ in range(count):
                if not actor.done:
                    actor.turn()
        world.end()
    finally:
        world.kill_all()
    for actor in world.actors:
        if actor.error is not None:
            raise actor.error
    world.clock += 2 * DAY
    for _ in range(3):
        alone(world)
    assert {key for key in world.objects if key.startswith("blobs/")} == needed(world)
    assert not [key for key in world.objects if key.startswith("gc/pushes/")]
    assert all(world.objects[key][0] for key in world.objects if key.startswith("tags/"))


def test_killed_at_any_request_a_collection_is_made_up_for() -> None:
    requests = 0
    for kill in (True, False):
        number = 0
        while True:
            world = World(whole)
            seed(world)
            world.start(untag("a"), alone=True)
            actor = world.start(collect(0, 1))
            for _ in range(number):
                if not actor.done:
                    actor.turn()
            if actor.done:
                break
            actor.turn(kill=kill)
            world.kill_all()
            world.clock += 100
            for _ in range(2):
                alone(world)
            assert {key for key in world.objects if key.startswith("blobs/")} == needed(world)
            number += 1
        requests = number
    assert requests > 20


LONG = int(os.environ.get("STRATUM_TEST_PLACE_GC", "0"))
FIRST = 0


def test_many_random_orders() -> None:
    """``STRATUM_TEST_PLACE_GC=N``: N more of them, from a generator that makes longer ones."""
    import random

    for seed_number in range(FIRST, FIRST + max(LONG, 20)):
        source = random.Random(seed_number)

        def some(source: random.Random = source) -> list[int]:
            return source.sample(range(6), source.randint(1, 3))

        def work(source: random.Random = source) -> Callable[[Actor], None]:
            tag = source.choice("abc")
            made = [push(tag, some()), push(tag, some()), refer(some(), some()), untag(tag)]
            return source.choice([*made, retag(tag, source.choice("abc")), collect(source.choice([0, 0, 50]), 3)])

        world = World(whole, source.choice([LIMITS, UNPROTECTED]))
        seed(world)
        for each in [collect(0, 4), *(work() for _ in range(source.randint(2, 6)))]:
            world.start(each)
        while left := world.waiting:
            actor, chance = source.choice(left), source.random()
            if chance < 0.02:
                actor.turn(kill=source.random() < 0.5)
                continue
            if chance < 0.04:
                world.pass_time(source.choice([100, 700, 2000, 2 * DAY]))
            for _ in range(source.randint(1, 15)):
                if not actor.done:
                    actor.turn()
        for actor in world.actors:
            if actor.error is not None and not isinstance(actor.error, StratumError):
                raise actor.error
            assert actor.error is None or isinstance(actor.error, ConflictError), (seed_number, actor.error)
