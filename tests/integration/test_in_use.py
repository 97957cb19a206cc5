"""A worktree in use is never pulled away, whichever of its record, its lease and its mount can be seen, and nobody who
has no right to it can keep it in use."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stratum.api.inuse import is_over
from stratum.config import load_config
from stratum.errors import BusyError
from stratum.frozen import replace
from stratum.mount.record import mounts_of
from stratum.plugin.volumes import PluginVolumes
from tests.support.command import SCRIPT, Command
from tests.support.containers import Container

pytestmark = pytest.mark.root

NOBODY = 65534


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> str:
    """A store with ``app:latest`` and ``app+dev``; the commit."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("first\n")
    commit = cli.ok("import", "--bare", source, "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    return commit


class Held(Container):
    """A container that has app+dev at /data."""

    def __init__(self, cli: Command, directory: Path, *, options: str = "", user_namespace: bool = False) -> None:
        for place in (directory, *directory.parents[:3]):  # a container's layers are reached by its own root
            place.chmod(place.stat().st_mode | 0o111)
        super().__init__(directory / "bundles", user_namespace=user_namespace)
        self._cli = cli
        self._volumes = {"a": f"app+dev:/data{options}"}
        assert self.hook("createRuntime").returncode == 0

    def hook(self, stage: str, **changes: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-I", "-m", "stratum.hook", stage],
            input=self.state(self._volumes, **changes),
            env=self._cli.environment,
            check=False,
        )

    def write(self, name: str, text: str) -> None:
        self.inside("sh", "-ec", 'echo "$1" > "$2"', "sh", text, f"{self.rootfs}/data/{name}")

    def end(self) -> None:
        """The container ends, and the engine says so."""
        self.stop()
        assert self.hook("poststop", status="stopped", pid=0).returncode == 0


@pytest.fixture(params=["host-users", "user-namespace"])
def container(request: pytest.FixtureRequest, cli: Command, app: str, tmp_path: Path) -> Iterator[Held]:
    held = Held(cli, tmp_path, user_namespace=request.param == "user-namespace")
    yield held
    held.stop()


def names_in(cli: Command, ref: str, tmp_path: Path) -> set[str]:
    """The names in the root of the last commit of ``ref``."""
    target = tmp_path / "look"
    target.mkdir(exist_ok=True)
    cli.ok("restore", cli.json("show", ref)["commit"]["metadata_hash"], "/", "--to", target, "--force")
    try:
        return set(os.listdir(target))
    finally:
        shutil.rmtree(target)


def base_of(cli: Command) -> str:
    return str(cli.json("status", "app+dev")[0]["worktrees"][0]["base"])


def refused(cli: Command, holder: str, *args: str | Path) -> None:
    done = cli(*args)
    assert done.code == 4, (args, done)
    assert holder in done.stderr
    assert "hint:" in done.stderr


def everything_is_refused(cli: Command, holder: str, tmp_path: Path) -> None:
    """No verb takes a worktree that ``holder`` has."""
    for args in (
        ("mount", "app+dev", tmp_path / "elsewhere"),
        ("reset", "app+dev", "app:latest"),
        ("rebase", "app+dev", "app:latest"),
        ("remove", "--yes", "app+dev"),
        ("worktree", "remove", "--discard", "app+dev"),
        ("remove", "--yes", "app"),
        ("restore", "app:latest", "one", "--to", "app+dev"),
    ):
        refused(cli, holder, *args)


def commit_and_go_on(cli: Command, app: str, container: Held, tmp_path: Path) -> None:
    """A live commit leaves the container's worktree where it is; what it writes later is in the commit of its end."""
    container.write("before", "1")
    cli.ok("commit", "--no-pause", "app+dev", "live")
    assert base_of(cli) == app
    container.write("after", "2")
    container.end()
    assert names_in(cli, "app:live", tmp_path) == {"one", "before"}
    assert names_in(cli, "app+dev", tmp_path) == {"one", "before", "after"}
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))


