"""Live switching: whoever reads at the mountpoint sees the old tree or the new one, never none."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stratum.errors import BusyError, DamagedError, NotFoundError
from stratum.frozen import replace
from stratum.mount import build, host
from stratum.mount.plan import MountPlan
from stratum.mount.state import Record, State
from stratum.mount.swap import swapping
from stratum.store.holders import Container as HeldBy
from stratum.sys import mountinfo, proc
from stratum.sys.mountapi import move_mount
from stratum.sys.namespaces import enter_mount_namespace, in_own_thread
from stratum.sys.proc import Process, process_of
from stratum.sys.syscalls import open_in_root, statx_mount_id
from tests.support.leftovers import unmount_below
from tests.support.mounts import Sample, make_sample, walk

pytestmark = [pytest.mark.root, pytest.mark.oracle]

# Reads the label in a loop and ends when its input does, telling which labels it saw, in order, and any failure.
READER = """
import json, os, select, sys
seen, target = [], sys.argv[1]
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        names = sorted(os.listdir(target))
        text = open(os.path.join(target, "label")).read()
    except OSError as exc:
        names, text = [], str(exc)
    shown = text if names == ["big", "label", "link", "sub"] else f"{names} {text}"
    if not seen or seen[-1] != shown:
        seen.append(shown)
print(json.dumps(seen))
"""


@dataclass
class Place:
    """Two commits, labelled one and two, a worktree of each, and a mountpoint."""

    directory: Path
    one: Sample
    two: Sample
    state: State
    target: Path

    def mount(self, writable: bool = True) -> Record:
        upper, work = self.one.worktree("one")
        plan = MountPlan(self.one.image, self.one.data, *((upper, work) if writable else ()))
        ref = "app+dev" if writable else "app:v1"
        return host.mount_recorded(self.state, plan, store=self.one.store, ref=ref, commit="c1", at=self.target)

    def plan(self, record: Record) -> MountPlan:
        """A worktree of commit two that is to take the record's place."""
        upper, work = self.two.worktree("two")
        return MountPlan(self.two.image, self.two.data, upper, work, source=record.source)


