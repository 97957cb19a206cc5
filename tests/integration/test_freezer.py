"""Cgroups that stand still for a moment, in every hierarchy of this kernel that can do it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.errors import StratumError, UnsupportedError
from stratum.sys import mountinfo
from stratum.sys.freezer import Cgroup, cgroup_of, cgroups_of, frozen_cgroups
from tests.support.watched import until

pytestmark = pytest.mark.root

NAME = f"pod{os.getpid()}"
WRITER = 'while :; do echo >> "$0"; done'
HOLDER = """
import sys, time
from stratum.sys.freezer import Cgroup, frozen_cgroups
sys.stdin.read()
with frozen_cgroups([Cgroup(sys.argv[1], sys.argv[2] == "True")], patience=20, longest=60):
    print(flush=True)
    time.sleep(60)
"""
HIERARCHIES = [
    (entry.mountpoint, entry.fstype == "cgroup2")
    for entry in mountinfo.read()
    if entry.root == "/" and (entry.fstype == "cgroup2" or "freezer" in entry.super_options.split(","))
]


def grows(file: Path) -> bool:
    before = file.stat().st_size
    time.sleep(0.1)
    return file.stat().st_size > before


@pytest.fixture(params=HIERARCHIES, ids=lambda hierarchy: "v2" if hierarchy[1] else "v1")
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Cgroup, Path]]:
    """A cgroup with another in it, in which a process lets the file grow."""
    root, unified = request.param
    outer = Path(root) / NAME
    (outer / "inner").mkdir(parents=True)
    file = tmp_path / "file"
    file.touch()
    writer = subprocess.Popen(["/bin/sh", "-c", WRITER, file])
    (outer / "inner" / "cgroup.procs").write_text(str(writer.pid))
    try:
        until(lambda: grows(file), 60)
        yield Cgroup(str(outer), unified), file
    finally:
        writer.kill()
        writer.wait()
        (outer / "inner").rmdir()
        outer.rmdir()


def test_nothing_runs_in_a_frozen_cgroup_until_the_block_or_its_process_ends(busy: tuple[Cgroup, Path]) -> None:
    cgroup, file = busy
    assert cgroups_of(lambda name: name == NAME) == [cgroup]
    with frozen_cgroups([cgroup], patience=20, longest=60):
        assert not grows(file)
        with frozen_cgroups([cgroup], patience=20, longest=60):  # by somebody else, so it stays
            pass
        assert not grows(file)
    until(lambda: grows(file), 60)
    with pytest.raises(KeyError), frozen_cgroups([cgroup], patience=20, longest=60):
        raise KeyError
    until(lambda: grows(file), 60)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, cgroup.directory, str(cgroup.unified)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    container = Path(cgroup.directory).with_name(f"kubepods-{NAME}")
    container.mkdir()
    (container / "cgroup.procs").write_text(str(holder.pid))
    holder.stdin.close()
    assert holder.stdout.read(1) == b"\n"
    assert not grows(file)
    # As a container runtime ends a container: all processes of its cgroup.
    for pid in (container / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    holder.stdout.close()
    holder.wait()
    until(lambda: grows(file), 60)
    until(lambda: not (container / "cgroup.procs").read_text(), 60)
    container.rmdir()
    with pytest.raises(StratumError, match="1 s only"), frozen_cgroups([cgroup], patience=20, longest=1):
        until(lambda: grows(file), 60)
    gone = Cgroup(f"{cgroup.directory}/gone", cgroup.unified)
    with frozen_cgroups([gone], patience=1, longest=60):
        pass


def test_the_cgroup_of_a_process_is_found_in_what_proc_says() -> None:
    hybrid = (
        "31 1 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n32 1 0:29 / /sys/fs/u rw - cgroup2 u rw\n"
    )
    one = "12:cpu:/kubepods/podx/c\n6:freezer:/kubepods/podx/c\n0::/\n"
    assert cgroup_of(one, hybrid, "podx".__eq__) == Cgroup("/sys/fs/cgroup/freezer/kubepods/podx", False)
    two = "6:freezer:/a/podx\n0::/kubepods.slice/podx/c/podx\n"
    assert cgroup_of(two, hybrid, "podx".__eq__) == Cgroup("/sys/fs/u/kubepods.slice/podx", True)
    assert cgroup_of(two, hybrid, "pody".__eq__) is None
    for hidden in ("0::/../../kubepods/podx/c\n", "3:freezer:/../podx\n"):
        with pytest.raises(UnsupportedError, match="cannot be reached from here"):
            cgroup_of(hidden, hybrid, "podx".__eq__)
    with pytest.raises(UnsupportedError):
        cgroup_of(two, "", "podx".__eq__)
