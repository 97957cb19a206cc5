"""A commit sent as an ordinary OCI image, for programs that know no commits.

``podman run --mount type=image`` and Kubernetes image volumes show it, skopeo and umoci read it, and ``stratum import``
makes the same commit of it again. Where the repository has an image of another commit that the store knows, best the
parent's, its layers stay and one layer with the changes is added; otherwise the image has one layer. Blobs follow from
the trees alone, so equal pushes have equal digests.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stratum.errors import NotFoundError, RefusedError, StratumError
from stratum.oci.descriptor import Descriptor, digest_of
from stratum.oci.image import Image, ImageLayer, architecture, is_commit, read_image
from stratum.oci.mediatypes import (
    COMMIT_ANNOTATION,
    IMAGE_CONFIG_MEDIA_TYPE,
    LAYER_GZIP_MEDIA_TYPE,
    LAYER_ZSTD_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
)
from stratum.oci.remote import CollectedError, Sink, Source, Upload
from stratum.progress import Progress
from stratum.transfer.artifact import CREATED_ANNOTATION, PARENT_ANNOTATION
from stratum.transfer.imagelayer import layer_archive
from stratum.transfer.keeptag import chosen
from stratum.transfer.packwork import store_opener
from stratum.transfer.push import PushResult, Sender, file_pieces, scratch, until_all_is_there
from stratum.transfer.running import running
from stratum.tree.contents import objects_of
from stratum.tree.dump import read_dump
from stratum.tree.merge import make_layer

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.metadata import CommitMeta
    from stratum.tree.model import Directory

GZIP = "gzip"

LAYERS_MAX = 100
"""An image that would have more layers is written as one again: container engines mount some 120 to 500."""

_BASES_MAX = 8
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True)
class _Base:
    """An image that is there, and the commit that it is of."""

    image: Image
    commit: str


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def push_image(
    store: Store,
    commit: str,
    remote: Sink,
    tag: str,
    *,
    compression: str = GZIP,
    deltas: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PushResult:
    """Make ``tag`` in ``remote`` name an image of the commit; ``dry_run`` only finds out what that would send.

    ``deltas`` builds on an image that is there. Raises ``NotFoundError`` for an unknown commit, ``UnsupportedError``
    for a tree that no image can hold, and ``StratumError`` in the registry's words.
    """
    meta, dump = store.commits.meta(commit), store.commits.dump(commit)
    tree, what = read_dump(dump), f"push of {commit} to {remote.target} as an image"
    with running(f"the {what}", 1, progress) as job, scratch(store, commit, what) as (directory, need):
        need(objects_of(dump))

        def attempt(*, anew: bool) -> PushResult:
            named = _named(remote, tag)
            base = _find_base(store, remote, tag, meta) if deltas and not anew else None
            sender, spool = Sender(remote, job, dry_run=dry_run), directory / "layer"
            layers = list(base.image.layers) if base is not None else []
            there = len(layers)
            if base is None or base.commit != commit:
                layer = tree if base is None else make_layer(store.commits.tree(base.commit), tree)
                made = _write_layer(store, layer, compression, None if dry_run else spool, progress)
                sender.send(Upload(made.blob, lambda start: file_pieces(spool, start)))
                spool.unlink(missing_ok=True)
                layers.append(made)
            config = sender.send_bytes(IMAGE_CONFIG_MEDIA_TYPE, _config(meta, layers))
            data = _manifest(meta, config, layers)
            digest = digest_of(data)
            if named != digest:
                _send_manifest(sender, data, tag, named, trusts=base is not None)
            return sender.result(commit, digest, there)

        return until_all_is_there(attempt)


def _send_manifest(sender: Sender, data: bytes, tag: str, named: str | None, *, trusts: bool) -> None:
    try:
        sender.send_manifest(data, tag, named)
    except RefusedError as exc:
        if not trusts:
            raise
        raise CollectedError(exc.message, hint=exc.hint) from exc


# What is there


def _find_base(store: Store, remote: Source, tag: str, meta: CommitMeta) -> _Base | None:
    """The image to build on: of this commit, of its parent, or of any commit that the store has."""
    tags = [tag, *[other for other in chosen(remote.list_tags()) if other != tag][-_BASES_MAX:]]
    found = [base for base in (_base(store, remote, tag) for tag in tags) if base is not None]
    for wanted in (meta.metadata_hash, meta.parent_commit):
        for base in found:
            if base.commit == wanted:
                return base
    return found[0] if found else None


def _base(store: Store, remote: Source, tag: str) -> _Base | None:
    try:
        if is_commit(remote.get_manifest(tag)[0]):
            return None
        image = read_image(remote, tag)
    except StratumError:
        return None  # nothing, or something else than an image, which the push replaces
    commit = image.commit
    if commit is None or len(image.layers) >= LAYERS_MAX or not store.commits.exists(commit):
        return None
    if remote.local and not all(remote.has_blob(layer.blob) for layer in image.layers):
        return None  # files of this machine are looked at; elsewhere the place says so when the image is built on it
    return _Base(image, commit)


def _named(remote: Source, tag: str) -> str | None:
    """The digest of what the tag names; None where there is no such tag."""
    try:
        return remote.get_manifest(tag)[1]
    except NotFoundError:
        return None


# Making


def _config(meta: CommitMeta, layers: list[ImageLayer]) -> bytes:
    return _json(
        {
            "created": meta.timestamp,
            "architecture": architecture(),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        }
    )


def _manifest(meta: CommitMeta, config: Descriptor, layers: list[ImageLayer]) -> bytes:
    annotations = {COMMIT_ANNOTATION: meta.metadata_hash, CREATED_ANNOTATION: meta.timestamp}
    if meta.parent_commit is not None:
        annotations[PARENT_ANNOTATION] = meta.parent_commit
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA_TYPE,
            "config": _descriptor(config),
            "layers": [_descriptor(layer.blob) for layer in layers],
            "annotations": dict(sorted(annotations.items())),
        }
    )


def _write_layer(
    store: Store, layer: Directory, compression: str, path: Path | None, progress: Progress | None
) -> ImageLayer:
    """Make the layer's blob in the file ``path``; None: only find out what it would be."""
    archive, blob, size = hashlib.sha256(), hashlib.sha256(), 0
    compressor = _compressor(compression)

    def compressed() -> Iterator[bytes]:
        done = 0
        for piece in layer_archive(layer, store_opener(store.objects)):
            archive.update(piece)
            done += len(piece)
            if progress is not None:
                progress(done, None)
            yield compressor.compress(piece)
        yield compressor.flush()

    with open(path or os.devnull, "wb") as file:
        for piece in compressed():
            blob.update(piece)
            size += len(piece)
            file.write(piece)
    media_type = LAYER_GZIP_MEDIA_TYPE if compression == GZIP else LAYER_ZSTD_MEDIA_TYPE
    return ImageLayer(Descriptor(media_type, f"sha256:{blob.hexdigest()}", size), archive.hexdigest())


def _compressor(compression: str) -> _Compressor:
    if compression == GZIP:
        return zlib.compressobj(_GZIP_LEVEL, wbits=31)
    from stratum import zstd

    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: _ZSTD_LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    compressor: _Compressor = zstd.ZstdCompressor(options=options)
    return compressor


def _descriptor(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
