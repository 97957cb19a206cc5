"""Claims that are to be filled from a StratumSource: what is done about one, and the PersistentVolume it gets. Pure.

A claim names its source as ``dataSourceRef: {apiGroup: csi.stratum.dev, kind: StratumSource, name: NAME}``. The API
server, the scheduler and csi-provisioner know nothing of that kind and leave the claim alone; so what csi-provisioner
does for other claims is done here for those, on the node that the scheduler has selected. Who may write objects in a
namespace writes sources, claims and their annotations: all that is in them is checked, and none of it names anything in
another namespace.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

from google.protobuf.json_format import MessageToDict

from stratum.csi import csi_pb2 as csi
from stratum.csi.attributes import CLAIM_NAMESPACE, KUBERNETES_PREFIXES, POPULATED, Modes, PullPolicy, parse_source
from stratum.csi.patterns import SourcePattern
from stratum.errors import NotFoundError, UnsupportedError, UsageError, quoted
from stratum.oci.target import Target

GROUP = "csi.stratum.dev"
VERSION = "v1beta1"
KIND = "StratumSource"

DRIVER = "csi.stratum.dev"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
_PROVISIONERS = ("volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner")
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_REMOVED_WITH = "volume.kubernetes.io/provisioner-deletion-secret-"
_FS_TYPE = "csi.storage.k8s.io/fstype"
_LATE = "WaitForFirstConsumer"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_MAX = 253
_SOURCE_MAX = 1024
_MODES = {
    "ReadWriteOnce": Modes.SINGLE_NODE_MULTI_WRITER,
    "ReadWriteOncePod": Modes.SINGLE_NODE_SINGLE_WRITER,
    "ReadOnlyMany": Modes.MULTI_NODE_READER_ONLY,
    "ReadWriteMany": Modes.MULTI_NODE_MULTI_WRITER,
}
Object = Mapping[str, Any]


class Work(Enum):
    """What a node's populator has to do about a claim."""

    NONE = "nothing"
    FILL = "make its volume here"
    CLEAR = "let go of it, with what was made for it"
    LOOK = "see whether anybody will ever select a node"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim with a StratumSource called ``source``. ``node`` is the selected one, ``volume`` the PersistentVolume
    that it is bound to, ``version`` its resourceVersion; each may be empty. ``spec`` is as the API server has it."""

    namespace: str
    name: str
    uid: str
    version: str
    source: str
    node: str
    provisioner: str
    volume: str
    storage_class: str
    deleted: bool
    finalizers: tuple[str, ...]
    spec: Object

    @property
    def volume_name(self) -> str:
        """The name of its PersistentVolume, and of the volume for the driver: csi-provisioner would choose the same."""
        return f"pvc-{self.uid}"


@dataclass(frozen=True, slots=True)
class Source:
    """What a StratumSource says."""

    target: Target
    text: str
    pull_policy: str | None
    secret: str | None
    lazy: bool = False


def is_name(text: object) -> bool:
    """Whether it is a name of an object, and so a part of a path in the API and nothing more."""
    return isinstance(text, str) and len(text) <= _NAME_MAX and _NAME.fullmatch(text) is not None


def finalizer_of(node: str) -> str:
    """What keeps a claim from going while ``node`` may have a volume for it that no PersistentVolume tells of."""
    return f"populating.{DRIVER}/{node}"


def read_claim(found: Object) -> Claim | None:
    """The claim, or None where it has no StratumSource of its own namespace."""
    meta, spec = _table(found, "metadata"), _table(found, "spec")
    ref = _table(spec, "dataSourceRef") or _table(spec, "dataSource")
    if ref.get("apiGroup") != GROUP or ref.get("kind") != KIND or ref.get("namespace"):
        return None
    if not all(isinstance(meta.get(key), str) and meta[key] for key in ("namespace", "name", "uid")):
        return None
    notes = _table(meta, "annotations")
    finalizers = meta.get("finalizers")
    return Claim(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        version=_text(meta, "resourceVersion"),
        source=_text(ref, "name"),
        node=_text(notes, SELECTED_NODE),
        provisioner=next((_text(notes, key) for key in _PROVISIONERS if key in notes), ""),
        volume=_text(spec, "volumeName"),
        storage_class=_text(spec, "storageClassName"),
        deleted=bool(meta.get("deletionTimestamp")),
        finalizers=tuple(each for each in finalizers if isinstance(each, str)) if isinstance(finalizers, list) else (),
        spec=spec,
    )


def work_of(claim: Claim, node: str) -> Work:
    """What the populator of ``node`` has to do about it."""
    wanted = claim.provisioner == DRIVER and not claim.volume and not claim.deleted
    if finalizer_of(node) in claim.finalizers and not (wanted and claim.node == node):
        return Work.CLEAR
    if not wanted or claim.node not in ("", node):
        return Work.NONE
    return Work.FILL if claim.node else Work.LOOK


def read_source(found: Object) -> Source:
    """What the StratumSource says. ``UsageError`` where the driver could do nothing with it."""
    spec = _table(found, "spec")
    text, policy = spec.get("source"), spec.get("pullPolicy")
    if not isinstance(text, str) or not 0 < len(text) <= _SOURCE_MAX or not text.isprintable():
        raise UsageError("spec.source is missing, too long, or has control characters")
    target = parse_source(text)
    if not isinstance(target, Target):
        raise UsageError(
            f"spec.source {quoted(text)} is no reference to a registry or an object store",
            hint="write HOST/REPOSITORY[:TAG][@DIGEST] or s3://BUCKET[/PREFIX][:TAG]",
        )
    if policy is not None and policy not in [each.value for each in PullPolicy]:
        raise UsageError(f"spec.pullPolicy {quoted(policy)} is none of {', '.join(each.value for each in PullPolicy)}")
    secret = None
    if spec.get("secretRef") is not None:
        secret = _table(spec, "secretRef").get("name")
        if not is_name(secret):
            raise UsageError(f"spec.secretRef.name {quoted(secret)} is no name of a secret")
    lazy = spec.get("lazy", False)
    if not isinstance(lazy, bool):
        raise UsageError(f"spec.lazy {quoted(lazy)} is neither true nor false")
    return Source(target, text, policy, secret, lazy)


def read_secret(found: Object) -> dict[str, str]:
    """What is in a secret; values that are no text are left out."""
    data = {str(key): _decoded(value) for key, value in _table(found, "data").items()}
    return {key: value for key, value in data.items() if value is not None}


def _decoded(value: object) -> str | None:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8") if isinstance(value, str) else None
    except ValueError:
        return None


def check_source(source: Source, patterns: tuple[SourcePattern, ...]) -> None:
    """``UsageError`` where nobody has allowed it."""
    if not any(pattern.allows(source.target) for pattern in patterns):
        raise UsageError(
            f"a StratumSource may not have {source.text} as its source",
            hint="--populate-source of stratum-csi-populator says what it may have",
        )


def check_class(claim: Claim, storage_class: Object | None) -> Object:
    """The class of the claim, where its volumes can be filled; ``StratumError`` else."""
    called = f"StorageClass {claim.storage_class}"
    if storage_class is None:
        raise NotFoundError(f"there is no {called}")
    if storage_class.get("provisioner") != DRIVER:
        raise UnsupportedError(f"{called} is not one of {DRIVER}")
    if storage_class.get("volumeBindingMode") != _LATE:
        raise UnsupportedError(
            f"{called} binds at once, and a claim with a {KIND} is filled on the node of its first pod",
            hint=f"use a class with volumeBindingMode: {_LATE}",
        )
    if claim.spec.get("selector"):
        raise UnsupportedError("a claim with a selector cannot be filled")
    if claim.spec.get("volumeAttributesClassName"):
        raise UnsupportedError("volumes have no attributes that a VolumeAttributesClass could change")
    return storage_class


def required_bytes(claim: Claim) -> int:
    """What the claim asks for, a part of a byte as a whole one: nothing would be no limit."""
    from kubernetes.utils.quantity import parse_quantity

    asked = _table(_table(claim.spec, "resources"), "requests").get("storage", "0")
    try:
        quantity: Decimal = parse_quantity(asked)
        return math.ceil(quantity)
    except (ValueError, OverflowError) as exc:
        raise UsageError(f"spec.resources.requests.storage: {exc}") from None


def request_for(
    claim: Claim, storage_class: Object, source: Source, secrets: Mapping[str, str], where: csi.Topology
) -> csi.CreateVolumeRequest:
    """The call that makes the volume. Of the class counts what does not say what the volume begins as; its secrets are
    for the class's own source, and go with no other."""
    given = _table(storage_class, "parameters")
    parameters = {key: str(value) for key, value in given.items() if not key.startswith(KUBERNETES_PREFIXES)}
    for key in ("source", "pullPolicy", "lazy"):
        parameters.pop(key, None)
    parameters |= {
        "source": source.text,
        POPULATED: "true",
        CLAIM_NAMESPACE: claim.namespace,
        "csi.storage.k8s.io/pvc/name": claim.name,
        "csi.storage.k8s.io/pv/name": claim.volume_name,
    }
    if source.pull_policy is not None:
        parameters["pullPolicy"] = source.pull_policy
    if source.lazy:
        parameters["lazy"] = "true"
    return csi.CreateVolumeRequest(
        name=claim.volume_name,
        capacity_range=csi.CapacityRange(required_bytes=required_bytes(claim)),
        volume_capabilities=_capabilities(claim, storage_class),
        parameters=parameters,
        secrets=secrets,
        accessibility_requirements=csi.TopologyRequirement(requisite=[where], preferred=[where]),
    )


