"""The record of mounts: one holder a worktree, nothing stale, nothing believed that is not there."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stratum.errors import BusyError, ConflictError, DamagedError, NotFoundError, UsageError
from stratum.frozen import replace
from stratum.mount import build, host
from stratum.mount.plan import MountPlan
from stratum.mount.record import record_from_json
from stratum.mount.state import Record, State
from stratum.store.holders import HOST, Container, Holder
from stratum.sys import proc
from stratum.sys.proc import Process, process_of, this_process
from stratum.sys.syscalls import statx_mount_id
from tests.support.leftovers import unmount_below
from tests.support.mounts import Sample, make_sample, walk

pytestmark = [pytest.mark.root, pytest.mark.oracle]


@dataclass
class Place:
    """A store with one commit and a worktree ``app+dev``, a state, and directories to mount on."""

    directory: Path
    sample: Sample
    state: State

    def target(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path

    def mount_worktree(self, at: Path | None, ref: str = "app+dev") -> Record:
        directory = self.sample.store / "refs" / ref
        if not directory.exists():
            self.sample.worktree(ref)
        plan = MountPlan(
            self.sample.image, self.sample.data, upperdir=directory / "upperdir", workdir=directory / "workdir"
        )
        return host.mount_recorded(self.state, plan, store=self.sample.store, ref=ref, commit="c1", at=at)

    def mount_commit(self, at: Path | None, ref: str = "app:v1") -> Record:
        plan = MountPlan(self.sample.image, self.sample.data)
        return host.mount_recorded(self.state, plan, store=self.sample.store, ref=ref, commit="c1", at=at)

    def claim(
        self, ref: str = "app+dev", at: str = "/nowhere", holder: Holder = HOST, process: Process | None = None
    ) -> Record:
        return self.state.claim(
            store=self.sample.store,
            ref=ref,
            commit="c1",
            mountpoint=Path(at),
            read_only=False,
            holder=holder,
            process=process,
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path, make_sample(tmp_path / "store"), State(tmp_path / "run"))
    unmount_below(tmp_path)


def as_process(place: Place, code: str) -> subprocess.Popen[str]:
    """Another process that has the place as ``store`` and ``state``, at the point where it printed a line."""
    child = subprocess.Popen(
        [sys.executable, "-c", head_of(place) + code + "\nprint(flush=True)\ntime.sleep(1000)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child


def head_of(place: Place) -> str:
    return f"""
