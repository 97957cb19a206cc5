"""What a manifest names: the blobs and manifests that must be there for it to be whole. Pure.

Manifests and indexes of the OCI image specification 1.1, of Docker, and artifact manifests of its release candidates
are read, of any media types: this decides what stays, so what is not understood is an error and never nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stratum.errors import quoted
from stratum.oci.descriptor import MalformedError, is_digest, json_object
from stratum.oci.mediatypes import (
    DOCKER_LIST_MEDIA_TYPE,
    DOCKER_MANIFEST_MEDIA_TYPE,
    INDEX_OF_MANIFESTS_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
)

_MANIFESTS = {
    MANIFEST_MEDIA_TYPE,
    INDEX_OF_MANIFESTS_MEDIA_TYPE,
    DOCKER_MANIFEST_MEDIA_TYPE,
    DOCKER_LIST_MEDIA_TYPE,
    "application/vnd.oci.artifact.manifest.v1+json",
}
_CONTENTS = (
    "application/vnd.stratum.objects.",
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
)
_OTHER_DIGEST_MAX = 1000


@dataclass(frozen=True, slots=True)
class Links:
    """What a manifest names, each by its 64 hex digits, without repetitions.

    ``contents`` are packs and layers, ``metadata`` all other blobs, ``manifests`` those of an index, which need not be
    there, and ``subject`` the manifest that it refers to, which need not be there either.
    """

    contents: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    manifests: list[str] = field(default_factory=list)
    subject: str | None = None

    @property
    def blobs(self) -> Iterator[str]:
        """All blobs that are no manifests."""
        yield from self.contents
        yield from self.metadata


def links_of(data: bytes) -> Links:
    """What the manifest or index ``data`` names. ``MalformedError`` where that cannot be told for certain."""
    value = json_object(data)
    lists = [key for key in ("layers", "blobs", "manifests") if key in value]
    if not lists and "config" not in value:
        raise MalformedError("it is neither a manifest nor an index")
    contents: dict[str, None] = {}
    metadata: dict[str, None] = {}
    manifests: dict[str, None] = {}
    for key in lists:
        entries = value[key]
        if not isinstance(entries, list):
            raise MalformedError(f"'{key}' is not a list")
        for number, entry in enumerate(entries):
            digest = _digest(entry, f"{key}[{number}]")
            if digest is None:
                continue
            media_type = entry.get("mediaType", MANIFEST_MEDIA_TYPE if key == "manifests" else "")
            if not isinstance(media_type, str):
                raise MalformedError(f"{key}[{number}] has the media type {quoted(media_type)}")
            if media_type in _MANIFESTS:
                manifests[digest] = None
            elif media_type.startswith(_CONTENTS):
                contents[digest] = None
            else:
                metadata[digest] = None
    if "config" in value and (digest := _digest(value["config"], "config")) is not None:
        metadata[digest] = None
    subject = _digest(value["subject"], "subject") if value.get("subject") is not None else None
    return Links(list(contents), list(metadata), list(manifests), subject)


def _digest(entry: Any, what: str) -> str | None:
    """The 64 hex digits of a descriptor; None for a digest of another kind, which is none of ``blobs/sha256``."""
    digest = entry.get("digest") if isinstance(entry, dict) else None
    if not isinstance(digest, str) or len(digest) > _OTHER_DIGEST_MAX:
        raise MalformedError(f"{what} is not a descriptor")
    if is_digest(digest):
        return digest.partition(":")[2]
    kind, colon, text = digest.partition(":")
    if not colon or not kind or not text or kind == "sha256":
        raise MalformedError(f"{what} has the digest {quoted(digest)}")
    return None
