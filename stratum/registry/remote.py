"""What push and pull need from the other side, be it a registry (``client``) or an OCI image layout (``layout``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from stratum.errors import DamagedError, UsageError
from stratum.registry.artifact import Descriptor
from stratum.registry.target import Target

if TYPE_CHECKING:
    from stratum.config import Config


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are reached.

    ``plain_http`` is the user's explicit wish for HTTP without TLS; ``ca_file`` replaces the system's certificate
    authorities. ``environment`` is where proxies and credential files are looked up. ``token_realms`` is HOST[:PORT]
    of a registry -> URL of another host that gives out its tokens and may be sent its passwords. Times are in seconds;
    ``min_rate``, in bytes a second, is what an answer must keep up with in any ``patience`` seconds.
    """

    insecure_registries: tuple[str, ...] = ()
    plain_http: bool = False
    ca_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    token_realms: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    patience: float = 180.0
    min_rate: int = 4096

    @classmethod
    def from_config(cls, config: Config, *, plain_http: bool = False, ca_file: str | None = None) -> Access:
        """The access that the settings and a verb's options give."""
        path = Path(ca_file) if ca_file is not None else None
        return cls(config.insecure_registries, plain_http, path, config.environment, config.token_realms)


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


def open_remote(target: Target, access: Access, *, create: bool = False) -> Remote:
    """The repository that ``target`` names; ``create`` makes an OCI image layout where there is none."""
    if target.directory is not None:
        from stratum.registry.layout import Layout

        return Layout(target, create=create)
    if target.archive is not None:
        from stratum.registry.archive import ArchiveReader

        if create:
            raise UsageError(f"{target} can only be read", hint="stratum export writes archives")
        archive = ArchiveReader(target)
        try:
            archive.verify()
        except BaseException:
            archive.close()
            raise
        return archive
    from stratum.registry.client import RegistryClient

    remote: Remote = RegistryClient(target, access)
    return remote
