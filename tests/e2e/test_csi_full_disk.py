"""A disk that gets full: the driver makes room before the kubelet throws pods out, takes nothing that anybody uses, and
pulls nothing that does not fit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from stratum.csi.records import PullRecord
from stratum.store import Store
from stratum.store.records import Records
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.e2e.test_csi_collecting import again
from tests.e2e.test_csi_lazy import LAZY, figures, read_error, sum_of, use
from tests.support import hydrating
from tests.support.csi import Node, refused
from tests.support.disks import disk
from tests.support.lazily import LARGE, Far

pytestmark = [pytest.mark.root, pytest.mark.registry]

Code = grpc.StatusCode
PIECE = 16 << 20
NEVER = {"pullPolicy": "Never"}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with registry_server(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 MiB for a node."""
    with disk(tmp_path / "image", tmp_path / "n", size=160 << 20) as mounted:
        yield mounted


def node_on(place: Path, *options: str) -> Node:
    return Node(place, "--allow-inline", "--metrics", f"unix://{place}/metrics", "--gc-interval", "0", *options)


def pushed(tmp_path: Path, registry: RegistryServer, name: str, pieces: int = 1) -> str:
    """A commit of so many files of 16 MiB that nothing makes smaller, in a registry."""
    source = tmp_path / f"source-{name}"
    source.mkdir()
    for number in range(pieces):
        (source / f"file{number}").write_bytes(os.urandom(PIECE))
    other = Node(tmp_path / "elsewhere")
    other.cli.ok("import", "--bare", source, f"{name}:v1")
    other.cli.ok("push", f"{name}:v1", f"{registry.host}/team/{name}:v1")
    return f"{registry.host}/team/{name}:v1"


def pod(source: str, **more: str) -> dict[str, str]:
    kubernetes = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": "one"}
    return kubernetes | {"source": source} | more


def start_pod(node: Node, name: str, source: str, **more: str) -> Path:
    return again(node.publish, f"csi-{name}", name, pod(source, **more), staging_target_path="")


def age_pulls(node: Node, days: list[str]) -> None:
    """Have volumes begun with these references last so many days ago as their place in the list says, the last one
    two days ago."""
    records = Records(Store.open(node.cli.store).layout, "csi/pulls", PullRecord)
    for record in records.list():
        past = (len(days) - days.index(record.name) + 1) * 24 * 3600 * 1_000_000_000
        records.put(replace(record, used=time.time_ns() - past))


def until(node: Node, wanted: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    deadline = time.monotonic() + 60
    while not wanted(found := figures(node)):
        assert time.monotonic() < deadline, (found, node.log.read_text()[-3000:])
        time.sleep(0.2)
    return found


def used(found: dict[str, float]) -> float:
    return found["stratum_csi_disk_used_ratio/bytes"]


def capacity(node: Node) -> int:
    return node.controller.GetCapacity(csi.GetCapacityRequest()).available_capacity


def condition(node: Node, volume_id: str, path: Path) -> csi.VolumeCondition:
    request = csi.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=str(path))
    return node.node.NodeGetVolumeStats(request).volume_condition


