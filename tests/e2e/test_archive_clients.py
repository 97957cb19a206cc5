"""Other people's programs read what export and push write, and what they write is imported."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.capabilities import program
from tests.support.command import Command

pytestmark = pytest.mark.root
NOISE = random.Random(3).randbytes(300_000)


def run(name: str, *args: str | Path) -> str:
    """The output of another program, which must succeed."""
    done = subprocess.run([program(name), *args], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, f"{name} {args}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode()


@pytest.fixture
def commits(cli: Command, tmp_path: Path) -> list[str]:
    """v1 and v2 of ``app``: links, xattrs, a deletion, a file that became a directory, times in nanoseconds."""
    tree = tmp_path / "tree"
    (tree / "d/gone").mkdir(parents=True)
    (tree / "d/gone/file").write_bytes(NOISE[:5000])
    (tree / "noise").write_bytes(NOISE)
    (tree / "noise").chmod(0o4711)
    os.link(tree / "noise", tree / "d/hard")
    (tree / "kind").write_text("a file")
    (tree / "link").symlink_to("kind")
    os.setxattr(tree / "noise", "user.k", b"v\0=")
    os.chown(tree / "kind", 1234, 5678)
    os.utime(tree / "kind", ns=(0, 1_234_567_890_123_456_789))
    first = cli.ok("import", "--bare", tree, "app:v1")
    (tree / "d/gone/file").unlink()
    (tree / "d/gone").rmdir()
    (tree / "kind").unlink()
    (tree / "kind").mkdir()
    (tree / "kind/new").write_bytes(NOISE[:70])
    cli.ok("tag", "app:v1", "work")
    second = cli.ok("import", "--bare", "--force", tree, "app:work")
    cli.ok("tag", "app:work", "v2")
    return [first, second]


# Exports


def test_skopeo_reads_and_copies_exports(cli: Command, commits: list[str], tmp_path: Path) -> None:
    path = tmp_path / "app.stratum.tar"
    cli.ok("export", "app:v2", path, "--tag", "v1", "--with-history")
    for tag, commit in zip(("v1", "v2"), commits, strict=True):
        manifest = json.loads(run("skopeo", "inspect", "--raw", f"oci-archive:{path}:{tag}"))
        assert manifest["annotations"]["dev.stratum.commit"] == commit
        run("skopeo", "copy", "-q", f"oci-archive:{path}:{tag}", f"oci:{tmp_path}/layout:{tag}")
        assert cli.ok("import", f"oci:{tmp_path}/layout:{tag}", "copy") == commit
        copy = tmp_path / f"copy-{tag}.tar"
        run("skopeo", "copy", "-q", f"oci-archive:{path}:{tag}", f"oci-archive:{copy}:{tag}")
        assert cli.ok("import", copy, "copy") == commit


def test_oras_reads_exports(cli: Command, commits: list[str], tmp_path: Path) -> None:
    path = tmp_path / "app.stratum.tar"
    cli.ok("export", "app:v2", path)
    manifest = json.loads(run("oras", "manifest", "fetch", "--oci-layout", f"{path}:v2"))
    assert manifest["annotations"]["dev.stratum.commit"] == commits[1]
    assert run("oras", "repo", "tags", "--oci-layout", path).split() == ["v2"]
    config = manifest["config"]["digest"]
    blob = run("oras", "blob", "fetch", "--oci-layout", "--output", "-", f"{path}@{config}")
    assert f'metadata_hash = "{commits[1]}"' in blob


# Images


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_reads_our_images(cli: Command, commits: list[str], tmp_path: Path, compression: str) -> None:
    layout = f"oci:{tmp_path}/layout"
    for tag, layers in (("v1", 1), ("v2", 2)):
        cli.ok("push", "--as", "image", "--compression", compression, f"app:{tag}", f"{layout}:{tag}")
        assert len(json.loads(run("skopeo", "inspect", f"{layout}:{tag}"))["Layers"]) == layers
    run("skopeo", "copy", "-q", f"{layout}:v2", f"oci-archive:{tmp_path}/copy.tar:v2")
    assert cli.ok("import", tmp_path / "copy.tar", "copy") == commits[1]
    run("skopeo", "copy", "-q", "--dest-compress-format", "gzip", f"{layout}:v2", f"dir:{tmp_path}/dir")


def test_umoci_unpacks_our_images_and_we_import_its_own(cli: Command, commits: list[str], tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    for tag in ("v1", "v2"):
        cli.ok("push", "--as", "image", f"app:{tag}", f"oci:{layout}:{tag}")
    run("umoci", "unpack", "--image", f"{layout}:v2", tmp_path / "bundle")
    assert cli.ok("import", "--bare", tmp_path / "bundle/rootfs", "unpacked") == commits[1]
    (tmp_path / "bundle/rootfs/added").write_bytes(NOISE[:900])
    (tmp_path / "bundle/rootfs/link").unlink()
    for name in ("added", "."):  # umoci writes times in whole seconds
        os.utime(tmp_path / "bundle/rootfs" / name, (1_700_000_000, 1_700_000_000))
    run("umoci", "repack", "--image", f"{layout}:v3", tmp_path / "bundle")
    expected = cli.ok("import", "--bare", tmp_path / "bundle/rootfs", "unpacked")
    assert cli.ok("import", f"oci:{layout}:v3", "repacked") == expected


@pytest.mark.podman
def test_podman_shows_our_images(cli: Command, commits: list[str], tmp_path: Path) -> None:
    layout = f"oci:{tmp_path}/layout"
    for tag in ("v1", "v2"):
        cli.ok("push", "--as", "image", f"app:{tag}", f"{layout}:{tag}")
    cli.ok("export", "--as", "image", "app:v2", tmp_path / "image.tar")
    with PodmanEnv() as podman:
        pulled = podman.podman("pull", "-q", f"{layout}:v2").stdout.strip()
        podman.podman("load", "-q", "-i", tmp_path / "image.tar")
        script = "cd /data && ls && cat link/new | wc -c && stat -c '%a %h' noise && sha256sum d/hard"
        for image in (pulled, "localhost/v2"):
            shown = podman.run(
                "--rm", "--mount", f"type=image,source={image},destination=/data", podman.image, "sh", "-c", script
            )
            lines = shown.stdout.split("\n")
            assert lines[:6] == ["d", "kind", "link", "noise", "70", "4711 2"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


@pytest.mark.registry
def test_images_through_a_registry(cli: Command, commits: list[str], server: RegistryServer, tmp_path: Path) -> None:
    target = f"{server.host}/team/image"
    cli.ok("push", "--as", "image", "app:v1", f"{target}:v1")
    second = cli.json("push", "--as", "image", "app:v2", f"{target}:v2")
    assert second["bytes_sent"] < 5000
    assert cli.json("push", "--as", "image", "app:v2", f"{target}:v2")["bytes_sent"] == 0
    for tag, commit in zip(("v1", "v2"), commits, strict=True):
        assert cli.ok("import", f"docker://{target}:{tag}", "copy") == commit
    run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{target}:v2", f"oci:{tmp_path}/copy:v2")
    assert cli.ok("import", f"oci:{tmp_path}/copy", "copy") == commits[1]
    docker = ["--format", "v2s2", "--src-tls-verify=false", "--dest-tls-verify=false"]
    run("skopeo", "copy", "-q", *docker, f"docker://{target}:v2", f"docker://{target}:docker")
    assert (
        "docker"
        in json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}:docker"))["mediaType"]
    )
    assert cli.ok("import", f"docker://{target}:docker", "copy") == commits[1]
    code, _, err = cli("pull", f"{target}:v2", "pulled")
    assert (code, "is not a Stratum commit: it is an image" in err) == (1, True)


@pytest.mark.podman
def test_an_image_that_podman_made_is_flattened(cli: Command, tmp_path: Path) -> None:
    with PodmanEnv() as podman:
        (tmp_path / "Containerfile").write_text(
            f"FROM {podman.image}\nRUN rm /bin/true && mkdir /new && echo x > /new/file && ln /new/file /new/hard\n"
            "RUN rm /new/file && rm -r /tmp && mkdir /tmp && echo y > /tmp/y\n"
        )
        podman.podman("build", "--layers", "-q", "-t", "built", "-f", tmp_path / "Containerfile", tmp_path)
        podman.podman("save", "-q", "--format", "oci-archive", "-o", tmp_path / "built.tar", "localhost/built")
        container = podman.podman("create", "localhost/built", "true").stdout.strip()
        podman.podman("export", "-o", tmp_path / "export.tar", container)
    cli.ok("import", tmp_path / "built.tar", "built")
    cli.ok("import", tmp_path / "export.tar", "exported")
    assert cli.ok("diff", "--name-only", "built", "exported").split() == []
