"""The driver's container image: built by buildah from a debootstrap base, and csi-sanity against a driver in it.

It takes five minutes and the network, so it runs where ``STRATUM_TEST_CSI_IMAGE`` is set, with buildah and debootstrap
installed; what is in the image is tested without it everywhere else. ``STRATUM_TEST_PIP_CONF`` names a directory to
mount at its own place while building, where pip needs one (several with ':').
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.capabilities import CHECKOUT, program
from tests.support.gotools import go_program

PATIENCE = 1200


class Images:
    """Buildah and podman with a storage of their own."""

    def __init__(self, directory: Path, runroot: Path) -> None:
        self.directory = directory
        self._storage = ["--root", directory / "storage", "--runroot", runroot]
        self._environment = {**os.environ, "STORAGE_DRIVER": "vfs"}

    def buildah(self, *args: str | Path) -> str:
        return self._run(program("buildah"), *self._storage, *args)

    def podman(self, *args: str | Path) -> str:
        runtime = ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
        return self._run(program("podman"), *self._storage, *runtime, *args)

    def _run(self, *args: str | Path) -> str:
        done = subprocess.run(
            args, capture_output=True, text=True, timeout=PATIENCE, env=self._environment, check=False, cwd=CHECKOUT
        )
        assert done.returncode == 0, f"{args}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()


def build(images: Images) -> str:
    """The image, over a Debian that debootstrap made."""
    base = images.directory / "base"
    debootstrap = [program("debootstrap"), "--variant=minbase", "--include=ca-certificates,python3,python3-venv"]
    mirror = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
    subprocess.run([*debootstrap, "bookworm", base, *mirror], check=True, timeout=PATIENCE, capture_output=True)
    container = images.buildah("from", "scratch")
    images.buildah("add", "--quiet", container, base, "/")
    images.buildah("commit", "--quiet", container, "localhost/debian:test")
    places = [place for place in os.environ.get("STRATUM_TEST_PIP_CONF", "").split(":") if place]
    volumes = [option for place in places for option in ("--volume", f"{place}:{place}:ro")]
    options = ["--isolation", "chroot", "--build-arg", "BASE=localhost/debian:test", *volumes]
    target = ["--target", "csi", "--tag", "stratum-csi:test"]
    images.buildah("bud", *options, "--file", CHECKOUT / "Containerfile", *target, CHECKOUT)
    return "localhost/stratum-csi:test"


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    with tempfile.TemporaryDirectory(prefix="csi-", dir="/var/tmp") as runroot:  # podman wants a short path
        yield Images(tmp_path, Path(runroot))


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts are seen in the container and out of it, as the kubelet's are."""
    directory = tmp_path / "kubelet"
    directory.mkdir()
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    subprocess.run(["mount", "--make-shared", directory], check=True)
    yield directory
    subprocess.run(["umount", "--recursive", directory], check=True)


if os.environ.get("STRATUM_TEST_CSI_IMAGE"):

    @pytest.mark.root
    @pytest.mark.podman
    @pytest.mark.timeout(2400)
    def test_csi_sanity_against_a_driver_in_its_image(tmp_path: Path, kubelet: Path, images: Images) -> None:
        sanity = go_program("csi-sanity")
        image = build(images)
        for name in ("store", "run", "socket"):
            (tmp_path / name).mkdir()
        options = ["--privileged", "--pid=host", "--network=host", "--read-only", "--tmpfs=/tmp"]
        limits = ["--ulimit=nofile=20000:20000", "--ulimit=nproc=1024:1024"]
        mounts = [
            f"--mount=type=bind,source={kubelet},target={kubelet},bind-propagation=rshared",
            f"--volume={tmp_path}/store:/var/lib/stratum",
            f"--volume={tmp_path}/run:/run/stratum",
            f"--volume={tmp_path}/socket:/csi",
        ]
        arguments = ["--endpoint=unix:///csi/csi.sock", "--node-id=n", "--controller", f"--kubelet-dir={kubelet}"]
        container = images.podman("run", "--detach", *options, *limits, *mounts, image, *arguments)
        try:
            done = subprocess.run(
                [
                    sanity,
                    "--ginkgo.no-color",
                    "--csi.endpoint",
                    f"unix://{tmp_path}/socket/csi.sock",
                    "--csi.mountdir",
                    kubelet / "mount",
                    "--csi.stagingdir",
                    kubelet / "staging",
                ],
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-4000:] + images.podman("logs", container)[-3000:]
        finally:
            images.podman("rm", "--force", container)
