"""What users write: StorageClass and VolumeSnapshotClass parameters, volume attributes, capabilities. Pure.

::

    source     StorageClass, inline, static volume   HOST[:PORT]/REPOSITORY[:TAG][@DIGEST], s3://BUCKET[/PREFIX][:TAG]
                                                     [@DIGEST] (gs://, az://), or a ref of this node
    commit     StorageClass, inline, static volume   on-unpublish (or true) | never (or false, the default)
    tag        StorageClass, inline, static volume   template of the tag that such a commit gets ({time}, {commit} ...)
    readOnly   inline, static volume                 true | false (the default)
    pullPolicy StorageClass, inline, static volume   Always | IfNotPresent | Never, for a source that is not on the node
                                                     and snapshots that are restored from elsewhere
    lazy       StorageClass, inline, static volume   true: what is pulled for it comes file by file, when it is read
    prefetch   StorageClass, inline, static volume   none | profile | all: what of it is fetched before anybody asks
    history    StorageClass, inline, static volume   true: each change is kept as it is written | false (the default)
    registry   VolumeSnapshotClass, VolumeGroup-     HOST[:PORT]/REPOSITORY or s3://BUCKET[/PREFIX] that snapshots are
               SnapshotClass                         pushed to
    pause      the same                              true: pods stand still while what they write is read; the default
                                                     of groups. false is that of single snapshots

Any other key is refused, so that a misspelt one is not silently ignored; those that Kubernetes adds
(``csi.storage.k8s.io/...``, ``storage.kubernetes.io/...``), and the populator's, are for the driver's eyes only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from stratum.config import PREFETCHES
from stratum.csi.csi_pb2 import VolumeCapability
from stratum.csi.errors import invalid
from stratum.errors import UsageError
from stratum.oci.bucketname import BUCKET_PREFIXES, NETWORK
from stratum.oci.target import Target, is_loopback, parse_target
from stratum.refs import Ref, parse_lasting
from stratum.store.holders import KubernetesVolume
from stratum.sys.mountapi import (
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
)
from stratum.volumes.tagtemplate import check_template

KUBERNETES_PREFIXES = ("csi.storage.k8s.io/", "storage.kubernetes.io/")
EPHEMERAL = "csi.storage.k8s.io/ephemeral"
POD_NAME = "csi.storage.k8s.io/pod.name"
POD_NAMESPACE = "csi.storage.k8s.io/pod.namespace"
CLAIM_NAMESPACE = "csi.storage.k8s.io/pvc/namespace"
SNAPSHOT_NAMESPACE = "csi.storage.k8s.io/volumesnapshot/namespace"
GROUP_NAMESPACE = "csi.storage.k8s.io/volumegroupsnapshot/namespace"
POD_UID = "csi.storage.k8s.io/pod.uid"
POPULATED = "csi.stratum.dev/populated"
"""``true``: the source was written by whoever may write in the claim's namespace, and not by an administrator."""

T = TypeVar("T")


class PullPolicy(Enum):
    """When a registry is asked. Of what is on the node, only what was pulled from the same source counts."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


MOUNT_FLAGS = {
    "ro": MOUNT_ATTR_RDONLY,
    "rw": 0,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
    "noatime": MOUNT_ATTR_NOATIME,
}
_FLAGS = {"true": True, "false": False}
_COMMIT = {"on-unpublish": True, "true": True, "never": False, "false": False}
_POLICIES = {policy.value: policy for policy in PullPolicy}
_VALUE_MAX = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Modes = VolumeCapability.AccessMode


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of a volume, checked. Those that can be None are not given then. ``populated``: see ``POPULATED``."""

    source: Target | Ref | None = None
    commit: bool = False
    tag: str | None = None
    read_only: bool = False
    pull_policy: PullPolicy | None = None
    lazy: bool | None = None
    prefetch: str | None = None
    history: bool = False
    populated: bool = False

    def context(self) -> dict[str, str]:
        """The volume context that says the same about how it is mounted and what happens at unpublish."""
        context = {"commit": "on-unpublish"} if self.commit else {}
        if self.tag is not None:
            context["tag"] = self.tag
        if self.lazy is not None:
            context["lazy"] = "true" if self.lazy else "false"
        if self.history:
            context["history"] = "true"
        if self.populated:
            context[POPULATED] = "true"
        return context | ({"prefetch": self.prefetch} if self.prefetch is not None else {})


def volume_attributes(given: Mapping[str, str], *, read_only: bool = True, filled: bool = False) -> Attributes:
    """Attributes from StorageClass parameters (``read_only`` not allowed) or a volume context. INVALID_ARGUMENT.

    ``filled``: the volume begins as a snapshot or another volume, whatever the source of the class is."""
    known = {"source", "commit", "tag", "pullPolicy", "lazy", "prefetch", "history"}
    values = _known(given, known | ({"readOnly"} if read_only else set()))
    commit = _choice(values, "commit", _COMMIT) or False
    tag = values.get("tag")
    if tag is not None:
        if not commit:
            raise invalid(
                "the attribute tag needs commit: on-unpublish, as it is the tag that the commit gets",
                hint="the source's own tag is written as source: NAME:TAG",
            )
        field = "pod" if given.get(EPHEMERAL) == "true" else KubernetesVolume.field
        try:
            check_template(tag, field, name="name", worktree="worktree")
        except UsageError as exc:
            raise invalid(exc.message, hint=exc.hint) from None
    source = parse_source(values["source"]) if "source" in values else None
    policy = _choice(values, "pullPolicy", _POLICIES)
    if policy is not None and not isinstance(source, Target) and not filled:
        raise invalid("the attribute pullPolicy needs a source in a registry or an object store")
    lazy, prefetch = _choice(values, "lazy", _FLAGS), _choice(values, "prefetch", {each: each for each in PREFETCHES})
    if lazy and isinstance(source, Ref):
        raise invalid("the attribute lazy is for what is pulled, and the source is on the node")
    read_only_wanted = _choice(values, "readOnly", _FLAGS) or False
    history = _choice(values, "history", _FLAGS) or False
    populated = given.get(POPULATED) == "true"
    attributes = Attributes(source, commit, tag, read_only_wanted, policy, lazy, prefetch, history, populated)
    if attributes.read_only and attributes.commit:
        raise invalid("a volume cannot be readOnly and committed on unpublish")
    if attributes.read_only and attributes.history:
        raise invalid("a volume cannot be readOnly and have a history, as nothing is written in it")
    return attributes


