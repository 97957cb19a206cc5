"""What the kubelet has forgotten goes after a while, as it would have taken it away; what pods use stays."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from stratum.csi.driver import NAME
from tests.e2e.test_csi_lazy import figures
from tests.support.csi import Node, refused

pytestmark = pytest.mark.root


def node_of(tmp_path: Path, *options: str) -> Node:
    node = Node(tmp_path / "n", "--allow-inline", "--metrics", f"unix://{tmp_path}/n/metrics", *options)
    (node.kubelet / "pods" / "of-the-driver").mkdir(parents=True, exist_ok=True)
    return node


def note(node: Node, pod: str, volume_id: str) -> Path:
    """What the kubelet notes of a pod's volume."""
    path = Path(node.target(pod)).parent / "vol_data.json"
    path.write_text(json.dumps({"driverName": NAME, "volumeHandle": volume_id, "specVolID": "data"}))
    return path


def inline(node: Node, pod: str, source: str = "app:v1", **more: str) -> Path:
    """An inline volume of a pod, published as the kubelet does it."""
    attributes = {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.namespace": "one",
        "csi.storage.k8s.io/pod.uid": pod,
        "source": source,
    }
    note(node, pod, f"csi-{pod}")
    return node.publish(f"csi-{pod}", pod, attributes | more, staging_target_path="")


def until(wanted: Callable[[], bool], node: Node) -> None:
    deadline = time.monotonic() + 30
    while not wanted():
        assert time.monotonic() < deadline, node.log.read_text()[-3000:]
        time.sleep(0.1)


def removed(node: Node, kind: str) -> float:
    return figures(node)[f"stratum_csi_orphans_removed_total/{kind}"]


def records(node: Node) -> int:
    return sum(1 for _ in (node.cli.store / "csi" / "volumes").iterdir())


def imported(tmp_path: Path, node: Node) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("one")
    node.cli.ok("import", "--bare", source, "app:v1")


def test_inline_volumes_of_pods_that_are_gone(tmp_path: Path, runtime_dir: Path) -> None:
    """The node lost its power, then the kubelet its directories, and the driver was killed meanwhile."""
    node = node_of(tmp_path, "--orphan-age", "0")
    imported(tmp_path, node)
    with node:
        for pod in ("gone", "reading", "known", "noted"):
            place = (
                inline(node, pod, commit="true", tag="{pod}")
                if pod != "reading"
                else inline(node, pod, readOnly="true")
            )
            if pod != "reading":
                (place / "file").write_text(pod)
        running = inline(node, "running")
        node.kill()
        for path in reversed(node.mounts()):
            if "/running/" not in path:
                subprocess.run(["umount", path], check=True)
        pods = node.kubelet / "pods"
        for pod in ("gone", "reading", "noted"):
            shutil.rmtree(pods / pod)
        note(node, "of-the-driver", "csi-noted")
        # Of a pod that runs, only the note is gone, and its mount is in a container.
        (running.parent / "vol_data.json").unlink()
        with in_container(running):
            node.options = (*node.options, "--orphan-age", "2s")
            node.start()
            until(lambda: removed(node, "inline") == 2, node)
            tags = [tag["tag"] for tag in node.cli.json("list", "app")["tags"]]
            assert sorted(tags) == ["one.gone", "v1"], "what was promised for its end is kept"
            assert records(node) == 3
            assert (running / "file").read_text() == "one"
            until(lambda: figures(node)["stratum_csi_orphans/published"] == 1, node)
            time.sleep(2.5)
            assert removed(node, "published") == 0
        until(lambda: removed(node, "published") == 1, node)
        assert not running.exists()
        assert records(node) == 2, "those that the kubelet knows"
        for pod in ("known", "noted"):
            node.unpublish(f"csi-{pod}", pod)
        node.cli.ok("fsck")


@contextlib.contextmanager
def in_container(place: Path) -> Iterator[None]:
    """A process with a mount namespace in which ``place`` is mounted elsewhere, as in a container."""
    script = "mkdir -p $2 && mount --bind $1 $2 && echo ready && exec sleep 1000"
    arguments = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", place, f"{place.parent}/in"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()


def test_mounts_of_pods_that_are_gone(tmp_path: Path, runtime_dir: Path) -> None:
    """The kubelet ended between two calls, or its notes were lost."""
    with node_of(tmp_path, "--orphan-age", "2s") as node:
        volumes = {name: node.create(name).volume_id for name in ("pvc-kept", "pvc-left", "pvc-lost", "pvc-waits")}
        for name, volume_id in volumes.items():
            node.stage(volume_id)
            note(node, f"pod-of-{name}", volume_id)
        for name in ("pvc-kept", "pvc-lost"):
            (node.publish(volumes[name], f"pod-of-{name}") / "data").write_text(name)
        (Path(node.target("pod-of-pvc-lost")).parent / "vol_data.json").unlink()
        shutil.rmtree(node.kubelet / "pods/pod-of-pvc-left")
        until(lambda: removed(node, "published") == 1 and removed(node, "staged") == 2, node)
        assert len(node.mounts()) == 3, "the kept one is staged and published, and the other waits for its pod"
        mounted = {name: figures(node)[f"stratum_csi_volume_mounted/{volumes[name]}"] for name in volumes}
        assert mounted == {"pvc-kept": 1, "pvc-left": 0, "pvc-lost": 0, "pvc-waits": 1}, "claims keep their volumes"
        note(node, "pod-of-pvc-lost", volumes["pvc-lost"])
        place = node.publish(volumes["pvc-lost"], "pod-of-pvc-lost")
        assert (place / "data").read_text() == "pvc-lost", "the kubelet thinks that it is staged"
        # A note that cannot be read may be of anything.
        (Path(node.target("pod-of-pvc-waits")).parent / "vol_data.json").write_text("{")
        until(lambda: figures(node)["stratum_csi_orphans/staged"] == 0, node)
        time.sleep(2.5)
        assert len(node.mounts()) == 5
        for name in ("pvc-kept", "pvc-lost"):
            node.unpublish(volumes[name], f"pod-of-{name}")
        for volume_id in volumes.values():
            node.unstage(volume_id)
            node.delete(volume_id)


def test_no_more_volumes_than_so_many(tmp_path: Path, runtime_dir: Path) -> None:
    with node_of(tmp_path, "--max-volumes", "2") as node:
        imported(tmp_path, node)
        assert node.node.NodeGetInfo(csi.NodeGetInfoRequest()).max_volumes_per_node == 2
        volume_id = node.create("pvc-1").volume_id
        node.stage(volume_id)
        node.publish(volume_id, "one")
        node.publish(volume_id, "two")
        inline(node, "three")
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "--max-volumes"):
            inline(node, "four")
        inline(node, "three")
        node.unpublish("csi-three", "three")
        inline(node, "four")
        for each, pod in ((volume_id, "one"), (volume_id, "two"), ("csi-four", "four")):
            node.unpublish(each, pod)
        node.unstage(volume_id)
