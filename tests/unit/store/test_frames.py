"""Stored dumps: any dump comes back, most of the frames of a changed one are the other's, and damage is named."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum import zstd
from stratum.errors import DamagedError
from stratum.store.frames import FRAME_SIZE, ONE_FRAME_MAX, FrameReader, StoredDump, compress_dump, unseen_lines
from stratum.tree.blocks import Span
from stratum.tree.dump import Piece
from stratum.tree.splice import SplicedDump
from tests.support.effort import examples


def stored(data: bytes) -> bytes:
    return b"".join(compress_dump(SplicedDump([data])))


def read(data: bytes) -> tuple[bytes, StoredDump]:
    """What a stored dump holds, and how it is stored."""
    reader = FrameReader(data)
    dump = b"".join(reader.pieces())
    assert b"".join(reader.pieces()) == dump
    return dump, reader.stored


@given(st.binary(max_size=5000))
def test_small_dumps_are_one_frame(data: bytes) -> None:
    frame = stored(data)
    assert read(frame) == (data, (frame, ((0, len(frame), 0, len(data)),)))


@given(st.binary(min_size=1, max_size=200))
def test_anything_but_whole_frames_is_damage(data: bytes) -> None:
    frame = stored(b"x" * 1000)
    for bad in (
        data,
        frame + data,
        data + frame,
        frame[: -len(data)],
        frame + frame[: 1 + len(data) % (len(frame) - 1)],
    ):
        with pytest.raises(DamagedError):
            read(bad)


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 7))
def test_a_damaged_bit_is_damage_or_another_dump(place: int, bit: int) -> None:
    frame = bytearray(stored(random.Random(1).randbytes(1500)) + stored(b"ab" * 1000))
    frame[place % len(frame)] ^= 1 << bit
    try:
        dump, known = read(bytes(frame))
    except DamagedError:
        return
    assert b"".join(zstd.decompress(frame[part.start : part.end]) for part in known.frames) == dump


@pytest.mark.parametrize(
    "options",
    [
        {zstd.CompressionParameter.checksum_flag: 1},
        {zstd.CompressionParameter.content_size_flag: 0},
        {zstd.CompressionParameter.compression_level: 19, zstd.CompressionParameter.checksum_flag: 1},
        {zstd.CompressionParameter.window_log: 10},
    ],
)
def test_frames_that_others_wrote_are_read(options: dict[int, int]) -> None:
    for data in (b"", b"x", b"x" * 1_000_000, random.Random(2).randbytes(300_000), b"line\n" * 70_000):
        compressor = zstd.ZstdCompressor(options=options)
        parts = [compressor.compress(data[:1000]), compressor.compress(data[1000:]), compressor.flush()]
        frame = b"".join(parts)
        assert read(frame)[0] == data
        assert read(frame + frame)[0] == data + data


def big(seed: int, size: int = 3 * ONE_FRAME_MAX) -> bytes:
    return random.Random(seed).randbytes(size // 2).hex().encode()


def test_a_large_dump_is_frames_that_any_tool_joins(tmp_path: Path) -> None:
    data = big(1)
    whole = stored(data)
    dump, known = read(whole)
    assert dump == data
    assert len(known.frames) == len(data) // FRAME_SIZE
    (tmp_path / "dump.zst").write_bytes(whole)
    assert zstd.decompress(whole) == data
    assert [frame.first for frame in known.frames[1:]] == [frame.last for frame in known.frames[:-1]]


@pytest.mark.parametrize("seed", range(8))
def test_a_changed_dump_takes_over_the_frames_that_it_shares(seed: int) -> None:
    data, rng = big(2), random.Random(seed)
    _, known = read(stored(data))
    pieces: list[Piece] = []
    at = 0
    for cut in sorted(rng.sample(range(len(data)), rng.randrange(1, 6))):
        if cut <= at:
            continue
        pieces += [Span(at, cut), rng.randbytes(rng.choice((1, 1000, FRAME_SIZE)))]
        at = min(cut + rng.choice((0, 1000, FRAME_SIZE)), len(data))
    dump = SplicedDump([*pieces, Span(at, len(data))], data)
    changed = b"".join(compress_dump(dump, known))
    again, frames = read(changed)
    assert again == dump.join()
    assert len({known.data[f.start : f.end] for f in known.frames} & {changed[f.start : f.end] for f in frames.frames})
    assert len(frames.frames) <= len(known.frames) + 2 * len(pieces)


def test_changes_upon_changes_do_not_crumble_the_frames() -> None:
    rng, data = random.Random(3), big(3)
    known = read(stored(data))[1]
    for _ in range(60):
        cut = rng.randrange(len(data) - 100)
        dump = SplicedDump([Span(0, cut), b"y" * 100, Span(cut + 100, len(data))], data)
        data, known = read(b"".join(compress_dump(dump, known)))
    sizes = [frame.last - frame.first for frame in known.frames]
    assert min(sizes) >= FRAME_SIZE // 4
    assert max(sizes) <= 2 * FRAME_SIZE


def test_a_bomb_stays_small(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(zstd.compress(bytes(1 << 30), 1))
    assert bomb.stat().st_size < 1 << 20
    code = (
        "import re, sys\n"
        "from stratum.store.frames import FrameReader\n"
        "from stratum.tree import blocks\n"
        "from stratum.errors import DamagedError\n"
        "blocks.DUMP_MAX = 1 << 28\n"
        "def peak():\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "before = peak()\n"
        "try:\n"
        "    reader = FrameReader(data)\n"
        "    blocks.Dump(reader.pieces)\n"
        "except DamagedError as exc:\n"
        "    print(peak() - before, exc)\n"
    )
    out = subprocess.run([sys.executable, "-c", code, str(bomb)], check=True, capture_output=True, text=True).stdout
    grown, _, message = out.partition(" ")
    assert "larger than 268435456 bytes" in message
    assert int(grown) < 50_000  # KiB


pieces = st.sampled_from([b"a", b"bb", b"\n", b"c\n", b"dd\nee", b"\nf", b"gg\n\n", b"h\ni\nj"])


@settings(max_examples=examples(400))
@given(st.lists(st.lists(pieces, min_size=1, max_size=8), min_size=1, max_size=6))
def test_lines_that_were_in_frames_before_are_left_out_and_no_others(dumps: list[list[bytes]]) -> None:
    """Whatever frames several dumps share, and wherever they cut the lines."""
    seen: set[bytes] = set()
    found: set[bytes] = set()
    for parts in (*dumps, dumps[0]):
        whole = [*parts, b"\n"]
        dump, known = read(b"".join(map(zstd.compress, whole)))
        assert dump == b"".join(whole)
        for line in unseen_lines(dump, known, seen):
            assert line.endswith(b"\n")
            found.update(line.split(b"\n"))
        assert set(dump.split(b"\n")) <= found
        assert found <= {line for other in dumps for line in b"".join([*other, b"\n"]).split(b"\n")}


def test_a_dump_that_was_read_is_not_read_again() -> None:
    data = b"".join(b"%06d\n" % number for number in range(ONE_FRAME_MAX // 5))
    dump, known = read(stored(data))
    seen: set[bytes] = set()
    assert len(known.frames) > 2
    assert sum(map(len, unseen_lines(dump, known, seen))) >= len(data)
    assert sum(map(len, unseen_lines(dump, known, seen))) < 20 * len(known.frames)
