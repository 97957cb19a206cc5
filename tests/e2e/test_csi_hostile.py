"""What the CSI driver refuses: bad IDs, names, attributes and paths. Each with the right code, and nothing touched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from tests.support.csi import PROGRAM, Modes, Node, capability, refused
from tests.support.leftovers import unmount_below
from tests.support.stores import snapshot

pytestmark = pytest.mark.root

Code = grpc.StatusCode

TRAVERSALS = [
    "../../etc",
    "..",
    "/etc",
    "app+../../x",
    "app+..",
    "app:../../../x",
    "app/../../etc",
    "a" * 5000,
    "app\n+x",
    "csi-volumes+../pvc",
    "-rf",
    "app+x:y",
    "%2e%2e%2f",
]
INLINE = {"csi.storage.k8s.io/ephemeral": "true"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all tests here: what is refused leaves nothing behind."""
    directory = tmp_path_factory.mktemp("csi")
    source = directory / "source"
    source.mkdir()
    (source / "file").write_text("content")
    with Node(
        directory / "n", "--allow-inline", "--inline-source", "app*", "--inline-source", "good.example/*"
    ) as node:
        node.cli.ok("import", "--bare", source, "app")
        node.cli.ok("import", "--bare", source, "secret")
        node.cli.ok("worktree", "add", "app+theirs", "app:latest")
        yield node
        assert not node.mounts()
        unmount_below(directory)


@pytest.mark.parametrize("bad", TRAVERSALS)
def test_ids_that_are_none(node: Node, bad: str) -> None:
    before = snapshot(node.directory / "store")
    node.delete(bad)
    node.controller.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id=bad))
    staging = node.staging("some")
    with refused(Code.NOT_FOUND):
        node.stage(bad, staging_target_path=staging)
    with refused(Code.NOT_FOUND):
        node.publish(bad, "pod", staging_target_path=staging)
    with refused(Code.NOT_FOUND):
        node.snapshot("snap", bad)
    with refused(Code.NOT_FOUND):
        node.controller.ControllerGetVolume(csi.ControllerGetVolumeRequest(volume_id=bad))
    for content in (
        csi.VolumeContentSource(snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id=bad)),
        csi.VolumeContentSource(volume=csi.VolumeContentSource.VolumeSource(volume_id=bad)),
    ):
        with refused(Code.NOT_FOUND):
            node.create("new", volume_content_source=content)
    assert not list(node.controller.ListSnapshots(csi.ListSnapshotsRequest(snapshot_id=bad)).entries)
    after = snapshot(node.directory / "store")
    assert {path for path in after if not path.endswith(".lock")} <= set(before)


def test_names_become_safe_ids(node: Node) -> None:
    for name in ("../../etc/passwd", "pvc/../../x", "a b", "Ünïcode", "x" * 128, "latest.lock", "0" * 64):
        volume = node.create(name)
        stratum, _, worktree = volume.volume_id.partition("+")
        assert stratum == "csi-volumes"
        assert "/" not in worktree
        assert node.create(name) == volume
        node.delete(volume.volume_id)
    for bad in ("", "x" * 129, "tab\tname", "nul\0"):
        with refused(Code.INVALID_ARGUMENT):
            node.create(bad)


def test_paths_outside_the_kubelets_directory(node: Node, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    kubelet = node.kubelet
    (kubelet / "link").symlink_to(outside)
    (kubelet / "final").symlink_to(outside)
    (kubelet / "file").write_text("")
    volume_id = node.create("pvc").volume_id
    node.stage(volume_id)
    bad = [
        "/etc",
        "/",
        str(kubelet),
        f"{kubelet}x/target",
        f"{kubelet}/../outside",
        f"{kubelet}/./x",
        "relative/path",
        f"{kubelet}/link/target",
        f"{kubelet}/final",
        f"{kubelet}/file",
        f"{kubelet}/file/target",
        f"{kubelet}/nul\0",
        str(outside / "x"),
    ]
    for path in bad:
        with refused(Code.INVALID_ARGUMENT):
            node.publish(volume_id, "pod", target_path=path)
        with refused(Code.INVALID_ARGUMENT):
            node.stage(volume_id, staging_target_path=path)
        if path not in (f"{kubelet}/file",):
            with refused(Code.INVALID_ARGUMENT):
                node.node.NodeUnpublishVolume(csi.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=path))
    assert os.listdir(outside) == []
    assert (kubelet / "final").is_symlink()
    with refused(Code.FAILED_PRECONDITION):
        node.publish(volume_id, "pod", target_path=f"{kubelet}/no/such/parent")
    node.node.NodeUnpublishVolume(
        csi.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=f"{kubelet}/no/such/parent")
    )
    node.unstage(volume_id)


