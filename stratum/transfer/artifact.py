"""The manifest of a commit in a registry: building it and, strictly, reading one that came from outside.

An OCI image manifest 1.1 with ``artifactType`` ``application/vnd.stratum.commit.v1``::

    config    metadata.toml of the commit
    layers    tree+ (index pack verity?)*

The tree layers, decompressed and joined, are the canonical dump. Each pack follows the index that describes it,
and that of a large object may be followed by the hashes of its parts (``composefs.verity``), by which each part can be
checked alone; a reader needs none. The
manifest is compact JSON with a fixed key order, so equal commits pushed from anywhere have equal manifests.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stratum.errors import DamagedError, StratumError, UnsupportedError, quoted
from stratum.frozen import frozen
from stratum.oci.descriptor import (
    MANIFEST_MAX,
    Descriptor,
    MalformedError,
    json_object,
    read_annotations,
    read_descriptor,
)
from stratum.oci.mediatypes import (
    ARTIFACT_TYPE,
    COMMIT_ANNOTATION,
    INDEX_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
    VERITY_MEDIA_TYPE,
)
from stratum.refs import is_hash
from stratum.store.lineage import ANCESTORS_MAX
from stratum.store.metadata import METADATA_MAX, CommitMeta

if TYPE_CHECKING:
    from stratum.transfer.packs import PackIndex

CONFIG_MEDIA_TYPE = "application/vnd.stratum.commit.metadata.v1+toml"
TREE_MEDIA_TYPE = "application/vnd.stratum.tree.v1.dump+zstd"
PACK_MEDIA_TYPE = "application/vnd.stratum.objects.v1.tar+zstd"

CREATED_ANNOTATION = "org.opencontainers.image.created"
TITLE_ANNOTATION = "org.opencontainers.image.title"
PARENT_ANNOTATION = "dev.stratum.parent"
ANCESTORS_ANNOTATION = "dev.stratum.ancestors"

SIZE_MAX = {
    CONFIG_MEDIA_TYPE: METADATA_MAX,
    TREE_MEDIA_TYPE: 16 << 20,
    INDEX_MEDIA_TYPE: 64 << 20,
    PACK_MEDIA_TYPE: 1 << 44,
    VERITY_MEDIA_TYPE: 32 << 20,
}
"""Largest blob of each kind, in bytes as stored."""

_END = "end"


@frozen
class PackLayers:
    """A pack and the index that tells where its objects are; ``verity`` are the hashes of the parts of its object."""

    index: Descriptor
    pack: Descriptor
    verity: Descriptor | None = None

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All of them, in the order of the manifest."""
        return (self.index, self.pack) if self.verity is None else (self.index, self.pack, self.verity)


@frozen
class Pack:
    """A pack somewhere, and what is where in it."""

    layers: PackLayers
    index: PackIndex


@dataclass(frozen=True, slots=True)
class Manifest:
    """A commit's manifest. ``created`` is the commit's timestamp (RFC 3339); ``parent`` is a commit hash or None.

    ``ancestors`` are commit hashes, the nearest first; ``whole``: the last of them has no parent.
    """

    commit: str
    created: str
    config: Descriptor
    trees: tuple[Descriptor, ...]
    packs: tuple[PackLayers, ...]
    parent: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    ancestors: tuple[str, ...] = ()
    whole: bool = False

    @property
    def blobs(self) -> list[Descriptor]:
        """Every blob the manifest refers to, in its order."""
        return [self.config, *self.trees, *(blob for pack in self.packs for blob in pack.blobs)]


def told_ancestors(manifest: Manifest) -> tuple[str, ...]:
    """What the manifest tells to be ancestors of its commit."""
    return (*((manifest.parent,) if manifest.parent is not None else ()), *manifest.ancestors)


def write_manifest(manifest: Manifest) -> bytes:
    """The manifest's bytes; ``UnsupportedError`` where it would be larger than registries take."""
    annotations = {**manifest.annotations, CREATED_ANNOTATION: manifest.created, COMMIT_ANNOTATION: manifest.commit}
    if manifest.parent is not None:
        annotations[PARENT_ANNOTATION] = manifest.parent
    if manifest.ancestors:
        annotations[ANCESTORS_ANNOTATION] = " ".join((*manifest.ancestors, *([_END] if manifest.whole else [])))
    layers = [_layer(tree, f"tree-{n:05}.dump.zst") for n, tree in enumerate(manifest.trees)]
    for n, pack in enumerate(manifest.packs):
        titles = (f"pack-{n:05}.{kind}" for kind in ("index.zst", "tar.zst", "verity"))
        layers += (_layer(blob, title) for blob, title in zip(pack.blobs, titles, strict=False))
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_MEDIA_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _layer(manifest.config, None),
        "layers": layers,
        "annotations": dict(sorted(annotations.items())),
    }
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    if len(data) > MANIFEST_MAX:
        raise UnsupportedError(
            f"the commit needs a manifest of {len(data)} bytes; registries take {MANIFEST_MAX}",
            hint="split the data into several strata",
        )
    return data


def _layer(blob: Descriptor, title: str | None) -> dict[str, object]:
    value: dict[str, object] = {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}
    if title is not None:
        value["annotations"] = {TITLE_ANNOTATION: title}
    return value


def read_manifest(data: bytes, where: str) -> Manifest:
    """The commit's manifest in ``data``, which came from ``where`` (named in errors).

    Raises ``DamagedError`` for anything malformed or larger than allowed, and ``StratumError`` for a well-formed
    manifest of something that is not a commit.
    """
    try:
        return _read_manifest(data)
    except MalformedError as exc:
        raise DamagedError(f"the manifest of {where} is not valid: {exc}") from None
    except _NotACommitError as exc:
        raise StratumError(f"{where} is not a Stratum commit: {exc}") from None


