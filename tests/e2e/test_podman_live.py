"""Verbs on worktrees that a running container has: seen by the container at once, with its own users' IDs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.capabilities import program
from tests.support.command import SCRIPT, Command
from tests.support.descriptors import Watch

pytestmark = [pytest.mark.root, pytest.mark.podman]

MAPPED = ("--uidmap", "0:300000:65536", "--gidmap", "0:400000:65536")


@pytest.fixture
def podman(engine: PodmanEnv, cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    """Podman with the hook of this test's store, and a store with ``app:v1``, ``app:v2`` and ``app+dev`` on v1."""
    cli.ok("hook", "install", "--force", tmp_path / "hooks")
    engine.hooks_dir = tmp_path / "hooks"
    cli.environment |= engine.for_stratum
    for number in ("1", "2"):
        source = tmp_path / f"source{number}"
        source.mkdir()
        (source / "version").write_text(f"{number}\n")
        cli.ok("tag", cli.ok("import", "--bare", source, "app"), f"app:v{number}")
    cli.ok("worktree", "add", "app+dev", "app:v1")
    try:
        yield engine
    finally:
        engine.remove_all()
    state = cli.runtime_dir / "state"
    assert json.loads(state.read_text())["mounts"] == []
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))


def start(
    podman: PodmanEnv,
    *options: str,
    ref: str = "app+dev",
    volume_options: str = "",
    script: str = "exec sleep 1000",
) -> None:
    """Start the container ``server`` with ``ref`` at /data."""
    podman.run(
        "-d", "--name", "server", *options, "--annotation", f"stratum.dev/volume.a={ref}:/data{volume_options}",
        podman.image, "sh", "-c", script,
    )  # fmt: skip


def inside(podman: PodmanEnv, script: str) -> str:
    return podman.podman("exec", "server", "sh", "-ec", script).stdout


def stop(podman: PodmanEnv) -> None:
    podman.podman("stop", "--time", "0", "server")
    podman.wait_stopped("server")


def changed(cli: Command, old: str, new: str) -> set[str]:
    """The paths of files that differ between two refs."""
    return {change["path"] for change in cli.json("diff", old, new) if change["kind"] != "metadata"}


def container_id(podman: PodmanEnv) -> str:
    return podman.podman("inspect", "--format", "{{.Id}}", "server").stdout.strip()


def pauses(podman: PodmanEnv) -> list[str]:
    """The pauses and their ends that Podman saw."""
    server = f"container={container_id(podman)}"
    words = podman.podman("events", "--stream=false", "--filter", server, "--format", "{{.Status}}")
    return [word for word in words.stdout.split() if "pause" in word]


@pytest.mark.parametrize("options", [(), MAPPED], ids=["plain", "userns"])
def test_reset_rebase_and_switch_in_a_running_container(
    podman: PodmanEnv, cli: Command, options: tuple[str, ...]
) -> None:
    start(podman, *options)
    pid = podman.podman("inspect", "--format", "{{.State.Pid}}", "server").stdout
    inside(podman, "echo own > /data/own; chown 7:8 /data/own")

    cli.ok("rebase", "app+dev", "app:v2")
    assert inside(podman, "cat /data/version; stat -c %u:%g /data /data/version /data/own") == "2\n0:0\n0:0\n7:8\n"

    cli.ok("commit", "app+dev", "kept")
    cli.ok("reset", "app+dev", "app:v1")
    assert inside(podman, "cat /data/version; ls /data; echo more > /data/more") == "1\nversion\n"

    cli.ok("worktree", "add", "app+other", "app:kept")
    cli.ok("worktree", "switch", "app+other", "app+dev")
    assert inside(podman, "ls /data; stat -c %u:%g /data/own; echo x > /data/other") == "own\nversion\n7:8\n"
    assert changed(cli, "app:v1", "app+dev") == {"/more"}

    held = cli("mount", "app+other")
    assert (held.code, held.stdout) == (4, "")
    assert podman.podman("inspect", "--format", "{{.State.Pid}}", "server").stdout == pid
    stop(podman)
    assert changed(cli, "app:kept", "app+other") == {"/other"}


