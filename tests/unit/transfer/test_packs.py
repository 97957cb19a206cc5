"""Packs and their indexes: any objects round-trip, whole or one by one, and other tools read the archive."""

from __future__ import annotations

import io
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyzstd import SeekableZstdFile, ZstdFile

from stratum.composefs.verity import CHUNK_SIZE, chunk_hash, root_of_level1, verity_digest
from stratum.errors import DamagedError
from stratum.transfer import packs
from stratum.transfer.packs import Member, PackIndex, PackWriter
from stratum.tree.model import object_path
from stratum.tree.tarheader import TarHeader, write_header
from tests.support.chunks import level1_hashes
from tests.support.effort import examples

contents = st.lists(
    st.tuples(st.integers(0, 255), st.sampled_from([65, 511, 512, 513, 4096, 1 << 20, 3_000_000])), max_size=8
)


def objects_of(kinds: list[tuple[int, int]]) -> dict[Member, bytes]:
    found = {}
    for seed, size in kinds:
        data = random.Random(seed).randbytes(size)
        found[Member(verity_digest(data), size)] = data
    return found


def write(objects: dict[Member, bytes]) -> tuple[bytes, PackIndex]:
    by_digest = {member.digest: data for member, data in objects.items()}
    writer = PackWriter(list(objects), lambda digest: io.BytesIO(by_digest[digest]))
    return b"".join(writer.pieces()), writer.index


def unpack(index: PackIndex, span: tuple[int, int], pack: bytes, wanted: set[Member]) -> dict[Member, bytes]:
    file, got = io.BytesIO(pack), {}
    file.seek(index.frame_starts[0][span[0]])
    packs.unpack(index, span, file.read, wanted, lambda m, pieces: got.update({m: b"".join(pieces)}), "the pack")
    return got


@settings(max_examples=examples(40))
@given(contents.filter(bool))
def test_packs_round_trip(kinds: list[tuple[int, int]]) -> None:
    objects = objects_of(kinds)
    pack, index = write(objects)
    assert packs.read_index(packs.write_index(index), len(pack), "the index") == index
    assert unpack(index, (0, len(index.frames)), pack, set(objects)) == objects
    for position, member in enumerate(index.members):
        span = index.frames_of(position)
        assert unpack(index, span, pack, {member}) == {member: objects[member]}
    assert write(objects)[0] == pack


@settings(max_examples=examples(40))
@given(contents.filter(bool))
def test_other_readers_agree(kinds: list[tuple[int, int]]) -> None:
    objects = objects_of(kinds)
    pack, index = write(objects)
    with ZstdFile(io.BytesIO(pack)) as plain:
        archive = plain.read()
    assert len(archive) == index.archive_size
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        infos = tar.getmembers()
        assert [info.name for info in infos] == [f"{m.digest.hex()[:2]}/{m.digest.hex()[2:]}" for m in objects]
        assert [info.offset_data for info in infos] == list(index.offsets)
        assert {(i.mode, i.uid, i.gid, i.mtime, i.type, i.uname, i.gname) for i in infos} == {
            (0o444, 0, 0, 0, tarfile.REGTYPE, "", "")
        }
        for info, data in zip(infos, objects.values(), strict=True):
            file = tar.extractfile(info)
            assert file is not None
            assert file.read() == data
    with SeekableZstdFile(io.BytesIO(pack)) as seekable:
        for offset, (member, data) in zip(index.offsets, objects.items(), strict=True):
            seekable.seek(offset)
            assert seekable.read(member.size) == data


def test_a_large_object_goes_with_the_hashes_of_its_chunks_and_frames_begin_with_one() -> None:
    data = random.Random(3).randbytes(packs.LARGE_OBJECT - 5) + bytes(3 << 20) + b"end"
    member = Member(verity_digest(data), len(data))
    writer = PackWriter([member], lambda _digest: io.BytesIO(data))
    pack, hashes = b"".join(writer.pieces()), writer.verity
    assert hashes == level1_hashes([data])
    assert root_of_level1(hashes, len(data)) == member.digest
    index = packs.read_index(packs.write_index(writer.index), len(pack), "the index")
    starts, archive = index.frame_starts
    offset = index.offsets[0]
    assert archive[1] == offset
    for number in range(1, len(index.frames) - 1):
        assert (archive[number] - offset) % CHUNK_SIZE == 0
        frame = packs.decompress(pack[starts[number] : starts[number + 1]], packs.FRAME_SIZE, "a frame")
        chunk = (archive[number] - offset) // CHUNK_SIZE
        assert chunk_hash(frame[:CHUNK_SIZE]) == hashes[32 * chunk : 32 * chunk + 32]
    assert unpack(index, (0, len(index.frames)), pack, {member}) == {member: data}
    with SeekableZstdFile(io.BytesIO(pack)) as seekable:
        seekable.seek(offset)
        assert seekable.read(len(data)) == data