def test_what_others_mounted_or_wrote_is_left_alone(node: Node) -> None:
    one, two = node.create("pvc-1").volume_id, node.create("pvc-2").volume_id
    node.stage(one)
    node.stage(two)
    target = node.publish(one, "pod")
    with refused(Code.FAILED_PRECONDITION, "not volume"):
        node.publish(two, "pod")
    with refused(Code.FAILED_PRECONDITION, "not volume"):
        node.unpublish(two, "pod")
    with refused(Code.FAILED_PRECONDITION, "not volume"):
        node.stage(two, staging_target_path=node.staging(one))
    assert target.is_mount()
    node.unpublish(one, "pod")
    target.mkdir()
    (target / "precious").write_text("")
    with refused(Code.FAILED_PRECONDITION, "not empty"):
        node.unpublish(one, "pod")
    assert (target / "precious").exists()
    (target / "precious").unlink()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    with refused(Code.FAILED_PRECONDITION, "tmpfs"):
        node.unpublish(one, "pod")
    with refused(Code.FAILED_PRECONDITION, "tmpfs"):
        node.publish(one, "pod")
    subprocess.run(["umount", target], check=True)
    node.unstage(one)
    node.unstage(two)


def test_worktrees_of_others_are_not_volumes_to_delete(node: Node) -> None:
    with refused(Code.FAILED_PRECONDITION, "not made by this driver"):
        node.delete("app+theirs")
    node.delete("app:latest")
    node.delete("app")
    assert os.listdir(node.directory / "run" / "csi") == [], "lock files go with their calls"
    assert [tree["worktree"] for tree in node.cli.json("worktree", "list", "app")] == ["app+theirs"]
    with refused(Code.ALREADY_EXISTS):
        node.create("theirs", {"source": "app"})
    mountpoint = node.directory / "mnt"
    mountpoint.mkdir()
    node.cli.ok("mount", "app+theirs", mountpoint)
    with refused(Code.FAILED_PRECONDITION, "mounted already"):
        node.stage("app+theirs")
    node.cli.ok("unmount", mountpoint)


@pytest.mark.parametrize(
    "parameters",
    [
        {"source": "oci:/etc"},
        {"source": "oci-archive:/etc/shadow"},
        {"source": "http://127.0.0.1:1/x"},
        {"source": "file:///etc"},
        {"source": "/etc"},
        {"source": "../etc"},
        {"source": "app:latest+x"},
        {"source": ""},
        {"source": "x" * 2000},
        {"source": "app\0"},
        {"sorce": "app"},
        {"commit": "perhaps"},
        {"tag": "x"},
        {"commit": "true", "tag": "../x"},
        {"commit": "true", "tag": "{nonsense}"},
        {"commit": "true", "tag": "at-{container}"},
        {"commit": "true", "tag": "at-{pod}"},
        {"commit": "true", "tag": "a:b"},
        {"readOnly": "true"},
    ],
)
def test_parameters_of_a_class(node: Node, parameters: dict[str, str]) -> None:
    with refused(Code.INVALID_ARGUMENT):
        node.create("pvc", parameters)


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({}, Code.INVALID_ARGUMENT),
        ({"source": "secret"}, Code.PERMISSION_DENIED),
        ({"source": "app.evil.example/x"}, Code.PERMISSION_DENIED),
        ({"source": "app+theirs"}, Code.INVALID_ARGUMENT),
        ({"source": "app:no-such"}, Code.NOT_FOUND),
        ({"source": "app-no-such"}, Code.NOT_FOUND),
        ({"source": "oci:/var/lib/x"}, Code.INVALID_ARGUMENT),
        ({"source": "http://good.example/x/y"}, Code.INVALID_ARGUMENT),
        ({"source": "good.example/../etc"}, Code.INVALID_ARGUMENT),
        ({"source": "app", "readOnly": "true", "commit": "true"}, Code.INVALID_ARGUMENT),
        ({"source": "app", "readOnly": "yes"}, Code.INVALID_ARGUMENT),
        ({"source": "app", "upperdir": "/etc"}, Code.INVALID_ARGUMENT),
        ({"source": "app", "commit": "true", "tag": "x/../y"}, Code.INVALID_ARGUMENT),
        ({"source": "app", "commit": "true", "tag": "at-{container}"}, Code.INVALID_ARGUMENT),
        ({"source": "app", "commit": "true", "tag": "at-{volume}"}, Code.INVALID_ARGUMENT),
    ],
)
def test_inline_attributes(node: Node, attributes: dict[str, str], code: grpc.StatusCode) -> None:
    with refused(code):
        node.publish("csi-1", "pod", INLINE | attributes, staging_target_path="")
    node.unpublish("csi-1", "pod")
    assert not Path(node.target("pod")).exists()


