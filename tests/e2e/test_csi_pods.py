"""Pods around commits of their volumes, with a real container runtime: commands by annotations, standing still."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from stratum.csi.runtime import Runtime
from tests.support.csi import Node, refused
from tests.support.pods import Containerd
from tests.support.watched import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

T = TypeVar("T")
Code = grpc.StatusCode
PRE, POST, WHERE, TIMEOUT = (f"csi.stratum.dev/{key}" for key in ("pre-commit", "post-commit", "container", "timeout"))
WRITER = """\
number=0
while :; do
    number=$((number+1))
    for volume in a b; do echo $number > /$volume/next; mv /$volume/next /$volume/number; done
    if [ -e /tmp/hold ]; then echo $number > /tmp/held; while [ -e /tmp/hold ]; do sleep 0.05; done; rm /tmp/held; fi
done
"""
"""Writes ascending numbers, to the first volume first; while /tmp/hold is there it stops after the second."""
IDLE = "trap exit TERM; while :; do sleep 0.1; done"
HOLD = "touch /tmp/hold; until [ -e /tmp/held ]; do sleep 0.05; done"
RELEASE = json.dumps(["/bin/sh", "-c", "echo after >> /tmp/log; rm -f /tmp/hold"])


class Pods:
    """A node whose driver knows the runtime, and pods that have the volumes ``a`` and ``b``, at /a and /b."""

    def __init__(self, node: Node, containerd: Containerd) -> None:
        self.node = node
        self._containerd = containerd
        self._runtime = Runtime(f"unix://{containerd.socket}")
        made = [node.create(f"pvc-{name}", {"commit": "on-unpublish"}) for name in "ab"]
        self.volumes = [each.volume_id for each in made]
        self._context = made[0].volume_context
        for each in self.volumes:
            node.stage(each, self._context)

    def start(self, uid: str, scripts: dict[str, str], *, cgroup: str = "/pod{uid}", **annotations: str) -> None:
        paths = {}
        for each in self.volumes:
            name = each[-1]
            path = self.node.kubelet / "pods" / uid / "volumes" / "kubernetes.io~csi" / name / "mount"
            path.parent.mkdir(parents=True)
            paths[f"/{name}"] = self.node.publish(each, uid, self._context, target_path=str(path))
        self._containerd.run(uid, scripts, paths, annotations, cgroup=cgroup)
        if WRITER in scripts.values():
            until((paths["/b"] / "number").exists, 60)

    def inside(self, uid: str, container: str, script: str) -> str:
        pod = self._runtime.pod(uid)
        assert pod is not None
        ended = self._runtime.execute(self._runtime.containers(pod)[container], ["/bin/sh", "-c", script], 30)
        return ended.output.decode()

    def end(self, uid: str) -> None:
        for path in sorted((self.node.kubelet / "pods" / uid).glob("volumes/*/*/mount")):
            volume_id = next(each for each in self.volumes if each[-1] == path.parent.name)
            request = csi.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=str(path))
            self.node.node.NodeUnpublishVolume(request, timeout=60)

    def numbers(self, *snapshots: csi.Snapshot) -> list[int]:
        """What the snapshots of the volumes have in their files."""
        of = {snapshot.source_volume_id: snapshot.snapshot_id for snapshot in snapshots}
        return [int(self.node.cli.ok("cat", of[each], "/number")) for each in self.volumes]


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with Containerd() as running:
        yield running


@pytest.fixture
def pods(tmp_path: Path, runtime_dir: Path, containerd: Containerd) -> Iterator[Pods]:
    with Node(tmp_path / "n", "--cri-endpoint", f"unix://{containerd.socket}") as node:
        pods = Pods(node, containerd)
        yield pods
        containerd.stop_all()
        for uid in ("uid-1", "uid-2"):
            pods.end(uid)
        for each in pods.volumes:
            node.unstage(each)
        assert not node.mounts()


def settled(call: Callable[[], T]) -> T:
    """The answer to a call that comes again as long as it is told to."""
    try:
        return call()
    except grpc.RpcError as exc:
        if exc.code() != Code.ABORTED:
            raise
    return settled(call)


def listed(node: Node, **fields: str) -> list[csi.Snapshot]:
    request = csi.ListSnapshotsRequest(**fields)
    return [entry.snapshot for entry in node.controller.ListSnapshots(request, timeout=60).entries]


def test_commands_of_a_pod_run_around_commits_of_its_volumes(pods: Pods) -> None:
    node, (a, b) = pods.node, pods.volumes
    pods.start("uid-1", {"app": WRITER, "other": IDLE}, **{PRE: HOLD, POST: RELEASE, WHERE: "app", TIMEOUT: "20s"})
    for name, volume_id in (("one", a), ("two", b)):
        assert node.snapshot(name, volume_id).ready_to_use
    source = csi.VolumeContentSource.VolumeSource(volume_id=b)
    node.create("clone", volume_content_source=csi.VolumeContentSource(volume=source))
    assert pods.inside("uid-1", "app", "cat /tmp/log").split() == ["after"] * 3
    # Without standing still, a group is of one moment by the commands alone.
    assert len(set(pods.numbers(*node.group("asked", a, b, parameters={"pause": "false"}).snapshots))) == 1
    # A driver that is killed between a pod's two commands.
    pods.inside("uid-1", "app", "rm /tmp/log")
    pods.start("uid-2", {"app": IDLE}, **{PRE: "touch /tmp/before; sleep 20", POST: "touch /tmp/after"})
    with ThreadPoolExecutor(1) as calls:
        call = calls.submit(node.snapshot, "three", a)
        until(lambda: "before" in pods.inside("uid-2", "app", "echo /tmp/*"), 30)
        node.restart()
        assert isinstance(call.exception(60), grpc.RpcError)
    until(lambda: pods.inside("uid-1", "app", "cat /tmp/log; true").split() == ["after"], 60)
    until(lambda: "after" in pods.inside("uid-2", "app", "echo /tmp/*"), 60)
    until(lambda: not list((node.directory / "store" / "csi" / "afters").iterdir()), 60)
    assert {snapshot.snapshot_id for snapshot in listed(node)} >= {"csi-volumes:one", "csi-volumes:two"}
    assert not listed(node, snapshot_id="csi-volumes:three")
    # The last commit, when a pod has lost its volumes and still runs.
    pods.inside("uid-1", "app", "rm /tmp/log")
    pods.end("uid-2")
    pods.end("uid-1")
    assert pods.inside("uid-1", "app", "cat /tmp/log").split() == ["after"] * 2


def test_what_fails_in_a_pod_fails_the_snapshot_with_its_words(pods: Pods) -> None:
    node, (a, b) = pods.node, pods.volumes
    pods.start("uid-1", {"app": WRITER, "other": IDLE}, **{PRE: "sh /tmp/pre", POST: RELEASE, TIMEOUT: "1s"})
    with refused(Code.FAILED_PRECONDITION, "csi.stratum.dev/container"):
        node.snapshot("one", a)
    pods.start("uid-2", {"app": IDLE}, **{PRE: "sh /tmp/pre", POST: RELEASE, TIMEOUT: "1s"})
    pods.end("uid-1")
    for script, words in (
        (
            "echo no $((1+1)) >&2; exit 7",
            "'sh /tmp/pre' in container app of pod tests/uid-2, ended with exit code 7: no 2",
        ),
        ("head -c 1000000 /dev/zero; exit 1", "ended with exit code 1"),
        ("head -c 2000000 /dev/zero", "printed more"),
        ("exec sleep 30", "did not end within 1 s"),
    ):
        pods.inside("uid-2", "app", f"rm -f /tmp/log; echo '{script}' > /tmp/pre")
        with refused(Code.FAILED_PRECONDITION, words):
            settled(lambda: node.snapshot("one", a))
        with refused(Code.FAILED_PRECONDITION, words):
            settled(lambda: node.group("all", a, b))
        assert pods.inside("uid-2", "app", "cat /tmp/log").split() == ["after"] * 2
    assert not listed(node)
    node.options = ("--cri-endpoint", f"unix://{node.directory}/nobody.sock")
    node.restart()
    with refused(Code.UNAVAILABLE, "does not answer"):
        node.snapshot("one", a)
    pods.end("uid-2")
    assert "the last commit is made all the same: the container runtime at" in node.log.read_text()
    node.options = ()
    node.restart()
    assert node.snapshot("one", a).ready_to_use


def test_volumes_of_a_group_are_of_one_moment(pods: Pods) -> None:
    node, (a, b) = pods.node, pods.volumes
    pods.start("uid-1", {"app": WRITER})
    idle = node.create("idle").volume_id
    for name in ("all", "again"):
        group = node.group(name, b, idle, a)
        assert group.ready_to_use
        assert node.group(name, a, b, idle) == group
        first, second = pods.numbers(*(each for each in group.snapshots if each.source_volume_id != idle))
        assert first - second in (0, 1)
        if name == "all":  # a kubelet without cgroups for pods: those of containers are known by the runtime
            pods.start("uid-2", {"app": IDLE}, cgroup="")
    paused = node.snapshot("alone", a, parameters={"pause": "true"})
    assert int(node.cli.ok("cat", paused.snapshot_id, "/number")) >= first
    until(lambda: int(pods.inside("uid-1", "app", "cat /b/number") or 0) > second, 60)
    assert {each.group_snapshot_id for each in listed(node) if each.snapshot_id != paused.snapshot_id} == {
        "node-1/all",
        "node-1/again",
    }
    node.options = ()
    node.restart()
    with refused(Code.ABORTED, "pod uid-2 has the volume, and there is no cgroup of it"):
        node.group("more", a, b)
    with refused(Code.ALREADY_EXISTS, "group snapshot all exists"):
        node.group("all", a, b)
    with refused(Code.NOT_FOUND, "all volumes of a group have to be on one"):
        node.group("other", a, "csi-volumes+elsewhere")
    with refused(Code.INVALID_ARGUMENT, "each of them once"):
        node.group("other", a, a)
    ids = [each.snapshot_id for each in group.snapshots]
    got = csi.GetVolumeGroupSnapshotRequest(group_snapshot_id=group.group_snapshot_id, snapshot_ids=ids)
    assert node.groups.GetVolumeGroupSnapshot(got).group_snapshot == group
    node.restart()
    for _ in range(2):
        node.groups.DeleteVolumeGroupSnapshot(
            csi.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=group.group_snapshot_id, snapshot_ids=ids)
        )
    with refused(Code.NOT_FOUND):
        node.groups.GetVolumeGroupSnapshot(got)
    assert len(listed(node)) == 4
    restored = csi.VolumeContentSource.SnapshotSource(snapshot_id=listed(node)[0].snapshot_id)
    assert node.create("restored", volume_content_source=csi.VolumeContentSource(snapshot=restored)).volume_id
