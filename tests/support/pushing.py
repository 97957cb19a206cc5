"""The store as a registry, asked in this process: a place that commits are pushed to and pulled from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from stratum.api.registry import Registry, Repository
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import NotFoundError
from stratum.oci.descriptor import Descriptor
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.oci.remote import Sink, Upload, verified
from stratum.oci.target import Target


def registry(store: Path) -> Registry:
    """The registry over the store in this directory, by new objects."""
    settings = {"STRATUM_STORE": os.fspath(store), "STRATUM_RUNTIME_DIR": os.fspath(store.parent / "run"), "PATH": ""}
    return Registry(Session(load_config(settings)))


class Served(Sink):
    """A repository, as who speaks to a server of it finds it."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.target = Target(host="in.process", repository=repository.name)
        self.sent: list[int] = []

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        found = self.repository.manifest(reference)
        return found.data, found.digest

    def list_tags(self) -> list[str]:
        try:
            return self.repository.tags(None, 10_000)
        except NotFoundError:
            return []

    def has_blob(self, blob: Descriptor) -> bool:
        try:
            return self.repository.blob(blob.digest).size == blob.size
        except NotFoundError:
            return False

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        found = self.repository.blob(blob.digest)
        return verified(found.read(0, found.size), blob, "it")

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        return b"".join(self.repository.blob(blob.digest).read(start, start + size))

    def put_blob(self, upload: Upload) -> None:
        going = self.repository.begin_upload()
        going.append(upload.read(0), 0)
        going.finish(upload.descriptor.digest)
        self.sent.append(upload.descriptor.size)

    def put_manifest(self, data: bytes, tag: str) -> None:
        self.repository.put_manifest(data, MANIFEST_MEDIA_TYPE, tag, by="a test")
