"""Records of how dumps are stored: read back as they were written, and refused where they were not written so."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from stratum import zstd
from stratum.errors import DamagedError
from stratum.store.treerecord import (
    FrameRef,
    TreeRecord,
    decode,
    encode,
    join_file,
    small_whole,
    split_file,
)
from stratum.tree.blocks import DUMP_MAX, Span

COMMIT, GROUND = "ab" * 32, "cd" * 32
lines = st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=4).map(b"".join)


@st.composite
def deltas(draw: st.DrawFn) -> TreeRecord:
    """Records of edit scripts."""
    steps: list[Span | int] = []
    text, at = b"", 0
    for gap, size, new in draw(
        st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 28), lines), max_size=5)
    ):
        steps.append(Span(at + gap, at + gap + size))
        at += gap + size
        text += new
        steps += [len(new)] if new else []
    size = sum(step if isinstance(step, int) else step.end - step.start for step in steps)
    return TreeRecord(size, draw(st.integers(1, 3)), GROUND, tuple(steps), (), text)


frames = st.lists(st.builds(FrameRef, st.binary(min_size=32, max_size=32), st.integers(1, 1 << 24)), max_size=4)
wholes = frames.map(lambda refs: TreeRecord(sum(ref.size for ref in refs), 0, None, (), tuple(refs), b""))


@given(deltas() | wholes | lines.map(small_whole))
def test_what_was_written_is_read_and_nothing_else(record: TreeRecord) -> None:
    data = encode(record, COMMIT)
    assert decode(data, COMMIT, "it") == record
    metadata, read = split_file(join_file(b"[commit]\n", data), "it")
    assert (metadata, read) == (b"[commit]\n", data)
    with pytest.raises(DamagedError, match="it is damaged"):
        decode(data, GROUND, "it")
    for at in range(0, len(data), 7):
        with pytest.raises(DamagedError, match="it is damaged"):
            decode(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :], COMMIT, "it")
        with pytest.raises(DamagedError, match="it is damaged"):
            decode(data[:at], COMMIT, "it")


def sealed(head: str, frames: bytes = b"", text: bytes = b"") -> bytes:
    body = head.encode() + b"\n" + frames + zstd.compress(text)
    return body + blake3(bytes.fromhex(COMMIT) + body).digest()


SPAN = b"\x15\x00"
"""Ten bytes from the ground's beginning."""


@pytest.mark.parametrize(
    "data",
    [
        sealed(f"10 1 {GROUND} 2 0 0", b"", SPAN + b"x"),
        sealed(f"10 1 {GROUND} 2 0 9", b"", SPAN),
        sealed(f"10 1 {GROUND} 3 0 0", b"", SPAN + b"\x15"),
        sealed(f"20 1 {GROUND} 2 0 0", b"", SPAN),
        sealed(f"10 0 {GROUND} 2 0 0", b"", SPAN),
        sealed("10 1 - 2 0 0", b"", SPAN),
        sealed(f"10 1 {GROUND} 1 0 0", b"", b"\x80"),
        sealed(f"10 1 {GROUND} 20 0 0", b"", b"\xff" * 20),
        sealed(f"2 1 {GROUND} 1 0 2", b"", b"\x04ab"),
        sealed("5 0 - 0 1 0", bytes(32) + (6).to_bytes(4, "big")),
        sealed("0 0 - 0 1 0", bytes(36)),
        sealed(f"{1 << 25} 0 - 0 1 0", bytes(32) + (1 << 25).to_bytes(4, "big")),
        sealed("5 0 - 0 2 0", bytes(36)),
        sealed(f"{DUMP_MAX + 1} 1 {GROUND} 2 0 0", b"", SPAN),
        sealed(f"2000000 1 {GROUND} 0 0 2000000", b"", b"\n" * 2_000_000),
    ],
)
def test_a_record_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedError, match="it is damaged"):
        decode(data, COMMIT, "it")


def test_a_file_without_a_record_is_refused() -> None:
    with pytest.raises(DamagedError):
        split_file(b"[commit]\n", "it")


def test_a_bomb_is_not_unpacked() -> None:
    """What the frame holds is not more than the head tells of."""
    bomb = sealed(f"10 1 {GROUND} 2 0 0", b"", bytes(1 << 28))
    assert len(bomb) < 1 << 16
    with pytest.raises(DamagedError):
        decode(bomb, COMMIT, "it")
