"""A commit sent as an ordinary OCI image, for programs that know no commits.

``podman run --mount type=image`` and Kubernetes image volumes show it, skopeo and umoci read it, and ``stratum import``
makes the same commit of it again. Where the repository has an image of another commit that the store knows, best the
parent's, its layers stay and one layer with the changes is added; otherwise the image has one layer. Blobs follow from
the trees alone, so equal pushes have equal digests.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import fdopen
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from stratum.errors import NotFoundError, StratumError
from stratum.oci.descriptor import Descriptor, describe, digest_of
from stratum.oci.image import Image, ImageLayer, architecture, is_commit, read_image
from stratum.oci.mediatypes import (
    COMMIT_ANNOTATION,
    IMAGE_CONFIG_MEDIA_TYPE,
    LAYER_GZIP_MEDIA_TYPE,
    LAYER_ZSTD_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
)
from stratum.oci.remote import Sink, Upload
from stratum.progress import Progress
from stratum.transfer.artifact import CREATED_ANNOTATION, PARENT_ANNOTATION
from stratum.transfer.imagelayer import layer_archive
from stratum.transfer.push import PushResult, file_pieces, scratch
from stratum.tree.contents import objects_of
from stratum.tree.dump import read_dump
from stratum.tree.merge import make_layer

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.metadata import CommitMeta
    from stratum.tree.model import Directory

GZIP = "gzip"
ZSTD = "zstd"

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
    meta = store.commits.meta(commit)
    dump = store.commits.dump(commit)
    tree = read_dump(dump)
    with scratch(store, f"push of {commit} to {remote.target} as an image", objects_of(dump)) as directory:
        job = _ImagePush(store, directory / "layer", remote, meta, tree, compression, dry_run, progress)
        return job.run(tag, job.find_base(tag) if deltas else None)


class _ImagePush:
    """One push of one commit."""

    def __init__(
        self,
        store: Store,
        spool: Path,
        remote: Sink,
        meta: CommitMeta,
        tree: Directory,
        compression: str,
        dry_run: bool,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._tree = tree
        self._spool = spool
        self._remote = remote
        self._meta = meta
        self._compression = compression
        self._dry_run = dry_run
        self._progress = progress
        self._sent = [0, 0]
        self._reused = 0

    def run(self, tag: str, base: _Base | None) -> PushResult:
        tree = self._tree
        layers = list(base.image.layers) if base is not None else []
        self._reused += len(layers)
        if base is None:
            layers.append(self._send_layer(tree))
        elif base.commit != self._meta.metadata_hash:
            layers.append(self._send_layer(make_layer(self._store.commits.tree(base.commit), tree)))
        config_data = self._config(layers)
        config = describe(IMAGE_CONFIG_MEDIA_TYPE, config_data)
        self._send(Upload.of_bytes(config, config_data))
        data = self._manifest(config, layers)
        digest = digest_of(data)
        if not self._is_there(tag, digest):
            if not self._dry_run:
                self._remote.put_manifest(data, tag)
            self._count(len(data))
        return PushResult(
            self._meta.metadata_hash, str(self._remote.target), digest, self._sent[0], self._sent[1], self._reused
        )

    # What is there

    def find_base(self, tag: str) -> _Base | None:
        """The image to build on: of this commit, of its parent, or of any commit that the store has."""
        tags = [tag, *[other for other in self._remote.list_tags() if other != tag][-_BASES_MAX:]]
        found = [base for base in map(self._base, tags) if base is not None]
        for wanted in (self._meta.metadata_hash, self._meta.parent_commit):
            for base in found:
                if base.commit == wanted:
                    return base
        return found[0] if found else None

    def _base(self, tag: str) -> _Base | None:
        try:
            if is_commit(self._remote.get_manifest(tag)[0]):
                return None
            image = read_image(self._remote, tag)
        except StratumError:
            return None  # nothing, or something else than an image, which the push replaces
        commit = image.commit
        if commit is None or len(image.layers) >= LAYERS_MAX or not self._store.commits.exists(commit):
            return None
        return _Base(image, commit)

    def _is_there(self, tag: str, digest: str) -> bool:
        try:
            return self._remote.get_manifest(tag)[1] == digest
        except NotFoundError:
            return False

    # Making

    def _config(self, layers: list[ImageLayer]) -> bytes:
        value = {
            "created": self._meta.timestamp,
            "architecture": architecture(),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        }
        return _json(value)

    def _manifest(self, config: Descriptor, layers: list[ImageLayer]) -> bytes:
        annotations = {COMMIT_ANNOTATION: self._meta.metadata_hash, CREATED_ANNOTATION: self._meta.timestamp}
        if self._meta.parent_commit is not None:
            annotations[PARENT_ANNOTATION] = self._meta.parent_commit
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_MEDIA_TYPE,
                "config": _descriptor(config),
                "layers": [_descriptor(layer.blob) for layer in layers],
                "annotations": dict(sorted(annotations.items())),
            }
        )

    # Sending

    def _send_layer(self, layer: Directory) -> ImageLayer:
        """Make the layer's blob in a temporary file, and send it."""
        archive, blob, size = hashlib.sha256(), hashlib.sha256(), 0
        compressor = _compressor(self._compression)
        with self._spool.open("xb") as file:
            for piece in self._compressed(layer, compressor, archive.update):
                blob.update(piece)
                size += len(piece)
                if not self._dry_run:
                    file.write(piece)
        media_type = LAYER_GZIP_MEDIA_TYPE if self._compression == GZIP else LAYER_ZSTD_MEDIA_TYPE
        descriptor = Descriptor(media_type, f"sha256:{blob.hexdigest()}", size)
        self._send(Upload(descriptor, lambda start: file_pieces(self._spool, start)))
        self._spool.unlink()
        return ImageLayer(descriptor, archive.hexdigest())

    def _compressed(
        self, layer: Directory, compressor: _Compressor, update: Callable[[bytes], None]
    ) -> Iterator[bytes]:
        done = 0
        for piece in layer_archive(layer, self._open_object):
            update(piece)
            done += len(piece)
            if self._progress is not None:
                self._progress(done, None)
            yield compressor.compress(piece)
        yield compressor.flush()

    def _send(self, upload: Upload) -> None:
        if self._remote.has_blob(upload.descriptor):
            self._reused += 1
            return
        if not self._dry_run:
            self._remote.put_blob(upload)
        self._count(upload.descriptor.size)

    def _count(self, size: int) -> None:
        self._sent[0] += size
        self._sent[1] += 1

    def _open_object(self, digest: bytes) -> BinaryIO:
        return fdopen(self._store.objects.open(digest), "rb", buffering=0)


def _compressor(compression: str) -> _Compressor:
    if compression == GZIP:
        return zlib.compressobj(_GZIP_LEVEL, wbits=31)
    import pyzstd

    options: dict[int, int] = {
        pyzstd.CParameter.compressionLevel: _ZSTD_LEVEL,
        pyzstd.CParameter.checksumFlag: 1,
    }
    compressor: _Compressor = pyzstd.ZstdCompressor(options)
    return compressor


def _descriptor(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
