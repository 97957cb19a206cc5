"""Stores with something in them, and their commits taken apart so that tests can put them together wrongly."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from stratum.oci.access import Access
from stratum.oci.descriptor import describe
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.artifact import (
    CONFIG_MEDIA_TYPE,
    PACK_MEDIA_TYPE,
    TREE_MEDIA_TYPE,
    Manifest,
    PackLayers,
    read_manifest,
    write_manifest,
)
from stratum.transfer.push import push
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Symlink

TIME = datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone.utc)

FILES: dict[str, bytes] = {
    "empty": b"",
    "small": b"inline",
    "docs/readme": b"read me\n" * 100,
    "docs/copy": b"read me\n" * 100,
    "docs/long": random.Random(1).randbytes(3_000_001),
    "bin/tool": random.Random(2).randbytes(200_000),
    "bin/other": b"#!/bin/sh\n" + b"echo\n" * 5000,
    "var/last": b"last\n" * 1000,
}


def make_commit(
    store: Store, files: Mapping[str, bytes], *, parent: str | None = None, message: str | None = None
) -> str:
    """A commit of ``files`` (path -> content) and a symbolic link; its hash."""
    with store.begin("test") as tx:
        root = Directory(0o40755, 0, 0, 10**18)
        for path, content in sorted(files.items()):
            *parents, name = path.encode().split(b"/")
            directory = root
            for part in parents:
                child = directory.children.setdefault(part, Directory(0o40755, 0, 0, 10**18))
                assert isinstance(child, Directory)
                directory = child
            directory.children[name] = _file(content, None if len(content) <= INLINE_MAX else tx.add_bytes(content))
        root.children[b"link"] = Symlink(0o120777, 0, 0, 10**18, target=b"docs/readme")
        meta = store.commits.write(tx, root, parent=parent, message=message, origin={"kind": "import"}, timestamp=TIME)
    return meta.metadata_hash


def _file(content: bytes, digest: bytes | None) -> Inode:
    inline = content if digest is None and content else None
    return File(0o100644, 1000, 1000, 10**18, ((b"user.k", b"v"),), size=len(content), digest=digest, content=inline)


def assert_only_verified_objects(store: Store) -> None:
    """The store has no commit, no name, no transaction; and every object is what its name says."""
    assert store.commits.list() == []
    assert store.names() == []
    assert [path.name for path in store.layout.tmp.iterdir() if path.is_dir()] == []
    for digest, size in store.objects.list():
        assert store.objects.verify(digest) == size


@dataclass(frozen=True)
class Artifact:
    """The blobs of a commit. ``manifest`` describes whatever they are now; only annotations come from the original."""

    config: bytes
    trees: tuple[bytes, ...]
    packs: tuple[tuple[bytes, bytes], ...]
    original: Manifest

    @classmethod
    def of_layout(cls, directory: Path) -> Artifact:
        """The only commit in the OCI image layout ``directory``."""
        blobs = {path.name: path.read_bytes() for path in (directory / "blobs/sha256").iterdir()}
        manifest = next(
            read_manifest(data, "test") for data in blobs.values() if data.startswith(b'{"schemaVersion":2,"mediaType"')
        )
        return cls(
            blobs[manifest.config.hex],
            tuple(blobs[tree.hex] for tree in manifest.trees),
            tuple((blobs[pack.index.hex], blobs[pack.pack.hex]) for pack in manifest.packs),
            manifest,
        )

    @property
    def manifest(self) -> bytes:
        return write_manifest(
            replace(
                self.original,
                config=describe(CONFIG_MEDIA_TYPE, self.config),
                trees=tuple(describe(TREE_MEDIA_TYPE, tree) for tree in self.trees),
                packs=tuple(
                    PackLayers(describe(INDEX_MEDIA_TYPE, index), describe(PACK_MEDIA_TYPE, pack))
                    for index, pack in self.packs
                ),
            )
        )

    @property
    def blobs(self) -> list[bytes]:
        return [self.config, *self.trees, *(blob for pack in self.packs for blob in pack)]


def make_artifact(directory: Path, files: Mapping[str, bytes] | None = None) -> Artifact:
    """The artifact of a commit of ``files``, made in ``directory``."""
    store = Store.create(directory / "origin")
    commit = make_commit(store, FILES if files is None else files, message="for testing")
    push(store, commit, parse_target(f"oci:{directory}/layout:v1"), Access())
    return Artifact.of_layout(directory / "layout")
