"""What is done about claims with a StratumSource, without a cluster; and whose turn it is."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from stratum.csi import csi_pb2 as csi
from stratum.csi.agenda import Agenda
from stratum.csi.attributes import CLAIM_NAMESPACE, POPULATED, Modes, volume_attributes
from stratum.csi.patterns import parse_pattern
from stratum.csi.population import (
    DRIVER,
    SELECTED_NODE,
    Claim,
    Work,
    check_class,
    check_source,
    finalizer_of,
    held,
    is_elsewhere,
    is_name,
    is_volume_of,
    read_claim,
    read_secret,
    read_source,
    request_for,
    required_bytes,
    volume_for,
    without,
    work_of,
)
from stratum.errors import NotFoundError, StratumError, UnsupportedError, UsageError

REF = {"apiGroup": "csi.stratum.dev", "kind": "StratumSource", "name": "model"}
LATE = {
    "provisioner": DRIVER,
    "volumeBindingMode": "WaitForFirstConsumer",
    "mountOptions": ["noatime"],
    "parameters": {
        "source": "registry.example.com/class",
        "lazy": "true",
        "commit": "on-unpublish",
        "csi.storage.k8s.io/fstype": "any",
        "csi.storage.k8s.io/provisioner-secret-name": "of-the-administrator",
        "csi.storage.k8s.io/node-stage-secret-name": "of-the-administrator",
    },
}
WHERE = csi.Topology(segments={"topology.csi.stratum.dev/node": "n"})


def claim(**changes: Any) -> Claim:
    spec = {
        "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"],
        "storageClassName": "late",
        "resources": {"requests": {"storage": "1.5Gi"}},
        "dataSourceRef": REF,
    }
    notes = {"volume.kubernetes.io/storage-provisioner": DRIVER, SELECTED_NODE: "n"}
    meta = {"namespace": "team", "name": "data", "uid": "u-1", "resourceVersion": "7", "annotations": notes}
    found = read_claim({"metadata": meta, "spec": spec})
    assert found is not None
    return replace(found, **changes)


MINE, THEIRS = (finalizer_of("n"),), (finalizer_of("m"),)


@pytest.mark.parametrize(
    ("changes", "work"),
    [
        ({}, Work.FILL),
        ({"finalizers": MINE}, Work.FILL),
        ({"finalizers": THEIRS}, Work.FILL),
        ({"node": ""}, Work.LOOK),
        ({"node": "m"}, Work.NONE),
        ({"provisioner": "other"}, Work.NONE),
        ({"deleted": True}, Work.NONE),
        ({"volume": "pvc-u-1"}, Work.NONE),
        ({"volume": "pvc-u-1", "finalizers": MINE}, Work.CLEAR),
        ({"deleted": True, "finalizers": MINE}, Work.CLEAR),
        ({"node": "m", "finalizers": MINE}, Work.CLEAR),
        ({"node": "", "finalizers": MINE}, Work.CLEAR),
        ({"deleted": True, "finalizers": THEIRS}, Work.NONE),
    ],
)
def test_work(changes: dict[str, Any], work: Work) -> None:
    assert work_of(claim(**changes), "n") == work


@pytest.mark.parametrize(
    "ref",
    [
        None,
        {**REF, "kind": "PersistentVolumeClaim"},
        {**REF, "apiGroup": "snapshot.storage.k8s.io"},
        {**REF, "namespace": "another"},
    ],
)
def test_other_claims_are_none_of_ours(ref: object) -> None:
    meta = {"namespace": "team", "name": "data", "uid": "u"}
    assert read_claim({"metadata": meta, "spec": {"dataSourceRef": ref}}) is None


def test_the_call_has_what_the_namespace_says_and_nothing_of_the_administrators() -> None:
    source = read_source({"spec": {"source": "registry.example.com/models/a:v1", "pullPolicy": "IfNotPresent"}})
    request = request_for(claim(), LATE, source, {"username": "u"}, WHERE)
    assert request.name == "pvc-u-1"
    assert request.capacity_range.required_bytes == 3 << 29
    assert dict(request.secrets) == {"username": "u"}
    assert dict(request.parameters) == {
        "source": "registry.example.com/models/a:v1",
        "pullPolicy": "IfNotPresent",
        "commit": "on-unpublish",
        POPULATED: "true",
        CLAIM_NAMESPACE: "team",
        "csi.storage.k8s.io/pvc/name": "data",
        "csi.storage.k8s.io/pv/name": "pvc-u-1",
    }
    context = volume_attributes(request.parameters, read_only=False).context()
    assert volume_attributes(context).populated, "also when it is mounted"
    modes = [capability.access_mode.mode for capability in request.volume_capabilities]
    assert modes == [Modes.SINGLE_NODE_MULTI_WRITER, Modes.SINGLE_NODE_SINGLE_WRITER]
    assert list(request.volume_capabilities[0].mount.mount_flags) == ["noatime"]
    made = csi.Volume(capacity_bytes=3 << 29, volume_id="a+pvc-u-1", accessible_topology=[WHERE])
    volume = volume_for(claim(), LATE, source, made)
    assert volume["spec"]["capacity"] == {"storage": "1.5Gi"}
    assert volume["spec"]["csi"] == {
        "driver": DRIVER,
        "volumeHandle": "a+pvc-u-1",
        "volumeAttributes": {},
        "fsType": "any",
    }
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    lazily = replace(source, lazy=True, secret="login")
    assert request_for(claim(), LATE, lazily, {}, WHERE).parameters["lazy"] == "true"
    stage = volume_for(claim(), LATE, lazily, made)["spec"]["csi"]["nodeStageSecretRef"]
    assert stage == {"name": "login", "namespace": "team"}
    assert is_volume_of(volume, claim())
    assert not is_volume_of(volume, claim(uid="u-2"))
    assert not is_elsewhere(volume, WHERE)
    assert is_elsewhere(volume, csi.Topology(segments={"topology.csi.stratum.dev/node": "node-2"}))
    assert required_bytes(claim(spec={"resources": {"requests": {"storage": "1m"}}})) == 1, "0 would be no limit"
    block = replace(claim(), spec={**claim().spec, "volumeMode": "Block"})
    assert request_for(block, LATE, source, {}, WHERE).volume_capabilities[0].WhichOneof("access_type") == "block"


def test_finalizers_of_others_stay() -> None:
    taken = claim(finalizers=("a/b", *THEIRS))
    assert held(taken, "n") == {"finalizers": ["a/b", *THEIRS, *MINE]}
    ours = claim(finalizers=("a/b", *MINE, *THEIRS))
    assert without(ours, "n") == {"finalizers": ["a/b", *THEIRS]}
    assert without(ours, "n", reschedule=True)["annotations"] == {SELECTED_NODE: None}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"source": "app:v1"},
        {"source": "oci:/etc"},
        {"source": "http://h/x"},
        {"source": 5},
        {"source": "h.example/x", "pullPolicy": "Sometimes"},
        {"source": "h.example/x", "secretRef": {"name": "../a"}},
        {"source": "h.example/x", "secretRef": {}},
        {"source": "h.example/x", "lazy": "true"},
    ],
)
def test_sources_that_are_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(StratumError):
        read_source({"spec": spec})


def test_who_writes_sources_names_what_is_allowed() -> None:
    source = read_source({"spec": {"source": "registry.example.com/models/a"}})
    check_source(source, (parse_pattern("registry.example.com/models/*"),))
    with pytest.raises(UsageError, match="may not have"):
        check_source(source, (parse_pattern("registry.example.com/other/*"),))
    assert read_secret({"data": {"a": "YQ==", "b": "no base64", "c": "/w==", "d": 5}}) == {"a": "a"}
    assert not any(map(is_name, ("", "..", "a/b", "a..b", "A", "a\n", "a" * 254, None)))


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (None, NotFoundError),
        ({**LATE, "provisioner": "other"}, UnsupportedError),
        ({**LATE, "volumeBindingMode": "Immediate"}, UnsupportedError),
        ({**LATE, "volumeBindingMode": None}, UnsupportedError),
    ],
)
def test_classes_that_are_refused(found: dict[str, Any] | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_class(claim(), found)
    assert check_class(claim(), LATE) == LATE


def test_one_looks_at_a_key_at_a_time_and_what_comes_meanwhile_is_not_lost() -> None:
    agenda, key = Agenda(), ("team", "data")
    agenda.note(key)
    agenda.note(key)
    assert agenda.take() == key
    taken: list[object] = []
    other = threading.Thread(target=lambda: taken.append(agenda.take()), daemon=True)
    other.start()
    agenda.note(key)
    agenda.note(("team", "more"))
    other.join(20)
    assert taken == [("team", "more")]
    agenda.done(key, None)
    assert agenda.take() == key, "it was noted while it was looked at"
    agenda.failed(key)
    agenda.note(key)
    assert agenda.take() == key, "who has news does not wait for the pause"
