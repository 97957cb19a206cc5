"""Referrers: manifests that say of which other manifest they are, and no tag names them. Pure.

A registry that knows the Referrers API (OCI distribution specification 1.1) lists them itself. For every other place
there is the specification's other way: an image index under the tag ``sha256-<64 hex digits>`` of the manifest that is
referred to.
"""

from __future__ import annotations

import json
import re
from typing import Any

from stratum.errors import DamagedError
from stratum.frozen import frozen
from stratum.oci.descriptor import (
    MANIFEST_MAX,
    Descriptor,
    MalformedError,
    digest_of,
    is_digest,
    json_object,
    read_annotations,
    read_descriptor,
)
from stratum.oci.mediatypes import INDEX_OF_MANIFESTS_MEDIA_TYPE, MANIFEST_MEDIA_TYPE

_TAG = re.compile(r"sha256-[0-9a-f]{64}")
_KEPT_MAX = 1000
"""An index has no more entries: older ones go."""


@frozen
class Referrer:
    """A manifest that refers to another; ``artifact_type`` and ``annotations`` are its own."""

    manifest: Descriptor
    artifact_type: str
    annotations: dict[str, str]


def referrers_tag(subject: str) -> str:
    """The tag of the index of those who refer to the manifest with the digest ``subject``."""
    return subject.replace(":", "-")


def is_referrers_tag(tag: str) -> bool:
    """Whether ``tag`` is none that somebody chose, but one of an index of referrers."""
    return _TAG.fullmatch(tag) is not None


def read_referrers(data: bytes, artifact_type: str, where: str) -> list[Referrer]:
    """Those of the type that the index ``data`` lists, which came from ``where``. ``DamagedError``."""
    try:
        return [found for found in map(_referrer, _entries(data)) if found.artifact_type == artifact_type]
    except MalformedError as exc:
        raise DamagedError(f"the list of referrers in {where} is not valid: {exc}") from None


def subject_of(manifest: bytes) -> str:
    """The digest of the manifest that ``manifest``, which was made here, refers to."""
    subject = json.loads(manifest)["subject"]["digest"]
    assert isinstance(subject, str)
    assert is_digest(subject)
    return subject


def with_referrer(index: bytes | None, manifest: bytes, where: str) -> bytes:
    """The index with one more entry: ``manifest``, which was made here. None: there is no index yet; one that is
    damaged raises ``DamagedError``."""
    try:
        entries = _entries(index) if index is not None else []
    except MalformedError as exc:
        raise DamagedError(f"the list of referrers in {where} is not valid: {exc}") from None
    told = json.loads(manifest)
    entry: dict[str, Any] = {"mediaType": MANIFEST_MEDIA_TYPE, "digest": digest_of(manifest), "size": len(manifest)}
    entry |= {key: told[key] for key in ("artifactType", "annotations") if key in told}
    others = [other for other in entries if isinstance(other, dict) and other.get("digest") != entry["digest"]]
    value = {
        "schemaVersion": 2,
        "mediaType": INDEX_OF_MANIFESTS_MEDIA_TYPE,
        "manifests": [*others, entry][-_KEPT_MAX:],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def _entries(data: bytes) -> list[Any]:
    entries = json_object(data).get("manifests")
    if not isinstance(entries, list):
        raise MalformedError("'manifests' is not a list")
    return entries


def _referrer(entry: object) -> Referrer:
    kinds = {MANIFEST_MEDIA_TYPE: MANIFEST_MAX, INDEX_OF_MANIFESTS_MEDIA_TYPE: MANIFEST_MAX}
    manifest = read_descriptor(entry, "a referrer", kinds)
    assert isinstance(entry, dict)
    artifact_type = entry.get("artifactType")
    annotations = read_annotations(entry.get("annotations"), "a referrer")
    return Referrer(manifest, artifact_type if isinstance(artifact_type, str) else "", annotations)
