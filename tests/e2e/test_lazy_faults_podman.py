"""Containers with lazy volumes whose registry does not answer, or goes away: they end when told to, and read what is
right or nothing."""

from __future__ import annotations

import time

import pytest

from tests.e2e.hooked import wait_for
from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command
from tests.support.lazily import LARGE, Far, until

pytestmark = [pytest.mark.root, pytest.mark.podman, pytest.mark.registry]

VOLUME = ("--annotation", "stratum.dev/volume.data=app:v1:/data")


@pytest.fixture
def pulled(cli: Command, far: Far) -> Command:
    """A store that has pulled the tree lazily."""
    cli.ok("pull", "--lazy", far.reference, "app:v1")
    far.slow.forget()
    return cli


def start(podman: PodmanEnv, name: str, script: str) -> None:
    """A container in the background."""
    podman.run("--detach", "--name", name, *VOLUME, podman.image, "sh", "-c", script)


def test_a_container_reads_what_is_right(podman: PodmanEnv, pulled: Command, far: Far) -> None:
    names = [far.group(0)[0], far.group(7)[-1], LARGE]
    done = podman.run("--rm", *VOLUME, podman.image, "sh", "-c", f"cd /data && sha256sum {' '.join(names)}")
    found = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert found == {name: far.sums[name] for name in names}


@pytest.mark.parametrize(
    "how", [("kill",), ("stop", "--time", "1"), ("rm", "--force", "--time", "0")], ids=lambda w: w[0]
)
def test_a_container_that_waits_for_a_file_ends_when_told_to(
    podman: PodmanEnv, pulled: Command, far: Far, how: tuple[str, ...]
) -> None:
    far.slow.tell(fault="stall", where="blobs")
    start(podman, "waiting", f"echo reading; cat /data/{far.group(3)[0]} /data/{LARGE} >/dev/null")
    wait_for(podman, "waiting", "reading")
    until(far.slow.ranges)
    started = time.monotonic()
    podman.podman(*how, "waiting", timeout=20)
    until(lambda: podman.podman("ps", "--quiet", "--filter", "name=waiting").stdout == "", 10)
    assert time.monotonic() - started < 15
