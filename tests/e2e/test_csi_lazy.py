"""Kubernetes volumes that are not on the node whole: pods start on names and read right bytes, with their secrets."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stratum.csi import csi_pb2 as csi
from stratum.csi.attributes import CLAIM_NAMESPACE, POPULATED
from tests.e2e.test_csi_metrics import scrape
from tests.support import hydrating
from tests.support.csi import Node, refused
from tests.support.lazily import LARGE, Far

pytestmark = [pytest.mark.root, pytest.mark.registry]

Code = grpc.StatusCode
LAZY = {"lazy": "true", "prefetch": "none"}
PASSWORD = {"username": "user", "password": "secret"}


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_error(path: Path) -> int | None:
    """The errno of reading the beginning of a file, None where it is read."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as exc:
        return exc.errno
    return None


def figures(node: Node) -> dict[str, float]:
    """What a scrape says, by name, and by name and state."""
    found = {}
    for family in text_string_to_metric_families(scrape(node.directory / "metrics")):
        for sample in family.samples:
            found["/".join([sample.name.removeprefix("stratum_csi_lazy_"), *sample.labels.values()])] = sample.value
    return found


def node_of(tmp_path: Path, *options: str) -> Node:
    return Node(tmp_path / "n", "--metrics", f"unix://{tmp_path}/n/metrics", *options)


def use(node: Node, name: str, parameters: Mapping[str, str], secrets: Mapping[str, str] = {}) -> tuple[str, Path]:
    """A claim, staged and published: (the volume's ID, where a pod sees it)."""
    volume = node.create(name, parameters, secrets=secrets)
    context = dict(volume.volume_context)
    node.stage(volume.volume_id, context, secrets=secrets)
    return volume.volume_id, node.publish(volume.volume_id, f"pod-of-{name}", context)


def release(node: Node, volume_id: str, name: str) -> None:
    node.unpublish(volume_id, f"pod-of-{name}")
    node.unstage(volume_id)


def wait_for(node: Node, name: str, value: float) -> None:
    deadline = time.monotonic() + 20
    while figures(node).get(name) != value:
        assert time.monotonic() < deadline, figures(node)
        time.sleep(0.1)


def test_a_pod_starts_on_names_and_reads_right_bytes(tmp_path: Path, runtime_dir: Path, far: Far) -> None:
    far.slow.tell(login="user:secret")
    with node_of(tmp_path) as node:
        volume_id, place = use(node, "pvc-1", {"source": far.reference, **LAZY}, PASSWORD)
        assert far.slow.ranges() == []
        assert sorted(path.name for path in place.iterdir()) == sorted({name.split("/")[0] for name in far.sums})
        assert figures(node)["mounts"] == 1
        assert sum_of(place / "d1/f05") == far.sums["d1/f05"]
        assert sum_of(place / LARGE) == far.sums[LARGE]
        (place / "d1/f05").write_text("mine")
        found = figures(node)
        assert (found["keeper_up"], found["errors_total"], found["sources/ok"]) == (1, 0, 1)
        assert found["fetches_total"] >= 2
        assert found["fetched_bytes_total"] >= (place / LARGE).stat().st_size
        node.restart()
        assert {path: sum_of(place / path) for path in far.sums if path != "d1/f05"} == {
            path: value for path, value in far.sums.items() if path != "d1/f05"
        }, "the driver is behind no mount"
        release(node, volume_id, "pvc-1")
        wait_for(node, "mounts", 0)
        hydrating.stop(node.cli.runtime_dir)


def test_without_a_secret_at_the_node_reads_fail_and_say_why(tmp_path: Path, runtime_dir: Path, far: Far) -> None:
    far.slow.tell(login="user:secret")
    with node_of(tmp_path) as node:
        volume = node.create("pvc-1", {"source": far.reference, **LAZY}, secrets=PASSWORD)
        node.stage(volume.volume_id, volume.volume_context)
        place = node.publish(volume.volume_id, "pod-of-pvc-1", volume.volume_context)
        with pytest.raises(OSError) as caught:
            (place / "d1/f05").read_bytes()
        assert caught.value.errno == errno.EIO
        wait_for(node, "sources/denied", 1)
        assert figures(node)["errors_total"] >= 1
        release(node, volume.volume_id, "pvc-1")
        hydrating.stop(node.cli.runtime_dir)