def test_a_rebase_with_a_conflict_changes_nothing_for_a_running_container(podman: PodmanEnv, cli: Command) -> None:
    start(podman)
    inside(podman, "echo mine > /data/version; echo own > /data/own")
    refused = cli("rebase", "app+dev", "app:v2")
    assert (refused.code, refused.stdout) == (4, "conflict /version\n")
    assert inside(podman, "cat /data/version; echo more >> /data/own; cat /data/own") == "mine\nown\nmore\n"
    cli.ok("rebase", "app+dev", "app:v2", "--theirs")
    assert inside(podman, "cat /data/version /data/own") == "2\nown\nmore\n"
    stop(podman)


def test_a_stop_that_commits_nothing_folds_what_was_committed_before(podman: PodmanEnv, cli: Command) -> None:
    start(podman, volume_options=":commit=never")
    inside(podman, "head -c 100000 /dev/zero > /data/large")
    commit = cli.ok("commit", "app+dev")
    upperdir = cli.store / "refs/app/worktrees/dev/upperdir"
    assert os.listdir(upperdir) == ["large"]
    stop(podman)
    assert os.listdir(upperdir) == []
    (tree,) = cli.json("worktree", "list", "app")
    assert (tree["base"], tree["head"]) == (commit, commit)


def test_files_open_for_writing_hold_a_reset_up(podman: PodmanEnv, cli: Command) -> None:
    start(podman, script="exec 3>> /data/log; echo ready; exec sleep 1000")
    while "ready" not in podman.podman("logs", "server").stdout:
        time.sleep(0.05)
    refused = cli("reset", "app+dev", "app:v2")
    assert refused.code == 4
    assert "(sleep 1000) writes /data/log" in refused.stderr
    assert inside(podman, "cat /data/version; echo still > /data/writable") == "1\n"
    cli.ok("reset", "app+dev", "app:v2", "--force")
    assert inside(podman, "cat /data/version; ls /data") == "2\nversion\n"
    stop(podman)


def test_a_read_only_volume_stays_read_only(podman: PodmanEnv, cli: Command) -> None:
    podman.run(
        "-d", "--name", "server", "--annotation", "stratum.dev/volume.a=app+dev:/data:ro", podman.image, "sleep", "1000"
    )
    cli.ok("reset", "app+dev", "app:v2")
    cli.ok("worktree", "add", "app+other", "app:v1")
    cli.ok("worktree", "switch", "app+other", "app+dev")
    assert inside(podman, "cat /data/version; touch /data/new 2>&1 || true").endswith("Read-only file system\n")
    stop(podman)