def test_a_reader_in_another_pid_namespace_drops_nothing(
    cli: Command, app: str, container: Held, tmp_path: Path
) -> None:
    cli.ok("worktree", "add", "app+host", "app:latest")
    cli.ok("mount", "app+host", tmp_path / "mnt")
    before = (cli.runtime_dir / "state").read_bytes()
    inside = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", SCRIPT]
    done = subprocess.run([*inside, "status", "app"], env=cli.environment, capture_output=True, text=True, check=True)
    assert container.id[:12] in done.stdout
    assert (cli.runtime_dir / "state").read_bytes() == before
    # Nor can it take there what it does not see.
    done = subprocess.run(
        [*inside, "reset", "app+dev"], env=cli.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert container.id[:12] in done.stderr
    cli.ok("unmount", tmp_path / "mnt")
    commit_and_go_on(cli, app, container, tmp_path)
    assert json.loads((cli.runtime_dir / "state").read_text())["mounts"] == []


def test_a_commit_after_the_runtime_directory_was_removed(
    cli: Command, app: str, container: Held, tmp_path: Path
) -> None:
    shutil.rmtree(cli.runtime_dir)
    everything_is_refused(cli, container.id[:12], tmp_path)
    commit_and_go_on(cli, app, container, tmp_path)


def test_a_commit_with_another_runtime_directory(cli: Command, app: str, container: Held, tmp_path: Path) -> None:
    other = Command(cli.store, tmp_path / "other")
    everything_is_refused(other, container.id[:12], tmp_path)
    container.write("before", "1")
    other.ok("commit", "--no-pause", "app+dev", "live")
    assert base_of(other) == app
    assert other.json("reconcile") == []
    container.write("after", "2")
    container.end()
    assert names_in(cli, "app+dev", tmp_path) == {"one", "before", "after"}


def test_a_volume_does_not_replace_the_lease_of_a_container(cli: Command, app: str, container: Held) -> None:
    shutil.rmtree(cli.runtime_dir)
    lease = (cli.store / "refs/app/worktrees/dev/lease.toml").read_text()
    assert container.id in lease
    volumes = PluginVolumes(load_config(cli.environment), print)
    volumes.create("own", {"ref": "app+dev"})
    with pytest.raises(BusyError, match=container.id[:12]):
        volumes.mount("own", "somebody")
    assert (cli.store / "refs/app/worktrees/dev/lease.toml").read_text() == lease
    volumes.remove("own")


@pytest.mark.parametrize("options", [":commit=never", ":ro"])
def test_a_container_that_has_nothing_to_commit_keeps_its_worktree_too(
    cli: Command, app: str, tmp_path: Path, options: str
) -> None:
    container = Held(cli, tmp_path, options=options, user_namespace=True)
    try:
        shutil.rmtree(cli.runtime_dir)
        refused(cli, container.id[:12], "remove", "--yes", "app+dev")
    finally:
        container.end()
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))
    cli.ok("remove", "--yes", "app+dev")


def test_the_lease_of_a_container_that_died_holds_nothing(
    cli: Command, app: str, container: Held, tmp_path: Path
) -> None:
    container.write("saved", "1")
    container.stop()
    shutil.rmtree(cli.runtime_dir)
    cli.ok("mount", "app+dev", tmp_path / "mnt")
    assert (tmp_path / "mnt" / "saved").read_text() == "1\n"
    cli.ok("unmount", tmp_path / "mnt")
    assert [one["container"] for one in cli.json("reconcile")] == [container.id]
    assert names_in(cli, "app+dev", tmp_path) == {"one", "saved"}


