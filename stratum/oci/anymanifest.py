"""A manifest of any kind that a registry takes: what it names, and how it is described to others. Pure.

Blobs are called by the hex digits of their digests here: 64 of SHA-256, 128 of SHA-512.

Image manifests and indexes of the OCI image specification 1.1, of whatever artifact, and Docker's of schema 2. What is
in their blobs means nothing here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256, sha512
from typing import Any

from stratum.errors import quoted
from stratum.oci.descriptor import MalformedError, json_object
from stratum.oci.mediatypes import (
    ARTIFACT_TYPE,
    COMMIT_ANNOTATION,
    DOCKER_LIST_MEDIA_TYPE,
    DOCKER_MANIFEST_MEDIA_TYPE,
    INDEX_OF_MANIFESTS_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
)
from stratum.refs import is_hash

MEDIA_TYPES = (
    MANIFEST_MEDIA_TYPE,
    INDEX_OF_MANIFESTS_MEDIA_TYPE,
    DOCKER_MANIFEST_MEDIA_TYPE,
    DOCKER_LIST_MEDIA_TYPE,
)
_NOT_PASSED_ON = (".nondistributable.", ".foreign.")
"""In media types of layers that many may not pass on, so that they need not be where their manifest is."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})|sha512:([0-9a-f]{128})")
_INDEXES = (INDEX_OF_MANIFESTS_MEDIA_TYPE, DOCKER_LIST_MEDIA_TYPE)
_SIZE_MAX = 1 << 53


@dataclass(frozen=True, slots=True)
class AnyManifest:
    """What a manifest names: ``blobs`` with their sizes in bytes, which have to be where it is, but for those that are
    ``elsewhere``; ``manifests`` of an index; the ``subject`` that it refers to, which need not be anywhere. ``commit``
    is that of an artifact of Stratum's."""

    media_type: str
    blobs: dict[str, int] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()
    manifests: tuple[str, ...] = ()
    subject: str | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    commit: str | None = None


def digest_name(digest: str) -> str | None:
    """The hex digits of a digest; None where ``digest`` is none, or of another kind."""
    match = _DIGEST.fullmatch(digest)
    return match[1] or match[2] if match else None


def digest_text(name: str) -> str:
    """The digest with these hex digits."""
    return f"sha{4 * len(name)}:{name}"


def name_of_bytes(data: bytes, like: str) -> str:
    """What ``data`` is called by a digest of the kind of ``like``, which is one."""
    return (sha512 if like.startswith("sha512:") else sha256)(data).hexdigest()


def read_any_manifest(data: bytes, media_type: str | None = None) -> AnyManifest:
    """What ``data`` says, which is to be of ``media_type`` where one is given. ``MalformedError``."""
    value = json_object(data)
    if type(value.get("schemaVersion")) is not int or value["schemaVersion"] != 2:
        raise MalformedError("'schemaVersion' is not 2")
    kind = value.get("mediaType")
    if kind is None:
        kind = INDEX_OF_MANIFESTS_MEDIA_TYPE if "manifests" in value else MANIFEST_MEDIA_TYPE
    if kind not in MEDIA_TYPES:
        raise MalformedError(f"its media type {quoted(kind)} is none that is taken")
    if media_type not in (None, kind):
        raise MalformedError(f"it says that its media type is {quoted(kind)}, and not {quoted(media_type)}")
    subject = _descriptor(value["subject"], "'subject'")[0] if value.get("subject") is not None else None
    annotations = _texts(value.get("annotations"))
    artifact_type = value.get("artifactType")
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise MalformedError("'artifactType' is no text")
    if kind in _INDEXES:
        if "layers" in value or "config" in value:
            raise MalformedError("it has both 'manifests' and blobs")
        named = _descriptors(value.get("manifests"), "'manifests'")
        manifests = tuple(name for name, _, _ in named)
        return AnyManifest(kind, {}, frozenset(), manifests, subject, artifact_type, annotations)
    if "manifests" in value:
        raise MalformedError("it has both 'manifests' and blobs")
    config = value.get("config")
    blobs = [_descriptor(config, "'config'"), *_descriptors(value.get("layers"), "'layers'")]
    if not artifact_type and isinstance(config, dict) and isinstance(config.get("mediaType"), str):
        artifact_type = config["mediaType"]
    commit = annotations.get(COMMIT_ANNOTATION, "") if value.get("artifactType") == ARTIFACT_TYPE else ""
    return AnyManifest(
        kind,
        {name: size for name, size, _ in blobs},
        frozenset(name for name, _, elsewhere in blobs if elsewhere),
        (),
        subject,
        artifact_type,
        annotations,
        commit if is_hash(commit) else None,
    )


def _descriptors(value: object, what: str) -> list[tuple[str, int, bool]]:
    if not isinstance(value, list):
        raise MalformedError(f"{what} is not a list")
    return [_descriptor(each, f"an entry of {what}") for each in value]


def _descriptor(value: Any, what: str) -> tuple[str, int, bool]:
    """The hex digits, the size, and whether the bytes are to be had elsewhere, as layers that may not be passed on."""
    if not isinstance(value, dict) or not isinstance(value.get("mediaType"), str):
        raise MalformedError(f"{what} is not a descriptor")
    digest, size = value.get("digest"), value.get("size")
    name = digest_name(digest) if isinstance(digest, str) else None
    if name is None:
        raise MalformedError(f"{what} has no sha256 or sha512 digest")
    if type(size) is not int or not 0 <= size <= _SIZE_MAX:
        raise MalformedError(f"{what} has the size {quoted(size)}")
    return name, size, bool(value.get("urls")) or any(word in value["mediaType"] for word in _NOT_PASSED_ON)


def _texts(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedError("its annotations are not texts")
    return value