def test_who_wants_it_whole_gets_it_whole(tmp_path: Path, runtime_dir: Path, far: Far) -> None:
    with node_of(tmp_path, "--allow-inline") as node:
        lazy = node.create("pvc-1", {"source": far.reference, **LAZY})
        commit = far.commit
        partial = node.cli.store / "commits" / f"{commit}.partial"
        assert partial.exists()
        node.create("pvc-2", {"source": far.reference, "pullPolicy": "IfNotPresent"})
        assert not partial.exists()
        node.delete(lazy.volume_id)


def test_it_is_told_how_much_is_here_and_that_the_rest_cannot_be_had(
    tmp_path: Path, runtime_dir: Path, far: Far
) -> None:
    def condition() -> csi.VolumeCondition:
        request = csi.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=str(place))
        return node.node.NodeGetVolumeStats(request).volume_condition

    def until(words: str) -> csi.VolumeCondition:
        deadline = time.monotonic() + 20
        while words not in (found := condition()).message:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found

    with node_of(tmp_path) as node:
        volume_id, place = use(node, "pvc-1", {"source": far.reference, **LAZY})
        assert not condition().abnormal
        until("; 0 B of ")
        assert figures(node)[f"stratum_csi_volume_unreal_bytes/{volume_id}"] > (place / LARGE).stat().st_size
        assert figures(node)[f"stratum_csi_volume_source_up/{volume_id}"] == 1
        (entry,) = node.controller.ListVolumes(csi.ListVolumesRequest()).entries
        assert "on the node" in entry.status.volume_condition.message
        far.slow.die()
        assert read_error(place / "d1/f05") == errno.EIO
        told = until("away")
        assert told.abnormal
        assert far.reference.rpartition(":")[0] in told.message
        assert figures(node)[f"stratum_csi_volume_source_up/{volume_id}"] == 0
        hydrating.stop(node.cli.runtime_dir)
        until("the keeper (stratum hydrate)")
        release(node, volume_id, "pvc-1")


def test_pods_may_name_lazy_what_is_trusted_to_have_what_it_lists(tmp_path: Path, runtime_dir: Path, far: Far) -> None:
    far.slow.tell(login="user:secret")
    attributes = {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.namespace": "one",
        "source": far.reference,
        "lazy": "true",
        "prefetch": "none",
    }
    with node_of(tmp_path, "--allow-inline", "--inline-lazy", far.reference.rpartition(":")[0]) as node:
        with refused(Code.UNAUTHENTICATED):
            node.publish("csi-1", "pod", attributes, staging_target_path="")
        place = node.publish("csi-1", "pod", attributes, staging_target_path="", secrets=PASSWORD)
        assert far.slow.ranges() == []
        assert figures(node)["stratum_csi_volume_source_up/inline"] == 1
        assert sum_of(place / "d1/f05") == far.sums["d1/f05"]
        node.publish("csi-2", "other", attributes | {"lazy": "false"}, staging_target_path="", secrets=PASSWORD)
        assert not (node.cli.store / "commits" / f"{far.commit}.partial").exists(), "who asks for it gets it whole"
        for volume_id, name in (("csi-1", "pod"), ("csi-2", "other")):
            node.unpublish(volume_id, name)
        hydrating.stop(node.cli.runtime_dir)


def test_what_a_claims_own_namespace_names_is_lazy_there_too(tmp_path: Path, runtime_dir: Path, far: Far) -> None:
    """Read with its secret alone: that of the call, when it is staged; and never with what the node has."""
    far.slow.tell(login="user:secret")
    asked = {**LAZY, "source": far.reference, POPULATED: "true", CLAIM_NAMESPACE: "one"}
    node = node_of(tmp_path, "--inline-lazy", far.reference.rpartition(":")[0])
    of_node = tmp_path / "auth.json"
    of_node.write_text(json.dumps({"auths": {far.reference.partition("/")[0]: {"auth": "dXNlcjpzZWNyZXQ="}}}))
    node.cli.environment["REGISTRY_AUTH_FILE"] = str(of_node)
    with node:
        with refused(Code.UNAUTHENTICATED, "secretRef of the StratumSource"):
            node.create("pvc-1", asked)
        volume = node.create("pvc-1", asked, secrets=PASSWORD)
        assert far.slow.ranges() == []
        node.stage(volume.volume_id, volume.volume_context, secrets=PASSWORD)
        place = node.publish(volume.volume_id, "pod", volume.volume_context)
        assert sum_of(place / "d1/f05") == far.sums["d1/f05"]
        hydrating.stop(node.cli.runtime_dir)  # its secret is gone with it
        while (failed := read_error(place / LARGE)) == errno.ENOTCONN:
            time.sleep(0.2)
        assert failed == errno.EIO, "the driver put a new mount in place of the pod's, with nothing of the node's"
        node.unpublish(volume.volume_id, "pod")
        node.unstage(volume.volume_id)
        hydrating.stop(node.cli.runtime_dir)