def read_metadata(data: bytes, manifest: Manifest, where: str) -> CommitMeta:
    """What ``data``, the config of ``manifest``, which came from ``where``, says of the commit. ``DamagedError``."""
    meta = CommitMeta.from_toml(data, f"the metadata of {where}")
    if meta.metadata_hash != manifest.commit:
        raise DamagedError(f"{where}: manifest and metadata name different commits")
    return meta


class _NotACommitError(ValueError):
    """A manifest of something else; the text says of what."""


def _read_manifest(data: bytes) -> Manifest:
    value = json_object(data)
    _check_kind(value)
    config = read_descriptor(value.get("config"), "config", _only(CONFIG_MEDIA_TYPE))
    layers = value.get("layers")
    if not isinstance(layers, list):
        raise MalformedError("'layers' is not a list")
    trees, packs = _read_layers(layers)
    annotations = read_annotations(value.get("annotations"), "the manifest")
    commit, parent = annotations.get(COMMIT_ANNOTATION, ""), annotations.get(PARENT_ANNOTATION)
    if not is_hash(commit):
        raise MalformedError(f"annotation {COMMIT_ANNOTATION} is not a commit hash")
    if parent is not None and not is_hash(parent):
        raise MalformedError(f"annotation {PARENT_ANNOTATION} is not a commit hash")
    ancestors, whole = _read_ancestors(annotations.get(ANCESTORS_ANNOTATION), commit)
    own = (CREATED_ANNOTATION, COMMIT_ANNOTATION, PARENT_ANNOTATION, ANCESTORS_ANNOTATION)
    others = {key: text for key, text in annotations.items() if key not in own}
    created = annotations.get(CREATED_ANNOTATION, "")
    return Manifest(commit, created, config, trees, packs, parent, others, ancestors, whole)


def _read_ancestors(text: str | None, commit: str) -> tuple[tuple[str, ...], bool]:
    """The ancestors that a manifest of ``commit`` names, and whether the last has no parent."""
    if text is None:
        return (), False
    words = text.split(" ", ANCESTORS_MAX + 1)
    whole = words[-1] == _END
    ancestors = tuple(words[:-1] if whole else words)
    if not 0 < len(ancestors) <= ANCESTORS_MAX or not all(map(is_hash, ancestors)):
        raise MalformedError(f"annotation {ANCESTORS_ANNOTATION} is no list of at most {ANCESTORS_MAX} commit hashes")
    if len({commit, *ancestors}) <= len(ancestors):
        raise MalformedError(f"annotation {ANCESTORS_ANNOTATION} names a commit twice, or the commit itself")
    return ancestors, whole


def _check_kind(value: dict[str, Any]) -> None:
    if "manifests" in value:
        if "layers" in value or "config" in value:
            raise MalformedError("it has both 'layers' and 'manifests'")
        raise _NotACommitError("it is an index of several images")
    if type(value.get("schemaVersion")) is not int or value["schemaVersion"] != 2:
        raise MalformedError("'schemaVersion' is not 2")
    media_type, artifact_type = value.get("mediaType"), value.get("artifactType")
    if artifact_type != ARTIFACT_TYPE:
        raise _NotACommitError(f"its artifactType is {quoted(artifact_type)}" if artifact_type else "it is an image")
    if media_type != MANIFEST_MEDIA_TYPE:
        raise MalformedError(f"its media type is {quoted(media_type)}")


def _read_layers(layers: Sequence[object]) -> tuple[tuple[Descriptor, ...], tuple[PackLayers, ...]]:
    allowed = _only(TREE_MEDIA_TYPE, INDEX_MEDIA_TYPE, PACK_MEDIA_TYPE, VERITY_MEDIA_TYPE)
    blobs = [read_descriptor(layer, f"layer {n}", allowed) for n, layer in enumerate(layers)]
    # Two files that differ in the zeros at their end can have the same hashes.
    distinct = [blob.digest for blob in blobs if blob.media_type != VERITY_MEDIA_TYPE]
    if len(set(distinct)) != len(distinct):
        raise MalformedError("a layer is listed twice")
    titles = [layer.get("annotations", {}).get(TITLE_ANNOTATION) for layer in layers if isinstance(layer, dict)]
    named = [title for title in titles if title is not None]
    if len(set(named)) != len(named):
        raise MalformedError("two layers have the same title")
    trees = [blob for blob in blobs if blob.media_type == TREE_MEDIA_TYPE]
    if not trees or blobs[: len(trees)] != trees:
        raise MalformedError("the tree layers do not come first")
    return tuple(trees), tuple(_read_packs(blobs[len(trees) :]))


def _read_packs(blobs: list[Descriptor]) -> Iterator[PackLayers]:
    """The packs among the layers behind the trees."""
    rest = deque(blobs)
    while rest:
        index, pack = rest.popleft(), rest.popleft() if rest else None
        if pack is None or (index.media_type, pack.media_type) != (INDEX_MEDIA_TYPE, PACK_MEDIA_TYPE):
            raise MalformedError("packs and their indexes are not in pairs")
        verity = rest.popleft() if rest and rest[0].media_type == VERITY_MEDIA_TYPE else None
        yield PackLayers(index, pack, verity)


def _only(*media_types: str) -> dict[str, int]:
    return {media_type: SIZE_MAX[media_type] for media_type in media_types}