import sys, time
from pathlib import Path
from stratum.mount import build, host
from stratum.mount.plan import MountPlan
from stratum.mount.state import *
store, run = Path({str(place.sample.store)!r}), Path({str(place.state.runtime_dir)!r})
state = State(run)
"""


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


CLAIM = 'state.claim(store=store, ref="app+dev", commit="c1", mountpoint=Path("/nowhere"), read_only=False)'


def test_mount_and_unmount_a_worktree(place: Place) -> None:
    at = place.target("mnt")
    record = place.mount_worktree(at)
    assert walk(at) == walk(place.sample.source)
    (at / "new").write_text("kept")
    assert place.state.records() == [record]
    assert record.mount_id == statx_mount_id(at)
    assert record.held_by() == "this host"
    assert not record.read_only
    assert host.unmount(place.state, at) == record
    assert place.state.records() == []
    assert os.listdir(at) == []
    place.mount_worktree(at)
    assert (at / "new").read_text() == "kept"


def test_a_worktree_has_one_holder(place: Place) -> None:
    first = place.mount_worktree(place.target("a"))
    with pytest.raises(BusyError) as caught:
        place.mount_worktree(place.target("b"))
    assert caught.value.exit_code == 4
    assert "app+dev is mounted already" in caught.value.message
    assert str(place.directory / "a") in caught.value.message
    assert caught.value.hint == f"unmount it first: stratum unmount {place.directory / 'a'}"
    assert os.listdir(place.directory / "b") == []
    assert place.state.records() == [first]
    host.unmount(place.state, first)
    place.mount_worktree(place.target("b"))


def test_worktrees_side_by_side_and_a_commit_many_times(place: Place) -> None:
    for number in range(3):
        place.mount_worktree(place.target(f"w{number}"), f"app+w{number}")
        place.mount_commit(place.target(f"c{number}"))
    assert len(place.state.records()) == 6
    assert len(place.state.find_ref(place.sample.store, "app:v1")) == 3


def test_one_worktree_name_in_two_stores_is_two_worktrees(place: Place) -> None:
    other = Place(place.directory, make_sample(place.directory / "other"), place.state)
    place.mount_worktree(place.target("a"))
    record = other.mount_worktree(place.target("b"))
    assert place.state.find_worktree(other.sample.store, "app", "dev") == record


def test_a_store_is_the_same_by_any_path(place: Place) -> None:
    place.mount_worktree(place.target("a"))
    (place.directory / "alias").symlink_to(place.sample.store)
    assert place.state.find_worktree(place.directory / "alias", "app", "dev") is not None


def test_a_mountpoint_of_ours_is_not_mounted_over(place: Place) -> None:
    at = place.target("mnt")
    place.mount_commit(at)
    with pytest.raises(BusyError, match="already shows app:v1"):
        place.mount_worktree(at)
    for needed in (place.sample.store, place.state.runtime_dir, Path("/usr")):
        with pytest.raises(ConflictError, match="the mount would hide that"):
            place.mount_commit(needed)


def test_racing_mounters_have_one_winner(place: Place) -> None:
    place.sample.worktree("app+dev")
    code = f"""
sys.stdin.readline()
from stratum.errors import BusyError
directory = store / "refs" / "app+dev"
try:
    plan = MountPlan(
        Path({str(place.sample.image)!r}), (store / "objects",), directory / "upperdir", directory / "workdir"
    )
    host.mount_recorded(state, plan, store=store, ref="app+dev", commit="c1", at=Path(sys.argv[1]))
    print("won")
except BusyError as exc:
    print("busy", exc.message)
