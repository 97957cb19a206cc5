"""The blobs that a store keeps as a place to read from: what was pushed to it (``store.blobs``).

::

    store://blobs@sha256:DIGEST      in whatever directory the store is now

Nobody can write such a target: it is what the store notes of where it has the objects of a commit that was pushed to
it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stratum.errors import DamagedError, NotFoundError, StratumError, os_error_text
from stratum.oci.descriptor import MANIFEST_MAX, Descriptor, digest_of, is_digest
from stratum.oci.remote import Source, verified
from stratum.oci.target import Target

_PIECE = 1 << 20
_SHARD = 2


class OwnBlobs(Source):
    """The blobs in ``directory``, which the owner of the store alone can write to."""

    local = True

    def __init__(self, target: Target, directory: Path | None) -> None:
        self.target = target
        self._directory = directory

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        if not is_digest(reference):
            raise NotFoundError(f"{self.target.place} has no tags")
        with self._open(reference) as file:
            data = file.read(MANIFEST_MAX + 1)
        if len(data) > MANIFEST_MAX or digest_of(data) != reference:
            raise DamagedError(f"the manifest {reference} in the store is damaged", hint="run 'stratum fsck'")
        return data, reference

    def list_tags(self) -> list[str]:
        return []

    def has_blob(self, blob: Descriptor) -> bool:
        try:
            with self._open(blob.digest) as file:
                return os.fstat(file.fileno()).st_size == blob.size
        except (NotFoundError, DamagedError):
            return False

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return verified(self._pieces(blob.digest, 0, blob.size + 1), blob, self.target.place)

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        return b"".join(self._pieces(blob.digest, start, size))

    def blob_file(self, blob: Descriptor) -> tuple[BinaryIO, int] | None:
        return self._open(blob.digest), 0

    def _pieces(self, digest: str, start: int, size: int) -> Iterator[bytes]:
        with self._open(digest) as file:
            file.seek(start)
            while size and (piece := file.read(min(_PIECE, size))):
                size -= len(piece)
                yield piece

    def _open(self, digest: str) -> BinaryIO:
        name = digest.partition(":")[2]
        if self._directory is None:
            raise NotFoundError("the blobs of the store cannot be reached from here")
        try:
            path = self._directory / "sha256" / name[:_SHARD] / name[_SHARD:]
            file = os.fdopen(_opened(path), "rb", buffering=0)
        except FileNotFoundError:
            raise NotFoundError(f"the store has no blob {digest} any more", hint="run 'stratum fsck'") from None
        except OSError as exc:
            raise StratumError(f"cannot read the blob {digest} of the store: {os_error_text(exc)}") from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise DamagedError(f"{path} is not a regular file", hint="run 'stratum fsck'")
        return file


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
