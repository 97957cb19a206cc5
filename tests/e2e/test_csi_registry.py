"""Volumes from registries and snapshots to them, over gRPC, with a registry that asks for a password."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from tests.e2e.hostile_registry import Handler, HostileRegistry
from tests.e2e.registry_artifacts import FILES, make_artifact
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.csi import Node, refused

pytestmark = [pytest.mark.root, pytest.mark.registry]

Code = grpc.StatusCode
PASSWORD = {"username": "user", "password": "secret"}
HTPASSWD = "user:$2b$05$MQF1YZuZ8sz7DQ2lYV4rKOIN.3NwVIrB6IjmTaxjoxgUe86qhfJZW\n"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with registry_server(tmp_path / "registry", htpasswd=tmp_path / "htpasswd") as running:
        yield running


@pytest.fixture
def nodes(tmp_path: Path, runtime_dir: Path, registry: RegistryServer) -> Iterator[tuple[Node, Node]]:
    """Two nodes; the registry has ``team/db:seed``, pushed from elsewhere."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "rows").write_bytes(b"row " * 50_000)
    with Node(tmp_path / "a", "--allow-inline", name="a") as a, Node(tmp_path / "b", name="b") as b:
        a.cli.ok("import", "--bare", source, "scratch")
        a.cli.ok("push", "scratch:latest", f"{registry.host}/team/db:seed", env=login(tmp_path, registry))
        a.cli.ok("remove", "--yes", "scratch")
        yield a, b
        assert not a.mounts()
        assert not b.mounts()


def login(directory: Path, registry: RegistryServer) -> dict[str, str]:
    file = directory / "auth.json"
    file.write_text(docker_config(registry))
    return {"REGISTRY_AUTH_FILE": str(file)}


def docker_config(registry: RegistryServer, password: str = PASSWORD["password"], **more: object) -> str:
    auth = base64.b64encode(f"user:{password}".encode()).decode()
    return json.dumps({"auths": {registry.host: {"auth": auth}}, **more})


def settled(node: Node, name: str, volume_id: str, parameters: Mapping[str, str]) -> csi.Snapshot:
    """The snapshot when it is ready, asked for again and again as the snapshotter does."""
    for _ in range(60):
        snapshot = node.snapshot(name, volume_id, parameters=parameters, secrets=PASSWORD)
        if snapshot.ready_to_use:
            return snapshot
    raise AssertionError("the snapshot does not get ready")


def test_seed_snapshot_and_restore_on_another_node(nodes: tuple[Node, Node], registry: RegistryServer) -> None:
    a, b = nodes
    seed = {"source": f"{registry.host}/team/db:seed"}
    with refused(Code.UNAUTHENTICATED):
        a.create("pvc-1", seed)
    with refused(Code.UNAUTHENTICATED):
        a.create("pvc-1", seed, secrets={"username": "user", "password": "wrong"})
    volume = a.create("pvc-1", seed, secrets=PASSWORD)
    a.stage(volume.volume_id)
    target = a.publish(volume.volume_id, "pod")
    (target / "rows").write_text("changed")
    snapshot_class = {"registry": f"{registry.host}/team/snapshots"}
    with refused(Code.UNAUTHENTICATED):
        a.snapshot("snapshot-1", volume.volume_id, parameters=snapshot_class)
    listed = a.controller.ListSnapshots(csi.ListSnapshotsRequest(source_volume_id=volume.volume_id)).entries
    assert [entry.snapshot.ready_to_use for entry in listed] == [False]
    a.restart()
    snapshot = settled(a, "snapshot-1", volume.volume_id, snapshot_class)
    assert snapshot.snapshot_id.startswith(f"{registry.host}/team/snapshots:snapshot-1-")
    assert snapshot.snapshot_id == listed[0].snapshot.snapshot_id
    content = csi.VolumeContentSource(snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id=snapshot.snapshot_id))
    restored = b.create("pvc-2", volume_content_source=content, secrets=PASSWORD)
    b.stage(restored.volume_id)
    assert (b.publish(restored.volume_id, "pod") / "rows").read_text() == "changed"
    b.unpublish(restored.volume_id, "pod")
    b.unstage(restored.volume_id)
    # The tag in the registry is moved by somebody: what it names now is not the snapshot.
    source = b.directory / "other"
    source.mkdir()
    b.cli.ok("import", "--bare", source, "forged:x")
    b.cli.ok("push", "forged:x", snapshot.snapshot_id, env=login(b.directory, registry))
    assert b.create("pvc-3", volume_content_source=content, secrets=PASSWORD).volume_id, "it is on the node"
    with refused(Code.FAILED_PRECONDITION, "not the snapshot any more"):
        b.create("pvc-4", {"pullPolicy": "Always"}, volume_content_source=content, secrets=PASSWORD)
    a.unpublish(volume.volume_id, "pod")
    a.unstage(volume.volume_id)