def test_what_was_unused_longest_goes_first_and_what_does_not_fit_is_not_pulled(
    tmp_path: Path, runtime_dir: Path, registry: RegistryServer, place: Path
) -> None:
    names = ["used", "claimed", "pinned", "old", "newer"]
    sources = [pushed(tmp_path, registry, name) for name in names]
    big = pushed(tmp_path, registry, "big", 3)
    marks = ("--gc-high", "65", "--gc-low", "58", "--pull-limit", "75", "--pulled-age", "30d")
    with node_on(place, *marks) as node:
        mount = start_pod(node, "pod-used", sources[0], readOnly="true")
        claim = again(node.create, "pvc-1", {"source": sources[1]}).volume_id
        for name, source in zip(names[2:], sources[2:], strict=True):
            start_pod(node, name, source)
            node.unpublish(f"csi-{name}", name)
        pinned = next(each["name"] for each in node.cli.json("list") if each["name"].startswith("pinned-"))
        node.cli.ok("tag", "--pin", f"{pinned}:v1")
        age_pulls(node, sources)
        assert used(figures(node)) < 0.6
        with refused(Code.RESOURCE_EXHAUSTED, "96.0 MiB"):
            start_pod(node, "pod-big", big)
        found = until(node, lambda found: found["stratum_csi_gc_runs_total/done"] > 0)
        assert found["stratum_csi_pulls_refused_total"] == 1
        assert found["stratum_csi_gc_freed_bytes_total"] >= 2 * PIECE, "what nobody uses went for it, though in vain"
        for name, source in zip(names[3:], sources[3:], strict=True):
            with refused(Code.FAILED_PRECONDITION, "Never"):
                start_pod(node, name, source, **NEVER)
        start_pod(node, "pinned", sources[2], **NEVER)
        node.unpublish("csi-pinned", "pinned")
        start_pod(node, "old", sources[3])
        node.unpublish("csi-old", "old")
        start_pod(node, "newer", sources[4])
        node.unpublish("csi-newer", "newer")
        age_pulls(node, sources)
        assert capacity(node) > 0
        work = start_pod(node, "writer", sources[0])
        (work / "data").write_bytes(os.urandom(PIECE))
        found = until(node, lambda found: found["stratum_csi_gc_runs_total/done"] > 1)
        assert used(found) <= 0.58
        assert found["stratum_csi_disk_short_bytes"] == 0
        start_pod(node, "newer", sources[4], **NEVER)
        with refused(Code.FAILED_PRECONDITION, "Never"):
            start_pod(node, "old", sources[3], **NEVER)
        (work / "more").write_bytes(os.urandom(3 * PIECE))
        found = until(node, lambda found: found["stratum_csi_disk_short_bytes"] > 0)
        assert used(found) > found["stratum_csi_disk_mark_ratio/limit"] == 0.75
        assert capacity(node) == 0
        told = condition(node, "csi-writer", work)
        assert told.abnormal
        assert "nothing is left there that the driver may remove" in told.message
        with refused(Code.RESOURCE_EXHAUSTED, "--pull-limit 75"):
            node.create("pvc-2", {"source": sources[3]})
        assert node.create("pvc-3").volume_id, "what takes no room is made"
        (work / "more").unlink()
        assert not condition(node, "csi-writer", work).abnormal
        subprocess.run(["sync", "-f", place], check=True)
        assert sum(1 for _ in mount.iterdir()) == 1
        assert (mount / "file0").read_bytes() == (tmp_path / "source-used/file0").read_bytes()
        node.stage(claim)
        assert (node.publish(claim, "pod-claim") / "file0").stat().st_size == PIECE
        node.cli.ok("fsck")
        for name in ("pod-used", "writer", "newer"):
            node.unpublish(f"csi-{name}", name)
        node.unpublish(claim, "pod-claim")
        node.unstage(claim)


def test_lazy_volumes_make_room_while_pods_use_them(
    tmp_path: Path, runtime_dir: Path, far: Far, registry: RegistryServer, place: Path
) -> None:
    whole = pushed(tmp_path, registry, "whole")
    with node_on(place, "--gc-high", "30", "--gc-low", "25", "--pull-limit", "90") as node:
        claim = again(node.create, "pvc-whole", {"source": whole}).volume_id
        volume_id, mount = use(node, "pvc-1", {"source": far.reference, **LAZY})
        assert sum_of(mount / LARGE) == far.sums[LARGE]
        read = [path for path in far.sums if path.startswith("d1/")]
        assert all(sum_of(mount / path) == far.sums[path] for path in read)
        for path in (node.cli.store / "objects").rglob("*"):
            if path.is_file():
                os.utime(path, (0, 0))
        subprocess.run(["sync"], check=True)
        (place / "filler").write_bytes(bytes(24 << 20))
        until(node, lambda found: found["stratum_csi_gc_freed_bytes_total"] >= PIECE)
        partial = [path.stem for path in (node.cli.store / "commits").glob("*.partial")]
        assert partial == [far.commit], "what was pulled whole needs no registry"
        node.stage(claim)
        target = node.publish(claim, "pod-whole")
        assert (target / "file0").read_bytes() == (tmp_path / "source-whole/file0").read_bytes()
        assert read_error(mount / LARGE) is None
        assert sum_of(mount / LARGE) == far.sums[LARGE], "it comes again"
        for each, name in ((claim, "pod-whole"), (volume_id, "pod-of-pvc-1")):
            node.unpublish(each, name)
            node.unstage(each)
        hydrating.stop(node.cli.runtime_dir)
