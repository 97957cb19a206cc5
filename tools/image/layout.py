"""An OCI image layout, written so that the same files give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_LEVEL = 6
_MODES = 0o1777
"""What stays of a mode: nothing in an image needs to become somebody else."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """A layer in a layout: its descriptor, and the digest of the archive before it was compressed."""

    descriptor: Document
    diff_id: str


class _Digesting(io.RawIOBase):
    """A file for writing that knows the SHA-256 of what went through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


class Layout:
    """A layout in the directory ``place``, which is made anew. ``epoch`` is the time of everything in it."""

    def __init__(self, place: Path, epoch: int) -> None:
        self.place = place
        self.epoch = epoch
        self._blobs = place / "blobs/sha256"
        self._blobs.mkdir(parents=True)

    def add_layer(self, root: Path) -> Layer:
        """What is below ``root``, as a layer whose files are root's."""
        work = self.place / "layer"
        with work.open("wb") as file:
            compressed = _Digesting(file)
            with gzip.GzipFile("", "wb", _LEVEL, compressed, mtime=0) as packed:
                plain = _Digesting(packed)  # type: ignore[arg-type]  # it writes, which is all that is asked of it
                write_tar(root, plain, self.epoch)
        work.rename(self._blobs / compressed.digest.removeprefix("sha256:"))
        descriptor = {"mediaType": _LAYER, "digest": compressed.digest, "size": compressed.size}
        return Layer(descriptor, plain.digest)

    def add_image(self, config: Document, layers: list[Layer]) -> Document:
        """An image for the platform that ``config`` names; the descriptor of its manifest."""
        rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
        described = self._add(_CONFIG, {**config, "rootfs": rootfs})
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": described,
            "layers": [layer.descriptor for layer in layers],
        }
        platform = {key: config[key] for key in ("architecture", "os", "variant") if key in config}
        return {**self._add(_MANIFEST, manifest), "platform": platform}

    def finish(self, images: list[Document], annotations: dict[str, str]) -> str:
        """Make the layout one of ``images``, as one image for several platforms; its digest."""
        index = self._add(_INDEX, {"schemaVersion": 2, "mediaType": _INDEX, "manifests": images})
        entry = {**index, "annotations": annotations}
        (self.place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (self.place / "index.json").write_bytes(_json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}))
        return str(index["digest"])

    def _add(self, media_type: str, document: Document) -> Document:
        data = _json(document)
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _json(document: Document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def write_tar(root: Path, file: IO[bytes], epoch: int) -> None:
    """Write what is below ``root`` as an archive: in order, all root's, of one time, without set-user-ID bits."""
    linked: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            about = path.lstat()
            info = tarfile.TarInfo(str(path.relative_to(root)))
            info.mode, info.mtime = stat.S_IMODE(about.st_mode) & _MODES, epoch
            first = linked.setdefault((about.st_dev, about.st_ino), info.name)
            if stat.S_ISLNK(about.st_mode):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
            elif stat.S_ISDIR(about.st_mode):
                info.type = tarfile.DIRTYPE
            elif first != info.name:
                info.type, info.linkname = tarfile.LNKTYPE, first
            else:
                info.size = about.st_size
                with path.open("rb") as content:
                    archive.addfile(info, content)
                continue
            archive.addfile(info)


def pack(layout: Path, target: Path, epoch: int) -> None:
    """Write a layout as an archive, whole or not at all."""
    partial = target.with_name(f".{target.name}.new")
    with partial.open("wb") as file:
        write_tar(layout, file, epoch)
    partial.replace(target)


def replace_directory(made: Path, target: Path) -> None:
    """Have the directory ``target`` be ``made``."""
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)
