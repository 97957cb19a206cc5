"""Containers with lazy volumes whose registry does not answer, or goes away: they end when told to, and read what is
right or nothing."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tests.e2e.hooked import wait_for
from tests.e2e.podman_env import PodmanEnv
from tests.support import hydrating
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
    podman.podman(*how, "waiting", timeout=40)
    until(lambda: podman.podman("ps", "--quiet", "--filter", "name=waiting").stdout == "", 20)
    assert time.monotonic() - started < 25


def test_a_container_outlives_worker_and_keeper(podman: PodmanEnv, pulled: Command, far: Far, tmp_path: Path) -> None:
    """It reads on after the worker was killed, and after both were and ``reconcile`` was run."""
    script = "while read name; do cat /data/$name > /out && sha256sum < /out || echo failed; done < /names"
    names = tmp_path / "names"
    os.mkfifo(names)
    volume = ("--volume", f"{names}:/names")
    podman.run("--detach", "--name", "reader", *volume, *VOLUME, podman.image, "sh", "-c", script)
    said: list[str] = []
    with names.open("w") as pipe:

        def ask(name: str) -> str:
            pipe.write(f"{name}\n")
            pipe.flush()
            until(lambda: len(podman.podman("logs", "reader").stdout.split("\n")) > len(said) + 1, 60)
            said.append(podman.podman("logs", "reader").stdout.splitlines()[len(said)].split()[0])
            return said[-1]

        assert ask("d0/f00") == far.sums["d0/f00"]
        hydrating.kill(hydrating.worker(pulled.runtime_dir))
        assert ask("d3/f00") == far.sums["d3/f00"]
        hydrating.stop(pulled.runtime_dir)
        assert ask("d0/f00") == far.sums["d0/f00"]
        assert ask("d6/f00") in ("failed", far.sums["d6/f00"])
        assert pulled("reconcile").code == 0
        assert ask("d7/f00") == far.sums["d7/f00"]
        assert ask(LARGE) == hashlib.sha256((far.tree / LARGE).read_bytes()).hexdigest()
