"""What is told of a reader by the texts that ``/proc`` has of its thread."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.hydrate import reader
from stratum.hydrate.reader import Readers, call_needs_content, container_of, has_fatal_signal, reader_of

ID = "5a" * 32
OTHER = "c3" * 32


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


@pytest.mark.parametrize(
    ("cgroups", "container"),
    [
        (b"0::/\n", None),
        (b"", None),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n".encode(), ID),
        (f"1:cpu:/kubepods/pod12/{OTHER}\n0::/kubepods/pod12/{ID}\n".encode(), ID),
        (f"0::/docker/{OTHER}/docker/{ID}\n".encode(), ID),
        (f"0::/x-{ID[:60]}\n".encode(), None),
    ],
)
def test_a_container_is_what_its_cgroup_is_named_by(cgroups: bytes, container: str | None) -> None:
    assert container_of(cgroups) == container


@given(st.binary(max_size=300))
def test_any_text_is_survived(text: bytes) -> None:
    assert call_needs_content(text, "x86_64") in (True, False)
    assert has_fatal_signal(text) in (True, False)
    container_of(text)


def test_readers_are_threads_of_processes() -> None:
    found = reader_of(threading.get_native_id())
    assert found is not None
    assert (found.pid, found.tid) == (os.getpid(), threading.get_native_id())
    process = subprocess.Popen(["sleep", "60"], process_group=0)
    try:
        asleep = Readers().of(process.pid)
        while asleep is not None and asleep.name != "sleep":  # not executed yet
            asleep = reader_of(process.pid)
        assert asleep is not None
        assert asleep.pid == process.pid
        assert not reader.is_dying(process.pid)
    finally:
        process.kill()
        process.wait()
    assert reader_of(process.pid) is None
    assert reader.is_dying(process.pid)


def test_a_thread_without_a_number_is_nobody_who_reads_and_does_not_end() -> None:
    assert reader_of(0) is None
    assert not reader.is_dying(0)
    assert reader.needs_content(0)