"""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", head_of(place) + code, place.target(f"m{number}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate()[0] for racer in racers]
    assert sorted(line.split()[0] for line in said) == ["busy"] * 5 + ["won"]
    (record,) = place.state.records()
    assert record.mountpoint == str(place.directory / f"m{[line.strip() for line in said].index('won')}")


def test_a_failed_mount_leaves_no_record_and_no_directory(place: Place) -> None:
    with pytest.raises(NotFoundError):
        place.mount_worktree(place.directory / "missing")
    (place.directory / "link").symlink_to(place.target("a"))
    with pytest.raises(UsageError):
        place.mount_worktree(place.directory / "link")
    place.sample.image.unlink()
    with pytest.raises(DamagedError):
        place.mount_worktree(None)
    assert place.state.records() == []
    assert not place.state.ephemeral_dir.exists()


def test_without_a_mountpoint_one_is_made_and_removed(place: Place) -> None:
    record = place.mount_worktree(None)
    assert record.mountpoint == str(place.state.runtime_dir / "mnt" / "app+dev")
    assert walk(Path(record.mountpoint)) == walk(place.sample.source)
    other = Place(place.directory, make_sample(place.directory / "other"), place.state)
    second = other.mount_worktree(None)
    assert second.mountpoint.startswith(record.mountpoint + "@")
    host.unmount(place.state, record)
    host.unmount(place.state, second)
    assert not place.state.ephemeral_dir.exists()


def test_the_runtime_directory_is_private(place: Place) -> None:
    place.state.runtime_dir.mkdir(mode=0o755)
    place.mount_commit(None)
    assert stat.S_IMODE(place.state.runtime_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.state.path.stat().st_mode) == 0o600


def test_found_by_path_by_ref_and_from_inside(place: Place) -> None:
    at = place.target("mnt")
    outer = place.mount_worktree(at)
    (at / "nested").mkdir()
    inner = place.mount_commit(at / "nested")
    (place.directory / "alias").symlink_to(at)
    find = place.state.find_mountpoint
    assert find(at) == outer
    assert find(place.directory / "alias") == outer
    assert find(at / "sub" / "deep", inside=True) == outer
    assert find(at / "nested" / "sub", inside=True) == inner
    assert find(at / "sub") is None
    assert find(place.directory, inside=True) is None
    assert place.state.find_worktree(place.sample.store, "app", "dev") == outer
    assert place.state.find_worktree(place.sample.store, "app", "other") is None


def test_what_stratum_did_not_mount_it_does_not_unmount(place: Place) -> None:
    at = place.target("mnt")
    build.mount(MountPlan(place.sample.image, place.sample.data), at)
    with pytest.raises(NotFoundError, match="not a mount of Stratum") as caught:
        host.unmount(place.state, at)
    assert caught.value.exit_code == 3
    assert walk(at)


def test_what_was_mounted_over_ours_is_not_unmounted(place: Place) -> None:
    at = place.target("mnt")
    record = place.mount_worktree(at)
    subprocess.run(["mount", "-t", "tmpfs", "foreign", at], check=True)
    with pytest.raises(ConflictError, match=r"foreign \(tmpfs\) was mounted over app\+dev"):
        host.unmount(place.state, at)
    assert place.state.records() == [record]
    build.unmount(at)
    host.unmount(place.state, at)


def test_a_busy_unmount_keeps_the_record(place: Place) -> None:
    at = place.target("mnt")
    record = place.mount_worktree(at)
    with subprocess.Popen(["sleep", "1000"], cwd=at) as user:
        with pytest.raises(BusyError, match=rf"{user.pid} \(sleep 1000\) uses {at}"):
            host.unmount(place.state, at)
        assert place.state.records() == [record]
        user.kill()
    host.unmount(place.state, at)


def test_a_mount_taken_down_by_hand_is_stale(place: Place) -> None:
    at = place.target("mnt")
    place.mount_worktree(at)
    subprocess.run(["umount", at], check=True)
    assert place.state.records() == []
    assert json.loads(place.state.path.read_text())["mounts"] == []
    place.mount_worktree(at)


def test_only_what_is_asked_for_is_looked_at_and_only_what_is_stale_of_that_goes(place: Place) -> None:
    """So that a mount beside a thousand costs what one alone does."""
    there = place.mount_worktree(place.target("there"))
    gone = place.target("gone")
    stale = place.claim("app:v1", str(gone))
    place.state.confirm(stale, 1 << 40)
    noted = json.loads(place.state.path.read_text())["mounts"]
    assert [entry["id"] for entry in noted] == [there.id, stale.id]
    assert place.state.find_ref(place.sample.store, there.ref) == [there]
    assert place.state.find_mountpoint(Path(there.mountpoint)) == there
    assert place.state.find_source(there.source) == there
    assert place.state.of_holder(Container("c1")) == []
    assert json.loads(place.state.path.read_text())["mounts"] == noted
    assert place.state.find_mountpoint(gone) is None
    assert [entry["id"] for entry in json.loads(place.state.path.read_text())["mounts"]] == [there.id]


def test_another_mount_at_the_mountpoint_does_not_keep_a_record_alive(place: Place) -> None:
    at = place.target("mnt")
    place.mount_worktree(at)
    subprocess.run(["umount", at], check=True)
    build.mount(MountPlan(place.sample.image, place.sample.data), at)
    assert place.state.records() == []


def test_a_mount_that_was_moved_is_still_held(place: Place) -> None:
    """mount --move, here from below a directory that propagates nothing."""
    at = place.target("a")
    subprocess.run(["mount", "--bind", at, at], check=True)
    subprocess.run(["mount", "--make-private", at], check=True)
    (at / "from").mkdir()
    (at / "to").mkdir()
    record = place.mount_worktree(at / "from")
    subprocess.run(["mount", "--move", at / "from", at / "to"], check=True)
    assert place.state.records() == [record]
    with pytest.raises(BusyError):
        place.mount_worktree(place.target("b"))


def test_a_copy_in_another_mount_namespace_keeps_the_worktree_held(place: Place) -> None:
    at = place.target("mnt")
    record = place.mount_worktree(at)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        host.unmount(place.state, at)
        assert os.listdir(at) == []
        assert place.state.records() == [record]
        with pytest.raises(BusyError):
            place.mount_worktree(place.target("b"))
        with pytest.raises(
            BusyError, match=rf"process {other.pid} \(sleep 1000\) has it in a mount namespace of its own"
        ):
            host.unmount(place.state, record)
        other.kill()
    assert place.state.records() == []


def test_a_claim_lives_and_dies_with_its_process(place: Place) -> None:
    child = as_process(place, CLAIM)
    with pytest.raises(BusyError, match=r"app\+dev is mounted already"):
        place.claim()
    kill(child)
    assert place.state.records() == []
    place.claim()


def test_a_recycled_process_id_does_not_keep_a_claim(place: Place) -> None:
    place.claim(process=replace(this_process(), start_time=this_process().start_time - 1))
    assert place.state.records() == []


def test_a_process_killed_after_the_mount_and_before_the_record_leaves_a_held_worktree(place: Place) -> None:
    upper, work = place.sample.worktree("app+dev")
    at = place.target("mnt")
    child = as_process(
        place,
        f"""
