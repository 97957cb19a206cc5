"""Containers on strata, with the real Podman and runc: mounted at the start, committed at the stop, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.hooked import FILES, content, head, last_container, moves, pod, records, strata_mounts, volume, wait_for
from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]


def test_two_volumes_in_one_container(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    done = podman.run(
        "--rm", *volume("a", "app+dev:/data"), *volume("b", "app:latest:/srv/seed"), podman.image,
        "sh", "-ec", "cat /data/one /srv/seed/sub/two; rm /data/one; mv /data/sub /data/moved; echo new > /data/new",
    )  # fmt: skip
    assert done.stdout == "first\nsecond\n"
    assert content(cli, "app+dev", tmp_path) == {
        "new": "new\n",
        "moved/two": "second\n",
        "moved/deep/three": "third\n",
    }
    assert head(cli, "app:latest") == app
    assert moves(cli, "app", "dev") == [f"container {last_container(cli)} stopped"]


def test_a_tag_is_read_only(podman: PodmanEnv, app: str) -> None:
    done = podman.run(
        "--rm", *volume("a", "app:latest:/data"), podman.image,
        "sh", "-c", "cat /data/one; touch /data/x; rm /data/one; mount -o remount,rw /data", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout == "first\n"
    assert "touch: /data/x: Read-only file system" in done.stderr
    assert "can't remove '/data/one': Read-only file system" in done.stderr


@pytest.mark.parametrize("remove", [(), ("--rm",)], ids=["kept", "rm"])
def test_committed_after_a_kill(
    podman: PodmanEnv, cli: Command, app: str, tmp_path: Path, remove: tuple[str, ...]
) -> None:
    script = "echo saved > /data/new; echo ready; exec sleep 1000"
    podman.run("-d", "--name", "victim", *remove, *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "victim", "ready")
    assert strata_mounts(cli) == []
    assert [record["ref"] for record in records(cli)] == ["app+dev"]
    podman.podman("kill", "--signal", "KILL", "victim")
    podman.wait_stopped("victim")
    assert content(cli, "app+dev", tmp_path) == FILES | {"new": "saved\n"}
    assert len(moves(cli, "app", "dev")) == 1


def test_an_unchanged_worktree_keeps_its_commit(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "cat", "/data/one")
    assert head(cli, "app+dev") == app
    assert moves(cli, "app", "dev") == []


def test_every_start_goes_on_where_the_last_stop_was(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    podman.podman(
        "create", "--name", "again", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", "echo run >> /data/runs"
    )
    for _ in range(3):
        podman.podman("start", "--attach", "again")
        podman.wait_stopped("again")
    assert content(cli, "app+dev", tmp_path)["runs"] == "run\n" * 3
    assert len(moves(cli, "app", "dev")) == 3


def test_restart(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    script = "echo run >> /data/runs; echo ready; exec sleep 1000"
    podman.run("-d", "--name", "server", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "server", "ready")
    podman.podman("restart", "--time", "0", "server")
    wait_for(podman, "server", "ready\nready")
    assert len(moves(cli, "app", "dev")) == 1
    podman.podman("stop", "--time", "0", "server")
    podman.wait_stopped("server")
    assert content(cli, "app+dev", tmp_path)["runs"] == "run\n" * 2
    assert len(moves(cli, "app", "dev")) == 2


def test_a_container_that_podman_restarts(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    script = "echo run >> /data/runs; echo ready; exit 1"
    podman.read_hooks_from(tmp_path / "hooks")
    podman.run(
        "-d", "--name", "server", "--restart", "always", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script
    )
    wait_for(podman, "server", "ready\n" * 3)
    podman.remove("server")
    runs = content(cli, "app+dev", tmp_path)["runs"].count("run\n")
    assert runs >= 3
    assert len(moves(cli, "app", "dev")) == runs


def test_play_kube(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    unit = pod(
        podman,
        tmp_path,
        "stratum.dev/volume.a: app+dev:/data:create=app:latest,tag=from-kube",
        "cat /data/one; touch /data/new",
    )
    podman.podman("play", "kube", unit)
    wait_for(podman, "server-main", "first")
    podman.wait_stopped("server-main")
    podman.podman("pod", "rm", "--force", "--time", "0", "server")
    assert head(cli, "app:from-kube") == head(cli, "app+dev") != app


def test_exec_cp_and_pause_see_the_volume(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    podman.run("-d", "--name", "server", *volume("a", "app+dev:/data"), podman.image, "sleep", "1000")
    assert podman.podman("exec", "server", "cat", "/data/one").stdout == "first\n"
    podman.podman("exec", "server", "sh", "-c", "echo exec > /data/exec")
    podman.podman("pause", "server")
    podman.podman("unpause", "server")
    podman.podman("stop", "--time", "0", "server")
    podman.wait_stopped("server")
    assert content(cli, "app+dev", tmp_path)["exec"] == "exec\n"


def test_a_commit_while_the_container_runs(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    script = "echo before > /data/log; exec 3>> /data/log; echo ready; while sleep 0.1; do :; done"
    podman.run("-d", "--name", "server", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "server", "ready")
    live = cli.ok("commit", "app+dev", "live")
    podman.podman("exec", "server", "sh", "-c", "echo after >> /data/log")
    podman.podman("stop", "--time", "0", "server")
    podman.wait_stopped("server")
    assert content(cli, "app:live", tmp_path)["log"] == "before\n"
    assert content(cli, "app+dev", tmp_path)["log"] == "before\nafter\n"
    assert [entry["commit"]["metadata_hash"] for entry in cli.json("log", "app+dev")][1:] == [live, app]


def test_a_user_without_privileges(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "chown", "-R", "1234:5678", "/data")
    done = podman.run(
        "--rm", "--user", "1234:5678", "--cap-drop", "ALL", *volume("a", "app+dev:/data"), podman.image,
        "sh", "-ec", "echo mine > /data/sub/mine; stat -c '%u:%g' /data/sub/mine /data/one /data",
    )  # fmt: skip
    assert done.stdout == "1234:5678\n" * 3


def test_a_user_namespace(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    """Inside, files belong to the container's users; what is committed has the IDs that are the same everywhere."""
    mapped = ("--uidmap", "0:300000:65536", "--gidmap", "0:400000:65536")
    script = "cd /not/there; stat -c %u:%g . one /not /ro/one; echo x > root; echo y > user; chown 7:8 user"
    done = podman.run(
        "--rm", *mapped, *volume("a", "app+dev:/not/there"), *volume("b", "app:latest:/ro"), podman.image,
        "sh", "-ec", script,
    )  # fmt: skip
    assert done.stdout == "0:0\n" * 4
    target = tmp_path / "look"
    target.mkdir()
    cli.ok("mount", head(cli, "app+dev"), target)
    owners = {name: (target / name).stat() for name in ("one", "root", "user")}
    cli.ok("unmount", target)
    assert {name: (info.st_uid, info.st_gid) for name, info in owners.items()} == {
        "one": (0, 0),
        "root": (0, 0),
        "user": (7, 8),
    }


def test_a_pod_with_two_containers(podman: PodmanEnv, cli: Command, app: str) -> None:
    cli.ok("worktree", "add", "app+other", "app:latest")
    podman.podman("pod", "create", "--name", "two", "--infra=false")
    for worktree in ("dev", "other"):
        podman.run("--pod", "two", *volume("a", f"app+{worktree}:/data"), podman.image, "touch", f"/data/{worktree}")
    podman.podman("pod", "rm", "--force", "--time", "0", "two")
    assert len(moves(cli, "app", "dev")) == len(moves(cli, "app", "other")) == 1