def test_snapshots_made_elsewhere_are_found_and_restored(
    nodes: tuple[Node, Node], registry: RegistryServer, tmp_path: Path
) -> None:
    """By a node with an empty store too, after the one that made them forgot them, and by the digest of any commit."""
    a, b = nodes
    volume = a.create("pvc-1", {"source": f"{registry.host}/team/db:seed"}, secrets=PASSWORD)
    a.stage(volume.volume_id)
    (a.publish(volume.volume_id, "pod") / "more").write_text("more")
    a.unpublish(volume.volume_id, "pod")
    a.unstage(volume.volume_id)
    made = settled(a, "snapshot-1", volume.volume_id, {"registry": f"{registry.host}/team/snapshots"})
    repository, _, tag = made.snapshot_id.rpartition(":")
    digest = a.cli.json("list", "--remote", repository, env=login(tmp_path, registry))[0]["manifest"]
    a.controller.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id=made.snapshot_id))
    handles = [made.snapshot_id, f"{repository}@{digest}", f"{repository}:{tag}@{digest}"]
    for node in nodes:
        for handle in handles:
            (found,) = searched(node, handle, secrets=PASSWORD)
            assert (found.snapshot_id, found.ready_to_use) == (handle, True)
            assert (found.source_volume_id, found.size_bytes) == (volume.volume_id, made.size_bytes)
            assert found.creation_time.seconds > 0
        assert searched(node, handles[0], source_volume_id="another", secrets=PASSWORD) == []
        with refused(Code.UNAUTHENTICATED, "snapshotter-list-secret-name"):
            searched(node, handles[0])
        assert not node.controller.ListSnapshots(csi.ListSnapshotsRequest()).entries, "only its own are listed"
    for number, handle in enumerate(handles):
        content = csi.VolumeContentSource(snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id=handle))
        if number < 2:  # the third is what the second was
            with refused(Code.UNAUTHENTICATED, "provisioner-secret-name"):
                b.create(f"pvc-{number}", volume_content_source=content)
        restored = b.create(f"pvc-{number}", volume_content_source=content, secrets=PASSWORD)
        b.stage(restored.volume_id)
        assert (b.publish(restored.volume_id, "pod") / "rows").stat().st_size == 200_000
        b.unpublish(restored.volume_id, "pod")
        b.unstage(restored.volume_id)
        b.controller.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id=handle))
        assert searched(b, handle, secrets=PASSWORD), "what others pushed is not ours to delete"
    for unknown in (f"{repository}:snapshot-1-{'0' * 32}", f"{repository}@sha256:{'0' * 64}", f"{repository}:v1"):
        assert searched(b, unknown, secrets=PASSWORD) == []
        content = csi.VolumeContentSource(snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id=unknown))
        with refused(Code.NOT_FOUND):
            b.create("pvc-9", volume_content_source=content, secrets=PASSWORD)
    (tmp_path / "source" / "more").write_text("")
    a.cli.ok("import", "--bare", tmp_path / "source", "forged:y")
    a.cli.ok("push", "forged:y", made.snapshot_id, env=login(tmp_path, registry))
    with refused(Code.FAILED_PRECONDITION, "not the snapshot any more"):
        searched(b, made.snapshot_id, secrets=PASSWORD)
    with stopped(registry), refused(Code.ABORTED, "call again"):
        searched(b, f"{repository}@{digest}", secrets=PASSWORD)