def test_a_commit_pauses_the_container(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    """Podman is started for that while the worktree is locked, and inherits nothing of it."""
    start(podman)
    inside(podman, "echo 1 > /data/one")
    done = cli("commit", "app+dev", "--no-pause")
    assert (done.code, pauses(podman)) == (0, [])
    inside(podman, "echo 2 > /data/two")
    watch = Watch(tmp_path)
    watch.wrap(program("podman"))
    cli.address_space, small = sys.maxsize, cli.address_space  # what is watched starts Podman with Stratum's limit
    done = cli("commit", "app+dev", "both", env={"PATH": watch.path})
    cli.address_space = small
    assert done.code == 0
    assert "not paused" not in done.stderr
    assert pauses(podman) == ["pause", "unpause"]
    for started in watch.started:
        started.check(cli.store)
    assert str(cli.store / "refs/app/worktrees/dev.lock") in {item.link for item in watch.started[0].starter}
    assert podman.state("server") == "running"
    assert changed(cli, "app:v1", "app:both") == {"/one", "/two"}
    podman.podman("pause", "server")
    inside_was_paused = cli("commit", "app+dev")
    assert inside_was_paused.code == 0
    assert podman.state("server") == "paused"
    podman.podman("unpause", "server")
    stop(podman)


def test_a_commit_that_cannot_pause_the_container_fails(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    start(podman)
    inside(podman, "echo 1 > /data/one")
    nobody = {"CONTAINER_HOST": f"unix://{tmp_path}/nobody"}
    before = sorted(os.listdir(cli.store / "commits"))
    done = cli("commit", "app+dev", "live", env=nobody)
    assert done.code == 6
    assert "cannot be paused, so nothing was committed" in done.stderr
    assert "--no-pause" in done.stderr
    assert cli("show", "app:live").code == 3
    assert sorted(os.listdir(cli.store / "commits")) == before
    cli.ok("commit", "app+dev", "live", "--no-pause", env=nobody)
    assert changed(cli, "app:v1", "app:live") == {"/one"}
    stop(podman)


@pytest.mark.parametrize("options", [(), MAPPED], ids=["plain", "userns"])
def test_a_commit_while_the_record_of_the_mount_is_lost(
    podman: PodmanEnv, cli: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The container is known by its lease: paused, left where it is, and committed whole at its stop."""
    start(podman, *options)
    inside(podman, "echo 1 > /data/one")
    shutil.rmtree(cli.runtime_dir)
    cli.ok("commit", "app+dev", "live")
    assert pauses(podman) == ["pause", "unpause"]
    inside(podman, "echo 2 > /data/two")
    for args in (("mount", "app+dev", tmp_path / "mnt"), ("reset", "app+dev"), ("remove", "--yes", "app+dev")):
        done = cli(*args)
        assert done.code == 4
        assert container_id(podman)[:12] in done.stderr
    stop(podman)
    assert changed(cli, "app:v1", "app:live") == {"/one"}
    assert changed(cli, "app:v1", "app+dev") == {"/one", "/two"}
    cli.ok("mount", "app+dev", tmp_path / "mnt")
    cli.ok("unmount", tmp_path / "mnt")


@pytest.mark.parametrize("options", [(), MAPPED], ids=["plain", "userns"])
def test_a_container_keeps_the_worktree_that_it_was_switched_to(
    podman: PodmanEnv, cli: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Also where the record of it is lost then, and where its volume asks for no commit."""
    cli.ok("worktree", "add", "app+other", "app:v2")
    start(podman, *options, ref="app+dev", volume_options=":commit=never")
    cli.ok("worktree", "switch", "app+other", "app+dev")
    shutil.rmtree(cli.runtime_dir)
    done = cli("remove", "--yes", "app+other")
    assert done.code == 4
    assert container_id(podman)[:12] in done.stderr
    cli.ok("remove", "--yes", "app+dev")
    stop(podman)
    cli.ok("mount", "app+other", tmp_path / "mnt")
    cli.ok("unmount", "app+other")


BUSY = """\
#!/bin/sh
case " $* " in
*" pause "*)
    echo >> "$0.tries"
    sleep "$(cat "$0.delay")"
    if [ "$(wc -l < "$0.tries")" -le "$(cat "$0.fails")" ]; then echo "unable to freeze" >&2; exit 1; fi
esac
exec runc "$@"
"""


@pytest.fixture
def busy(cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    """A Podman whose runtime pauses late or not at all, and a container on ``app``."""
    (tmp_path / "source").mkdir()
    cli.ok("import", "--bare", tmp_path / "source", "app")
    runtime = tmp_path / "runtime"
    runtime.write_text(BUSY)
    runtime.chmod(0o755)
    (tmp_path / "runtime.delay").write_text("0")
    (tmp_path / "runtime.fails").write_text("0")
    cli.ok("hook", "install", "--force", tmp_path / "hooks")
    with PodmanEnv(runtime=str(runtime), hooks_dir=tmp_path / "hooks") as podman:
        cli.environment |= podman.for_stratum
        start(podman, ref="app")
        yield podman
        stop(podman)


def test_a_pause_that_fails_now_and_then_is_tried_again(busy: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    """As runc does with containers that keep the machine busy."""
    inside(busy, "echo 1 > /data/one")
    (tmp_path / "runtime.fails").write_text("2")
    cli.ok("commit", "app", "third-try")
    assert (tmp_path / "runtime.tries").read_text().count("\n") == 3
    assert changed(cli, "app:latest", "app:third-try") == {"/one"}
    (tmp_path / "runtime.fails").write_text("1000")
    done = cli("commit", "app", "never")
    assert done.code == 1
    assert "cannot be paused, so nothing was committed" in done.stderr
    assert "unable to freeze" in done.stderr
    assert cli("show", "app:never").code == 3
    assert busy.state("server") == "running"


KILLED = """\
import os, sys, time
from stratum.podman.pausing import paused
with paused(sys.argv[1], os.environ):
    print(flush=True)
    time.sleep(1000)
"""


def test_a_killed_commit_leaves_no_paused_container(podman: PodmanEnv, cli: Command) -> None:
    start(podman)
    command = [sys.executable, "-c", KILLED, container_id(podman)]
    with subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        assert podman.state("server") == "paused"
        process.kill()
    deadline = time.monotonic() + 30
    while podman.state("server") != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stop(podman)


def test_a_commit_that_is_killed_while_it_pauses_leaves_no_paused_container(
    busy: PodmanEnv, cli: Command, tmp_path: Path
) -> None:
    (tmp_path / "runtime.delay").write_text("1")
    command = [sys.executable, "-c", KILLED, container_id(busy)]
    with subprocess.Popen(command, env=cli.environment, stdout=subprocess.DEVNULL) as process:
        while not (tmp_path / "runtime.tries").exists():
            time.sleep(0.02)
        process.kill()
    deadline = time.monotonic() + 30
    while pauses(busy) != ["pause", "unpause"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert busy.state("server") == "running"


@pytest.mark.parametrize("finished_by", ["the next verb", "the stop", "the next container"])
def test_a_killed_reset_is_finished(podman: PodmanEnv, cli: Command, finished_by: str) -> None:
    """Killed when the store has the new state and the container still sees the old one."""
    start(podman, *MAPPED)
    inside(podman, "echo own > /data/own")
    strace = [program("strace"), "-f", "-qq", "-e", "trace=move_mount", "-e", "inject=move_mount:signal=KILL:when=1"]
    reset = [SCRIPT, "reset", "app+dev", "app:v2"]
    killed = subprocess.run([*strace, *reset], env=cli.environment, capture_output=True, check=False)
    assert killed.returncode in (-9, 137)
    assert inside(podman, "cat /data/version /data/own") == "1\nown\n"
    if finished_by == "the next verb":
        cli.ok("diff", "app+dev")
        assert inside(podman, "cat /data/version; ls /data") == "2\nversion\n"
    elif finished_by == "the next container":
        conmon = json.loads(podman.podman("inspect", "server").stdout)[0]
        os.kill(int(Path(conmon["ConmonPidFile"]).read_text()), signal.SIGKILL)
        os.kill(conmon["State"]["Pid"], signal.SIGKILL)
        podman.wait_stopped("server")
        shown = podman.run("--rm", "--annotation", "stratum.dev/volume.a=app+dev:/data", podman.image, "ls", "/data")
        assert shown.stdout == "version\n"
    if finished_by == "the stop":
        stop(podman)
    else:
        podman.remove_all()
    assert changed(cli, "app:v2", "app+dev") == set()
    kept = [entry["new"] for entry in cli.json("log", "--reflog", "app+dev") if entry["why"].startswith("kept before")]
    assert changed(cli, "app:v1", kept[0]) == {"/own"}
