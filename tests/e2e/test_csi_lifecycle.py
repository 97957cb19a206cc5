"""Volumes' lives over gRPC, with real mounts, from the first call to the last, the driver killed in between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from stratum.csi.attributes import MOUNT_FLAGS
from stratum.csi.driver import TOPOLOGY_KEY
from tests.support.csi import Modes, Node, capability, refused

pytestmark = pytest.mark.root

Code = grpc.StatusCode
READER = capability(Modes.SINGLE_NODE_READER_ONLY)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "sub").mkdir(parents=True)
    (directory / "greeting").write_text("hello")
    (directory / "sub" / "big").write_bytes(b"0123456789" * 20000)
    return directory


@pytest.fixture
def node(tmp_path: Path, runtime_dir: Path) -> Iterator[Node]:
    """A node with a driver. ``runtime_dir`` unmounts what a failed test leaves."""
    with Node(tmp_path / "n1", "--allow-inline") as node:
        yield node
        assert not node.mounts()


def test_static_worktree_committed_when_its_last_pod_goes(node: Node, source: Path) -> None:
    node.cli.ok("import", "--bare", source, "app")
    node.cli.ok("worktree", "add", "app+work", "app:latest")
    attributes = {"commit": "on-unpublish", "tag": "{worktree}-{volume}"}
    node.stage("app+work", attributes)
    node.restart()
    first = node.publish("app+work", "pod-1", attributes)
    node.restart()
    second = node.publish("app+work", "pod-2", attributes, readonly=True)
    (first / "new").write_text("from pod 1")
    assert (second / "new").read_text() == "from pod 1"
    with pytest.raises(OSError, match="Read-only"):
        (second / "other").write_text("no")
    node.restart()
    assert (first / "greeting").read_text() == "hello"
    node.unpublish("app+work", "pod-1")
    node.unpublish("app+work", "pod-1")
    assert "work-app-work" not in node.cli.ok("list", "app")
    node.restart()
    node.unpublish("app+work", "pod-2")
    assert not first.exists()
    assert not second.exists()
    assert node.cli.json("diff", "app:latest", "app:work-app-work") != []
    node.unstage("app+work")
    node.unstage("app+work")
    assert node.cli.json("show", "app:work-app-work")["commit"] == node.cli.json("show", "app+work")["commit"]
    why = "Kubernetes volume app+work was unpublished"
    moved = [entry["ref"] for entry in node.cli.json("log", "--reflog", "app") if entry["why"] == why]
    assert sorted(moved) == ["app+work", "app:work-app-work"]


def test_what_a_volume_is_reset_to_its_pods_show_at_once(node: Node, source: Path) -> None:
    """Also in mount namespaces of their own; a pod that has a file open for writing is left alone."""
    node.cli.ok("import", "--bare", source, "app")
    node.cli.ok("worktree", "add", "app+work", "app:latest")
    node.stage("app+work", {})
    first, second = node.publish("app+work", "pod-1", {}), node.publish("app+work", "pod-2", {}, readonly=True)
    with subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as pod:
        assert pod.stdout is not None
        pod.stdout.readline()
        inside = Path(f"/proc/{pod.pid}/root{first}")
        with open(inside / "new", "w") as file:
            file.write("from pod 1")
            file.flush()
            refusal = node.cli("reset", "app+work", "app:latest")
            assert refusal.code == 4
            assert "open for writing" in refusal.stderr
        node.cli.ok("reset", "app+work", "app:latest")
        for place in (first, second, inside):
            assert not (place / "new").exists()
        (inside / "after").write_text("of pod 1")
        with pytest.raises(OSError, match="Read-only"):
            (second / "other").write_text("no")
        assert (second / "after").read_text() == (first / "after").read_text() == "of pod 1"
        pod.communicate(b"\n")
    node.unpublish("app+work", "pod-1")
    node.unpublish("app+work", "pod-2")
    node.unstage("app+work")
    assert [change["path"] for change in node.cli.json("diff", "app:latest", "app+work")] == ["/after"]


def test_tag_is_read_only_and_stays_what_it_was_when_it_was_staged(node: Node, source: Path) -> None:
    node.cli.ok("import", "--bare", source, "model:v1")
    node.stage("model:v1", volume_capability=READER)
    (source / "greeting").write_text("changed")
    node.cli.ok("import", "--bare", source, "model:v1", "--force")
    target = node.publish("model:v1", "pod", volume_capability=READER, readonly=True)
    assert (target / "greeting").read_text() == "hello"
    with pytest.raises(OSError, match="Read-only"):
        (target / "x").write_text("")
    stats = node.node.NodeGetVolumeStats(csi.NodeGetVolumeStatsRequest(volume_id="model:v1", volume_path=str(target)))
    assert stats.usage[0].used == 200005
    node.unpublish("model:v1", "pod")
    node.unstage("model:v1")


def test_provisioned_volume_with_snapshot_restore_and_clone(node: Node, source: Path) -> None:
    node.cli.ok("import", "--bare", source, "db:seed")
    volume = node.create("pvc-1", {"source": "db:seed"}, capacity_range=csi.CapacityRange(required_bytes=1 << 30))
    assert volume.volume_id == "db+pvc-1"
    assert volume.capacity_bytes == 1 << 30
    assert volume.accessible_topology[0].segments == {TOPOLOGY_KEY: "node-1"}
    node.stage(volume.volume_id)
    target = node.publish(volume.volume_id, "pod")
    (target / "greeting").write_text("one")
    snapshot = node.snapshot("snapshot-1", volume.volume_id)
    assert snapshot.ready_to_use
    node.restart()
    (target / "greeting").write_text("two")
    assert node.snapshot("snapshot-1", volume.volume_id) == snapshot
    from_snapshot = csi.VolumeContentSource.SnapshotSource(snapshot_id=snapshot.snapshot_id)
    restored = node.create("pvc-2", volume_content_source=csi.VolumeContentSource(snapshot=from_snapshot))
    from_volume = csi.VolumeContentSource.VolumeSource(volume_id=volume.volume_id)
    clone = node.create("pvc-3", volume_content_source=csi.VolumeContentSource(volume=from_volume))
    for pod, made, expected in (("pod-r", restored, "one"), ("pod-c", clone, "two")):
        node.stage(made.volume_id)
        assert (node.publish(made.volume_id, pod) / "greeting").read_text() == expected
        node.unpublish(made.volume_id, pod)
        node.unstage(made.volume_id)
    with refused(Code.FAILED_PRECONDITION, "mounted"):
        node.delete(volume.volume_id)
    node.unpublish(volume.volume_id, "pod")
    node.unstage(volume.volume_id)
    for made in (volume, restored, clone, volume):
        node.delete(made.volume_id)
    assert not node.controller.ListVolumes(csi.ListVolumesRequest()).entries
    assert [entry.snapshot for entry in node.controller.ListSnapshots(csi.ListSnapshotsRequest()).entries] == [snapshot]
    for _ in range(2):
        node.controller.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id=snapshot.snapshot_id))
    assert node.cli.json("list", "db")["worktrees"] == []
    assert [tag["tag"] for tag in node.cli.json("list", "db")["tags"]] == ["seed"]


def test_inline_volume_goes_with_its_pod_and_leaves_a_commit(node: Node, source: Path) -> None:
    node.cli.ok("import", "--bare", source, "tool")
    pod = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.name": "p"}
    attributes = pod | {"source": "tool:latest", "commit": "true", "tag": "result"}
    for content in ("first", "second"):
        target = node.publish("csi-0123", "pod", attributes, staging_target_path="")
        assert (target / "greeting").read_text() == "hello"
        (target / "result").write_text(content)
        node.restart()
        assert node.publish("csi-0123", "pod", attributes, staging_target_path="") == target
        assert (target / "result").read_text() == content
        node.unpublish("csi-0123", "pod")
        node.unpublish("csi-0123", "pod")
    listed = node.cli.json("list", "tool")
    assert listed["worktrees"] == []
    assert sorted(tag["tag"] for tag in listed["tags"]) == ["latest", "result"]
    out = source.parent / "out"
    out.mkdir()
    node.cli.ok("restore", "tool:result", "result", "--to", out)
    assert (out / "result").read_text() == "first", "a tag that exists is not moved"
    of_one = {"csi.storage.k8s.io/pod.uid": "0a1b2c3d-4e5f-6789", "tag": "of-{pod}"}
    (node.publish("csi-0123", "pod", attributes | of_one, staging_target_path="") / "more").write_text("third")
    node.unpublish("csi-0123", "pod")
    assert node.cli.ok("show", "tool:of-0a1b2c3d-4e5")
    read_only = pod | {"source": "tool", "readOnly": "true"}
    target = node.publish("csi-4567", "pod", read_only, staging_target_path="")
    with pytest.raises(OSError, match="Read-only"):
        (target / "x").write_text("")
    node.unpublish("csi-4567", "pod")
    node.cli.ok("worktree", "add", "tool+main")
    with refused(Code.INVALID_ARGUMENT, "tool:latest"):  # NAME alone is a worktree now, which may be somebody else's
        node.publish("csi-89ab", "pod", read_only, staging_target_path="")


def test_volumes_that_come_and_go_leave_no_file(node: Node, source: Path) -> None:
    node.cli.ok("import", "--bare", source, "tool")
    inline = {"csi.storage.k8s.io/ephemeral": "true", "source": "tool"}

    def names() -> list[str]:
        places = [node.directory / "run", *(node.directory / "store" / part for part in ("refs", "csi", "tmp"))]
        return sorted(str(path) for place in places for path in place.rglob("*"))

    for number in range(3):
        node.publish(f"csi-{number}", "pod", inline, staging_target_path="")
        node.unpublish(f"csi-{number}", "pod")
        volume_id = node.create(f"pvc-{number}", {"source": "tool"}).volume_id
        node.stage(volume_id)
        node.publish(volume_id, "pod")
        node.unpublish(volume_id, "pod")
        node.unstage(volume_id)
        node.delete(volume_id)
        if number == 0:
            before = names()
    assert names() == before


def test_reboot_in_the_middle(node: Node, source: Path) -> None:
    node.cli.ok("import", "--bare", source, "app")
    attributes = {"commit": "true", "tag": "kept"}
    volume = node.create("pvc-1", {"source": "app", **attributes})
    assert dict(volume.volume_context) == {"commit": "on-unpublish", "tag": "kept"}
    node.stage(volume.volume_id, volume.volume_context)
    (node.publish(volume.volume_id, "pod", volume.volume_context) / "new").write_text("before")
    node.reboot()
    # The kubelet knows of the pod, but not that the node was down: it publishes again without staging.
    target = node.publish(volume.volume_id, "pod", volume.volume_context)
    assert (target / "new").read_text() == "before"
    node.reboot()
    node.unpublish(volume.volume_id, "pod")
    assert not target.exists()
    assert "kept" in node.cli.ok("list", "app")
    node.unstage(volume.volume_id)
    node.delete(volume.volume_id)


def test_commit_that_fails_holds_nobody_up_and_is_made_up_for(node: Node, source: Path) -> None:
    node.cli.ok("import", "--bare", source, "app")
    attributes = {"commit": "true", "tag": "done"}
    volume_id = node.create("pvc-1", {"source": "app", **attributes}).volume_id
    node.stage(volume_id, attributes)
    (node.publish(volume_id, "pod", attributes) / "new").write_text("kept")
    in_the_way = node.directory / "store" / "refs" / "app" / "tags" / "done"
    in_the_way.mkdir()
    (in_the_way / "x").write_text("")
    node.unpublish(volume_id, "pod")
    found = node.controller.ControllerGetVolume(csi.ControllerGetVolumeRequest(volume_id=volume_id))
    assert found.status.volume_condition.abnormal
    assert "the last commit failed" in found.status.volume_condition.message
    (in_the_way / "x").unlink()
    in_the_way.rmdir()
    node.unstage(volume_id)
    found = node.controller.ControllerGetVolume(csi.ControllerGetVolumeRequest(volume_id=volume_id))
    assert not found.status.volume_condition.abnormal
    out = source.parent / "out"
    out.mkdir()
    node.cli.ok("restore", "app:done", "new", "--to", out)
    assert (out / "new").read_text() == "kept"


def test_single_writer_access_modes_and_mount_options(node: Node) -> None:
    single = capability(Modes.SINGLE_NODE_SINGLE_WRITER, "noexec")
    volume_id = node.create("pvc-1").volume_id
    node.stage(volume_id, volume_capability=single)
    target = node.publish(volume_id, "pod-1", volume_capability=single)
    assert "noexec" in mount_options(target)
    node.publish(volume_id, "pod-1", volume_capability=single)
    with refused(Code.FAILED_PRECONDITION, "one pod only"):
        node.publish(volume_id, "pod-2", volume_capability=single)
    with refused(Code.ALREADY_EXISTS):
        node.publish(volume_id, "pod-1", volume_capability=single, readonly=True)
    os.chown(target, 0, 2000)  # as the kubelet does it for fsGroup
    os.chmod(target, 0o2775)
    node.unpublish(volume_id, "pod-1")
    target = node.publish(volume_id, "pod-2")
    assert target.stat().st_gid == 2000
    node.unpublish(volume_id, "pod-2")
    node.unstage(volume_id)


@pytest.mark.parametrize("option", sorted(MOUNT_FLAGS))
def test_every_mount_option_that_is_offered_is_mounted(node: Node, source: Path, option: str) -> None:
    wanted = capability(Modes.SINGLE_NODE_WRITER, option)
    volume_id = node.create("pvc-1").volume_id
    node.stage(volume_id, volume_capability=wanted)
    for _ in range(2):
        target = node.publish(volume_id, "pod", volume_capability=wanted)
        assert option in mount_options(target)
    node.unpublish(volume_id, "pod")
    node.unstage(volume_id)
    node.cli.ok("import", "--bare", source, "app")
    inline = {"csi.storage.k8s.io/ephemeral": "true", "source": "app"}
    target = node.publish("csi-1", "pod", inline, staging_target_path="", volume_capability=wanted)
    assert option in mount_options(target)
    node.unpublish("csi-1", "pod")


def mount_options(path: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    return next(line.split(" ")[5].split(",") for line in lines if line.split(" ")[4] == str(path))


def test_statistics_condition_and_capacity(node: Node) -> None:
    volume_id = node.create("pvc-1").volume_id
    node.stage(volume_id)
    target = node.publish(volume_id, "pod")
    (target / "data").write_bytes(b"x" * 100_000)
    (target / "link").hardlink_to(target / "data")
    request = csi.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=str(target))
    answer = node.node.NodeGetVolumeStats(request)
    size, inodes = answer.usage
    assert (size.unit, inodes.unit) == (csi.VolumeUsage.BYTES, csi.VolumeUsage.INODES)
    assert 100_000 <= size.used < 120_000
    assert inodes.used == 1
    assert size.available > 0
    assert not answer.volume_condition.abnormal
    found = node.controller.ControllerGetVolume(csi.ControllerGetVolumeRequest(volume_id=volume_id))
    assert list(found.status.published_node_ids) == ["node-1"]
    capacity = node.controller.GetCapacity(csi.GetCapacityRequest())
    assert capacity.available_capacity > 0
    elsewhere = csi.Topology(segments={TOPOLOGY_KEY: "node-9"})
    assert not node.controller.GetCapacity(csi.GetCapacityRequest(accessible_topology=elsewhere)).available_capacity
    node.unpublish(volume_id, "pod")
    node.unstage(volume_id)
    meta = node.directory / "store" / "refs" / "csi-volumes" / "worktrees" / "pvc-1" / "meta.toml"
    meta.write_text("damaged")
    found = node.controller.ControllerGetVolume(csi.ControllerGetVolumeRequest(volume_id=volume_id))
    assert found.status.volume_condition.abnormal


def test_pages_show_everything_once_while_volumes_come_and_go(node: Node) -> None:
    for number in range(5):
        node.create(f"pvc-{number}")
    seen, token = [], ""
    for step in range(4):
        answer = node.controller.ListVolumes(csi.ListVolumesRequest(max_entries=2, starting_token=token))
        seen += [entry.volume.volume_id.removeprefix("csi-volumes+") for entry in answer.entries]
        token = answer.next_token
        if step == 0:
            node.delete("csi-volumes+pvc-1")
            node.create("pvc-0-late")
        if not token:
            break
    assert seen == ["pvc-0", "pvc-1", "pvc-2", "pvc-3", "pvc-4", "pvc-0-late"]
    for bad in ("x", "-1", "../1", "9" * 40):
        with refused(Code.ABORTED):
            node.controller.ListVolumes(csi.ListVolumesRequest(starting_token=bad))


def test_a_damaged_record_is_in_nobodys_way(node: Node) -> None:
    bad, good = (node.create(name).volume_id for name in ("bad", "good"))
    record = node.directory / "store/csi/volumes/bad.json"
    record.write_text(record.read_text().replace("csi-volumes", "other-volumes"))
    (record.parent / "planted.json").symlink_to("/etc/passwd")
    listed = node.controller.ListVolumes(csi.ListVolumesRequest()).entries
    assert [entry.volume.volume_id for entry in listed] == [good]
    checked = node.cli("fsck")
    assert checked.code == 5
    assert "csi/volumes/bad.json" in checked.stdout
    assert "csi/volumes/planted.json" in checked.stdout
    node.cli("fsck", "--repair")
    assert node.cli("fsck").code == 0
    node.delete(good)
    with refused(Code.FAILED_PRECONDITION, "stratum remove"):  # what it says of the worktree is lost with the record
        node.delete(bad)


def test_many_calls_on_one_volume_at_once(node: Node) -> None:
    """Each is answered OK or ABORTED, and what they leave is what one call leaves."""

    def attempts(call: Callable[[], object]) -> None:
        with ThreadPoolExecutor(8) as pool:
            codes = [future.result() for future in [pool.submit(outcome, call) for _ in range(16)]]
        assert set(codes) <= {Code.OK, Code.ABORTED}
        assert Code.OK in codes

    attempts(lambda: node.create("pvc-1"))
    volume_id = node.create("pvc-1").volume_id
    assert len(node.controller.ListVolumes(csi.ListVolumesRequest()).entries) == 1
    attempts(lambda: node.stage(volume_id))
    attempts(lambda: node.publish(volume_id, "pod"))
    assert len(node.mounts()) == 2
    attempts(lambda: node.snapshot("snapshot-1", volume_id))
    assert len(node.controller.ListSnapshots(csi.ListSnapshotsRequest()).entries) == 1
    attempts(lambda: node.unpublish(volume_id, "pod"))
    attempts(lambda: node.unstage(volume_id))
    attempts(lambda: node.delete(volume_id))


def outcome(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as exc:
        return exc.code()
    return Code.OK


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.012])
def test_killed_within_each_call(node: Node, source: Path, delay: float) -> None:
    """The driver is killed while it works on a call; the next driver gets the same call again, and it succeeds."""
    node.cli.ok("import", "--bare", source, "app")
    context = {"commit": "true", "tag": "done"}
    calls: list[Callable[[], object]] = [
        lambda: node.create("pvc-1", {"source": "app", **context}),
        lambda: node.stage("app+pvc-1", context),
        lambda: node.publish("app+pvc-1", "pod", context),
        lambda: node.snapshot("snapshot-1", "app+pvc-1"),
        lambda: node.unpublish("app+pvc-1", "pod"),
        lambda: node.unstage("app+pvc-1"),
        lambda: node.delete("app+pvc-1"),
    ]
    for call in calls:
        thread = threading.Thread(target=outcome, args=(call,))
        thread.start()
        time.sleep(delay)
        node.restart()
        thread.join()
        call()
    assert not node.mounts()
    assert node.cli.json("list", "app")["worktrees"] == []
    assert "done" in [tag["tag"] for tag in node.cli.json("list", "app")["tags"]]
    node.cli.ok("fsck")


def test_two_drivers_on_one_node(node: Node) -> None:
    """As while the driver is being replaced by a newer one: what one began, the other goes on with."""
    other = Node(node.directory, name="node-1")
    other.directory = node.directory / "other"
    other.directory.mkdir()
    other.log = other.directory / "log"
    with other:
        volume_id = node.create("pvc-1").volume_id
        assert other.create("pvc-1").volume_id == volume_id
        other.kubelet = node.kubelet
        node.stage(volume_id)
        other.publish(volume_id, "pod")
        node.publish(volume_id, "pod")
        assert len(node.mounts()) == 2
        node.unpublish(volume_id, "pod")
        other.unstage(volume_id)
        other.delete(volume_id)
    with refused(Code.NOT_FOUND):
        node.stage(volume_id)


def test_target_in_use_stays_and_is_told(node: Node) -> None:
    volume_id = node.create("pvc-1").volume_id
    node.stage(volume_id)
    target = node.publish(volume_id, "pod")
    with (target / "open").open("w") as file, refused(Code.FAILED_PRECONDITION, "in use"):
        file.write("x")
        node.unpublish(volume_id, "pod")
    assert target.is_mount()
    node.unpublish(volume_id, "pod")
    node.unstage(volume_id)


def test_stop_on_sigterm_leaves_the_mounts(node: Node) -> None:
    volume_id = node.create("pvc-1").volume_id
    node.stage(volume_id)
    target = node.publish(volume_id, "pod")
    assert node.kill(signal.SIGTERM) == 0
    (target / "file").write_text("written without a driver")
    node.start()
    node.unpublish(volume_id, "pod")
    node.unstage(volume_id)


def test_repeated_requests_that_differ(node: Node) -> None:
    node.create("pvc-1", capacity_range=csi.CapacityRange(required_bytes=1000, limit_bytes=1000))
    with refused(Code.ALREADY_EXISTS):
        node.create("pvc-1", capacity_range=csi.CapacityRange(required_bytes=2000))
    with refused(Code.ALREADY_EXISTS):
        node.create("pvc-1", {"commit": "true"})
    elsewhere = csi.TopologyRequirement(requisite=[csi.Topology(segments={TOPOLOGY_KEY: "node-2"})])
    with refused(Code.RESOURCE_EXHAUSTED):
        node.create("pvc-2", accessibility_requirements=elsewhere)


def test_where_the_node_has_not_what_a_volume_is_made_of_the_scheduler_chooses_again(node: Node) -> None:
    here = csi.TopologyRequirement(requisite=[csi.Topology(segments={TOPOLOGY_KEY: node.name})])
    kinds = csi.VolumeContentSource
    for content in (
        kinds(snapshot=kinds.SnapshotSource(snapshot_id="csi-volumes:snapshot-of-node-2")),
        kinds(volume=kinds.VolumeSource(volume_id="csi-volumes+pvc-of-node-2")),
    ):
        with refused(Code.NOT_FOUND):
            node.create("pvc-1", volume_content_source=content)
        with refused(Code.RESOURCE_EXHAUSTED, "on node node-1 (what is in no registry"):
            node.create("pvc-1", volume_content_source=content, accessibility_requirements=here)


def test_expansion_is_not_offered(node: Node) -> None:
    """A claim that asks for more is refused at once where its class says so, and does not wait for nobody."""
    plugin = node.identity.GetPluginCapabilities(csi.GetPluginCapabilitiesRequest()).capabilities
    assert not any(capability.HasField("volume_expansion") for capability in plugin)
    offered = node.controller.ControllerGetCapabilities(csi.ControllerGetCapabilitiesRequest()).capabilities
    assert csi.ControllerServiceCapability.RPC.EXPAND_VOLUME not in {each.rpc.type for each in offered}
    with refused(Code.UNIMPLEMENTED):
        node.controller.ControllerExpandVolume(csi.ControllerExpandVolumeRequest(volume_id="x"))


def test_full_disk_is_an_error_and_not_a_broken_volume(tmp_path: Path, runtime_dir: Path) -> None:
    """Writing the volume's record fails for want of space; with space again, the same call succeeds."""
    with Node(tmp_path / "n") as node:
        node.create("first")
        records = node.directory / "store" / "csi" / "volumes"
        records.rename(records.with_name("moved"))
        records.write_text("a file where the directory was")
        with pytest.raises(grpc.RpcError) as caught:
            node.create("second")
        assert caught.value.code() in (Code.INTERNAL, Code.DATA_LOSS)
        assert os.strerror(errno.ENOTDIR) in caught.value.details() or "File exists" in caught.value.details()
        records.unlink()
        records.with_name("moved").rename(records)
        assert node.create("second").volume_id == "csi-volumes+second"
