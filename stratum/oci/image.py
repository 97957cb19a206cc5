"""Ordinary container images: their manifests, read without trust and written.

OCI image-spec 1.1 and Docker's image manifest version 2, schema 2. Of an index of several platforms the image for
Linux on this machine's processor is taken. Layers are tar archives, plain or compressed; that of an image made from a
commit is named by the annotation ``dev.stratum.commit``.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stratum.errors import DamagedError, StratumError, UnsupportedError, quoted
from stratum.oci.descriptor import (
    Descriptor,
    MalformedError,
    is_digest,
    json_object,
    read_annotations,
    read_descriptor,
)
from stratum.oci.mediatypes import (
    ARTIFACT_TYPE,
    COMMIT_ANNOTATION,
    DOCKER_MANIFEST_MEDIA_TYPE,
    IMAGE_CONFIG_MEDIA_TYPE,
    LAYER_GZIP_MEDIA_TYPE,
    LAYER_ZSTD_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
)
from stratum.oci.remote import Source, fetch
from stratum.refs import is_hash

_CONFIG_MAX = 8 << 20
_LAYER_MAX = 1 << 44
_CONFIGS = {
    IMAGE_CONFIG_MEDIA_TYPE: _CONFIG_MAX,
    "application/vnd.docker.container.image.v1+json": _CONFIG_MAX,
}
_LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": _LAYER_MAX,
    LAYER_GZIP_MEDIA_TYPE: _LAYER_MAX,
    LAYER_ZSTD_MEDIA_TYPE: _LAYER_MAX,
    "application/vnd.docker.image.rootfs.diff.tar": _LAYER_MAX,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": _LAYER_MAX,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": _LAYER_MAX,
}
_LAYERS_MAX = 1000
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_DIFF_ID = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ImageLayer:
    """A layer: the blob, and the sha256 (64 hex digits) of its uncompressed bytes."""

    blob: Descriptor
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image: lowest layer first. ``commit`` is the one that it was made from, as its maker says."""

    digest: str
    layers: tuple[ImageLayer, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def commit(self) -> str | None:
        commit = self.annotations.get(COMMIT_ANNOTATION, "")
        return commit if is_hash(commit) else None


def architecture() -> str:
    """This machine's processor as images name it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def is_commit(manifest: bytes) -> bool:
    """Whether a manifest says that it is a commit's and no image's; not whether it is a valid one."""
    try:
        return json_object(manifest).get("artifactType") == ARTIFACT_TYPE
    except MalformedError:
        return True  # whoever reads it as a commit's says what is wrong


def read_image(remote: Source, reference: str) -> Image:
    """The image that ``reference`` (a tag or digest) is in ``remote``, its manifest and configuration verified.

    Raises ``NotFoundError``, ``DamagedError`` for what is malformed, ``UnsupportedError`` where there is none for
    this machine, and ``StratumError`` for something else than an image.
    """
    where = str(remote.target)
    data, digest = remote.get_manifest(reference)
    try:
        value = json_object(data)
        if "manifests" in value:
            data, digest = remote.get_manifest(_choose(value, where))
            value = json_object(data)
        config, blobs, annotations = _read_manifest(value, where)
        diff_ids = _diff_ids(fetch(remote, config))
    except MalformedError as exc:
        raise DamagedError(f"the image {where} is not valid: {exc}") from None
    if len(diff_ids) != len(blobs):
        raise DamagedError(f"the image {where} has {len(blobs)} layers, and {len(diff_ids)} in its configuration")
    layers = tuple(ImageLayer(blob, diff_id) for blob, diff_id in zip(blobs, diff_ids, strict=True))
    return Image(digest, layers, annotations)


def _choose(index: Mapping[str, Any], where: str) -> str:
    """The digest of the image for this machine."""
    entries = index["manifests"]
    if "layers" in index or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MalformedError("its index is malformed")
    found: dict[str, str] = {}
    for entry in entries:
        place = entry.get("platform")
        place = place if isinstance(place, dict) else {}
        digest = entry.get("digest")
        if not isinstance(digest, str) or not is_digest(digest):
            raise MalformedError("its index has an entry without a sha256 digest")
        name = f"{place.get('os', 'linux')}/{place.get('architecture', 'unknown')}"
        if not name.startswith("unknown/"):  # build records, which are no images
            found.setdefault(name, digest)
    wanted = f"linux/{architecture()}"
    if wanted in found:
        return found[wanted]
    if len(found) == 1:
        return next(iter(found.values()))
    raise UnsupportedError(f"{where} has no image for {wanted}; it has {quoted(', '.join(sorted(found)))}")


def _read_manifest(value: Mapping[str, Any], where: str) -> tuple[Descriptor, list[Descriptor], dict[str, str]]:
    media_type = value.get("mediaType", MANIFEST_MEDIA_TYPE)
    layers = value.get("layers")
    if value.get("schemaVersion") != 2 or "manifests" in value or not isinstance(layers, list):
        raise MalformedError("it has no image manifest")
    config = value.get("config")
    config_type = config.get("mediaType") if isinstance(config, dict) else None
    if media_type not in (MANIFEST_MEDIA_TYPE, DOCKER_MANIFEST_MEDIA_TYPE) or config_type not in _CONFIGS:
        kind = value.get("artifactType") or config_type
        raise StratumError(f"{where} is neither a commit nor a container image: its type is {quoted(kind)}")
    if len(layers) > _LAYERS_MAX:
        raise MalformedError(f"it has more than {_LAYERS_MAX} layers")
    blobs = [read_descriptor(layer, f"layer {n}", _LAYERS) for n, layer in enumerate(layers)]
    return (
        read_descriptor(config, "config", _CONFIGS),
        blobs,
        read_annotations(value.get("annotations"), "the manifest"),
    )


def _diff_ids(config: bytes) -> list[str]:
    try:
        rootfs = json.loads(config)["rootfs"]
        diff_ids = rootfs["diff_ids"] or []
        matches = [_DIFF_ID.fullmatch(diff_id) for diff_id in diff_ids]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MalformedError("its configuration has no list of layers") from None
    if rootfs.get("type") != "layers" or not all(matches):
        raise MalformedError("its configuration has a malformed list of layers")
    return [match[1] for match in matches if match]