def test_a_group_is_pushed_whole_and_found_by_another_cluster(
    nodes: tuple[Node, Node], registry: RegistryServer
) -> None:
    a, b = nodes
    volumes = [
        a.create(f"pvc-{number}", {"source": f"{registry.host}/team/db:seed"}, secrets=PASSWORD) for number in (1, 2)
    ]
    fields: dict[str, Any] = {
        "parameters": {"registry": f"{registry.host}/team/snapshots", "pause": "false"},
        "secrets": PASSWORD,
    }
    ids = [volume.volume_id for volume in volumes]
    with refused(Code.UNAUTHENTICATED, "group-snapshotter-secret-name"):
        a.group("g", *ids, parameters=fields["parameters"])
    a.restart()  # between the commits and the push
    group = a.group("g", *ids, **fields)
    while not group.ready_to_use:
        group = a.group("g", *ids, **fields)
    handles = [snapshot.snapshot_id for snapshot in group.snapshots]
    assert all(handle.startswith(f"{registry.host}/team/snapshots:snap-") for handle in handles)
    request = csi.GetVolumeGroupSnapshotRequest(group_snapshot_id="any/name", snapshot_ids=handles, secrets=PASSWORD)
    found = b.groups.GetVolumeGroupSnapshot(request, timeout=60).group_snapshot
    assert (found.group_snapshot_id, found.ready_to_use) == ("any/name", True)
    assert [each.snapshot_id for each in found.snapshots] == handles
    with refused(Code.UNAUTHENTICATED, "group-snapshotter-get-secret-name"):
        request = csi.GetVolumeGroupSnapshotRequest(group_snapshot_id="any/name", snapshot_ids=handles)
        b.groups.GetVolumeGroupSnapshot(request, timeout=60)
    with refused(Code.NOT_FOUND, "there is no snapshot"):
        request.snapshot_ids[0] = "csi-volumes:none"
        b.groups.GetVolumeGroupSnapshot(request, timeout=60)
    with refused(Code.INVALID_ARGUMENT, "is no snapshot of the group"):
        request.group_snapshot_id = group.group_snapshot_id
        a.groups.GetVolumeGroupSnapshot(request, timeout=60)


def searched(node: Node, snapshot_id: str, **fields: Any) -> list[csi.Snapshot]:
    request = csi.ListSnapshotsRequest(snapshot_id=snapshot_id, **fields)
    return [entry.snapshot for entry in node.controller.ListSnapshots(request, timeout=60).entries]


def test_a_registry_that_is_not_there_is_unavailable(nodes: tuple[Node, Node]) -> None:
    source = f"127.0.0.1:9/team/snapshots@sha256:{'0' * 64}"
    with refused(Code.UNAVAILABLE, "Connection refused"):
        searched(nodes[1], source)
    with refused(Code.UNAVAILABLE, "Connection refused"):
        nodes[1].create("pvc-1", {"source": source})


def test_static_volume_made_from_its_source_on_every_node(nodes: tuple[Node, Node], registry: RegistryServer) -> None:
    config = {".dockerconfigjson": docker_config(registry, credsStore="no-such-helper")}
    for node in nodes:
        for volume_id, written in (("shared+work", True), ("shared:v1", False)):
            context = {"source": f"{registry.host}/team/db:seed"}
            node.stage(volume_id, context, secrets=config)
            target = node.publish(volume_id, "pod", context)
            assert (target / "rows").stat().st_size == 200_000
            assert os.access(target, os.W_OK) == written
            node.unpublish(volume_id, "pod")
            node.unstage(volume_id)


def test_inline_gets_the_pods_credentials_and_not_the_nodes(nodes: tuple[Node, Node], registry: RegistryServer) -> None:
    node = nodes[0]
    node.kill()
    node.cli.environment = node.cli.environment | login(node.directory, registry)
    node.start()
    inline = {"csi.storage.k8s.io/ephemeral": "true", "source": f"{registry.host}/team/db:seed", "readOnly": "true"}
    with refused(Code.UNAUTHENTICATED, "nodePublishSecretRef"):
        node.publish("csi-1", "pod", inline)
    target = node.publish("csi-1", "pod", inline, secrets=PASSWORD)
    assert (target / "rows").stat().st_size == 200_000
    node.unpublish("csi-1", "pod")
    assert node.create("pvc-1", {"source": f"{registry.host}/team/db:seed"}).volume_id
    assert base64.b64encode(b"user:secret").decode() not in node.log.read_text()


