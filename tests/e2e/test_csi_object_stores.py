"""Volumes from object stores and snapshots to them, over gRPC, with a server that speaks S3 and wants keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from tests.support import hydrating
from tests.support.csi import Node, refused
from tests.support.s3server import SECRET, S3Server

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]  # the first time, versitygw is built

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.bucket("volumes-and-snapshots")


@pytest.fixture(scope="module")
def keys(s3_server: S3Server) -> dict[str, str]:
    """What a secret of Kubernetes holds."""
    return {name: value for name, value in s3_server.environment.items() if "KEY" in name}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server, bucket: str) -> Iterator[tuple[Node, Node]]:
    """Two nodes without keys of their own, whose drivers know where the store is; it has ``db:seed``. The first allows
    inline volumes from there."""
    tmp_path = tmp_path_factory.mktemp("nodes")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/rows").write_bytes(b"row " * 50_000)
    a = Node(tmp_path / "a", "--allow-inline", f"--inline-source={bucket}/open/**", name="a")
    b = Node(tmp_path / "b", "--allow-inline", name="b")
    for node in (a, b):
        node.cli.environment |= {"AWS_ENDPOINT_URL": s3_server.endpoint, "HOME": str(tmp_path)}
    with a, b:
        a.cli.ok("import", "--bare", tmp_path / "source", "scratch")
        for place in ("db:seed", "open/db:seed"):
            a.cli.ok("push", "scratch:latest", f"{bucket}/{place}", env=s3_server.environment)
        a.cli.ok("remove", "--yes", "scratch")
        yield a, b
        for node in (a, b):
            assert not node.mounts()
            hydrating.stop(node.cli.runtime_dir)


def settled(
    node: Node, name: str, volume_id: str, parameters: Mapping[str, str], keys: Mapping[str, str]
) -> csi.Snapshot:
    for _ in range(60):
        snapshot = node.snapshot(name, volume_id, parameters=parameters, secrets=keys)
        if snapshot.ready_to_use:
            return snapshot
    raise AssertionError("the snapshot does not get ready")


def test_seed_snapshot_and_restore_on_another_node(nodes: tuple[Node, Node], bucket: str, keys: dict[str, str]) -> None:
    a, b = nodes
    seed = {"source": f"{bucket}/db:seed"}
    with refused(Code.UNAUTHENTICATED, "provisioner-secret-name"):
        a.create("pvc-1", seed)
    with refused(Code.UNAUTHENTICATED):
        a.create("pvc-1", seed, secrets=keys | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    volume = a.create("pvc-1", seed, secrets=keys)
    a.stage(volume.volume_id)
    target = a.publish(volume.volume_id, "pod")
    (target / "rows").write_text("changed")
    snapshot = settled(a, "snapshot-1", volume.volume_id, {"registry": f"{bucket}/snapshots"}, keys)
    assert snapshot.snapshot_id.startswith(f"{bucket}/snapshots:snapshot-1-")
    content = csi.VolumeContentSource(snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id=snapshot.snapshot_id))
    with refused(Code.UNAUTHENTICATED):
        b.create("pvc-2", volume_content_source=content)
    restored = b.create("pvc-2", volume_content_source=content, secrets=keys)
    b.stage(restored.volume_id)
    assert (b.publish(restored.volume_id, "pod") / "rows").read_text() == "changed"
    b.unpublish(restored.volume_id, "pod")
    b.unstage(restored.volume_id)
    a.controller.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id=snapshot.snapshot_id))
    request = csi.ListSnapshotsRequest(snapshot_id=snapshot.snapshot_id, secrets=keys)
    (found,) = b.controller.ListSnapshots(request).entries
    assert found.snapshot.snapshot_id == snapshot.snapshot_id, "it is still in the bucket"
    a.unpublish(volume.volume_id, "pod")
    a.unstage(volume.volume_id)


def test_a_lazy_volume_reads_with_the_secret_of_its_stage(
    nodes: tuple[Node, Node], bucket: str, keys: dict[str, str]
) -> None:
    _, node = nodes
    volume = node.create("pvc-lazy", {"source": f"{bucket}/db:seed", "lazy": "true", "prefetch": "none"}, secrets=keys)
    context = dict(volume.volume_context)
    node.stage(volume.volume_id, context, secrets=keys)
    place = node.publish(volume.volume_id, "pod", context)
    hydrating.kill(hydrating.worker(node.cli.runtime_dir))
    assert (place / "rows").read_bytes() == b"row " * 50_000
    written = [
        path
        for root in ("store", "run", "log")
        for path in [*(node.directory / root).rglob("*"), node.directory / root]
    ]
    assert not [path for path in written if path.is_file() and SECRET.encode() in path.read_bytes()]
    node.unpublish(volume.volume_id, "pod")
    node.unstage(volume.volume_id)


def test_what_pods_name_has_to_be_allowed_and_has_no_keys_of_the_node(
    nodes: tuple[Node, Node], s3_server: S3Server, bucket: str, keys: dict[str, str]
) -> None:
    a, b = nodes

    def inline(node: Node, source: str, secrets: Mapping[str, str]) -> Path:
        pod = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": "one"}
        return node.publish(
            "inline-1", "pod", pod | {"source": source, "readOnly": "true"}, staging_target_path="", secrets=secrets
        )

    for node, source in (
        (b, f"{bucket}/open/db:seed"),
        (a, f"{bucket}/db:seed"),
        (a, f"{bucket}/open/db:seed?endpoint={s3_server.endpoint}"),
    ):
        with refused(Code.PERMISSION_DENIED, "may not have"):
            inline(node, source, keys)
    a.cli.environment |= s3_server.environment
    a.restart()
    with refused(Code.UNAUTHENTICATED):
        inline(a, f"{bucket}/open/db:seed", {})
    assert (inline(a, f"{bucket}/open/db:seed", keys) / "rows").read_bytes() == b"row " * 50_000
    a.unpublish("inline-1", "pod")
