"""What a commit's dump proves: everything in metadata.toml but its time, message, parent and origin."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from stratum.frozen import as_dict, frozen, replace
from stratum.store.metadata import CommitMeta, Statistics

if TYPE_CHECKING:
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


def image_of(root: Directory, take: Callable[[Iterator[bytes | bytearray]], None] | None = None) -> tuple[str, int]:
    """(fs-verity digest in hex, size in bytes) of the image of a tree, whose pieces ``take`` takes, or nobody."""
    from stratum.composefs.erofs import image_pieces
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