record = state.claim(store=store, ref="app+dev", commit="c1", mountpoint=Path({str(at)!r}), read_only=False)
image, upper, work = Path({str(place.sample.image)!r}), Path({str(upper)!r}), Path({str(work)!r})
build.mount(MountPlan(image, (store / "objects",), upper, work, source=record.source), Path(record.mountpoint))
""",
    )
    kill(child)
    with pytest.raises(BusyError):
        place.mount_worktree(place.target("b"))
    assert place.state.find_mountpoint(at) is not None
    host.unmount(place.state, at)
    assert place.state.records() == []


def test_a_container_holds_while_its_mount_is_seen(place: Place) -> None:
    """A container stands for any process with a mount namespace of its own."""
    upper, work = place.sample.worktree("app+dev")
    record = place.claim(at="/data", holder=Container("0123456789abcdef"))
    plan = MountPlan(place.sample.image, place.sample.data, upper, work, source=record.source)
    at = place.target("data")
    build.mount(plan, at)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as container:
        assert container.stdout is not None
        container.stdout.readline()
        build.unmount(at)
        process = process_of(container.pid, proc.start_time(container.pid) or 0)
        record = place.state.confirm(record, 12345, process=process)
        assert place.state.records() == [record]
        with pytest.raises(BusyError, match="by container 0123456789ab") as caught:
            place.mount_worktree(place.target("b"))
        assert caught.value.hint == "stop the container: podman stop 0123456789ab"
        with pytest.raises(BusyError, match="in container 0123456789ab"):
            host.unmount(place.state, record)
        assert place.state.find_mountpoint(Path("/data")) is None
        container.kill()
    assert place.state.records() == []


def test_a_container_that_is_gone_holds_nothing(place: Place) -> None:
    with subprocess.Popen(["sleep", "1000"]) as container:
        process = process_of(container.pid, proc.start_time(container.pid) or 0)
        record = place.claim(at="/data", holder=Container("c"), process=process)
        assert place.state.records() == [record]
        container.kill()
    assert place.state.records() == []


def test_names_that_are_no_utf8_survive(place: Place) -> None:
    at = place.directory / "mnt\udcff\n"
    at.mkdir()
    record = place.mount_worktree(at)
    assert place.state.records() == [record]
    host.unmount(place.state, at)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\x00\xff",
        "[]",
        '{"format": 2, "mounts": []}',
        '{"format": 1}',
        '{"format": 1, "mounts": [1]}',
        '{"format": 1, "mounts": [{}]}',
        "[" * 100000,
        '{"format": 1, "mounts": [{"id": "x", "store": "/s", "store_key": "1:2", "ref": "a+b", "commit": "c", '
        '"mountpoint": "relative", "holder": {"kind": "host", "id": "", "pid": 1, "start_time": 1}, "mount_id": null, '
        '"read_only": false, "since": "now"}]}',
        '{"format": 1, "mounts": [{"id": "x", "store": "/s", "store_key": "1:2", "ref": "a+b", "commit": "c", '
        '"mountpoint": "/m", "holder": {"kind": "pirate", "id": "", "pid": 1, "start_time": 1}, "mount_id": null, '
        '"read_only": false, "since": "now"}]}',
        '{"format": 1, "mounts": [{"id": "x", "store": "/s", "store_key": "1:2", "ref": "a+b", "commit": "c", '
        '"mountpoint": "/m", "holder": {"kind": "host", "id": "", "pid": true, "start_time": 1}, "mount_id": null, '
        '"read_only": false, "since": "now"}]}',
    ],
)
def test_a_damaged_state_is_one_clear_error(place: Place, text: str) -> None:
    place.state.runtime_dir.mkdir(mode=0o700)
    place.state.path.write_text(text)
    with pytest.raises(DamagedError, match=r"the mount state .* is damaged") as caught:
        place.state.records()
    assert caught.value.exit_code == 5
    assert "remove that file" in caught.value.hint
    assert place.state.path.read_text() == text


def test_a_state_that_is_a_symlink_a_fifo_or_anothers_is_not_read(place: Place) -> None:
    place.state.runtime_dir.mkdir(mode=0o700)
    real = place.directory / "real"
    real.write_text('{"format": 1, "mounts": []}')
    place.state.path.symlink_to(real)
    with pytest.raises(DamagedError):
        place.state.records()
    place.state.path.unlink()
    os.mkfifo(place.state.path)
    with pytest.raises(DamagedError):
        place.state.records()
    place.state.path.unlink()
    place.state.path.write_text('{"format": 1, "mounts": []}')
    os.chown(place.state.path, 1000, 1000)
    with pytest.raises(DamagedError):
        place.state.records()


def test_a_runtime_directory_that_is_anothers_is_not_used(place: Place) -> None:
    elsewhere = place.target("elsewhere")
    place.state.runtime_dir.symlink_to(elsewhere)
    with pytest.raises(DamagedError, match="is not a directory of user 0"):
        place.claim()
    place.state.runtime_dir.unlink()
    place.state.runtime_dir.mkdir()
    os.chown(place.state.runtime_dir, 1000, 1000)
    with pytest.raises(DamagedError):
        place.claim()
    assert os.listdir(elsewhere) == []


def test_reading_where_nothing_was_ever_mounted_writes_nothing(place: Place) -> None:
    assert place.state.records() == []
    assert not place.state.runtime_dir.exists()


@pytest.mark.parametrize("before", [None, False, True])
@pytest.mark.parametrize("after", [None, False, True])
def test_whether_a_mount_has_a_gate_is_on_record(place: Place, before: bool | None, after: bool | None) -> None:
    """Also what is known no more once the mount was replaced; nothing, in records of versions that had none."""
    record = place.state.claim(
        store=place.sample.store,
        ref="app:v1",
        commit="c1",
        mountpoint=Path("/nowhere"),
        read_only=True,
        process=this_process(),
        gate=before,
    )
    assert [found.gate for found in place.state.records()] == [before]
    table = record.to_json()
    del table["gate"]
    assert record_from_json(table).gate is None
    assert place.state.confirm(record, 7, gate=after).gate is (before if after is None else after)
