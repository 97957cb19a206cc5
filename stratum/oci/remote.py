"""What push and pull need from the other side, be it a registry (``client``) or an OCI image layout (``layout``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from stratum.errors import DamagedError
from stratum.oci.descriptor import Descriptor
from stratum.oci.target import Target

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Upload:
    """A blob to be sent: what it is, and how to read it from byte ``start`` on (again, if the first try fails)."""

    descriptor: Descriptor
    read: Callable[[int], Iterator[bytes]]

    @classmethod
    def of_bytes(cls, descriptor: Descriptor, data: bytes) -> Upload:
        return cls(descriptor, lambda start: iter((data[start:],)))


class Remote(AbstractContextManager["Remote"], Protocol):
    """One repository. Every method raises ``StratumError`` in the other side's words; all may be used by threads."""

    target: Target

    def blob_file(self, blob: Descriptor) -> tuple[BinaryIO, int] | None:
        """A file of this machine that the blob lies in, unverified, for the caller to close, and where in it the blob
        begins. None where blobs come over a network."""

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        """The manifest's bytes and digest; ``NotFoundError`` where there is none. A digest asked for is verified."""

    def has_blob(self, blob: Descriptor) -> bool:
        """Whether the blob is there."""

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The blob in pieces. Once it ends without an error, size and digest have been verified; not before."""

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        """``size`` bytes from ``start``, unverified, or None where only whole blobs can be had."""

    def put_blob(self, upload: Upload) -> None:
        """Store a blob."""

    def mount_blob(self, blob: Descriptor, repository: str) -> bool:
        """Have the blob here without sending it, for another repository at the same place has it; whether that
        worked."""

    def put_manifest(self, data: bytes, tag: str) -> None:
        """Store a manifest whose blobs are all there, and point ``tag`` at it."""

    def list_tags(self) -> list[str]:
        """The tags, sorted."""


def verified(pieces: Iterable[bytes], blob: Descriptor, where: str) -> Iterator[bytes]:
    """Pass ``pieces`` on, never more than the blob's size, and check size and digest at the end."""
    sha, size = hashlib.sha256(), 0
    for piece in pieces:
        size += len(piece)
        if size > blob.size:
            raise DamagedError(f"{where} sent more than the {blob.size} bytes of blob {blob.digest}")
        sha.update(piece)
        yield piece
    if size != blob.size:
        raise DamagedError(f"{where} sent {size} of the {blob.size} bytes of blob {blob.digest}")
    if sha.hexdigest() != blob.hex:
        raise DamagedError(f"{where} sent bytes that do not match the digest of blob {blob.digest}")


def fetch(remote: Remote, blob: Descriptor) -> bytes:
    """A small blob as a whole, verified."""
    return b"".join(remote.read_blob(blob))
