"""Stops that nobody reports: kills, reboots, hooks that are gone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.hooked import content, head, moves, records, volume, wait_for
from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]


def test_a_start_that_fails_after_the_hook(podman: PodmanEnv, cli: Command, app: str) -> None:
    done = podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "no-such-program", check=False)
    assert done.returncode == 127
    podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "touch", "/data/new")
    assert len(moves(cli, "app", "dev")) == 1


def lose(podman: PodmanEnv) -> str:
    """A container that wrote to app+dev and ended without a stop that anybody reports; its ID."""
    script = "echo saved > /data/new; echo ready; exec sleep 1000"
    podman.run("-d", "--name", "lost", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "lost", "ready")
    inspected = json.loads(podman.podman("inspect", "lost").stdout)[0]
    os.kill(int(Path(inspected["ConmonPidFile"]).read_text()), signal.SIGKILL)
    os.kill(inspected["State"]["Pid"], signal.SIGKILL)
    podman.wait_stopped("lost")
    return str(inspected["Id"])


def test_a_killed_monitor_is_made_up_for_by_the_next_container(
    podman: PodmanEnv, cli: Command, app: str, tmp_path: Path
) -> None:
    lost = lose(podman)
    assert moves(cli, "app", "dev") == []
    shown = podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "cat", "/data/new").stdout
    assert shown == "saved\n"
    assert moves(cli, "app", "dev") == [f"container {lost[:12]} stopped"]
    assert content(cli, "app+dev", tmp_path)["new"] == "saved\n"
    podman.remove_all()
    assert len(moves(cli, "app", "dev")) == 1


def test_a_reboot_is_made_up_for(podman: PodmanEnv, cli: Command, app: str) -> None:
    """A reboot takes the processes and the runtime directory; the lease in the store is what remains."""
    lost = lose(podman)
    for file in cli.runtime_dir.iterdir():
        file.unlink()
    done = cli.json("reconcile")
    assert [(one["worktree"], one["container"], one["commit"]) for one in done] == [
        ("app+dev", lost, head(cli, "app+dev"))
    ]
    assert len(moves(cli, "app", "dev")) == 1
    assert cli.json("reconcile") == []


def test_reconcile_leaves_running_containers_alone(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("-d", "--name", "server", *volume("a", "app+dev:/data"), podman.image, "sleep", "1000")
    podman.podman("exec", "server", "touch", "/data/new")
    assert cli.json("reconcile") == []
    assert head(cli, "app+dev") == app
    assert podman.podman("exec", "server", "ls", "/data/new").stdout == "/data/new\n"


def test_uninstalled_hooks_mount_nothing(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    removed = cli.ok("hook", "uninstall", tmp_path / "hooks").splitlines()
    assert sorted(Path(path).name for path in removed) == ["stratum-createruntime.json", "stratum-poststop.json"]
    done = podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "ls", "/data", check=False)
    assert done.returncode != 0
    assert records(cli) == []
