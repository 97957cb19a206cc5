"""The driver's container image: made by ``make image``, csi-sanity against a driver in it; and by buildah from a
debootstrap base, which has to give the same.

It takes ten minutes and the network, so it runs where ``STRATUM_TEST_CSI_IMAGE`` is set, with buildah and debootstrap
installed; what is in the image is tested without it everywhere else. ``STRATUM_TEST_PIP_CONF`` names a directory to
mount at its own place while building, where pip needs one (several with ':').
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.capabilities import CHECKOUT, program
from tests.support.gotools import go_program
from tools.image.debian import MACHINES
from tools.image.recipe import read_recipe

PATIENCE = 1200
SUITE = read_recipe((CHECKOUT / "Containerfile").read_text("utf-8"), "csi").suite
OWN = ("manifest.json", ".pyc")
"""Names of files that tell of the machine that made them."""


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


def make_image(directory: Path) -> Path:
    """The archive that ``make image`` makes, for all machines."""
    command = ["make", "image", f"IMAGE_ARGS=--output {directory}"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def load(images: Images, archive: Path) -> str:
    """Have podman load the archive; the name of its image."""
    return images.podman("load", "--input", archive).rpartition("Loaded image: ")[2]


def build(images: Images) -> str:
    """The image by buildah, over a Debian that debootstrap made."""
    base = images.directory / "base"
    debootstrap = [program("debootstrap"), "--variant=minbase", "--include=ca-certificates,python3,python3-venv"]
    mirror = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
    subprocess.run([*debootstrap, SUITE, base, *mirror], check=True, timeout=PATIENCE, capture_output=True)
    container = images.buildah("from", "scratch")
    images.buildah("add", "--quiet", container, base, "/")
    images.buildah("commit", "--quiet", container, "localhost/debian:test")
    places = [place for place in os.environ.get("STRATUM_TEST_PIP_CONF", "").split(":") if place]
    volumes = [option for place in places for option in ("--volume", f"{place}:{place}:ro")]
    options = ["--isolation", "chroot", "--build-arg", "BASE=localhost/debian:test", *volumes]
    target = ["--target", "csi", "--tag", "stratum-csi:test"]
    images.buildah("bud", *options, "--file", CHECKOUT / "Containerfile", *target, CHECKOUT)
    return "localhost/stratum-csi:test"


def programs_of(images: Images, image: str) -> dict[str, str]:
    """What is installed in an image, but for what Python compiled, and for man pages, which are not the same by each
    Python that builds: path -> digest of a file or target of a link."""
    container = images.podman("create", image)
    exported = images.directory / "exported.tar"
    images.podman("export", "--output", exported, container)
    images.podman("rm", container)
    found = {}
    with tarfile.open(exported) as archive:
        for member in archive:
            if not member.name.startswith("opt/stratum/") or member.name.endswith(OWN) or "/man/" in member.name:
                continue
            if member.issym():
                found[member.name] = member.linkname
            elif not member.isdir():
                content = archive.extractfile(member)
                assert content is not None
                found[member.name] = sha256(content.read()).hexdigest()
    exported.unlink()
    return found


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

    @pytest.fixture(scope="module")
    def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_image(tmp_path_factory.mktemp("image"))

    @pytest.mark.timeout(2400)
    def test_the_same_checkout_gives_the_same_image_for_all_machines(archive: Path, tmp_path: Path) -> None:
        assert make_image(tmp_path).read_bytes() == archive.read_bytes()
        with tarfile.open(archive) as file:
            names = json.loads(read(file, "index.json"))
            index = json.loads(read(file, blob(names["manifests"][0]["digest"])))
            platforms = [manifest["platform"]["architecture"] for manifest in index["manifests"]]
        assert platforms == list(MACHINES)

    def blob(digest: str) -> str:
        return f"blobs/{digest.replace(':', '/')}"

    def read(archive: tarfile.TarFile, name: str) -> bytes:
        content = archive.extractfile(name)
        assert content is not None
        return content.read()

    @pytest.mark.root
    @pytest.mark.podman
    @pytest.mark.timeout(2400)
    def test_the_containerfile_gives_the_same_programs(archive: Path, images: Images) -> None:
        ours, theirs = (programs_of(images, image) for image in (load(images, archive), build(images)))
        assert ours == theirs
        assert len(ours) > 1000

    @pytest.mark.root
    @pytest.mark.podman
    @pytest.mark.timeout(2400)
    def test_csi_sanity_against_a_driver_in_its_image(
        archive: Path, tmp_path: Path, kubelet: Path, images: Images
    ) -> None:
        sanity = go_program("csi-sanity")
        image = load(images, archive)
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
