"""Catalogs: where objects are, found by digest, from a file that is not read whole."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import DamagedError
from stratum.store.catalog import Blob, Catalog, NewPack, write_catalog

FRAME = 64


def digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def made(sizes: list[list[int]], verity: bool = False) -> list[NewPack]:
    """Packs with objects of these sizes, each after a header of 10 bytes, in frames of ``FRAME`` bytes."""
    packs, count = [], 0
    for number, members in enumerate(sizes):
        listed, position = [], 0
        for size in members:
            position += 10
            listed.append((digest(count), position, size))
            position += size
            count += 1
        position += 10
        frames = [(7, FRAME)] * (position // FRAME) + ([(5, position % FRAME)] if position % FRAME else [])
        blob = Blob(digest(-number - 1), 99) if verity else None
        packs.append(NewPack(Blob(digest(1000 + number), sum(c for c, _ in frames)), frames, listed, blob))
    return packs


@given(st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=20), min_size=1, max_size=4), st.booleans())
def test_every_object_is_found_where_it_is(sizes: list[list[int]], verity: bool) -> None:
    packs = made(sizes, verity)
    catalog = Catalog(write_catalog(packs))
    catalog.check()
    assert len(catalog) == sum(map(len, sizes))
    assert [(pack.pack, pack.verity) for pack in catalog.packs] == [(new.pack, new.verity) for new in packs]
    for number, new in enumerate(packs):
        starts = [sum(size for _, size in new.frames[:n]) for n in range(len(new.frames) + 1)]
        for wanted, offset, size in new.members:
            found = catalog.find(wanted)
            assert found is not None
            member = catalog.member(found)
            assert (member.digest, member.offset, member.size, member.pack) == (wanted, offset, size, number)
            first, last = catalog.frames_of(member)
            frames = [catalog.frame(n) for n in range(first, last)]
            assert {frame.pack for frame in frames} == {number}
            assert frames[0].archive_start <= offset < frames[0].archive_start + frames[0].archive_size
            end = frames[-1].archive_start + frames[-1].archive_size
            assert frames[-1].archive_start < offset + size <= end
            low, high = catalog.members_within(first, last)
            within = {m[0] for m in new.members if frames[0].archive_start <= m[1] and m[1] + m[2] <= end}
            assert {m.digest for m in catalog.members(low, high)} == within
        assert [frame.archive_start for frame in map(catalog.frame, range(*catalog.packs[number].frames))] == starts[
            :-1
        ]
    assert catalog.find(digest(12345678)) is None
    assert dict(catalog.digests()) == {d: s for new in packs for d, _, s in new.members}


def test_a_part_of_an_object_is_in_few_frames() -> None:
    catalog = Catalog(write_catalog(made([[1000]])))
    member = catalog.member(0)
    first, last = catalog.frames_of(member, 505, 10)
    frame = catalog.frame(first)
    assert last - first == 1
    assert frame.archive_start <= 515 < 525 <= frame.archive_start + frame.archive_size


@given(st.binary(max_size=200), st.data())
def test_whatever_is_no_catalog_is_refused_or_found_out(text: bytes, data: st.DataObject) -> None:
    with pytest.raises(DamagedError):
        Catalog(text)
    good = write_catalog(made([[5, 70, 200], [9]]))
    place = data.draw(st.integers(0, len(good) - 1))
    bad = good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :]
    with pytest.raises(DamagedError):
        Catalog(bad).check()
    try:
        catalog = Catalog(bad)
        for member in catalog.members():
            catalog.find(member.digest)
            for number in range(*catalog.frames_of(member)):
                catalog.frame(number)
    except DamagedError:
        pass


@given(st.lists(st.binary(min_size=2, max_size=2), min_size=1, max_size=40, unique=True), st.binary(max_size=3))
def test_objects_are_found_by_how_their_digests_begin(beginnings: list[bytes], prefix: bytes) -> None:
    digests = [beginning + bytes(30) for beginning in beginnings]
    members = [(one, 100 * place, 10) for place, one in enumerate(digests)]
    catalog = Catalog(write_catalog([NewPack(Blob(digest(0), 9), [(9, 100 * len(digests))], members)]))
    assert list(catalog.beginning_with(prefix)) == sorted(one for one in digests if one.startswith(prefix))
