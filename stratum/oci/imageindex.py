"""``index.json`` of an OCI image layout: which manifests there are, and what their tags are.

It may come from a stranger. Entries are kept as they stand, so that a writer keeps what others wrote; the functions
here read the few fields that count, and check them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stratum.errors import DamagedError, NotFoundError, StratumError, UnsupportedError
from stratum.oci.descriptor import MANIFEST_MAX, digest_of, is_digest
from stratum.oci.mediatypes import INDEX_OF_MANIFESTS_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from stratum.oci.referrers import is_referrers_tag
from stratum.refs import DEFAULT_TAG

REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT_VERSION = b'{"imageLayoutVersion":"1.0.0"}'

Entry = dict[str, Any]


def check_version(data: bytes, where: str) -> None:
    """Refuse an ``oci-layout`` file of another version."""
    try:
        version = json.loads(data)["imageLayoutVersion"]
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if version != "1.0.0":
        raise StratumError(f"{where} is not an OCI image layout of version 1.0.0")


def read_entries(data: bytes, where: str) -> list[Entry]:
    """The entries of an ``index.json``; ``DamagedError`` names ``where`` (the file)."""
    try:
        entries = json.loads(data)["manifests"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError(f"{where} is not the index of an OCI image layout") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DamagedError(f"{where} is not the index of an OCI image layout")
    return entries


def write_entries(entries: Sequence[Entry]) -> bytes:
    """``index.json`` with these entries; ``UnsupportedError`` where it would be too large to be read again."""
    index = {"schemaVersion": 2, "mediaType": INDEX_OF_MANIFESTS_MEDIA_TYPE, "manifests": list(entries)}
    data = json.dumps(index, separators=(",", ":")).encode()
    if len(data) > MANIFEST_MAX:
        raise UnsupportedError(
            f"the {INDEX_FILE} of {len(entries)} commits has {len(data)} bytes; {MANIFEST_MAX} is the limit",
            hint="use more than one image layout or archive",
        )
    return data


def make_entry(manifest: bytes, tag: str | None) -> Entry:
    """The entry for a manifest, or an index of some, that was made here."""
    told = json.loads(manifest)
    media_type = told.get("mediaType", MANIFEST_MEDIA_TYPE)
    entry: Entry = {"mediaType": media_type, "digest": digest_of(manifest), "size": len(manifest)}
    artifact_type = told.get("artifactType")
    if artifact_type is not None:
        entry["artifactType"] = artifact_type
    if tag is not None:
        entry["annotations"] = {REF_NAME: tag}
    return entry


def tag_of(entry: Entry) -> str | None:
    """The tag of an entry, or None."""
    annotations = entry.get("annotations")
    tag = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return tag if isinstance(tag, str) else None


def digest_of_entry(entry: Entry, where: str) -> str:
    """The digest of an entry's manifest; ``DamagedError`` where there is none."""
    digest = entry.get("digest")
    if not isinstance(digest, str) or not is_digest(digest):
        raise DamagedError(f"{where}: {tag_of(entry) or 'an entry'} has no sha256 digest")
    return digest


def digest_of_tag(entries: Sequence[Entry], tag: str, where: str) -> str:
    """The digest of the manifest that ``tag`` names; ``NotFoundError``.

    The tag ``latest`` also finds the only entry of a layout, whatever its name: other tools write one unnamed image.
    """
    found = [entry for entry in entries if tag_of(entry) == tag]
    if not found and tag == DEFAULT_TAG:
        others = [entry for entry in entries if not is_referrers_tag(tag_of(entry) or "")]
        found = others if len(others) == 1 else []
    if not found:
        raise NotFoundError(f"there is no tag {tag} in {where}")
    return digest_of_entry(found[-1], where)


def tags_of(entries: Sequence[Entry]) -> list[str]:
    """The tags, sorted, but for those of indexes of referrers."""
    return sorted({tag for tag in map(tag_of, entries) if tag is not None and not is_referrers_tag(tag)})
