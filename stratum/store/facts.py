"""What a commit's dump proves: everything in metadata.toml but its time, message, parent and origin."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from stratum.frozen import as_dict, frozen, replace
from stratum.store.metadata import CommitMeta, Statistics

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.tree.blocks import Blocks
    from stratum.tree.model import Directory


@frozen
class Facts:
    """The provable fields of ``CommitMeta``, under its names."""

    metadata_hash: str
    merkle_root: str
    file_count: int
    total_size: int
    leaf_count: int
    tree_depth: int
    image_digest: str
    image_size: int

    def agrees(self, meta: CommitMeta) -> bool:
        """Whether ``meta`` says just that."""
        return self.corrected(meta) == meta

    def corrected(self, meta: CommitMeta) -> CommitMeta:
        """``meta`` with the provable fields as they are; it goes on telling of no image where it tells of none."""
        proven = replace(meta, **as_dict(self))
        return replace(proven, image_digest=None, image_size=None) if meta.image_digest is None else proven

    def meta(self, timestamp: str) -> CommitMeta:
        """Metadata of a commit of which nothing else is known."""
        return CommitMeta(timestamp=timestamp, **as_dict(self))


def facts_of(dump: Blocks) -> Facts:
    """What ``dump`` proves. ``DamagedError`` where it is not a canonical dump."""
    from stratum.tree.digest import merkle_summary, metadata_hash
    from stratum.tree.dump import read_dump

    root = read_dump(dump)
    summary, statistics = merkle_summary(dump), Statistics(root)
    image_digest, image_size = image_of(root)
    return Facts(
        metadata_hash=metadata_hash(dump),
        merkle_root=summary.root,
        file_count=statistics.count,
        total_size=statistics.total_size,
        leaf_count=summary.leaf_count,
        tree_depth=summary.tree_depth,
        image_digest=image_digest,
        image_size=image_size,
    )


class Drawn(NamedTuple):
    """A tree of which there is an image: regular files, their bytes, the image's fs-verity digest in hex, its size."""

    file_count: int
    total_size: int
    image_digest: str
    image_size: int


class Drawing:
    """A tree that is read from its dump, and whose image is made, somewhere else.

    ``objects`` are those of the tree: digest -> size in bytes. ``image`` is the file that the image is written to.
    ``wait`` is called once, and returns when that is done; it raises ``DamagedError`` where the dump is not canonical,
    ``StratumError``.
    """

    def __init__(self, objects: Mapping[bytes, int], image: Path, wait: Callable[[], Drawn]) -> None:
        self.objects = objects
        self.image = image
        self.wait = cache(wait)


def draw(dump: Blocks, image: Path) -> Drawn:
    """Read the tree of ``dump`` and write its image to the new file ``image``. ``DamagedError`` where the dump is not
    canonical, ``OSError``."""
    from stratum.tree.dump import read_dump

    root = read_dump(dump)
    statistics = Statistics(root)
    with open(image, "xb", opener=partial(os.open, mode=0o644)) as file:
        digest, size = image_of(root, file.writelines)
    return Drawn(statistics.count, statistics.total_size, digest, size)


def image_of(root: Directory, take: Callable[[Iterator[bytes | bytearray]], None] | None = None) -> tuple[str, int]:
    """(fs-verity digest in hex, size in bytes) of the image of a tree, whose pieces ``take`` takes, or nobody."""
    from stratum.composefs.erofs.writer import image_pieces
    from stratum.composefs.verity import VerityHasher

    hasher, size = VerityHasher(), 0

    def pieces() -> Iterator[bytes | bytearray]:
        nonlocal size
        for piece in image_pieces(root):
            hasher.update(piece)
            size += len(piece)
            yield piece

    deque(pieces(), maxlen=0) if take is None else take(pieces())
    return hasher.hexdigest(), size
