"""The manifests in ``k8s/``: against the schemas of Kubernetes, built by kustomize, and against the driver itself."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from stratum.cli.verbs import VERBS
from stratum.csi.attributes import MOUNT_FLAGS, PullPolicy, snapshot_parameters, volume_attributes
from stratum.csi.driver import NAME, TOPOLOGY_KEY
from stratum.csi.elsewhere import parse_handle
from stratum.csi.hooks import parse_hooks
from stratum.csi.main import command_line
from stratum.csi.patterns import parse_pattern
from stratum.csi.population import GROUP, KIND, VERSION, read_source
from stratum.csi.populator import command_line as populator_line
from stratum.refs import parse_ref
from tests.support.capabilities import CHECKOUT
from tests.support.gotools import go_program

pytestmark = pytest.mark.timeout(1200)  # the first time, kustomize is built

K8S = CHECKOUT / "k8s"
VERSIONS = ("1.29", kubernetes_validate.latest_version())
SUITE = K8S / "e2e"
"""What Kubernetes' own storage suite is told of the driver."""

CUSTOM = (
    "snapshot.storage.k8s.io/v1",
    "groupsnapshot.storage.k8s.io/v1beta1",
    "monitoring.coreos.com/v1",
    "populator.storage.k8s.io/v1beta1",
    f"{GROUP}/{VERSION}",
)
"""APIs whose kinds are not Kubernetes' own, so that there is no schema for them."""

POLICIES = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
"""Kinds of Kubernetes 1.36; a cluster has them only where it is asked to."""

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


def written() -> Iterator[tuple[Path, Document]]:
    for path in sorted(K8S.rglob("*.yaml")):
        of_another = path.is_relative_to(K8S / "chart") or path == SUITE / "driver.yaml"  # tests/e2e/test_csi_chart.py
        if path.name != "kustomization.yaml" and not of_another:
            for document in documents(path):
                yield path, document


def of_kind(kind: str) -> list[Document]:
    return [document for _, document in written() if document["kind"] == kind]


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas_of_kubernetes(version: str) -> None:
    checked = 0
    for path, document in written():
        if document["apiVersion"] in CUSTOM or document["kind"] in POLICIES:
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as exc:
            pytest.fail(f"{path}: {document['kind']} for Kubernetes {version}: {exc.message}")
        checked += 1
    assert checked > 15


def test_snapshot_kinds_have_what_they_must() -> None:
    for document in of_kind("VolumeSnapshotClass"):
        assert document["driver"] == NAME
        assert document["deletionPolicy"] in ("Delete", "Retain")
        snapshot_parameters(document.get("parameters", {}))
    classes = {document["metadata"]["name"] for document in of_kind("VolumeSnapshotClass")}
    contents = {document["metadata"]["name"]: document for document in of_kind("VolumeSnapshotContent")}
    for document in of_kind("VolumeSnapshot"):
        assert document["spec"]["volumeSnapshotClassName"] in classes
        ((kind, name),) = document["spec"]["source"].items()
        assert kind in ("persistentVolumeClaimName", "volumeSnapshotContentName")
        if kind == "volumeSnapshotContentName":
            ref = contents[name]["spec"]["volumeSnapshotRef"]
            assert ref == {key: document["metadata"][key] for key in ("name", "namespace")}


def test_groups_are_made_by_the_node_that_their_class_names() -> None:
    (of_node,) = of_kind("VolumeGroupSnapshotClass")
    assert of_node["driver"] == NAME
    node = of_node["metadata"]["labels"]["snapshot.storage.kubernetes.io/managed-by"]
    assert of_node["metadata"]["name"] == f"stratum.{node}"
    (group,) = of_kind("VolumeGroupSnapshot")
    assert group["spec"]["volumeGroupSnapshotClassName"] == of_node["metadata"]["name"]
    labels = group["spec"]["source"]["selector"]["matchLabels"]
    assert any(claim["metadata"].get("labels") == labels for claim in of_kind("PersistentVolumeClaim"))
    kinds = sorted(document["kind"] for document in build("overlays/groups") if document["kind"] in POLICIES)
    assert kinds == sorted(POLICIES * 2)
    arguments = containers_of(build("overlays/groups"), "stratum-csi")["csi-snapshotter"]["args"]
    assert arguments[-1] == "--feature-gates=CSIVolumeGroupSnapshot=true"


