"""An OCI image layout (image-layout 1.0.0) as a place to push to and pull from.

::

    oci-layout                        {"imageLayoutVersion":"1.0.0"}
    index.json                        the manifests, each with its tag as org.opencontainers.image.ref.name
    blobs/sha256/<64 hex digits>      manifests, configs and layers

Blobs appear whole, by rename, before ``index.json`` names them. Writers of one layout take turns by a lock on
``index.json.lock``. A layout may come from a stranger: only regular files are read, no symbolic link is followed, and
everything is verified like what a registry sends.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stratum.errors import DamagedError, NotFoundError, StratumError, os_error_text
from stratum.registry.artifact import (
    MANIFEST_MAX,
    MANIFEST_MEDIA_TYPE,
    Descriptor,
    digest_of,
    is_digest,
)
from stratum.registry.imageindex import (
    LAYOUT_VERSION,
    Entry,
    digest_of_tag,
    make_entry,
    read_entries,
    tag_of,
    tags_of,
    write_entries,
)
from stratum.registry.remote import Upload, verified
from stratum.registry.target import Target
from stratum.sys.atomic import fsync_dir, temporary_name, write_atomic
from stratum.sys.locks import locked

_PIECE = 1 << 20


class Layout:
    """The layout in ``target.directory``; a ``Remote``."""

    def __init__(self, target: Target, *, create: bool = False) -> None:
        assert target.directory is not None
        self.target = target
        self._root = target.directory
        self._blobs = self._root / "blobs" / "sha256"
        if create:
            self._create()

    def __enter__(self) -> Layout:
        return self

    def __exit__(self, *_exc: object) -> None:
        return None

    def _create(self) -> None:
        try:
            if self._root.is_dir() and not (self._root / "oci-layout").exists() and any(self._root.iterdir()):
                raise StratumError(
                    f"{self._root} is neither empty nor an OCI image layout", hint="give an empty or a new directory"
                )
            self._blobs.mkdir(parents=True, exist_ok=True)
            if not (self._root / "oci-layout").exists():
                write_atomic(self._root / "oci-layout", LAYOUT_VERSION)
        except OSError as exc:
            raise StratumError(f"cannot make an OCI image layout in {self._root}: {os_error_text(exc)}") from None

    # Reading

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        digest = reference if is_digest(reference) else self._tagged(reference)
        data = b"".join(self._pieces(digest, 0, MANIFEST_MAX + 1))
        if len(data) > MANIFEST_MAX:
            raise DamagedError(f"the manifest of {self.target} is larger than {MANIFEST_MAX} bytes")
        if digest_of(data) != digest:
            raise DamagedError(f"the manifest of {self.target} does not match its digest")
        return data, digest

    def _tagged(self, tag: str) -> str:
        return digest_of_tag(self.entries(), tag, f"an OCI image layout {self._root}")

    def entries(self) -> list[Entry]:
        """What ``index.json`` lists, unchecked."""
        try:
            with self._open(self._root / "index.json") as file:
                data = file.read(MANIFEST_MAX)
        except FileNotFoundError:
            return []
        return read_entries(data, f"{self._root}/index.json")

    def has_blob(self, blob: Descriptor) -> bool:
        try:
            info = (self._blobs / blob.hex).lstat()
        except OSError:
            return False
        return stat.S_ISREG(info.st_mode) and info.st_size == blob.size

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return verified(self._pieces(blob.digest, 0, blob.size + 1), blob, str(self._root))

    def blob_file(self, blob: Descriptor) -> tuple[BinaryIO, int] | None:
        return self._open_blob(blob.digest), 0

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        return b"".join(self._pieces(blob.digest, start, size))

    def _pieces(self, digest: str, start: int, size: int) -> Iterator[bytes]:
        with self._open_blob(digest) as file:
            file.seek(start)
            while size and (piece := file.read(min(_PIECE, size))):
                size -= len(piece)
                yield piece

    def _open_blob(self, digest: str) -> BinaryIO:
        try:
            return self._open(self._blobs / digest.partition(":")[2])
        except FileNotFoundError:
            raise NotFoundError(f"blob {digest} is missing from {self._root}") from None

    def _open(self, path: Path) -> BinaryIO:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as exc:
            reason = "it is a symbolic link" if exc.errno == errno.ELOOP else os_error_text(exc)
            raise StratumError(f"cannot read {path}: {reason}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DamagedError(f"{path} is not a regular file")
        return os.fdopen(fd, "rb", buffering=0)

    def list_tags(self) -> list[str]:
        return tags_of(self.entries())

    # Writing

    def put_blob(self, upload: Upload) -> None:
        temporary = self._blobs / temporary_name()
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            with os.fdopen(fd, "wb") as file:
                for piece in verified(upload.read(0), upload.descriptor, "the store"):
                    file.write(piece)
                file.flush()
                os.fsync(fd)
            temporary.rename(self._blobs / upload.descriptor.hex)
            fsync_dir(self._blobs)
        except OSError as exc:
            raise StratumError(f"cannot write to {self._blobs}: {os_error_text(exc)}") from None
        finally:
            temporary.unlink(missing_ok=True)

    def mount_blob(self, blob: Descriptor, repository: str) -> bool:
        return False

    def put_manifest(self, data: bytes, tag: str) -> None:
        manifest = Descriptor(MANIFEST_MEDIA_TYPE, digest_of(data), len(data))
        self.put_blob(Upload.of_bytes(manifest, data))
        with locked(self._root / "index.json.lock", what=f"the OCI image layout {self._root}"):
            entries = [other for other in self.entries() if tag_of(other) != tag]
            try:
                write_atomic(self._root / "index.json", write_entries([*entries, make_entry(data, tag)]))
            except OSError as exc:
                raise StratumError(f"cannot write {self._root}/index.json: {os_error_text(exc)}") from None