@pytest.fixture(params=["private", "shared"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Below a mount that does not, and one that does propagate to others."""
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    subprocess.run(["mount", f"--make-{request.param}", tmp_path], check=True)
    one = make_sample(tmp_path / "store", "one", "c1")
    two = make_sample(tmp_path / "store", "two", "c2")
    (tmp_path / "mnt").mkdir()
    yield Place(tmp_path, one, two, State(tmp_path / "run"), tmp_path / "mnt")
    unmount_below(tmp_path)


def swap(record: Record, plan: MountPlan, *, force: bool = False, beneath: bool = True) -> int:
    with swapping(record, force=force) as live:
        return live.show(plan, beneath=beneath)


@contextmanager
def reading(command: list[str]) -> Iterator[list[str]]:
    """A reader loop that runs during the block; the list holds what it printed, afterwards."""
    said: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        try:
            yield said
        finally:
            said.append(reader.communicate()[0].strip())


def read_rounds(record: Record, place: Place, rounds: int, **options: bool) -> None:
    """Switch to and fro, so that a reader has many chances to see a gap."""
    plans = [
        MountPlan(sample.image, sample.data, *sample.worktree(name), source=record.source)
        for sample, name in ((place.two, "two"), (place.one, "one-again"))
    ]
    for number in range(rounds):
        plan = plans[number % 2]
        place.state.confirm(record, swap(record, plan, **options))


def mounts_below(directory: Path) -> list[str]:
    return [entry.mountpoint for entry in mountinfo.read() if entry.mountpoint.startswith(str(directory))]


def labels_of(said: list[str]) -> set[str]:
    return set(json.loads(said[0]))


@pytest.mark.parametrize("beneath", [True, False])
def test_a_reader_never_sees_a_gap(place: Place, beneath: bool) -> None:
    record = place.mount()
    with reading([sys.executable, "-c", READER, str(place.target)]) as said:
        read_rounds(record, place, 16, beneath=beneath)
    assert labels_of(said) == {"one", "two"}
    host.unmount(place.state, record)
    assert os.listdir(place.target) == []
    assert place.state.records() == []


def test_the_old_mount_is_gone_and_the_record_is_of_the_new(place: Place) -> None:
    record = place.mount()
    mount_id = swap(record, place.plan(record))
    record = place.state.confirm(record, mount_id, commit="c2")
    assert statx_mount_id(place.target) == mount_id
    assert [entry.mountpoint for entry in mountinfo.read()].count(str(place.target)) == 1
    assert walk(place.target) == walk(place.two.source)
    (place.target / "new").write_text("to the new upperdir")
    assert place.state.records() == [record]
    assert record.commit == "c2"
    host.unmount(place.state, place.target)
    assert (place.two.store / "refs" / "two" / "upperdir" / "new").exists()


def test_open_files_stay_with_the_old_tree(place: Place) -> None:
    record = place.mount()
    with open(place.target / "label") as kept:
        swap(record, place.plan(record))
        assert kept.read() == "one"
    assert (place.target / "label").read_text() == "two"


def test_a_file_open_for_writing_blocks_the_switch(place: Place) -> None:
    record = place.mount()
    plan = place.plan(record)
    # What speaks is the last program of the shell already: its command line is the one that is named.
    script = "exec 3>>label; exec cat /proc/self/comm -"
    with subprocess.Popen(["sh", "-c", script], cwd=place.target, stdin=-1, stdout=-1) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(
            BusyError, match=rf"{writer.pid} \(cat /proc/self/comm -\) writes {place.target}/label"
        ) as caught:
            swap(record, plan)
        assert "--force" in caught.value.hint
        assert (place.target / "label").read_text() == "one"
        (place.target / "still").write_text("writable")
        (place.target / "still").unlink()
        swap(record, plan, force=True)
        assert (place.target / "label").read_text() == "two"
        writer.kill()


def test_a_writer_in_another_mount_namespace_blocks_it_too(place: Place) -> None:
    record = place.mount()
    script = f"mount --bind {place.target} /mnt; exec 3>>/mnt/label; echo; exec sleep 1000"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(BusyError, match=f"{writer.pid} .* writes /mnt/label"):
            swap(record, place.plan(record))
        (place.target / "label").write_text("writable")
        writer.kill()


def test_what_is_mounted_below_blocks_it(place: Place) -> None:
    record = place.mount()
    subprocess.run(["mount", "-t", "tmpfs", "none", place.target / "sub"], check=True)
    with pytest.raises(BusyError, match=f"other filesystems are mounted on .*: {place.target}/sub"):
        swap(record, place.plan(record), force=True)


def test_a_build_that_fails_changes_nothing(place: Place) -> None:
    record = place.mount()
    plan = replace(place.plan(record), image=place.directory / "gone")
    with pytest.raises(DamagedError, match="gone"):
        swap(record, plan)
    (place.target / "new").write_text("writable")
    assert place.state.records() == [record]


def test_the_old_mount_takes_no_writes_while_the_new_one_is_made(place: Place) -> None:
    record = place.mount()
    with swapping(record) as live:
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            (place.target / "new").touch()
        assert walk(place.target) == walk(place.one.source)
        live.show(place.plan(record))
    (place.target / "new").touch()


def test_a_mount_that_is_gone_or_covered_is_not_switched(place: Place) -> None:
    record = place.mount()
    plan = place.plan(record)
    subprocess.run(["mount", "-t", "tmpfs", "none", place.target], check=True)
    with pytest.raises(NotFoundError, match="does not show"):
        swap(record, plan)
    subprocess.run(["umount", place.target, place.target], check=True)
    with pytest.raises(NotFoundError, match="does not show"):
        swap(record, plan)


def test_a_switch_cut_short_is_taken_down_whole(place: Place) -> None:
    """A process that dies between the two steps leaves the new mount beneath the old one."""
    record = place.mount()
    with (
        build.closing(build.build_detached(place.plan(record))) as new,
        build.closing(build.open_mountpoint(place.target)) as old,
    ):
        build.mountapi.move_mount(new, old, beneath=True)
    assert (place.target / "label").read_text() == "one"
    assert place.state.records() == [record]
    host.unmount(place.state, record)
    assert os.listdir(place.target) == []
    assert place.state.records() == []


def test_a_read_only_commit_is_switched(place: Place) -> None:
    record = place.mount(writable=False)
    plan = MountPlan(place.two.image, place.two.data, source=record.source)
    swap(record, plan)
    assert walk(place.target) == walk(place.two.source)


class Container:
    """A process with a root and a mount namespace of its own, as a runtime makes them, with the worktree at /data."""

    def __init__(self, place: Place, *flags: str) -> None:
        self.place = place
        root = place.directory / "root"
        for name in ("bin", "data", "lib", "lib64", "usr", "proc", "old"):
            (root / name).mkdir(parents=True)
        script = f"""
            mount --bind {root} {root}
            for name in bin lib lib64 usr; do mount --rbind /$name {root}/$name; done
            cd {root}
            pivot_root . old
            cd /
            mount -t proc proc /proc
            umount -l /old
            echo ready
            exec sleep 1000
        """
        command = ["unshare", *flags, "--mount", "--propagation", "private", "sh", "-ec", script]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            self.stop()
            pytest.fail("the container did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def first_process(self) -> Process:
        return process_of(self.process.pid, proc.start_time(self.process.pid) or 0)

    def run(self, *command: str) -> str:
        entered = ["nsenter", "--target", str(self.process.pid), "--mount", "--root", "--wd", *command]
        return subprocess.run(entered, check=True, capture_output=True, text=True).stdout

    def attach(self, mount: int) -> int:
        """Attach as the hook does: in the container's mount namespace, on an fd opened in its root."""

        def enter() -> int:
            root = os.open(f"/proc/{self.process.pid}/root", os.O_PATH)
            with build.closing(os.open(f"/proc/{self.process.pid}/ns/mnt", os.O_RDONLY)) as namespace:
                enter_mount_namespace(namespace)
            with build.closing(root), build.closing(open_in_root(root, "/data", os.O_PATH)) as target:
                move_mount(mount, target)
            return statx_mount_id(directory=mount)

        return in_own_thread(enter)

    def mount(self) -> Record:
        upper, work = self.place.one.worktree("one")
        record = self.place.state.claim(
            store=self.place.one.store,
            ref="app+dev",
            commit="c1",
            mountpoint=Path("/data"),
            read_only=False,
            holder=HeldBy("c0ffee"),
        )
        plan = MountPlan(self.place.one.image, self.place.one.data, upper, work, source=record.source)
        with build.closing(build.build_detached(plan)) as built:
            mount_id = self.attach(built)
        return self.place.state.confirm(record, mount_id, process=self.first_process)


@pytest.fixture(params=[(), ("--user", "--map-root-user", "--pid", "--fork", "--kill-child")], ids=["plain", "userns"])
def container(place: Place, request: pytest.FixtureRequest) -> Iterator[Container]:
    made = Container(place, *request.param)
    yield made
    made.stop()


SHELL_READER = """
echo ready
exec 2>&1
while [ ! -e /tmp-stop ]; do
    text="$(ls /data | tr '\\n' ' ')$(cat /data/label)"
    [ "$text" = "$last" ] || echo "$text"
    last="$text"
done
"""


@pytest.mark.parametrize("beneath", [True, False])
def test_a_running_container_is_switched_without_a_gap(place: Place, container: Container, beneath: bool) -> None:
    record = container.mount()
    host_mounts = mounts_below(place.directory)
    enter = ["nsenter", "--target", str(container.process.pid), "--mount", "--root", "--wd"]
    with reading([*enter, "sh", "-c", SHELL_READER]) as said:
        read_rounds(record, place, 10, beneath=beneath)
        subprocess.run([*enter, "touch", "/tmp-stop"], check=True)
    assert {line.split()[-1][-3:] for line in said[0].splitlines()} == {"one", "two"}
    # Two commands make one line, so the names may be of one tree and the label of the other, but both always whole.
    assert all(line.startswith("big label link sub ") for line in said[0].splitlines())
    assert mounts_below(place.directory) == host_mounts
    (record,) = place.state.records()
    assert record.mountpoint == "/data"


def test_a_writer_in_the_container_blocks_the_switch(place: Place, container: Container) -> None:
    record = container.mount()
    enter = ["nsenter", "--target", str(container.process.pid), "--mount", "--root", "--wd"]
    with subprocess.Popen([*enter, "sh", "-c", "exec 3>>/data/label; echo; exec sleep 1000"], stdout=-1) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(BusyError, match=f"{writer.pid} .* writes /data/label"):
            swap(record, place.plan(record))
        writer.kill()
    container.run("sh", "-c", "echo written > /data/label")


def test_the_container_cannot_write_while_the_new_mount_is_made(place: Place, container: Container) -> None:
    record = container.mount()
    with swapping(record), pytest.raises(subprocess.CalledProcessError) as caught:
        container.run("sh", "-c", "echo > /data/new")
    assert os.strerror(errno.EROFS) in caught.value.stderr
    container.run("sh", "-c", "echo > /data/new")


def test_a_container_that_is_gone_is_not_entered(place: Place, container: Container) -> None:
    record = container.mount()
    container.process.kill()
    container.process.wait()
    with pytest.raises(NotFoundError, match="c0ffee"):
        swap(record, place.plan(record))


def test_a_container_that_hid_the_mount_is_left_alone(place: Place, container: Container) -> None:
    """Its root can put a symlink in the way; nothing else of it may be unmounted for that."""
    record = container.mount()
    before = mountinfo.read(container.process.pid)
    container.run("sh", "-c", "mkdir /elsewhere; mount --move /data /elsewhere; rmdir /data; ln -s /usr /data")
    with pytest.raises(NotFoundError, match="does not show"):
        swap(record, place.plan(record))
    assert len(mountinfo.read(container.process.pid)) == len(before)
