"""Who does something, as ``/proc`` has it."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.sys.actors import Actors, actor_of, container_of, status_fields

ID = "5a" * 32
OTHER = "c3" * 32


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
    container_of(text)
    status_fields(text)


def test_actors_are_threads_of_processes() -> None:
    found = actor_of(threading.get_native_id())
    assert found is not None
    assert (found.pid, found.tid) == (os.getpid(), threading.get_native_id())
    process = subprocess.Popen(["sleep", "60"], process_group=0)
    try:
        asleep = Actors().of(process.pid)
        while asleep is not None and asleep.name != "sleep":  # not executed yet
            asleep = actor_of(process.pid)
        assert asleep is not None
        assert asleep.pid == process.pid
    finally:
        process.kill()
        process.wait()
    assert actor_of(process.pid) is None


def test_a_thread_without_a_number_is_nobody() -> None:
    assert actor_of(0) is None


def test_who_is_gone_is_remembered_for_a_while() -> None:
    process = subprocess.Popen(["sleep", "60"], process_group=0)
    actors, forgetful = Actors(kept=60), Actors()
    try:
        found = actors.of(process.pid)
        assert found is not None
        forgetful.of(process.pid)
    finally:
        process.kill()
        process.wait()
    time.sleep(1.1)  # by then it is looked at again
    assert actors.of(process.pid) == found
    assert forgetful.of(process.pid) is None
