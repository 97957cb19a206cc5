"""The pieces of ``stratum run`` that need no Podman: the attach stream's frames and the command line."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.cli.running import split_command
from stratum.podman.attach import frames


def reader(data: bytes, size: int) -> Callable[[], bytes]:
    chunks = iter([data[start : start + size] for start in range(0, len(data), size)])
    return lambda: next(chunks, b"")


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.integers(1, 30))
def test_frames_are_found_however_they_are_cut(said: list[tuple[int, bytes]], size: int) -> None:
    data = b"".join(struct.pack(">B3xI", stream, len(text)) + text for stream, text in said)
    assert list(frames(reader(data, size))) == said


def test_a_cut_off_frame_ends_the_stream() -> None:
    data = struct.pack(">B3xI", 1, 3) + b"one" + struct.pack(">B3xI", 2, 1 << 31) + b"never"
    assert list(frames(reader(data, 100))) == [(1, b"one")]


@pytest.mark.parametrize(
    ("words", "command", "volumes"),
    [
        (["ls", "-v", "app:/data"], ["ls"], ["app:/data"]),
        (["-v", "app+dev:/data:ro", "ls"], ["ls"], ["app+dev:/data:ro"]),
        (["ls", "--volume", "app:v1:/data"], ["ls"], ["app:v1:/data"]),
        (["--", "ls", "-v", "app:/data"], ["ls", "-v", "app:/data"], []),
        (["git", "checkout", "--", "-v", "app:/x"], ["git", "checkout", "--", "-v", "app:/x"], []),
        (["grep", "-v", "word", "-e", "x"], ["grep", "-v", "word", "-e", "x"], []),
        (["ls", "-v"], ["ls", "-v"], []),
        (["podman", "run", "-v", "/host:/data"], ["podman", "run", "-v", "/host:/data"], []),
    ],
)
def test_volumes_may_follow_the_command(words: list[str], command: list[str], volumes: list[str]) -> None:
    assert split_command(words) == (command, volumes)
