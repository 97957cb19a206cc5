"""Containers that others make over Podman's API (here podman-py) have their volumes too, and ``CONTAINER_HOST`` leads
``stratum run`` and pauses to that service."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from podman import PodmanClient

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]


@pytest.fixture
def podman(cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    """A Podman with the hook of this test's store, which has ``app:latest`` with one file."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("first\n")
    cli.ok("import", "--bare", source, "app")
    cli.ok("hook", "install", "--force", tmp_path / "hooks")
    with PodmanEnv() as environment:
        environment.read_hooks_from(tmp_path / "hooks")
        yield environment


@pytest.fixture
def service(podman: PodmanEnv) -> Iterator[str]:
    """The URL of a service of that Podman."""
    socket = podman.directory / "socket"
    line = ["podman", "system", "service", "--time=0", f"unix://{socket}"]
    with subprocess.Popen(line, env=podman.environment, stdin=subprocess.DEVNULL) as process:
        while not socket.exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield f"unix://{socket}"
        podman.remove_all()
        process.terminate()


def test_a_container_made_over_the_api(podman: PodmanEnv, service: str, cli: Command) -> None:
    with PodmanClient(base_url=service) as client:
        container = client.containers.create(
            podman.image,
            ["sh", "-c", "cat /data/one; echo new > /data/new"],
            annotations={"stratum.dev/volume.a": "app+main:/data:tag=kept"},
        )
        container.start()
        assert container.wait() == 0
        assert b"".join(container.logs()) == b"first\n"
        container.remove()
    assert [change["path"] for change in cli.json("diff", "app:latest", "app:kept") if change["kind"] == "added"] == [
        "/new"
    ]


def test_run_and_commit_by_a_service(podman: PodmanEnv, service: str, cli: Command) -> None:
    cli.environment |= podman.for_stratum | {"CONTAINER_HOST": service}
    script = "cat > /data/in; wc -c < /data/in; echo oops >&2; exit 125"
    done = cli("run", "--rm", "-i", "-v", "app:/data", podman.image, "sh", "-c", script, stdin="x" * 200_000)
    assert (done.code, done.stdout) == (125, "200000\n")
    assert done.stderr.splitlines()[0] == "oops"
    container = cli.ok("run", "-d", "-v", "app:/data", podman.image, "sh", "-c", "echo > /data/two; sleep 1000")
    while not podman.podman("exec", container, "ls", "/data/two", check=False).stdout:
        time.sleep(0.05)
    cli.ok("commit", "app", "live")
    events = podman.podman("events", "--stream=false", "--filter", f"container={container}", "--format", "{{.Status}}")
    assert [word for word in events.stdout.split() if "pause" in word] == ["pause", "unpause"]
