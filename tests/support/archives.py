"""Trees with contents that exist, tar archives put together by hand, and hostile variants of both."""

from __future__ import annotations

import hashlib
import io
import json
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stratum.ingest.attributes import stored_xattrs
from stratum.store.transaction import Transaction
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Special, Symlink
from stratum.tree.overlay import is_whiteout_device
from stratum.tree.tarheader import END, TarHeader, padding, write_header
from tests.support.trees import trees


def materialize(tree: Directory, tx: Transaction) -> Directory:
    """A copy of a generated tree in which every file has a content, stored in ``tx``, and what only a dump can hold is
    left out: sockets, and attributes that no import takes. Hard links stay."""
    done: dict[int, Inode] = {}

    def copy(inode: Inode) -> Inode:
        common = (inode.mode, inode.uid, inode.gid, inode.mtime, stored_xattrs(inode.xattrs))
        if isinstance(inode, Directory):
            return Directory(*common, children={name: keep(child) for name, child in inode.children.items()})
        if isinstance(inode, File):
            data = inode.content or b""
            if inode.size > INLINE_MAX:
                data = (inode.digest or b"") * 50 + b"x" * (inode.size % 7000)
            small = len(data) <= INLINE_MAX
            return File(
                *common,
                size=len(data),
                content=(data or None) if small else None,
                digest=None if small else tx.add_bytes(data),
            )
        if isinstance(inode, Symlink):
            return Symlink(0o120777, *common[1:], target=inode.target)
        assert isinstance(inode, Special)
        if stat.S_ISSOCK(inode.mode):
            return Special(stat.S_IFIFO | stat.S_IMODE(inode.mode), *common[1:])
        return Special(*common, rdev=inode.rdev)

    def keep(inode: Inode) -> Inode:
        if isinstance(inode, Directory):
            return copy(inode)
        if id(inode) not in done:
            done[id(inode)] = copy(inode)
        return done[id(inode)]

    root = copy(tree)
    assert isinstance(root, Directory)
    return root


def fits_an_image(tree: Directory) -> bool:
    """Whether an image layer can hold the tree: no name or device that means a whiteout there."""
    for name, inode in tree.children.items():
        if name.startswith(b".wh.") or is_whiteout_device(inode):
            return False
        if isinstance(inode, Directory) and not fits_an_image(inode):
            return False
    return True


image_trees: st.SearchStrategy[Directory] = trees.filter(fits_an_image)


def tar(*members: TarHeader | tuple[TarHeader, bytes]) -> bytes:
    """An archive of these members, each with its data."""
    out = []
    for member in members:
        header, data = member if isinstance(member, tuple) else (member, b"")
        out += [write_header(header), data, bytes(padding(len(data)))]
    return b"".join(out) + END


def file(name: bytes, data: bytes = b"", **fields: int) -> tuple[TarHeader, bytes]:
    """A regular file of an archive."""
    return TarHeader(name, size=len(data), **fields), data


@dataclass
class LayoutArchive:
    """An OCI image layout in a tar, taken apart so that it can be put together wrongly."""

    members: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> LayoutArchive:
        import tarfile

        with tarfile.open(path) as archive:
            return cls({m.name: archive.extractfile(m).read() for m in archive if m.isreg()})

    @property
    def index(self) -> dict[str, list[dict[str, Any]]]:
        value: dict[str, list[dict[str, Any]]] = json.loads(self.members["index.json"])
        return value

    def with_index(self, change: Callable[[dict[str, list[dict[str, Any]]]], object]) -> LayoutArchive:
        """A copy with ``index.json`` changed."""
        index = self.index
        change(index)
        return LayoutArchive({**self.members, "index.json": json.dumps(index).encode()})

    def with_blob(self, name: str, data: bytes) -> LayoutArchive:
        """A copy in which the blob ``name`` has other bytes, under its old name."""
        return LayoutArchive({**self.members, name: data})

    def without(self, name: str) -> LayoutArchive:
        return LayoutArchive({key: data for key, data in self.members.items() if key != name})

    @property
    def blobs(self) -> list[str]:
        return [name for name in self.members if name.startswith("blobs/")]

    @property
    def manifest(self) -> dict[str, Any]:
        digest = str(self.index["manifests"][-1]["digest"]).removeprefix("sha256:")
        value: dict[str, Any] = json.loads(self.members[f"blobs/sha256/{digest}"])
        return value

    def with_manifest(self, change: Callable[[dict[str, Any]], object]) -> LayoutArchive:
        """A copy in which the last manifest says something else, with everything else adjusted to it."""
        value = self.manifest
        change(value)
        data = json.dumps(value).encode()
        name = hashlib.sha256(data).hexdigest()

        def point(index: dict[str, list[dict[str, Any]]]) -> None:
            index["manifests"][-1].update(digest=f"sha256:{name}", size=len(data))

        return LayoutArchive({**self.members, f"blobs/sha256/{name}": data}).with_index(point)

    def tar(self, order: Iterable[str] | None = None) -> bytes:
        return tar(*(file(name.encode(), self.members[name]) for name in order or self.members))


def gnu_tar(members: Mapping[str, bytes], *options: str, directory: Path) -> bytes:
    """What the tar program of this machine makes of files with these contents."""
    import subprocess

    for name, data in members.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    done = subprocess.run(["tar", "-c", *options, "-C", directory, *members], capture_output=True, check=True)
    return done.stdout


def reader(data: bytes) -> Callable[[int], bytes]:
    """The ``read`` of a stream of these bytes."""
    return io.BytesIO(data).read