def test_small_objects_go_without() -> None:
    objects = objects_of([(1, 3_000_000), (2, 65)])
    by_digest = {member.digest: data for member, data in objects.items()}
    writer = PackWriter(list(objects), lambda digest: io.BytesIO(by_digest[digest]))
    list(writer.pieces())
    assert writer.verity is None


@pytest.mark.parametrize("size", [1, 0o77777777777, 0o77777777777 + 1, 20 << 30, 1 << 43])
def test_headers_of_any_size(size: int) -> None:
    header = packs.header(Member(bytes(range(32)), size))
    with tarfile.open(fileobj=io.BytesIO(header), mode="r|") as tar:
        info = tar.next()
    assert info is not None
    assert (info.size, info.mode, info.isreg()) == (size, 0o444, True)
    assert info.name.replace("/", "") == bytes(range(32)).hex()
    assert len(header) == (512 if size < 8 << 30 else 1536)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 0o77777777777))
def test_headers_are_those_of_any_tar_archive(digest: bytes, size: int) -> None:
    plain = TarHeader(object_path(digest), mode=0o444, size=size)
    assert packs.header(Member(digest, size)) == write_header(plain)


sizes = st.lists(st.one_of(st.integers(65, 100_000), st.integers(1 << 20, 40 << 20)), max_size=60)


@given(sizes)
def test_packs_are_filled_in_order(found: list[int]) -> None:
    members = [Member(n.to_bytes(32, "big"), size) for n, size in enumerate(found)]
    plan = packs.plan_packs(members)
    assert sorted((m for pack in plan for m in pack), key=lambda m: m.digest) == members
    for pack in plan:
        assert list(pack) == sorted(pack, key=lambda m: m.digest)
        if any(member.size >= packs.LARGE_OBJECT for member in pack):
            assert len(pack) == 1
        else:
            assert sum(map(packs.archived_size, pack)) + 1024 <= packs.PACK_MAX
    mixed = [pack for pack in plan if pack[0].size < packs.LARGE_OBJECT]
    assert all(sum(map(packs.archived_size, pack)) >= packs.PACK_MAX - packs.LARGE_OBJECT - 2048 for pack in mixed[:-1])


@pytest.mark.parametrize("stored", [b"x" * 99, b"x" * 101, b"y" * 100, b""])
def test_a_damaged_object_is_not_packed(stored: bytes) -> None:
    member = Member(verity_digest(b"x" * 100), 100)
    writer = PackWriter([member], lambda _digest: io.BytesIO(stored))
    with pytest.raises(DamagedError, match=member.digest.hex()):
        list(writer.pieces())


def test_an_index_of_another_pack_is_refused() -> None:
    pack, index = write(objects_of([(1, 4096)]))
    with pytest.raises(DamagedError, match="describes a pack of"):
        packs.read_index(packs.write_index(index), len(pack) + 1, "the index")


def test_an_index_is_taken_apart_in_pieces_and_means_the_same() -> None:
    members = [Member(number.to_bytes(32, "big"), 1 + number) for number in range(9000)]
    whole, rest = divmod(PackIndex((), members).archive_size, 1 << 20)
    index = PackIndex((*((1 << 20, 1 << 20),) * whole, (100, rest)), members)
    text = packs.decompress(packs.write_index(index), packs.INDEX_MAX, "the index")
    assert len(text) > 2 * packs._AT_ONCE
    assert packs.read_index(packs.write_index(index), index.blob_size, "the index") == index
    broken = text.replace(b"object " + members[8000].digest.hex().encode(), b"object " + b"x" * 64)
    with pytest.raises(DamagedError, match=f"line {1 + len(index.frames) + 8001} is malformed"):
        packs.read_index(packs.compress(broken), index.blob_size, "the index")


@given(st.binary(max_size=300))
def test_garbage_is_no_index(garbage: bytes) -> None:
    for blob in (garbage, packs.compress(garbage), packs.compress(b"stratum-index 1\n" + garbage)):
        with pytest.raises(DamagedError):
            packs.read_index(blob, 1000, "the index")
