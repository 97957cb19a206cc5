"""What is told of a reader by the texts that ``/proc`` has of its thread."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.hydrate import reader
from stratum.hydrate.reader import call_needs_content, has_fatal_signal


def status(**masks: int) -> bytes:
    names = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    return "".join(f"{name}:\t{masks.get(name, 0):016x}\n" for name in names).encode()


def call(number: int, *arguments: int) -> bytes:
    values = (*arguments, *(0,) * (6 - len(arguments)))
    return " ".join([str(number), *map(hex, values), "0x7ffd", "0x7f00"]).encode() + b"\n"


@pytest.mark.parametrize(
    ("text", "machine", "needs"),
    [
        (call(257, 0xFFFFFF9C, 0x1000, os.O_RDONLY), "x86_64", True),  # openat
        (call(257, 0xFFFFFF9C, 0x1000, os.O_RDWR | os.O_APPEND), "x86_64", True),
        (call(257, 0xFFFFFF9C, 0x1000, os.O_WRONLY | os.O_TRUNC), "x86_64", False),
        (call(2, 0x1000, os.O_WRONLY | os.O_TRUNC), "x86_64", False),  # open
        (call(2, 0x1000, os.O_RDONLY), "x86_64", True),
        (call(437, 0xFFFFFF9C, 0x1000, 0x2000, 24), "x86_64", True),  # openat2
        (call(85, 0x1000, 0o644), "x86_64", False),  # creat
        (call(59, 0x1000), "x86_64", True),  # execve
        (call(76, 0x1000, 0), "x86_64", True),  # truncate copies first, whatever the length
        (call(90, 0x1000, 0o600), "x86_64", False),  # chmod
        (call(316, 0, 0x1000, 0, 0x2000, 0), "x86_64", False),  # renameat2
        (call(56, 0xFFFFFF9C, 0x1000, os.O_RDONLY), "aarch64", True),
        (call(56, 0xFFFFFF9C, 0x1000, os.O_WRONLY | os.O_TRUNC), "aarch64", False),
        (call(54, 0xFFFFFF9C, 0x1000, 1, 1), "aarch64", False),  # fchownat
        (call(90, 0x1000, 0o600), "aarch64", True),  # another call there
        (call(90, 0x1000, 0o600), "riscv64", True),
        (b"running\n", "x86_64", True),
        (b"-1 0x7ffd 0x7f00\n", "x86_64", True),
        (b"257\n", "x86_64", True),
        (b"", "x86_64", True),
    ],
)
def test_calls_that_change_metadata_need_no_content(text: bytes, machine: str, needs: bool) -> None:
    assert call_needs_content(text, machine) is needs


@pytest.mark.parametrize(
    ("masks", "fatal"),
    [
        ({}, False),
        ({"SigPnd": 1 << 8}, True),  # SIGKILL, sent to the thread
        ({"ShdPnd": 1 << 14}, True),  # SIGTERM, sent to the process
        ({"ShdPnd": 1 << 14, "SigCgt": 1 << 14}, False),
        ({"ShdPnd": 1 << 14, "SigBlk": 1 << 14}, False),
        ({"ShdPnd": 1 << 14, "SigIgn": 1 << 14}, False),
        ({"ShdPnd": 1 << 22, "SigPnd": 1 << 8, "SigCgt": 1 << 22}, True),  # a handled one, then SIGKILL
    ],
)
def test_a_signal_ends_a_reader_that_neither_blocks_ignores_nor_handles_it(masks: dict[str, int], fatal: bool) -> None:
    assert has_fatal_signal(status(**masks)) is fatal


@given(st.binary(max_size=300))
def test_any_text_is_survived(text: bytes) -> None:
    assert call_needs_content(text, "x86_64") in (True, False)
    assert has_fatal_signal(text) in (True, False)


def test_who_is_killed_is_dying() -> None:
    process = subprocess.Popen(["sleep", "60"], process_group=0)
    try:
        assert not reader.is_dying(process.pid)
    finally:
        process.kill()
        process.wait()
    assert reader.is_dying(process.pid)


def test_a_thread_without_a_number_does_not_end() -> None:
    assert not reader.is_dying(0)
    assert reader.needs_content(0)
