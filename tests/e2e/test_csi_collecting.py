"""The driver makes room by itself: what no volume uses goes, what pods use stays."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.csi import Node

pytestmark = [pytest.mark.root, pytest.mark.registry]

T = TypeVar("T")
AT_ONCE = ("--gc-interval", "1s", "--reflog-age", "0", "--pulled-age", "0")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with registry_server(tmp_path / "registry") as running:
        yield running


def started(tmp_path: Path, *options: str) -> Node:
    return Node(tmp_path / "n", "--allow-inline", "--metrics", f"unix://{tmp_path}/metrics.sock", *options)


def pushed(tmp_path: Path, registry: RegistryServer, name: str) -> str:
    """The reference of a commit of one file of 300 kB, pushed by another machine."""
    source = tmp_path / f"source-{name}"
    source.mkdir()
    (source / "file").write_bytes(name.encode() * 50_000)
    with Node(tmp_path / "elsewhere") as other:
        other.cli.ok("import", "--bare", source, f"{name}:v1")
        other.cli.ok("push", f"{name}:v1", f"{registry.host}/team/{name}:v1")
    return f"{registry.host}/team/{name}:v1"


def figure(tmp_path: Path, name: str) -> int:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(tmp_path / "metrics.sock"))
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return int(float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2]))


def after_another_run(tmp_path: Path) -> None:
    """Wait for a run that began after now."""
    done = 'stratum_csi_gc_runs_total{result="done"}'
    wanted = figure(tmp_path, done) + 2
    while figure(tmp_path, done) < wanted:
        time.sleep(0.1)


def objects(node: Node) -> int:
    return sum(1 for path in (node.directory / "store" / "objects").rglob("*") if path.is_file())


def inline(source: str, **more: str) -> dict[str, str]:
    kubernetes = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": "one"}
    return kubernetes | {"source": source} | more


def test_removed_volumes_and_snapshots_make_room(tmp_path: Path, runtime_dir: Path, registry: RegistryServer) -> None:
    seed = pushed(tmp_path, registry, "seed")
    with started(tmp_path, *AT_ONCE) as node:
        kept = again(node.create, "pvc-kept", {"source": seed}).volume_id
        gone = again(node.create, "pvc-gone").volume_id
        for number, volume_id in enumerate((kept, gone)):
            node.stage(volume_id)
            (node.publish(volume_id, "pod-" + volume_id[-4:]) / "data").write_bytes(bytes([number]) * 100_000)
        snapshots = [node.snapshot(f"snapshot-{volume_id[-4:]}", volume_id).snapshot_id for volume_id in (kept, gone)]
        after_another_run(tmp_path)
        assert objects(node) == 3
        node.unpublish(gone, "pod-gone")
        node.unstage(gone)
        node.delete(gone)
        node.controller.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id=snapshots[1]))
        after_another_run(tmp_path)
        assert objects(node) == 2
        assert figure(tmp_path, "stratum_csi_gc_freed_bytes_total") >= 100_000
        assert figure(tmp_path, "stratum_csi_gc_last_success_timestamp_seconds") > 0
        assert (Path(node.target("pod-kept")) / "file").stat().st_size == 200_000
        assert (Path(node.target("pod-kept")) / "data").read_bytes() == b"\0" * 100_000
        node.unpublish(kept, "pod-kept")
        node.unstage(kept)
        content = csi.VolumeContentSource(snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id=snapshots[0]))
        assert again(node.create, "pvc-restored", volume_content_source=content).volume_id
        node.cli.ok("fsck")
        for volume_id in (kept, "csi-volumes+pvc-restored"):
            node.delete(volume_id)
        for entry in node.controller.ListVolumes(csi.ListVolumesRequest()).entries:
            node.delete(entry.volume.volume_id)
        node.controller.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id=snapshots[0]))
        after_another_run(tmp_path)
        after_another_run(tmp_path)
        assert objects(node) == 0
        assert [each["name"] for each in node.cli.json("list")] == ["csi-volumes"]


def test_pulls_stay_while_a_pod_uses_them_and_then_go_whole(
    tmp_path: Path, runtime_dir: Path, registry: RegistryServer
) -> None:
    sources = {mode: pushed(tmp_path, registry, f"model-{mode}") for mode in ("true", "false")}
    with started(tmp_path, *AT_ONCE) as node:
        for mode, source in sources.items():
            again(node.publish, f"csi-{mode}", f"pod-{mode}", inline(source, readOnly=mode), staging_target_path="")
        after_another_run(tmp_path)
        node.reboot()
        after_another_run(tmp_path)
        for mode, source in sources.items():
            target = node.publish(f"csi-{mode}", f"pod-{mode}", inline(source, readOnly=mode), staging_target_path="")
            assert (target / "file").stat().st_size > 0
        assert len(node.cli.json("list")) == 2
        for mode in sources:
            node.unpublish(f"csi-{mode}", f"pod-{mode}")
        after_another_run(tmp_path)
        assert node.cli.json("list") == []
        assert objects(node) == 0
        assert not list((node.directory / "store" / "csi" / "pulls").iterdir())
        assert not [path.name for path in (node.directory / "store" / "refs").iterdir()]


def test_what_pods_committed_stays(tmp_path: Path, runtime_dir: Path, registry: RegistryServer) -> None:
    source = pushed(tmp_path, registry, "tool")
    with started(tmp_path, *AT_ONCE) as node:
        for number in range(3):
            attributes = inline(source, commit="true", tag=f"result-{number}")
            target = again(node.publish, "csi-1", "pod", attributes, staging_target_path="")
            (target / "out").write_text(str(number) * 100)
            node.unpublish("csi-1", "pod")
        after_another_run(tmp_path)
        (name,) = [each["name"] for each in node.cli.json("list")]
        assert [tag["tag"] for tag in node.cli.json("list", name)["tags"]] == [f"result-{n}" for n in range(3)]
        assert len(node.cli.json("log", name, "--reflog")) == 3, (
            "what worktrees that are gone left is not told for ever"
        )
        node.cli.ok("fsck")


def test_history_that_is_not_the_drivers_stays_and_so_does_what_is_young(
    tmp_path: Path, runtime_dir: Path, registry: RegistryServer
) -> None:
    source = pushed(tmp_path, registry, "tool")
    own = tmp_path / "own"
    own.mkdir()
    with started(tmp_path, "--gc-interval", "1s", "--reflog-age", "0") as node:
        (own / "file").write_bytes(b"1" * 1000)
        first = node.cli.json("import", "--bare", own, "mine")
        (own / "file").write_bytes(b"2" * 1000)
        node.cli.ok("import", "--bare", own, "mine:v2")
        node.cli.ok("remove", "mine:v2")
        node.publish("csi-1", "pod", inline(source), staging_target_path="")
        node.unpublish("csi-1", "pod")
        after_another_run(tmp_path)
        assert objects(node) == 3
        assert len(node.cli.json("list")) == 2
        assert first


def test_pods_leave_no_lines_in_the_history_of_a_stratum_of_the_node(
    tmp_path: Path, runtime_dir: Path, registry: RegistryServer
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with started(tmp_path, *AT_ONCE) as node:
        node.cli.ok("import", "--bare", source, "tool")
        node.cli.ok("worktree", "add", "tool+mine", "tool:latest")
        for number in range(4):
            target = node.publish("csi-1", "pod", inline("tool", commit="true"), staging_target_path="")
            (target / "out").write_text(str(number))
            node.unpublish("csi-1", "pod")
        after_another_run(tmp_path)
        lines = node.cli.json("log", "tool", "--reflog")
        moves = [line for line in lines if line["ref"].startswith("tool+inline-") and line["old"] and line["new"]]
        assert len(moves) == 4, "what pods committed is told"
        assert len(lines) == len(moves) + 2, "and the tag and the worktree that are there"
        node.cli.ok("fsck")


def test_the_documented_way_to_make_room_at_once(tmp_path: Path, runtime_dir: Path, registry: RegistryServer) -> None:
    source = pushed(tmp_path, registry, "tool")
    with started(tmp_path) as node:
        node.publish("csi-1", "pod", inline(source), staging_target_path="")
        (name,) = [each["name"] for each in node.cli.json("list")]
        assert node.cli("remove", "--yes", name).code == 4, "a pod uses it"
        node.unpublish("csi-1", "pod")
        node.cli.ok("remove", "--yes", name)
        node.cli.ok("gc", "--reflog-age", "0")
        assert objects(node) == 0
        node.publish("csi-1", "pod", inline(source, pullPolicy="IfNotPresent"), staging_target_path="")
        node.unpublish("csi-1", "pod")


def test_collecting_beside_pods_that_come_and_go(tmp_path: Path, runtime_dir: Path, registry: RegistryServer) -> None:
    source = pushed(tmp_path, registry, "tool")
    with started(tmp_path, *AT_ONCE) as node:
        failures: list[BaseException] = []

        def live(number: int) -> None:
            pod = (f"csi-{number}", f"pod-{number}")
            for _ in range(12):
                target = again(node.publish, *pod, inline(source), staging_target_path="")
                assert len((target / "file").read_bytes()) == 200_000
                (target / "own").write_text("x" * 1000)
                again(node.unpublish, *pod)
                again(node.delete, again(node.create, f"pvc-{number}", {"source": source}).volume_id)

        def watched(number: int) -> None:
            try:
                live(number)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=watched, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        after_another_run(tmp_path)
        assert objects(node) == 0
        node.cli.ok("fsck")


def again(call: Callable[..., T], *args: object, **fields: object) -> T:
    """Call as the kubelet does: again while it is ABORTED, as where what was just pulled is garbage already."""
    while True:
        with contextlib.suppress(AbortedError):
            return _called(call, *args, **fields)


class AbortedError(Exception):
    """The call is to be repeated."""


def _called(call: Callable[..., T], *args: object, **fields: object) -> T:
    try:
        return call(*args, **fields)
    except grpc.RpcError as exc:
        if exc.code() == grpc.StatusCode.ABORTED:
            raise AbortedError from None
        raise
