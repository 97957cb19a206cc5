"""Where in a container volumes are mounted, and that the host sees nothing of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.hooked import refused, volume
from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]


@pytest.mark.parametrize(
    ("destination", "seen_at"),
    [
        ("/not/there/yet", "/not/there/yet"),
        ("/links/absolute", "/tmp"),
        ("/links/relative/below", "/var/below"),
        ("/links/outside", "/outside"),
        ("/links/dangling", "/new/place"),
        ("/links/dangling/below", "/new/place/below"),
        ("/run/tmpfs/below", "/run/tmpfs/below"),
    ],
)
def test_destinations(podman: PodmanEnv, app: str, destination: str, seen_at: str) -> None:
    podman.import_image("localhost/links:latest", links={
        "links/absolute": "/tmp",
        "links/relative": "../var",
        "links/outside": "../../../../outside",
        "links/dangling": "/new/place",
    })  # fmt: skip
    done = podman.run(
        "--rm", "--read-only", "--tmpfs", "/run/tmpfs", *volume("a", f"app+dev:{destination}"),
        "localhost/links:latest", "cat", f"{seen_at}/one",
    )  # fmt: skip
    assert done.stdout == "first\n"
    assert not Path("/outside").exists()


def test_a_symlink_loop(podman: PodmanEnv, app: str) -> None:
    podman.import_image("localhost/loop:latest", links={"loop": "loop", "ping": "pong/x", "pong": "ping/x"})
    for destination in ("/loop", "/ping/x"):
        done = podman.run("--rm", *volume("a", f"app+dev:{destination}"), "localhost/loop:latest", "true", check=False)
        assert f"stratum: cannot mount at {destination} in the container: Too many levels" in done.stderr


def test_nested_volumes(podman: PodmanEnv, cli: Command, app: str) -> None:
    done = podman.run(
        "--rm", *volume("z", "app+dev:/data"), *volume("a", "app:latest:/data/sub/deep"),
        *volume("b", "app:latest:/data/made/here"), podman.image, "cat", "/data/sub/deep/one", "/data/made/here/one",
    )  # fmt: skip
    assert done.stdout == "first\n" * 2


def test_a_missing_destination_in_a_read_only_volume(podman: PodmanEnv, app: str) -> None:
    said = refused(podman, *volume("a", "app:latest:/data"), *volume("b", "app+dev:/data/none"))
    assert said == "cannot mount at /data/none in the container: Read-only file system"


def test_beside_a_bind_mount(podman: PodmanEnv, app: str, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    done = podman.run(
        "--rm", "-v", f"{tmp_path}/host:/data", *volume("a", "app+dev:/data/below"), podman.image,
        "cat", "/data/below/one",
    )  # fmt: skip
    assert done.stdout == "first\n"
    assert os.listdir(tmp_path / "host" / "below") == []


def test_nothing_is_mounted_where_the_host_would_see_it(podman: PodmanEnv, app: str, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    subprocess.run(["mount", "--bind", host, host], check=True)
    subprocess.run(["mount", "--make-shared", host], check=True)
    try:
        said = refused(podman, "-v", f"{host}:/data:rshared", *volume("a", "app+dev:/data/below"))
    finally:
        subprocess.run(["umount", host], check=True)
    assert said.startswith("destination /data/below is on a mount that the container shares with the host")
