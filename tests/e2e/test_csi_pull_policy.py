"""When a registry is asked for a volume's source, and whose pulls count as being on the node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.csi import Node, refused

pytestmark = [pytest.mark.root, pytest.mark.registry]

Code = grpc.StatusCode
PASSWORD = {"username": "user", "password": "secret"}
HTPASSWD = "user:$2b$05$MQF1YZuZ8sz7DQ2lYV4rKOIN.3NwVIrB6IjmTaxjoxgUe86qhfJZW\n"


def push(node: Node, registry: RegistryServer, directory: Path, content: str, tag: str, *, login: bool = False) -> str:
    """Push a file with ``content`` as ``team/app:TAG``; its reference by digest."""
    source = directory / f"source-{tag}"
    source.mkdir(exist_ok=True)
    (source / "file").write_text(content)
    auths = directory / "auth.json"
    auths.write_text(json.dumps({"auths": {registry.host: {"auth": "dXNlcjpzZWNyZXQ="}}}))
    environment = {"REGISTRY_AUTH_FILE": str(auths)} if login else {}
    node.cli.ok("import", "--bare", source, f"app:{tag}")
    node.cli.ok("push", f"app:{tag}", f"{registry.host}/team/app:{tag}", env=environment)
    listed = node.cli.json("list", "--remote", f"{registry.host}/team/app", env=environment)
    node.cli.ok("remove", "--yes", "app")
    node.cli.ok("gc", "--reflog-age", "0")
    return f"{registry.host}/team/app@{next(each['manifest'] for each in listed if each['tag'] == tag)}"


def pod(source: str, namespace: str = "one", **more: str) -> dict[str, str]:
    kubernetes = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": namespace}
    return kubernetes | {"source": source} | more


def shown(node: Node, attributes: Mapping[str, str], secrets: Mapping[str, str] = {}) -> str:
    """What a pod with such a volume reads."""
    target = node.publish("csi-1", "pod", attributes, staging_target_path="", secrets=secrets)
    try:
        return (target / "file").read_text()
    finally:
        node.unpublish("csi-1", "pod")


def test_what_is_on_the_node_starts_while_the_registry_is_down(tmp_path: Path, runtime_dir: Path) -> None:
    with Node(tmp_path / "n", "--allow-inline") as node:
        with registry_server(tmp_path / "registry") as registry:
            digest = push(node, registry, tmp_path, "one", "v1")
            other = push(node, registry, tmp_path, "two", "v2")
            tag = f"{registry.host}/team/app:v1"
            with refused(Code.FAILED_PRECONDITION, "pullPolicy is Never"):
                shown(node, pod(digest, pullPolicy="Never"))
            assert shown(node, pod(digest)) == "one"
            assert shown(node, pod(tag)) == "one"
            assert node.create("pvc-1", {"source": digest}).volume_id
        node.restart()
        assert shown(node, pod(digest)) == "one"
        assert shown(node, pod(digest, readOnly="true", pullPolicy="Never")) == "one"
        assert shown(node, pod(tag, pullPolicy="IfNotPresent")) == "one"
        assert shown(node, pod(tag, pullPolicy="Never")) == "one"
        assert node.create("pvc-2", {"source": digest}).volume_id
        for unreachable in (pod(tag), pod(tag, pullPolicy="Always"), pod(digest, pullPolicy="Always"), pod(other)):
            with refused(Code.UNAVAILABLE):
                shown(node, unreachable)
        with refused(Code.UNAVAILABLE):
            node.create("pvc-3", {"source": tag})
        with refused(Code.FAILED_PRECONDITION):
            node.create("pvc-3", {"source": other, "pullPolicy": "Never"})
        node.unpublish("csi-1", "pod")


def test_snapshots_elsewhere_and_static_volumes_follow_it_too(tmp_path: Path, runtime_dir: Path) -> None:
    def claim(node: Node, name: str, handle: str, namespace: str = "one", **more: str) -> str:
        content = csi.VolumeContentSource(snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id=handle))
        parameters = {"csi.storage.k8s.io/pvc/namespace": namespace} | more
        return node.create(name, parameters, volume_content_source=content).volume_id

    with Node(tmp_path / "n") as node, Node(tmp_path / "o") as other:
        with registry_server(tmp_path / "registry") as registry:
            volume_id = node.create("pvc-1").volume_id
            handle = node.snapshot("s", volume_id, parameters={"registry": f"{registry.host}/team/s"}).snapshot_id
            with refused(Code.FAILED_PRECONDITION, "pullPolicy is Never"):
                claim(other, "pvc-1", handle, pullPolicy="Never")
            claim(other, "pvc-1", handle)
            push(node, registry, tmp_path, "one", "v1")
            static = {"source": f"{registry.host}/team/app:v1", "pullPolicy": "Always"}
            for policy, wanted in (("Always", "one"), ("IfNotPresent", "one"), ("Always", "other")):
                context = static | {"pullPolicy": policy}
                other.stage("mine:v1", context)
                push(node, registry, tmp_path, "other", "v1")
                target = other.publish("mine:v1", "pod", context)
                assert (target / "file").read_text() == wanted, "the registry is asked when the volume is staged"
                other.unpublish("mine:v1", "pod")
                other.unstage("mine:v1")
        claim(other, "pvc-2", handle)
        claim(other, "pvc-3", handle, pullPolicy="Never")
        with refused(Code.UNAVAILABLE):
            claim(other, "pvc-4", handle, pullPolicy="Always")
        with refused(Code.UNAVAILABLE):
            claim(other, "pvc-4", handle, "two")
        with refused(Code.UNAVAILABLE):
            other.stage("mine:v1", static)
        other.stage("mine:v1", static | {"pullPolicy": "IfNotPresent"})
        other.unstage("mine:v1")


def test_a_tag_is_asked_for_each_time_unless_it_is_said_otherwise(tmp_path: Path, runtime_dir: Path) -> None:
    with registry_server(tmp_path / "registry") as registry, Node(tmp_path / "n", "--allow-inline") as node:
        push(node, registry, tmp_path, "one", "v1")
        tag = f"{registry.host}/team/app:v1"
        assert shown(node, pod(tag)) == "one"
        push(node, registry, tmp_path, "other", "v1")
        assert shown(node, pod(tag, pullPolicy="IfNotPresent")) == "one"
        assert shown(node, pod(tag)) == "other"
        assert shown(node, pod(tag, pullPolicy="IfNotPresent")) == "other"


def test_what_one_namespace_pulled_is_not_anothers(tmp_path: Path, runtime_dir: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with (
        registry_server(tmp_path / "registry", htpasswd=tmp_path / "htpasswd") as registry,
        Node(tmp_path / "n", "--allow-inline") as node,
    ):
        digest = push(node, registry, tmp_path, "private", "v1", login=True)
        assert shown(node, pod(digest), PASSWORD) == "private"
        assert shown(node, pod(digest)) == "private", "a pod of this namespace could name the secret too"
        with refused(Code.UNAUTHENTICATED):
            shown(node, pod(digest, "two"))
        with refused(Code.FAILED_PRECONDITION):
            shown(node, pod(digest, "two", pullPolicy="Never"))
        with refused(Code.UNAUTHENTICATED):
            node.create("pvc-1", {"source": digest})
        (stratum,) = [each["name"] for each in node.cli.json("list")]
        for tag in node.cli.json("list", stratum)["tags"]:
            with refused(Code.PERMISSION_DENIED, "of others"):
                shown(node, pod(f"{stratum}:{tag['tag']}", "two"))
        node.unpublish("csi-1", "pod")


def test_no_namespace_makes_a_tag_that_another_reads(tmp_path: Path, runtime_dir: Path) -> None:
    with registry_server(tmp_path / "registry") as registry, Node(tmp_path / "n", "--allow-inline") as node:
        push(node, registry, tmp_path, "one", "v1")
        source = tmp_path / "source-v1"
        node.cli.ok("import", "--bare", source, "shared")
        for where in (f"{registry.host}/team/app:v1", "shared"):
            for namespace in ("one", "two"):
                attributes = pod(where, namespace, commit="true", tag="result")
                target = node.publish("csi-1", "pod", attributes, staging_target_path="")
                (target / "file").write_text(namespace)
                node.unpublish("csi-1", "pod")
        assert sorted(tag["tag"] for tag in node.cli.json("list", "shared")["tags"]) == [
            "latest",
            "one.result",
            "two.result",
        ]
        for namespace in ("one", "two"):
            assert shown(node, pod(f"shared:{namespace}.result", "three")) == namespace
        pulled = [each["name"] for each in node.cli.json("list") if each["name"].startswith("app-")]
        assert len(pulled) == 2, "each namespace's pulls are in a stratum of its own"
        for name in pulled:
            assert sorted(tag["tag"] for tag in node.cli.json("list", name)["tags"]) == ["result", "v1"]
        assert shown(node, pod(f"{registry.host}/team/app:v1", "two")) == "one"


@pytest.mark.parametrize(
    "attributes",
    [
        {"pullPolicy": "IfNotPresent"},
        {"source": "app", "pullPolicy": "IfNotPresent"},
        {"source": "127.0.0.1:9/x/y", "pullPolicy": "ifnotpresent"},
        {"source": "127.0.0.1:9/x/y", "pullPolicy": ""},
    ],
)
def test_policies_that_are_none(tmp_path: Path, runtime_dir: Path, attributes: dict[str, str]) -> None:
    with Node(tmp_path / "n", "--allow-inline") as node:
        with refused(Code.INVALID_ARGUMENT, "pullPolicy"):
            node.create("pvc-1", attributes)
        with refused(Code.INVALID_ARGUMENT, "pullPolicy"):
            node.publish("csi-1", "pod", {"csi.storage.k8s.io/ephemeral": "true"} | attributes, staging_target_path="")
        assert not node.controller.ListVolumes(csi.ListVolumesRequest()).entries
