"""The Helm chart: what helm makes of it is what kustomize makes of the manifests, object by object."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import stratum
from tests.e2e.test_csi_manifests import CUSTOM, K8S, Document, build, check_driver_arguments, containers_of, documents
from tests.support.gotools import go_program

pytestmark = pytest.mark.timeout(1200)  # the first time, helm and kustomize are built

CHART = K8S / "chart"
MONITORING = {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")}


def helm(work: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    places = {f"HELM_{name}_HOME": str(work / name) for name in ("CACHE", "CONFIG", "DATA")}
    command = [go_program("helm"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **places}
    )


def rendered(work: Path, values: dict[str, Any], chart: Path = CHART, **release: str) -> list[Document]:
    """What ``helm template`` makes of the chart."""
    done = template(work, values, chart, **release)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def template(
    work: Path, values: dict[str, Any], chart: Path = CHART, namespace: str = "stratum-system"
) -> subprocess.CompletedProcess[str]:
    file = work / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    # Helm as it is built here takes itself for one of an old Kubernetes.
    return helm(
        work, "template", "any-name", chart, "--kube-version=1.30", f"--namespace={namespace}", "--values", file
    )


def by_name(documents: list[Document]) -> dict[tuple[str, str], Document]:
    named = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(named) == len(documents)
    return named


@pytest.mark.parametrize(
    ("directory", "values"),
    [
        ("base", {}),
        ("overlays/without-snapshots", {"snapshots": {"enabled": False}}),
        ("overlays/inline", {"inline": {"enabled": True, "sources": ["registry.example.com/models/*"]}}),
        ("overlays/expansion", {"expansion": {"enabled": True}}),
        ("overlays/groups", {"groups": {"enabled": True}}),
        ("overlays/hooks", {"hooks": {"criEndpoint": "unix:///run/containerd/containerd.sock"}}),
        (
            "overlays/populator",
            {"populator": {"enabled": True, "sources": ["registry.example.com/models/**"]}},
        ),
        ("overlays/private-ca", {"privateCA": {"configMap": "registry-ca"}}),
        (
            "overlays/kind",
            {
                "inline": {"enabled": True},
                "image": {"repository": "localhost/stratum-csi", "tag": "dev", "pullPolicy": "Never"},
            },
        ),
        ("overlays/metrics-tls", {"metrics": {"tlsSecret": "stratum-csi-metrics-tls"}, "monitoring": MONITORING}),
    ],
)
def test_the_chart_is_what_kustomize_makes(directory: str, values: dict[str, Any], tmp_path: Path) -> None:
    expected = by_name(build(directory))
    # Helm keeps its record of the release in the namespace, so that has to be there before.
    del expected["Namespace", "stratum-system"]
    assert by_name(rendered(tmp_path, values)) == expected


def test_monitoring_and_classes_alone_are_the_same_too(tmp_path: Path) -> None:
    classes: dict[str, list[Document]] = {"StorageClass": [], "VolumeSnapshotClass": []}
    for document in build("classes"):
        kept = {key: document[key] for key in set(document) - {"apiVersion", "kind", "metadata"}}
        kept = {key: value for key, value in kept.items() if key not in ("provisioner", "driver")}
        classes[document["kind"]].append({"name": document["metadata"]["name"], **kept})
    values = {
        "monitoring": MONITORING,
        "populator": {"validator": True},
        "storageClasses": classes["StorageClass"],
        "snapshotClasses": classes["VolumeSnapshotClass"],
    }
    validated = documents(K8S / "overlays/populator/volumepopulator.yaml")
    expected = by_name([*build("base"), *build("classes"), *build("monitoring"), *validated])
    del expected["Namespace", "stratum-system"]
    assert by_name(rendered(tmp_path, values)) == expected


def test_what_can_be_asked_for_is_where_it_belongs(tmp_path: Path) -> None:
    asked = {
        "kubeletDir": "/var/snap/kubelet",
        "image": {"digest": f"sha256:{'0' * 64}"},
        "containers": {
            "driver": {"args": ["--gc-interval=1h"], "env": [{"name": "HTTPS_PROXY", "value": "http://p:1"}]},
            "watch": {"resources": {"limits": {"memory": "1Gi"}}},
            "csi-provisioner": {"image": "mirror.example.com/csi-provisioner:v5.3.0"},
        },
        "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podLabels": {"team": "storage"},
        "podAnnotations": {"note": "one"},
        **{name: {"enabled": True} for name in ("populator", "expansion", "groups")},
    }
    plain = rendered(tmp_path, {})
    made = rendered(tmp_path, asked, namespace="elsewhere")
    for document in made:
        if document["kind"] != "CustomResourceDefinition":  # which has no schema here
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        assert document["metadata"].get("namespace", "elsewhere") == "elsewhere"
        assert {subject["namespace"] for subject in document.get("subjects", ())} <= {"elsewhere"}
    assert not re.search("/var/lib/kubelet|stratum-system", yaml.safe_dump(made))
    for name in ("stratum-csi", "stratum-hydrate"):
        ((spec, meta),) = (
            (document["spec"]["template"]["spec"], document["spec"]["template"]["metadata"])
            for document in made
            if (document["kind"], document["metadata"]["name"]) == ("DaemonSet", name)
        )
        assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "disk": "fast"}
        assert {key: spec[key] for key in ("imagePullSecrets", "tolerations", "affinity")}.items() <= asked.items()
        assert meta["labels"] == {"app.kubernetes.io/name": name, "team": "storage"}
        assert meta["annotations"]["note"] == "one"
    driver, before = (containers_of(documents, "stratum-csi")["driver"] for documents in (made, plain))
    assert driver["args"] == [
        *(text.replace("/var/lib/kubelet", "/var/snap/kubelet") for text in before["args"]),
        "--gc-interval=1h",
    ]
    check_driver_arguments(driver["args"])
    assert driver["env"] == [*before["env"], {"name": "HTTPS_PROXY", "value": "http://p:1"}]
    assert driver["image"] == f"stratum-csi@sha256:{'0' * 64}"
    hydrate = containers_of(made, "stratum-hydrate")
    assert {hydrate["watch"]["image"], hydrate["hydrate"]["image"]} == {driver["image"]}
    assert hydrate["watch"]["resources"] == {"limits": {"memory": "1Gi"}}
    provisioner = containers_of(made, "stratum-csi")["csi-provisioner"]
    assert provisioner["image"] == "mirror.example.com/csi-provisioner:v5.3.0"


def test_metrics_for_known_clients_only(tmp_path: Path) -> None:
    values = {
        "metrics": {"tlsSecret": "served", "clientCAKey": "ca.crt"},
        "monitoring": {"serviceMonitor": {"enabled": True, "clientSecret": "prometheus"}},
    }
    made = by_name(rendered(tmp_path, values))
    driver = containers_of(list(made.values()), "stratum-csi")["driver"]
    check_driver_arguments(driver["args"])
    assert driver["args"][-1] == "--metrics-client-ca=/etc/stratum-metrics-tls/ca.crt"
    (endpoint,) = made["ServiceMonitor", "stratum-csi"]["spec"]["endpoints"]
    assert endpoint["tlsConfig"] == {
        "ca": {"secret": {"name": "served", "key": "ca.crt"}},
        "serverName": "stratum-csi-metrics",
        "cert": {"secret": {"name": "prometheus", "key": "tls.crt"}},
        "keySecret": {"name": "prometheus", "key": "tls.key"},
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"imag": {}}, "'imag' not allowed"),
        ({"inline": {"source": []}}, "'source' not allowed"),
        ({"kubeletDir": "kubelet"}, "/kubeletDir"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"containers": {"drivr": {}}}, "containers.drivr: there is no such container; there are driver, "),
        ({"storageClasses": [{"name": "a", "provisioner": "other"}]}, "/storageClasses/0/provisioner"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    done = template(tmp_path, values)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_chart_is_sound_and_says_what_its_values_are(tmp_path: Path) -> None:
    done = helm(tmp_path, "lint", "--strict", CHART, "--kube-version=1.30")
    assert done.returncode == 0, done.stdout
    about = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert about["version"] == about["appVersion"] == stratum.__version__
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    check_documented(values, schema)
    # Packed, it needs nothing of the checkout.
    done = helm(tmp_path, "package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (packed,) = tmp_path.glob("*.tgz")
    everything = {"monitoring": MONITORING}
    assert rendered(tmp_path, everything, packed) == rendered(tmp_path, everything)
    assert {document["apiVersion"] for document in rendered(tmp_path, everything)} & set(CUSTOM)


def check_documented(values: dict[str, Any], schema: dict[str, Any]) -> None:
    """Each value has a default and a description, and each that is described is one."""
    assert set(values) == set(schema["properties"]) - {"global"}
    for name, value in values.items():
        described = schema["properties"][name]
        assert described["description"]
        if isinstance(value, dict) and value and "properties" in described:
            check_documented(value, described)