def test_a_lease_of_another_boot_holds_nothing(cli: Command, app: str, container: Held, tmp_path: Path) -> None:
    """Whatever runs under its process ID by now."""
    container.write("saved", "1")
    container.stop()
    lease = cli.store / "refs/app/worktrees/dev/lease.toml"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    text = lease.read_text().partition("\n[check]")[0]
    assert boot in text
    for key, value in (("pid", os.getpid()), ("start_time", start)):
        text = re.sub(f"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
    lease.write_text(text)
    shutil.rmtree(cli.runtime_dir)
    assert cli.json("reconcile") == []  # that process runs
    lease.write_text(text.replace(boot, "another"))
    assert len(cli.json("reconcile")) == 1


def test_a_record_of_another_boot_is_stale(cli: Command, app: str, tmp_path: Path) -> None:
    cli.ok("mount", "app+dev", tmp_path / "mnt")
    state = cli.runtime_dir / "state"
    table = json.loads(state.read_text())
    table["mounts"][0]["boot"] = "another"
    state.write_text(json.dumps(table))
    refused(cli, str(tmp_path / "mnt"), "remove", "--yes", "app+dev")  # the mount itself still tells
    assert json.loads(state.read_text())["mounts"] == []
    subprocess.run(["umount", tmp_path / "mnt"], check=True)
    cli.ok("remove", "--yes", "app+dev")


@pytest.mark.parametrize("read_only", [False, True], ids=["rw", "ro"])
def test_a_mount_of_the_host_that_is_on_no_record(cli: Command, app: str, tmp_path: Path, *, read_only: bool) -> None:
    mnt = tmp_path / "mnt"
    cli.ok("mount", "app+dev", mnt, *(["--read-only"] if read_only else []))
    shutil.rmtree(cli.runtime_dir)
    if not read_only:
        (mnt / "before").write_text("1")
    cli.ok("commit", "app+dev", "live")
    assert base_of(cli) == app
    assert str(mnt) in cli.ok("status", "app+dev")
    if not read_only:
        (mnt / "after").write_text("2")
    everything_is_refused(cli, str(mnt), tmp_path)
    subprocess.run(["umount", mnt], check=True)
    cli.ok("commit", "app+dev")
    assert base_of(cli) != app or read_only
    assert names_in(cli, "app+dev", tmp_path) == ({"one"} if read_only else {"one", "before", "after"})


def test_the_same_name_in_another_store_is_another_worktree(cli: Command, app: str, tmp_path: Path) -> None:
    other = Command(tmp_path / "other-store", tmp_path / "other-run")
    other.ok("import", "--bare", tmp_path / "source", "app")
    other.ok("worktree", "add", "app+dev", "app:latest")
    other.ok("mount", "app+dev", tmp_path / "mnt")
    cli.ok("mount", "app+dev", tmp_path / "own")
    cli.ok("unmount", tmp_path / "own")
    cli.ok("remove", "--yes", "app+dev")
    other.ok("unmount", tmp_path / "mnt")


def test_a_mount_that_nobody_can_look_at_is_told_by_the_id_of_its_store(cli: Command, app: str, tmp_path: Path) -> None:
    """It is covered, and its store was removed. A copy of our store has our ID, those of earlier versions have none."""
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    own = (cli.store / "stratum.toml").read_text()
    cli.ok("import", "--bare", tmp_path / "source", "covered")  # a name that no other test process has meanwhile
    cli.ok("worktree", "add", "covered+dev", "covered:latest")
    for number, text in enumerate((None, own, "format = 2\n")):
        other = Command(tmp_path / f"store-{number}", tmp_path / f"run-{number}")
        other.ok("import", "--bare", tmp_path / "source", "covered")
        other.ok("worktree", "add", "covered+dev", "covered:latest")
        if text is not None:
            (other.store / "stratum.toml").write_text(text)
        other.ok("mount", "covered+dev", mnt)
        subprocess.run(["mount", "-t", "tmpfs", "none", mnt], check=True)
        other.store.rename(tmp_path / f"away-{number}")
        if text is None:
            cli.ok("mount", "covered+dev", tmp_path / "own")
            cli.ok("unmount", tmp_path / "own")
        else:
            refused(cli, str(mnt), "mount", "covered+dev", tmp_path / "own")
        subprocess.run(["umount", mnt, mnt], check=True)


def test_a_mount_whose_kernel_does_not_tell_its_upperdir_is_told_by_its_root(
    cli: Command, app: str, tmp_path: Path
) -> None:
    """As those before 6.15, which say /proc/self/fd/N; or the store was moved, and the path is no more."""
    other = Command(tmp_path / "other-store", tmp_path / "other-run")
    other.ok("import", "--bare", tmp_path / "source", "app")
    for command, name in ((cli, "own"), (other, "other")):
        command.ok("mount", "app", tmp_path / name)
        (tmp_path / name / "new").write_text(name)
    entries = [entry for _, entry in mounts_of("app+main")]
    places = {entry.mountpoint: entry for entry in entries if entry.mountpoint.startswith(f"{tmp_path}/")}
    upperdir = str(cli.store / "refs/app/worktrees/main/upperdir")
    for told in ("upperdir=/proc/self/fd/9,workdir=/proc/self/fd/10", "upperdir=/nowhere,workdir=/nowhere"):
        for name, ours in (("own", True), ("other", False)):
            entry = replace(places[str(tmp_path / name)], super_options=f"rw,{told},metacopy=on")
            assert is_over(os.getpid(), entry, upperdir) == ours
    entry = replace(places[str(tmp_path / "other")], super_options="rw,upperdir=/nowhere,workdir=/nowhere")
    other.ok("unmount", "app")
    assert not is_over(os.getpid(), entry, upperdir)
    cli.ok("unmount", "app")


def test_a_covered_mount_of_a_store_that_only_its_process_sees_is_another(
    cli: Command, app: str, tmp_path: Path
) -> None:
    """Its times cannot be read, and its path leads nowhere from here: what it is over is asked where it is."""
    for name in ("disk", "mnt"):
        (tmp_path / name).mkdir()
    script = f"""cd {tmp_path}; mount -t tmpfs none disk
        stratum() {{ {SCRIPT} --quiet --store disk/store --runtime-dir disk/run "$@"; }}
        stratum import --bare source app && stratum worktree add app+dev app:latest && stratum mount app+dev mnt
        mount -t tmpfs none mnt; echo ready; exec sleep 1000"""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            while process.stdout.readline() not in (b"ready\n", b""):
                pass
            assert process.pid in {pid for pid, _ in mounts_of("app+dev")}
            cli.ok("mount", "app+dev", tmp_path / "own")
            cli.ok("unmount", "app+dev")
        finally:
            process.kill()


@contextmanager
def strangers_mount(source: str) -> Iterator[int]:
    """An overlay with ``source`` that a user without privileges made in a user namespace of their own."""
    place = Path(tempfile.mkdtemp(prefix="stratum-stranger."))
    os.chown(place, NOBODY, NOBODY)
    script = 'cd "$1" && mkdir l u w m && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w "$2" m && echo ready'
    process = subprocess.Popen(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "unshare", "-Urm", "sh", "-ec",
         f"{script}; exec sleep 1000", "sh", place, source],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(place)


def source_of_mount(mnt: Path) -> str:
    (line,) = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {mnt} " in line]
    return line.partition(" - ")[2].split()[1]


def test_a_strangers_mount_with_our_source_holds_nothing(cli: Command, app: str, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    cli.ok("mount", "app+dev", mnt)
    with strangers_mount(source_of_mount(mnt)):
        done = cli("unmount", mnt)
        assert (done.code, "still has" in done.stderr) == (0, False)
        assert json.loads((cli.runtime_dir / "state").read_text())["mounts"] == []
        cli.ok("mount", "app+dev", mnt)
        cli.ok("unmount", "app+dev")
        (tmp_path / "source" / "two").write_text("second\n")
        cli.ok("remove", "--yes", "app+dev")


def test_a_strangers_mount_does_not_keep_a_container_from_starting(
    cli: Command, app: str, container: Held, tmp_path: Path
) -> None:
    (line,) = [
        line for line in Path(f"/proc/{container.process.pid}/mountinfo").read_text().splitlines() if "app+dev" in line
    ]
    with strangers_mount(line.partition(" - ")[2].split()[1]):
        container.write("new", "1")
        container.end()
        assert names_in(cli, "app+dev", tmp_path) == {"one", "new"}
        assert base_of(cli) != app  # nothing kept the commit from moving it
        cli.ok("mount", "app+dev", tmp_path / "mnt")
        cli.ok("unmount", tmp_path / "mnt")


@contextmanager
def private_copies(seconds: str = "1000", *, users: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process with copies of all mounts in a mount namespace of its own, and perhaps a user namespace, as root."""
    user = ["--user", "--map-root-user"] if users else []
    command = ["unshare", *user, "--mount", "--propagation", "private", "sh", "-c", f"echo; exec sleep {seconds}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_unmount_waits_for_copies_that_go_by_themselves(cli: Command, app: str, tmp_path: Path) -> None:
    cli.ok("mount", "app+dev", tmp_path / "mnt")
    with private_copies("0.4"):
        done = cli("unmount", tmp_path / "mnt")
        assert (done.code, "still has" in done.stderr) == (0, False)
        cli.ok("mount", "app+dev", tmp_path / "mnt")
    cli.ok("unmount", tmp_path / "mnt")


@pytest.mark.parametrize("users", [False, True], ids=["host-users", "user-namespace"])
def test_unmount_names_the_process_that_keeps_a_copy(cli: Command, app: str, tmp_path: Path, *, users: bool) -> None:
    mnt = tmp_path / "mnt"
    cli.ok("mount", "app+dev", mnt)
    with private_copies(users=users) as keeper:
        done = cli("unmount", mnt)
        assert done.code == 0
        assert f"process {keeper.pid} (sleep 1000) still has app+dev" in done.stderr
        refused(cli, f"process {keeper.pid} (sleep 1000) has it", "mount", "app+dev", mnt)
        refused(cli, f"process {keeper.pid} (sleep 1000) has it", "remove", "--yes", "app+dev")
        # The mountpoint is free, whoever has a copy of what was mounted there.
        cli.ok("mount", "app:latest", mnt)
        cli.ok("unmount", mnt)
        cli.ok("mount", "app:latest", mnt)
    cli.ok("unmount", mnt)
    cli.ok("mount", "app+dev", mnt)
    cli.ok("unmount", mnt)


def test_a_tag_that_somebody_has_a_copy_of_is_mounted_again(cli: Command, app: str, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    cli.ok("mount", "app:latest", mnt)
    with private_copies() as keeper:
        assert f"process {keeper.pid}" in cli("unmount", mnt).stderr
        cli.ok("mount", "app:latest", mnt)
        assert (mnt / "one").read_text() == "first\n"
        cli.ok("unmount", "app:latest")
        assert os.listdir(mnt) == []
        cli.ok("mount", "app+dev", mnt)
        cli.ok("unmount", mnt)