def _capabilities(claim: Claim, storage_class: Object) -> list[csi.VolumeCapability]:
    modes = claim.spec.get("accessModes") or []
    unknown = [mode for mode in modes if mode not in _MODES]
    if unknown or not modes:
        raise UsageError(f"access mode {quoted(unknown[0] if unknown else '')} is not known")
    flags, found = _flags(storage_class), []
    for mode in modes:
        capability = csi.VolumeCapability(access_mode=csi.VolumeCapability.AccessMode(mode=_MODES[mode]))
        if claim.spec.get("volumeMode") == "Block":
            capability.block.SetInParent()
        else:
            mount = csi.VolumeCapability.MountVolume(fs_type=_fs_type(storage_class), mount_flags=flags)
            capability.mount.CopyFrom(mount)
        found.append(capability)
    return found


def volume_for(claim: Claim, storage_class: Object, source: Source, made: csi.Volume) -> dict[str, Any]:
    """The PersistentVolume of what CreateVolume ``made``, as csi-provisioner, which is to delete it, would write it.
    What is lazy is read with the secret of the source for as long as it is mounted."""
    asked = required_bytes(claim)
    requests = _table(_table(claim.spec, "resources"), "requests")
    storage = requests["storage"] if made.capacity_bytes in (0, asked) and "storage" in requests else None
    driver: dict[str, Any] = {"driver": DRIVER, "volumeHandle": made.volume_id}
    driver["volumeAttributes"] = dict(made.volume_context)
    if source.lazy and source.secret is not None:
        driver["nodeStageSecretRef"] = {"name": source.secret, "namespace": claim.namespace}
    if fs_type := _fs_type(storage_class):
        driver["fsType"] = fs_type
    spec: dict[str, Any] = {
        "accessModes": list(claim.spec["accessModes"]),
        "capacity": {"storage": storage or str(made.capacity_bytes)},
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": claim.namespace,
            "name": claim.name,
            "uid": claim.uid,
            "resourceVersion": claim.version,
        },
        "csi": driver,
        "mountOptions": _flags(storage_class),
        "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy") or "Delete",
        "storageClassName": claim.storage_class,
        "volumeMode": claim.spec.get("volumeMode") or "Filesystem",
    }
    if affinity := _affinity(made.accessible_topology):
        spec["nodeAffinity"] = affinity
    notes = {_PROVISIONED_BY: DRIVER, f"{_REMOVED_WITH}name": "", f"{_REMOVED_WITH}namespace": ""}
    meta = {"name": claim.volume_name, "annotations": notes}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec}