def test_inline_cannot_name_commits_of_others_by_hash(node: Node) -> None:
    commit = node.cli.json("show", "secret:latest")["commit"]["metadata_hash"]
    for source, code in ((f"app:{commit}", Code.INVALID_ARGUMENT), (f"app:{commit[:12]}", Code.NOT_FOUND)):
        with refused(code):
            node.publish("csi-1", "pod", INLINE | {"source": source}, staging_target_path="")


def test_inline_is_off_unless_allowed(tmp_path: Path, runtime_dir: Path) -> None:
    with Node(tmp_path / "n") as node, refused(Code.PERMISSION_DENIED, "--allow-inline"):
        node.publish("csi-1", "pod", INLINE | {"source": "app"}, staging_target_path="")


def test_capabilities_that_no_volume_has(node: Node) -> None:
    block = csi.VolumeCapability(
        block=csi.VolumeCapability.BlockVolume(), access_mode=Modes(mode=Modes.SINGLE_NODE_WRITER)
    )
    for bad in (block, capability(Modes.MULTI_NODE_MULTI_WRITER), capability(Modes.UNKNOWN), csi.VolumeCapability()):
        with refused(Code.INVALID_ARGUMENT):
            node.controller.CreateVolume(csi.CreateVolumeRequest(name="pvc", volume_capabilities=[bad]))
    volume_id = node.create("pvc").volume_id
    for flag in ("suid", "dev", "upperdir=/etc", "bind", "remount"):
        with refused(Code.INVALID_ARGUMENT):
            node.stage(volume_id, volume_capability=capability(Modes.SINGLE_NODE_WRITER, flag))
    answer = node.controller.ValidateVolumeCapabilities(
        csi.ValidateVolumeCapabilitiesRequest(volume_id="app:latest", volume_capabilities=[capability()])
    )
    assert not answer.HasField("confirmed")
    assert "read" in answer.message


@pytest.mark.parametrize(
    "arguments",
    [
        ["--endpoint", "tcp://0.0.0.0:1", "--node-id", "n"],
        ["--endpoint", "unix://relative", "--node-id", "n"],
        ["--endpoint", "unix:///etc/passwd", "--node-id", "n"],
        ["--endpoint", "unix:///" + "x" * 200, "--node-id", "n"],
        ["--endpoint", "unix:///tmp/x", "--node-id", "a/b"],
        ["--endpoint", "unix:///tmp/x", "--node-id", "n", "--kubelet-dir", "/"],
    ],
)
def test_the_program_refuses_bad_options(tmp_path: Path, arguments: list[str]) -> None:
    places = ["--store", tmp_path / "store", "--runtime-dir", tmp_path / "run"]
    done = subprocess.run([PROGRAM, *arguments, *places], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_second_driver_on_the_same_socket_is_refused(node: Node) -> None:
    arguments = ["--endpoint", f"unix://{node.directory}/csi.sock", "--node-id", "n"]
    places = ["--store", node.directory / "store", "--runtime-dir", node.directory / "run"]
    done = subprocess.run([PROGRAM, *arguments, *places], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 4
    assert "another driver listens" in done.stderr
    node.create("pvc")