def test_inline_takes_nothing_that_the_node_has(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    """Whoever may have an inline volume may not have what somebody else's pull left in the store."""
    node, artifact = nodes[0], make_artifact(tmp_path)
    inline = {"csi.storage.k8s.io/ephemeral": "true", "readOnly": "true"}
    with HostileRegistry(artifact) as registry:
        node.cli.ok("pull", registry.target, "theirs")
    with HostileRegistry(replace(artifact, packs=())) as registry, refused(Code.DATA_LOSS, "none of its packs"):
        node.publish("csi-1", "pod", {**inline, "source": registry.target})
    with HostileRegistry(artifact) as registry:
        target = node.publish("csi-2", "pod", {**inline, "source": registry.target})
        assert (target / "docs/readme").read_bytes() == FILES["docs/readme"]
        node.unpublish("csi-2", "pod")
    assert set(registry.blobs) <= {path.rpartition("/")[2] for _, path, _ in registry.seen}


@pytest.mark.parametrize("inline", [True, False])
def test_secrets_in_use_are_in_the_drivers_memory_only(nodes: tuple[Node, Node], tmp_path: Path, inline: bool) -> None:
    """In no file, open or not, no environment and no argument, of the driver or of what it started."""
    node, used, looked = nodes[0], threading.Event(), threading.Event()

    def wait_when_told(request: Handler) -> bool:
        if "Authorization" not in request.headers:
            return not request.send(401, b"", {"WWW-Authenticate": 'Basic realm="registry"'})
        used.set()
        return not looked.wait(60)

    with HostileRegistry(make_artifact(tmp_path), wait_when_told) as registry, ThreadPoolExecutor(1) as pool:
        context, entry = {"source": registry.target}, {"username": "me", "password": "s3cr:t"}
        secrets = {".dockerconfigjson": json.dumps({"auths": {registry.host: entry}})}
        if inline:
            context |= {"csi.storage.k8s.io/ephemeral": "true", "readOnly": "true"}
            call = pool.submit(node.publish, "csi-1", "pod", context, secrets=secrets)
        else:
            call = pool.submit(node.create, "pvc-1", context, secrets=secrets)
        assert used.wait(30)
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            for path in (node.process / "fd").iterdir():
                assert not any(word in os.readlink(path) for word in ("memfd", "deleted"))
        children = (node.process / f"task/{node.process.name}/children").read_text().split()
        for process in (node.process, *(Path("/proc", child) for child in children)):
            assert b"s3cr" not in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        words = f"s3cr:t|{base64.b64encode(b'me:s3cr:t').decode()}"
        done = subprocess.run(["grep", "-rlaE", words, node.directory], capture_output=True, check=False)
        looked.set()
        assert (done.returncode, done.stdout) == (1, b"")
        assert call.result()
    if inline:
        node.unpublish("csi-1", "pod")


def test_retried_call_joins_the_pull_that_is_under_way(nodes: tuple[Node, Node], registry: RegistryServer) -> None:
    node = nodes[0]
    before = manifests_asked(registry)
    request = csi.CreateVolumeRequest(
        name="pvc-1",
        parameters={"source": f"{registry.host}/team/db:seed"},
        secrets=PASSWORD,
        volume_capabilities=[csi.VolumeCapability(mount={}, access_mode={"mode": 1})],
    )
    with stopped(registry):
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                node.controller.CreateVolume(request, timeout=0.7)
            assert caught.value.code() in (Code.ABORTED, Code.DEADLINE_EXCEEDED)
    assert node.controller.CreateVolume(request, timeout=30).volume.volume_id.endswith("+pvc-1")
    assert manifests_asked(registry) - before == 2, "one pull: the manifest without and with the password"


def manifests_asked(registry: RegistryServer) -> int:
    return sum(line.startswith("GET") and line.endswith("/manifests/seed") for line in registry.requests())


@contextlib.contextmanager
def stopped(registry: RegistryServer) -> Iterator[None]:
    """The registry's process does not run meanwhile: it accepts connections and says nothing."""
    os.kill(registry.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(registry.process.pid, signal.SIGCONT)


def test_no_message_has_a_digest_of_the_secrets(nodes: tuple[Node, Node], registry: RegistryServer) -> None:
    """What can be computed from a guessed password alone would let everybody who reads events try passwords."""
    node = nodes[0]
    inline = {"csi.storage.k8s.io/ephemeral": "true", "source": f"{registry.host}/team/db:seed"}
    messages = []
    with stopped(registry):
        for isolated in (True, False):
            request = csi.NodePublishVolumeRequest(
                volume_id="csi-1" if isolated else "shared+x",
                volume_context=inline if isolated else {"source": inline["source"]},
                volume_capability=csi.VolumeCapability(mount={}, access_mode={"mode": 1}),
                target_path=node.target("pod"),
                staging_target_path=node.staging("pod"),
                secrets=PASSWORD,
            )
            with pytest.raises(grpc.RpcError) as caught:
                node.node.NodePublishVolume(request, timeout=1)
            messages.append(caught.value.details() or "")
    node.unpublish("csi-1", "pod")
    told = "".join(messages) + node.log.read_text()
    assert f"pull of {registry.host}/team/db:seed" in told
    known = [
        json.dumps(shape).encode() for shape in ([sorted(PASSWORD.items()), True], [sorted(PASSWORD.items()), False])
    ]
    for digest in [hashlib.sha256(text).hexdigest()[:12] for text in known]:
        assert digest not in told
    assert not re.search(r"\b[0-9a-f]{12,}\b", "".join(messages).replace(registry.host, ""))