def is_volume_of(volume: Object | None, claim: Claim) -> bool:
    """Whether it is the PersistentVolume that was made for this claim, and no other of its name."""
    return volume is not None and _table(_table(volume, "spec"), "claimRef").get("uid") == claim.uid


def is_elsewhere(volume: Object | None, where: csi.Topology) -> bool:
    """Whether the PersistentVolume is, as its affinity says, on another node than that at ``where``: handles are the
    same on all."""
    affinity = _table(_table(volume or {}, "spec"), "nodeAffinity")
    return bool(affinity) and affinity != _affinity([where])


def without(claim: Claim, node: str, *, reschedule: bool = False) -> dict[str, Any]:
    """The change of the claim's metadata by which the node lets go of it; with ``reschedule`` so that the scheduler
    selects another."""
    finalizers = [each for each in claim.finalizers if each != finalizer_of(node)]
    return {"finalizers": finalizers} | ({"annotations": {SELECTED_NODE: None}} if reschedule else {})


def held(claim: Claim, node: str) -> dict[str, Any]:
    """The change of the claim's metadata by which the node takes it on."""
    return {"finalizers": [*claim.finalizers, finalizer_of(node)]}


def _affinity(places: Iterable[csi.Topology]) -> dict[str, Any]:
    terms = [
        {"matchExpressions": [{"key": key, "operator": "In", "values": [value]} for key, value in segments.items()]}
        for segments in (MessageToDict(each).get("segments", {}) for each in places)
        if segments
    ]
    return {"required": {"nodeSelectorTerms": terms}} if terms else {}


def _fs_type(storage_class: Object) -> str:
    return _text(_table(storage_class, "parameters"), _FS_TYPE)


def _flags(storage_class: Object) -> list[str]:
    options = storage_class.get("mountOptions")
    return [str(option) for option in options] if isinstance(options, list) else []


def _table(found: Object, key: str) -> Mapping[str, Any]:
    value = found.get(key)
    return value if isinstance(value, Mapping) else {}


def _text(found: Object, key: str) -> str:
    value = found.get(key)
    return value if isinstance(value, str) else ""
