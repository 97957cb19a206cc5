"""Claims that are filled from a StratumSource: the populator as a process, beside a real driver and a real registry."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stratum.csi import csi_pb2 as csi
from stratum.csi.attributes import POPULATED
from stratum.csi.population import DRIVER, SELECTED_NODE, finalizer_of
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.csi import Node
from tests.support.kubeapi import KubeApi, Object
from tests.support.small import limited

pytestmark = [pytest.mark.root, pytest.mark.registry]

HTPASSWD = "user:$2b$05$MQF1YZuZ8sz7DQ2lYV4rKOIN.3NwVIrB6IjmTaxjoxgUe86qhfJZW\n"
CORE, STORAGE, OURS = "/api/v1", "/apis/storage.k8s.io/v1", "/apis/csi.stratum.dev/v1beta1"
QUICK = "from stratum.csi import populating, populator; populating.AT_REST = 0.5; populator.main()"


class Populator:
    """The program, which thinks that calls end soon."""

    def __init__(self, node: Node, api: KubeApi, *options: str) -> None:
        self.node, self.options = node, ["--kubeconfig", str(api.kubeconfig(node.directory)), *options]
        self.start()

    def start(self) -> None:
        endpoint = f"unix://{self.node.directory}/csi.sock"
        with (self.node.directory / "populator").open("ab") as log:
            self.process = subprocess.Popen(
                limited([sys.executable, "-c", QUICK, "--endpoint", endpoint, *self.options]), stderr=log
            )

    def kill(self, number: int = signal.SIGKILL) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def populator(node: Node, api: KubeApi, *options: str) -> Iterator[Populator]:
    running = Populator(node, api, *options)
    try:
        yield running
    finally:
        running.kill()


def cluster(api: KubeApi, registry: RegistryServer, namespace: str = "team") -> None:
    """A class, and in the namespace a secret and a source that needs it."""
    late = {"provisioner": DRIVER, "volumeBindingMode": "WaitForFirstConsumer", "mountOptions": ["noatime"]}
    more = {"commit": "on-unpublish", "source": "registry.example.com/class", "csi.storage.k8s.io/fstype": ""}
    api.put(f"{STORAGE}/storageclasses/stratum", {**late, "parameters": more, "reclaimPolicy": "Retain"})
    api.put(f"{STORAGE}/storageclasses/early", {**late, "volumeBindingMode": "Immediate"})
    login = {"username": "user", "password": "secret"}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in login.items()}
    api.put(f"{CORE}/namespaces/{namespace}/secrets/login", {"data": data})
    source(api, "model", {"source": f"{registry.host}/team/app:v1", "secretRef": {"name": "login"}}, namespace)


def source(api: KubeApi, name: str, spec: Mapping[str, Any], namespace: str = "team") -> None:
    api.put(f"{OURS}/namespaces/{namespace}/stratumsources/{name}", {"spec": spec})


def claim(api: KubeApi, name: str, named: str = "model", *, late: str = "stratum", node: str = "node-1") -> str:
    """A claim for which the scheduler has selected a node; its path."""
    path = f"{CORE}/namespaces/team/persistentvolumeclaims/{name}"
    notes = {"volume.kubernetes.io/storage-provisioner": DRIVER} | ({SELECTED_NODE: node} if node else {})
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": late,
        "resources": {"requests": {"storage": "1Gi"}},
        "dataSourceRef": {"apiGroup": "csi.stratum.dev", "kind": "StratumSource", "name": named},
    }
    api.put(path, {"metadata": {"annotations": notes, "finalizers": ["kubernetes.io/pvc-protection"]}, "spec": spec})
    return path


def volume_of(api: KubeApi, path: str) -> Object | None:
    return api.objects.get(f"{CORE}/persistentvolumes/pvc-{api.objects[path]['metadata']['uid']}")


def finalizers(api: KubeApi, path: str) -> list[str]:
    found: list[str] = api.objects[path]["metadata"].get("finalizers", [])
    return found


def is_filled(api: KubeApi, path: str) -> bool:
    return volume_of(api, path) is not None and finalizer_of("node-1") not in finalizers(api, path)


def told(api: KubeApi, name: str, words: str) -> bool:
    events = [e for e in api.below("/events/") if e["involvedObject"]["name"] == name]
    return any(words in f"{event['reason']}: {event['message']}" for event in events)


@contextlib.contextmanager
def pushed(node: Node, directory: Path) -> Iterator[RegistryServer]:
    """A registry that asks for a password, with ``team/app:v1`` in it, which the node has no more."""
    (directory / "htpasswd").write_text(HTPASSWD)
    with registry_server(directory / "registry", htpasswd=directory / "htpasswd") as registry:
        (directory / "seed").mkdir()
        (directory / "seed/file").write_text("seed")
        auths = directory / "auth.json"
        auths.write_text(json.dumps({"auths": {registry.host: {"auth": "dXNlcjpzZWNyZXQ="}}}))
        node.cli.ok("import", "--bare", directory / "seed", "app:v1")
        node.cli.ok("push", "app:v1", f"{registry.host}/team/app:v1", env={"REGISTRY_AUTH_FILE": str(auths)})
        node.cli.ok("remove", "--yes", "app")
        yield registry


def volumes(node: Node) -> list[str]:
    return [entry.volume.volume_id for entry in node.controller.ListVolumes(csi.ListVolumesRequest()).entries]


def test_a_claim_begins_as_what_its_source_says(tmp_path: Path, runtime_dir: Path) -> None:
    with Node(tmp_path / "n") as node, pushed(node, tmp_path) as registry, KubeApi() as api:
        cluster(api, registry)
        pattern = f"--populate-source={registry.host}/team/*"
        with populator(node, api, pattern) as running:
            path = claim(api, "data")
            api.wait(lambda: is_filled(api, path))
            volume = volume_of(api, path)
            assert volume is not None
            assert finalizers(api, path) == ["kubernetes.io/pvc-protection"]
            spec, notes = volume["spec"], volume["metadata"]["annotations"]
            assert notes["pv.kubernetes.io/provisioned-by"] == DRIVER
            assert spec["claimRef"]["uid"] == api.objects[path]["metadata"]["uid"]
            assert (spec["claimRef"]["namespace"], spec["claimRef"]["name"]) == ("team", "data")
            (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
            topology = {"key": "topology.csi.stratum.dev/node", "operator": "In", "values": ["node-1"]}
            assert term["matchExpressions"] == [topology]
            assert spec["mountOptions"] == ["noatime"]
            assert spec["persistentVolumeReclaimPolicy"] == "Retain"
            assert spec["capacity"] == {"storage": "1Gi"}
            handle = spec["csi"]["volumeHandle"]
            assert volumes(node) == [handle]
            node.stage(handle, spec["csi"]["volumeAttributes"])
            target = node.publish(handle, "pod", spec["csi"]["volumeAttributes"])
            assert (target / "file").read_text() == "seed"
            (target / "file").write_text("mine")
            node.unpublish(handle, "pod")
            node.unstage(handle)
            assert spec["csi"]["volumeAttributes"] == {"commit": "on-unpublish", POPULATED: "true"}
            assert told(api, "data", "Populated")

            # What is not this node's, or nobody's, is left alone; of the rest the claim says what is wrong.
            source(api, "elsewhere", {"source": "registry.example.com/team/app"})
            source(api, "local", {"source": "app:v1"})
            source(api, "open", {"source": f"{registry.host}/team/app:v1"})
            source(
                api, "theirs", {"source": f"{registry.host}/team/app:v1", "secretRef": {"name": "../../x/secrets/s"}}
            )
            api.put(f"{CORE}/namespaces/x/secrets/s", {"data": {"username": "dXNlcg==", "password": "c2VjcmV0"}})
            source(api, "other", {"source": f"{registry.host}/team/app:v1", "secretRef": {"name": "login"}}, "x")
            wrong = {
                "missing": (claim(api, "missing", "nothing"), "there is no StratumSource nothing in namespace team"),
                "outside": (claim(api, "outside", "elsewhere"), "may not have registry.example.com/team/app"),
                "here": (claim(api, "here", "local"), "no reference to a registry"),
                "open": (claim(api, "open", "open"), "secretRef of the StratumSource"),
                "secret": (claim(api, "secret", "theirs"), "is no name of a secret"),
                "walks": (claim(api, "walks", "../../x/stratumsources/other"), "is no name of a StratumSource"),
                "early": (claim(api, "early", late="early", node=""), "binds at once"),
            }
            others = [claim(api, "far", node="node-2"), claim(api, "unplaced", node="")]
            for name, (_, words) in wrong.items():
                api.wait(lambda name=name, words=words: told(api, name, words))
            for each in [*others, *(each for each, _ in wrong.values())]:
                assert volume_of(api, each) is None
            assert not [asked for asked in api.asked if "/namespaces/x/" in asked]
            assert volumes(node) == [handle]
            source(api, "nothing", {"source": f"{registry.host}/team/app:v1", "secretRef": {"name": "login"}})
            api.wait(lambda: is_filled(api, wrong["missing"][0]))

            # A volume of its name that began as something else, when the source said so: nobody has had it yet.
            early = node.create(f"pvc-{api.objects[others[1]]['metadata']['uid']}").volume_id
            unplaced = claim(api, "unplaced")
            api.wait(lambda: is_filled(api, unplaced))
            assert early not in volumes(node)

            # What this node had begun, as another one has been selected since, and is through with it.
            moved = claim(api, "moved", node="")
            meta = api.objects[moved]["metadata"]
            left = node.create(f"pvc-{meta['uid']}").volume_id
            theirs = copy.deepcopy(volume)
            theirs["spec"]["claimRef"]["uid"] = meta["uid"]
            (term,) = theirs["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
            term["matchExpressions"][0]["values"] = ["node-2"]
            api.put(f"{CORE}/persistentvolumes/pvc-{meta['uid']}", theirs)
            held = {**meta, "annotations": {**meta["annotations"], SELECTED_NODE: "node-2"}}
            held["finalizers"] = [*meta["finalizers"], finalizer_of("node-1")]
            api.put(moved, {**api.objects[moved], "metadata": held})
            api.wait(lambda: finalizers(api, moved) == ["kubernetes.io/pvc-protection"])
            assert left not in volumes(node)
            assert running.kill(signal.SIGTERM) == 0


def test_a_node_without_room_gives_a_claim_back_to_the_scheduler(tmp_path: Path, runtime_dir: Path) -> None:
    full = ("--gc-high=1", "--gc-low=1", "--pull-limit=1")
    with Node(tmp_path / "n", *full) as node, pushed(node, tmp_path) as registry, KubeApi() as api:
        cluster(api, registry)
        with populator(node, api):
            path = claim(api, "data")
            api.wait(lambda: SELECTED_NODE not in api.objects[path]["metadata"]["annotations"])
            api.wait(lambda: told(api, "data", "is not pulled"))
            assert finalizers(api, path) == ["kubernetes.io/pvc-protection"]
            assert not volumes(node)


def test_killed_anywhere_it_leaves_no_volume_and_makes_no_second(tmp_path: Path, runtime_dir: Path) -> None:
    """Between any two changes that it makes in the cluster; of two claims one is deleted while it is away."""
    with Node(tmp_path / "n") as node, pushed(node, tmp_path) as registry, KubeApi() as api:
        cluster(api, registry)
        kept = []
        with populator(node, api) as running:
            # Taken on; made; told of; about to be let go of.
            points = (("PATCH", 1, True), ("POST", 1, False), ("POST", 1, True), ("PATCH", 2, False))
            for number, point in enumerate(points):
                seen: list[str] = []

                def meddle(method: str, path: str, after: bool, point: Any = point, seen: list[str] = seen) -> None:
                    if method == point[0] and after == point[2] and running.process.poll() is None:
                        seen.append(path)
                        if seen.count(path) == point[1] or "persistentvolumes" in path:
                            running.kill()

                api.meddle = meddle
                kept.append(claim(api, f"kept-{number}"))
                gone = claim(api, f"gone-{number}")
                api.wait(lambda: running.process.poll() is not None)
                api.meddle = lambda _method, _path, _after: None
                api.objects[gone]["metadata"]["finalizers"].remove("kubernetes.io/pvc-protection")
                uid = api.objects[gone]["metadata"]["uid"]
                there = volume_of(api, gone) is not None
                api.delete(gone)
                running.start()
                api.wait(lambda gone=gone: gone not in api.objects and is_filled(api, kept[-1]))
                if not there:
                    assert not [each for each in volumes(node) if uid in each], f"left after a kill at {point}"
                    assert f"{CORE}/persistentvolumes/pvc-{uid}" not in api.objects
            mine = [volume_of(api, path) for path in kept]
            handles = [volume["spec"]["csi"]["volumeHandle"] for volume in mine if volume is not None]
            assert len(set(handles)) == len(kept)
            assert set(handles) <= set(volumes(node))