def test_what_a_pod_names_is_pulled_whole(tmp_path: Path, runtime_dir: Path, far: Far) -> None:
    attributes = {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.namespace": "one",
        "source": far.reference,
        "lazy": "true",
    }
    with node_of(tmp_path, "--allow-inline") as node:
        place = node.publish("csi-1", "pod", attributes, staging_target_path="")
        assert not (node.cli.store / "commits" / f"{far.commit}.partial").exists()
        assert "pulled whole" in node.log.read_text()
        far.slow.die()
        assert sum_of(place / "d1/f05") == far.sums["d1/f05"]
        node.unpublish("csi-1", "pod")


def test_a_snapshot_elsewhere_is_restored_lazily(tmp_path: Path, runtime_dir: Path, far: Far) -> None:
    digest = next(
        each["manifest"] for each in Node(tmp_path / "n").cli.json("list", "--remote", far.reference.rpartition(":")[0])
    )
    handle = f"{far.reference.rpartition(':')[0]}@{digest}"
    with node_of(tmp_path) as node:
        source = csi.VolumeContentSource(snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id=handle))
        volume = node.create("pvc-1", LAZY, volume_content_source=source)
        assert (node.cli.store / "commits" / f"{far.commit}.partial").exists()
        node.stage(volume.volume_id, volume.volume_context)
        place = node.publish(volume.volume_id, "pod-of-pvc-1", volume.volume_context)
        assert sum_of(place / "d2/f07") == far.sums["d2/f07"]
        release(node, volume.volume_id, "pvc-1")
        hydrating.stop(node.cli.runtime_dir)


def test_a_keeper_that_others_run_is_waited_for(tmp_path: Path, runtime_dir: Path, far: Far) -> None:
    with node_of(tmp_path, "--external-keeper") as node:
        volume = node.create("pvc-1", {"source": far.reference, **LAZY})
        with refused(Code.UNAVAILABLE, "stratum hydrate"):
            node.stage(volume.volume_id, volume.volume_context)
        assert node.mounts() == []
        assert figures(node)["keeper_up"] == 0
        program = Path(sys.executable).with_name("stratum")
        keeper = subprocess.Popen([program, "hydrate"], env=node.cli.environment, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while not (node.cli.runtime_dir / "hydrate.sock").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            node.stage(volume.volume_id, volume.volume_context)
            place = node.publish(volume.volume_id, "pod-of-pvc-1", volume.volume_context)
            assert sum_of(place / "d2/f07") == far.sums["d2/f07"]
            assert hydrating.keeper(node.cli.runtime_dir) == keeper.pid
            hydrating.stop(node.cli.runtime_dir)
            keeper.wait(timeout=30)
            assert sum_of(place / "d2/f07") == far.sums["d2/f07"], "what is here is read"
            with pytest.raises(OSError) as caught:
                (place / LARGE).read_bytes()
            assert caught.value.errno == errno.ENOTCONN
            keeper = subprocess.Popen([program, "hydrate"], env=node.cli.environment, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 40
            while (failed := read_error(place / LARGE)) is not None:
                assert failed == errno.ENOTCONN
                assert time.monotonic() < deadline, node.log.read_text()
                time.sleep(0.2)
            assert sum_of(place / LARGE) == far.sums[LARGE], "the driver put a new mount in place of the pod's"
            assert hydrating.keeper(node.cli.runtime_dir) == keeper.pid
            release(node, volume.volume_id, "pvc-1")
        finally:
            keeper.terminate()
            keeper.wait(timeout=30)