def parse_source(text: str) -> Target | Ref:
    """A reference to a registry (with host) or an object store, or a ref. Nothing that reaches the node's files, or
    leaves TLS out, is one."""
    try:
        if text.startswith(BUCKET_PREFIXES):
            return _in_object_store(text)
        if "/" not in text:
            return parse_lasting(text)
        if "://" in text or text.startswith(("oci:", "oci-archive:")):
            raise invalid(
                f"source {text[:140]!r}: only a reference to a registry or an object store, or a ref, can be a source"
            )
        return parse_target(text)
    except UsageError as exc:
        raise invalid(f"source: {exc.message}", hint=exc.hint) from None


def _in_object_store(text: str) -> Target:
    target = parse_target(text)
    bucket = target.bucket
    if bucket is None or bucket.scheme not in NETWORK:
        schemes = ", ".join(f"{scheme}://" for scheme in NETWORK)
        raise invalid(f"source {text[:140]!r}: of object stores only {schemes} can be a source")
    scheme, _, host = (bucket.endpoint or "").partition("://")
    if scheme == "http" and not is_loopback(host.partition("/")[0]):
        raise invalid(
            f"source {text[:140]!r}: the endpoint leaves TLS out",
            hint=f'an administrator can name it in the settings of the node: [places."{bucket.root}"], and its host in '
            "insecure_registries",
        )
    return target


def snapshot_parameters(parameters: Mapping[str, str]) -> tuple[str | None, bool | None]:
    """(the place that a VolumeSnapshotClass or VolumeGroupSnapshotClass names, without tag or digest, or None; whether
    pods are to stand still, None where it does not say). INVALID_ARGUMENT."""
    values = _known(parameters, {"registry", "pause"})
    registry, pause = values.get("registry"), _choice(values, "pause", _FLAGS)
    if registry is None:
        return None, pause
    target = parse_source(registry)
    if not isinstance(target, Target) or target.digest or _has_tag(registry, target):
        raise invalid(f"registry {registry[:140]!r} is neither HOST[:PORT]/REPOSITORY nor s3://BUCKET[/PREFIX]")
    return target.place, pause


def _has_tag(text: str, target: Target) -> bool:
    return target.tag != "latest" or text.partition("?")[0].endswith(":latest")


def _known(given: Mapping[str, str], known: set[str]) -> dict[str, str]:
    values = {}
    for key, value in given.items():
        if key.startswith(KUBERNETES_PREFIXES) or key == POPULATED:
            continue
        if key not in known:
            raise invalid(f"unknown key {key[:140]!r}", hint=f"known: {', '.join(sorted(known))}")
        if len(value) > _VALUE_MAX or _CONTROL.search(value):
            raise invalid(f"the value of {key} is too long or has control characters")
        values[key] = value
    return values


def _choice(values: Mapping[str, str], key: str, choices: Mapping[str, T]) -> T | None:
    value = values.get(key)
    if value is None:
        return None
    if value not in choices:
        raise invalid(f"{key}: {value[:140]!r} is none of {', '.join(choices)}")
    return choices[value]


def check_capability(capability: VolumeCapability) -> str | None:
    """Why no volume of this driver has the capability, or None."""
    if capability.WhichOneof("access_type") != "mount":
        return "only mounted volumes are offered, no block devices"
    if capability.access_mode.mode == Modes.UNKNOWN:
        return "no access mode is given"
    if capability.access_mode.mode in (Modes.MULTI_NODE_MULTI_WRITER, Modes.MULTI_NODE_SINGLE_WRITER):
        return "a volume is local to its node: no other node can write to it"
    unknown = sorted(set(capability.mount.mount_flags) - set(MOUNT_FLAGS))
    if unknown:
        return f"mount option {unknown[0][:140]!r} is none of {', '.join(MOUNT_FLAGS)}"
    return None


def check_capabilities(capabilities: Sequence[VolumeCapability]) -> None:
    """INVALID_ARGUMENT where there are none, or one is not offered."""
    if not capabilities:
        raise invalid("no volume capability is given")
    for capability in capabilities:
        reason = check_capability(capability)
        if reason is not None:
            raise invalid(reason)


def is_reader(capability: VolumeCapability) -> bool:
    """Whether the access mode allows no writes."""
    return capability.access_mode.mode in (Modes.SINGLE_NODE_READER_ONLY, Modes.MULTI_NODE_READER_ONLY)


def mount_attributes(capability: VolumeCapability, *, read_only: bool) -> int:
    """The ``MOUNT_ATTR_*`` that the checked capability asks for."""
    flags = MOUNT_ATTR_RDONLY if read_only or is_reader(capability) else 0
    for flag in capability.mount.mount_flags:
        flags |= MOUNT_FLAGS[flag]
    return flags
