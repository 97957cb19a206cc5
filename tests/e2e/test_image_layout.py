"""The layouts that ``make image`` writes: the same bytes for the same files, and as others read and run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.e2e.podman_env import BUSYBOX, PodmanEnv
from tests.support.capabilities import program
from tools.image.debian import MACHINES, foreign
from tools.image.layout import Document, Layout, pack

EPOCH = 1_700_000_000
NAME = "docker.io/library/stratum-try:1"


def root_of(place: Path, *, backwards: bool) -> Path:
    """A small root, its files made in one order or the other."""
    names = ["bin/sh", "etc/passwd", "tmp/kept", "usr/run"]
    for name in reversed(names) if backwards else names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "bin/sh":
            shutil.copyfile(BUSYBOX, place / name)
        else:
            (place / name).write_text(f"root:x:0:0:{name}:/:/bin/sh\n")
        (place / name).chmod(0o4755)
    os.link(place / "bin/sh", place / "usr/again")
    (place / "lib").symlink_to("usr/lib")
    (place / "tmp").chmod(0o1777)
    for path in place.rglob("*"):
        os.utime(path, (1, 1 + backwards), follow_symlinks=False)
    return place


def made(place: Path, *, backwards: bool) -> Path:
    """An archive of one image for two platforms."""
    root = root_of(place / "root", backwards=backwards)
    layout = Layout(place / "layout", EPOCH)
    layer = layout.add_layer(root)
    images: list[Document] = []
    for architecture in ("amd64", "arm64"):
        config = {"architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/bin/sh", "-c"]}}
        images.append(layout.add_image(config, [layer]))
    layout.finish(images, {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"})
    pack(layout.place, place / "image.tar", EPOCH)
    return place / "image.tar"


@pytest.mark.podman
@pytest.mark.root
def test_others_read_and_run_what_is_the_same_each_time(tmp_path: Path) -> None:
    archives = [made(tmp_path / str(backwards), backwards=backwards) for backwards in (False, True)]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    for architecture in ("amd64", "arm64"):
        command = [program("skopeo"), "inspect", "--config", f"--override-arch={architecture}"]
        done = subprocess.run([*command, f"oci-archive:{archives[0]}"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["architecture"] == architecture
    with PodmanEnv() as podman:
        assert NAME in podman.podman("load", "--input", archives[0]).stdout
        said = podman.run("--rm", NAME, "ls -ln / /bin/sh /usr/again /tmp/kept; cat /etc/passwd").stdout
    assert "root:x:0:0:etc/passwd:/:/bin/sh" in said
    lines = {line.split()[-1]: line.split() for line in said.splitlines() if len(line.split()) > 7}
    assert lines["tmp"][0] == "drwxrwxrwt"
    assert {lines[name][0] for name in ("/bin/sh", "/usr/again", "/tmp/kept")} == {"-rwxr-xr-x"}, "nobody becomes root"
    assert lines["/bin/sh"][1] == "2", "linked"
    assert {line[2] for line in lines.values()} == {"0"}


def test_the_archive_has_one_time_and_one_owner(tmp_path: Path) -> None:
    with tarfile.open(made(tmp_path, backwards=False)) as archive:
        members = archive.getmembers()
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(EPOCH, 0, 0, "")}
    assert [member.name for member in members] == sorted(member.name for member in members)
    ours = next(name for name, (machine, _) in MACHINES.items() if machine == os.uname().machine)
    for architecture in MACHINES:
        found = foreign(tmp_path / "root", architecture)
        assert found == ([] if architecture == ours else ["bin/sh", "usr/again"])
