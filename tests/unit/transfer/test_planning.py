"""What a push sends, and in which parts of which packs objects are: without a network, a disk or a store."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from stratum.errors import UnsupportedError
from stratum.frozen import replace
from stratum.oci.descriptor import Descriptor, describe
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE
from stratum.oci.remote import Upload
from stratum.store.lineage import Recorded
from stratum.store.metadata import CommitMeta
from stratum.transfer.artifact import (
    CONFIG_MEDIA_TYPE,
    PACK_MEDIA_TYPE,
    TREE_MEDIA_TYPE,
    Manifest,
    Pack,
    PackLayers,
    read_manifest,
)
from stratum.transfer.objects import find_parts
from stratum.transfer.packs import FRAME_SIZE, INDEX_MAX, LARGE_OBJECT, OBJECT_MAX, PACK_MAX, Member, PackIndex
from stratum.transfer.planning import SMALL_PACKS_MAX, Base, Plan, plan_push, plan_reuse

META = CommitMeta("c" * 64, "1" * 64, "2024-01-02T03:04:05Z", 1, 1, 1, 1, "d" * 64)
LINEAGE = Recorded(("d" * 64, "e" * 64), True)
TREES = (b"one", b"two", b"three")
CONFIG = describe(CONFIG_MEDIA_TYPE, b"config")


def layers(number: int) -> PackLayers:
    index, pack = f"sha256:{2 * number:064x}", f"sha256:{2 * number + 1:064x}"
    return PackLayers(Descriptor(INDEX_MEDIA_TYPE, index, 1), Descriptor(PACK_MEDIA_TYPE, pack, 1))


def pack(numbers: range, size: int = 1000, frames: tuple[tuple[int, int], ...] = ()) -> Pack:
    members = tuple(Member(n.to_bytes(32, "big"), size) for n in numbers)
    return Pack(layers(numbers.start), PackIndex(frames, members))


def needed(*numbers: int, size: int = 1000) -> dict[bytes, int]:
    return {n.to_bytes(32, "big"): size for n in numbers}


def numbers_of(members: tuple[Member, ...] | list[Member]) -> list[int]:
    return [int.from_bytes(member.digest, "big") for member in members]


def plan(objects: Mapping[bytes, int], base: Base | None = None, lineage: Recorded = LINEAGE) -> Plan:
    trees = [Upload.of_bytes(describe(TREE_MEDIA_TYPE, tree), tree) for tree in TREES]
    return plan_push(META, lineage, trees, objects, {}, base)


def base(*packs: Pack, trees: tuple[bytes, ...] = TREES, commit: str = META.metadata_hash) -> Base:
    blobs = tuple(describe(TREE_MEDIA_TYPE, tree) for tree in trees)
    found = Manifest(commit, "", CONFIG, blobs, tuple(pack.layers for pack in packs), ancestors=LINEAGE.ancestors)
    return Base(found, packs)


# Packs that stay


def test_live_packs_are_kept_and_dead_ones_written_anew() -> None:
    live, dead = pack(range(10)), pack(range(10, 20))
    kept, members = plan_reuse([live, dead], needed(*range(6), 10, 11, 30))
    assert kept == (live,)
    assert numbers_of(members) == [10, 11, 30]


def test_an_object_of_another_size_is_not_reused() -> None:
    kept, members = plan_reuse([pack(range(4), 1000)], needed(*range(4), size=1001))
    assert kept == ()
    assert len(members) == 4


def test_many_small_packs_become_few() -> None:
    small = [pack(range(10 * n, 10 * n + 10)) for n in range(SMALL_PACKS_MAX)]
    big = pack(range(1000, 1002), 20 << 20)
    objects = {**needed(*range(10 * SMALL_PACKS_MAX)), **needed(1000, 1001, size=20 << 20)}
    assert plan_reuse([big, *small], objects)[1] == []
    more = pack(range(500, 510))
    kept, members = plan_reuse([big, *small, more], {**objects, **needed(*range(500, 510))})
    assert kept == (big,)
    assert len(members) == 10 * SMALL_PACKS_MAX + 10


# Plans


def test_without_a_base_everything_is_sent() -> None:
    objects = {
        **needed(*range(5)),
        **needed(9, size=LARGE_OBJECT),
        **needed(5, 6),
        **needed(10, size=PACK_MAX),
    }
    made = plan(objects)
    assert [numbers_of(members) for members in made.packs] == [[9], [10], [0, 1, 2, 3, 4, 5, 6]]
    assert made.size == sum(objects.values())
    assert (made.known, made.kept, made.borrowed) == ((), (), [])
    manifest = read_manifest(made.manifest(CONFIG, [layers(n) for n in range(1, 4)]), "x")
    assert manifest.packs == (layers(1), layers(2), layers(3))


def test_what_the_base_has_stays() -> None:
    old = pack(range(10))
    made = plan(needed(*range(12)), base(old, trees=(b"one", b"other", b"three"), commit="d" * 64))
    assert [numbers_of(members) for members in made.packs] == [[10, 11]]
    assert made.known == tuple(describe(TREE_MEDIA_TYPE, tree) for tree in (b"one", b"three"))
    assert made.borrowed == [*made.known, old.layers.index, old.layers.pack]
    manifest = read_manifest(made.manifest(CONFIG, [layers(1)]), "x")
    assert (manifest.commit, manifest.parent, manifest.created) == ("c" * 64, "d" * 64, META.timestamp)
    assert (manifest.ancestors, manifest.whole) == (LINEAGE.ancestors, True)
    assert manifest.trees == tuple(describe(TREE_MEDIA_TYPE, tree) for tree in TREES)
    assert manifest.packs == (old.layers, layers(1))


def test_what_is_there_already() -> None:
    there = base(pack(range(10)))
    assert plan(needed(*range(10)), there).brings_nothing_to(there.manifest)
    assert not plan(needed(*range(11)), there).brings_nothing_to(there.manifest)
    others = base(pack(range(10)), commit="d" * 64), base(pack(range(10)), trees=TREES[:2])
    for other in others:
        assert not plan(needed(*range(10)), other).brings_nothing_to(other.manifest)
    longer = replace(LINEAGE, ancestors=(*LINEAGE.ancestors, "f" * 64))
    assert not plan(needed(*range(10)), there, longer).brings_nothing_to(there.manifest)


def test_a_manifest_that_will_be_too_large_is_told_before_anything_is_made() -> None:
    plan(needed(*range(5000), size=LARGE_OBJECT)).check()
    with pytest.raises(UnsupportedError, match="manifest of"):
        plan(needed(*range(12_000), size=LARGE_OBJECT)).check()


def test_an_object_that_nobody_could_read_is_not_sent() -> None:
    text = b"frame %d %d\n" % (FRAME_SIZE + 999, FRAME_SIZE) * 1000
    assert len(text) * (OBJECT_MAX // FRAME_SIZE) // 1000 < INDEX_MAX
    plan(needed(1, size=OBJECT_MAX)).check()
    with pytest.raises(UnsupportedError, match=f"file of {OBJECT_MAX + 1} bytes"):
        plan(needed(1, size=OBJECT_MAX + 1)).check()


# Where objects are


def test_each_object_is_fetched_once_and_only_by_its_size() -> None:
    first, second = pack(range(10)), pack(range(5, 15))
    wanted = {**needed(3, 7, 12), **needed(8, size=999), **needed(99)}
    parts = find_parts([first, second, pack(range(20, 30))], wanted)
    assert [(part.pack, tuple(part.wanted)) for part in parts] == [(first, (3, 7)), (second, (7,))]
    assert [part.size for part in parts] == [2000, 1000]
    assert find_parts([first], needed(99)) == []


def test_runs_of_frames_hold_what_is_wanted_and_little_else() -> None:
    rng = random.Random(1)
    size = pack(range(100)).index.archive_size
    frames = (*[(10, 4096)] * (size // 4096), (10, size % 4096))
    whole = pack(range(100), frames=frames)
    for _ in range(200):
        wanted = needed(*rng.sample(range(100), rng.randint(1, 20)))
        (part,) = find_parts([whole], wanted)
        frames_needed = {n for position in part.wanted for n in range(*whole.index.frames_of(position))}
        fetched = [n for first, last in part.runs for n in range(first, last)]
        assert fetched == sorted(frames_needed)
        assert all(before[1] < after[0] for before, after in zip(part.runs, part.runs[1:], strict=False))