def test_pods_ask_for_commands_in_containers_that_they_have() -> None:
    asking = [(pod, parse_hooks(pod["metadata"].get("annotations", {}))) for pod in of_kind("Pod")]
    (only,) = [(pod, hooks) for pod, hooks in asking if hooks is not None]
    pod, hooks = only
    assert hooks.choose([container["name"] for container in pod["spec"]["containers"]]) == hooks.container
    containers = containers_of(build("overlays/hooks"), "stratum-csi")
    socket = Path(command_line().parse_args(containers["driver"]["args"]).cri_endpoint.removeprefix("unix://"))
    assert str(socket.parent) in [mount["mountPath"] for mount in containers["driver"]["volumeMounts"]]


def test_snapshot_contents_are_ones_that_the_driver_finds() -> None:
    contents = of_kind("VolumeSnapshotContent")
    assert contents
    for document in contents:
        assert document["spec"]["driver"] == NAME
        assert parse_handle(document["spec"]["source"]["snapshotHandle"]) is not None
        assert "snapshot.storage.kubernetes.io/managed-by" in document["metadata"]["labels"]


def test_attributes_are_ones_that_the_driver_takes() -> None:
    for document in of_kind("StorageClass"):
        assert document["provisioner"] == NAME
        assert document["volumeBindingMode"] == "WaitForFirstConsumer"
        volume_attributes(document.get("parameters", {}), read_only=False)
    for document in of_kind("PersistentVolume"):
        assert document["spec"]["csi"]["driver"] == NAME
        parse_ref(document["spec"]["csi"]["volumeHandle"])
        volume_attributes(document["spec"]["csi"]["volumeAttributes"])
        terms = document["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert terms[0]["matchExpressions"][0]["key"] == TOPOLOGY_KEY
    inline = [volume["csi"] for pod in of_kind("Pod") for volume in pod["spec"]["volumes"] if "csi" in volume]
    assert inline
    for volume in inline:
        assert volume["driver"] == NAME
        volume_attributes(volume["volumeAttributes"])
    names = {kind: {d["metadata"]["name"] for d in of_kind(kind)} for kind in ("StorageClass", "VolumeSnapshot", KIND)}
    for claim in of_kind("PersistentVolumeClaim"):
        assert claim["spec"]["storageClassName"] in {"", *names["StorageClass"]}
        if "dataSource" in claim["spec"]:
            assert claim["spec"]["dataSource"]["name"] in names["VolumeSnapshot"]
        if "dataSourceRef" in claim["spec"]:
            ref = claim["spec"]["dataSourceRef"]
            assert (ref["apiGroup"], ref["kind"]) == (GROUP, KIND)
            assert ref["name"] in names[KIND]


def test_sources_of_claims_are_ones_that_the_populator_takes() -> None:
    (crd,) = of_kind("CustomResourceDefinition")
    (populated,) = of_kind("VolumePopulator")
    assert crd["spec"]["group"] == populated["sourceKind"]["group"] == GROUP
    assert crd["spec"]["names"]["kind"] == populated["sourceKind"]["kind"] == KIND
    (version,) = crd["spec"]["versions"]
    assert version["name"] == VERSION
    schema = version["schema"]["openAPIV3Schema"]
    assert of_kind(KIND)
    for document in of_kind(KIND):
        jsonschema.validate(document, schema)
        assert read_source(document).secret in {each["metadata"]["name"] for each in of_kind("Secret")}
    policies = schema["properties"]["spec"]["properties"]["pullPolicy"]["enum"]
    assert policies == [policy.value for policy in PullPolicy]


def pod_of(documents: Iterable[Document], daemonset: str) -> Document:
    (found,) = (d for d in documents if d["kind"] == "DaemonSet" and d["metadata"]["name"] == daemonset)
    spec: Document = found["spec"]["template"]["spec"]
    return spec


def test_driver_container() -> None:
    pod = pod_of(of_kind("DaemonSet"), "stratum-csi")
    containers = {container["name"]: container for container in pod["containers"]}
    check_driver_arguments(containers["driver"]["args"])
    assert not pod.get("hostNetwork", False)
    mounted = {mount["name"]: mount for mount in containers["driver"]["volumeMounts"]}
    assert mounted["kubelet"]["mountPropagation"] == "Bidirectional"
    places = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    # Paths in mounts and records mean the same to the driver and to the node.
    for name in ("kubelet", "store", "runtime", "devices"):
        assert mounted[name]["mountPath"] == places[name]
    assert places["socket"].endswith(f"/plugins/{NAME}")
    for name, container in containers.items():
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["resources"]["requests"]
        if name != "driver":
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def containers_of(documents: Iterable[Document], daemonset: str) -> dict[str, Document]:
    return {container["name"]: container for container in pod_of(documents, daemonset)["containers"]}


def test_what_stands_behind_mounts_is_in_pods_of_its_own() -> None:
    (daemonset,) = (d for d in of_kind("DaemonSet") if d["metadata"]["name"] == "stratum-hydrate")
    assert daemonset["spec"]["updateStrategy"]["type"] == "OnDelete", "an upgrade of the driver is in no reader's way"
    pods = [pod_of(of_kind("DaemonSet"), name) for name in ("stratum-csi", "stratum-hydrate")]
    container = containers_of(of_kind("DaemonSet"), "stratum-hydrate")["hydrate"]
    driver = containers_of(of_kind("DaemonSet"), "stratum-csi")["driver"]
    assert container["image"] == driver["image"]
    assert container["securityContext"] == driver["securityContext"]
    for pod in pods:
        assert pod["hostPID"], "who reads is a process of the node"
        assert pod["priorityClassName"] == "system-node-critical"
    places = [{v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v} for pod in pods]
    mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
    for name in ("store", "runtime", "kubelet", "devices"):
        assert mounted[name]["mountPath"] == places[0][name] == places[1][name]
    assert mounted["kubelet"]["mountPropagation"] == "HostToContainer", "it is told of mounts, and makes none"


def test_what_keeps_histories_outlives_the_driver_and_has_what_it_needs() -> None:
    containers = containers_of(of_kind("DaemonSet"), "stratum-hydrate")
    assert set(containers) == {"hydrate", "watch"}
    watch = containers["watch"]
    assert watch["image"] == containers["hydrate"]["image"]
    program, verb = watch["command"]
    assert (program, verb in VERBS) == (containers["hydrate"]["command"][0], True)
    mounted = {mount["name"]: mount["mountPath"] for mount in watch["volumeMounts"]}
    driver = containers_of(of_kind("DaemonSet"), "stratum-csi")["driver"]
    # The socket's name has the store's device and inode in it: both see the same directories.
    places = {mount["name"]: mount["mountPath"] for mount in driver["volumeMounts"]}
    assert (mounted["store"], mounted["runtime"]) == (places["store"], places["runtime"])
    context = watch["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["privileged"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert watch["resources"]["limits"]["memory"]


def check_driver_arguments(arguments: list[str]) -> None:
    """They are what the program's own parser takes."""
    args = command_line().parse_args(arguments)
    assert args.endpoint == "unix:///csi/csi.sock"
    assert args.controller
    assert args.external_keeper


@pytest.mark.parametrize(
    ("directory", "snapshotter", "inline"),
    [
        ("base", True, False),
        ("overlays/without-snapshots", False, False),
        ("overlays/inline", True, True),
        ("overlays/kind", True, True),
        ("overlays/private-ca", True, False),
    ],
)
def test_kustomize(directory: str, snapshotter: bool, inline: bool) -> None:
    built = build(directory)
    assert sorted(document["kind"] for document in built) == [
        "CSIDriver",
        "ClusterRole",
        "ClusterRoleBinding",
        "DaemonSet",
        "DaemonSet",
        "Namespace",
        "Role",
        "RoleBinding",
        "ServiceAccount",
    ]
    for document in built:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
    containers = containers_of(built, "stratum-csi")
    hydrate, watch = containers_of(built, "stratum-hydrate").values()
    for container in (hydrate, watch):
        assert container["image"] == containers["driver"]["image"]
        assert container.get("imagePullPolicy") == containers["driver"].get("imagePullPolicy")
    assert ("csi-snapshotter" in containers) == snapshotter
    assert ("--allow-inline" in containers["driver"]["args"]) == inline
    (csi_driver,) = (document for document in built if document["kind"] == "CSIDriver")
    assert ("Ephemeral" in csi_driver["spec"]["volumeLifecycleModes"]) == inline
    check_driver_arguments(containers["driver"]["args"])
    ca_file = command_line().parse_args(containers["driver"]["args"]).ca_file
    assert (ca_file is not None) == (directory == "overlays/private-ca")
    for container in (containers["driver"], hydrate):
        places = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert ca_file is None or str(Path(ca_file).parent) in places


def test_volumes_grow_by_one_resizer_for_all_nodes() -> None:
    beside = [document for document in build("overlays/expansion") if document not in build("base")]
    kinds = ["ClusterRole", "ClusterRoleBinding", "Deployment", "Role", "RoleBinding", "ServiceAccount"]
    assert sorted(document["kind"] for document in beside) == kinds
    (deployment,) = (document for document in beside if document["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] in {
        each["metadata"]["name"] for each in beside if each["kind"] == "ServiceAccount"
    }
    assert pod["volumes"][0]["hostPath"]["path"].endswith(f"/plugins/{NAME}")
    driver = containers_of(build("base"), "stratum-csi")
    assert pod["containers"][0]["securityContext"] == driver["csi-provisioner"]["securityContext"]


def test_the_storage_suite_is_told_what_the_driver_offers() -> None:
    (told,) = documents(SUITE / "driver.yaml")
    info = told["DriverInfo"]
    assert (info["Name"], info["TopologyKeys"]) == (NAME, [TOPOLOGY_KEY])
    assert info["SupportedMountOption"].keys() <= MOUNT_FLAGS.keys()
    built = build("e2e")
    for kind in ("StorageClass", "VolumeSnapshotClass"):
        (found,) = (document for document in built if document["kind"] == kind)
        assert found["metadata"]["name"] == told[kind.removeprefix("Volume")]["FromExistingClassName"]
    arguments = containers_of(built, "stratum-csi")["driver"]["args"]
    check_driver_arguments(arguments)
    patterns = [parse_pattern(text) for text in command_line().parse_args(arguments).inline_source]
    for volume in told["InlineVolumes"]:
        source = volume_attributes(volume["Attributes"]).source
        assert source is not None
        assert any(pattern.allows(source) for pattern in patterns)
    containers = containers_of(build("e2e/recording"), "stratum-csi")
    assert containers["driver"]["args"][0] == f"--endpoint=unix://{containers['recorder']['command'][3]}"
    assert containers["recorder"]["command"][2] == "/csi/csi.sock"


def test_kustomize_populator() -> None:
    """Beside the base: the container, its rights, the kind; and the container is like the sidecars."""
    base, built = build("base"), build("overlays/populator")
    more = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"]
    assert sorted(document["kind"] for document in built) == sorted([*(each["kind"] for each in base), *more])
    containers, before = containers_of(built, "stratum-csi"), containers_of(base, "stratum-csi")
    populator = containers.pop("populator")
    assert containers == before
    args = populator_line().parse_args(populator["args"])
    assert args.endpoint == command_line().parse_args(containers["driver"]["args"]).endpoint
    assert args.populate_source
    assert populator["image"] == containers["driver"]["image"]
    sidecar = containers["csi-provisioner"]
    assert populator["securityContext"] == sidecar["securityContext"]
    assert populator["volumeMounts"] == sidecar["volumeMounts"]


def test_kustomize_classes() -> None:
    assert sorted(document["kind"] for document in build("classes")) == [
        "StorageClass",
        "VolumeSnapshotClass",
        "VolumeSnapshotClass",
    ]


def build(directory: str) -> list[Document]:
    """What kustomize makes of a directory of ``k8s/``."""
    program = go_program("kustomize")
    done = subprocess.run([program, "build", K8S / directory], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]
