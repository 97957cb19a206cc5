"""What a commit's dump proves: everything in metadata.toml but its time, message, parent and origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from stratum.frozen import as_dict, frozen, replace
from stratum.store.metadata import CommitMeta, Statistics

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.tree.blocks import Blocks


@frozen
class Facts:
    """The provable fields of ``CommitMeta``, under its names."""

    metadata_hash: str
    merkle_root: str
    file_count: int
    total_size: int
    leaf_count: int
    tree_depth: int

    def agrees(self, meta: CommitMeta) -> bool:
        """Whether ``meta`` says just that."""
        return self.corrected(meta) == meta

    def corrected(self, meta: CommitMeta) -> CommitMeta:
        """``meta`` with the provable fields as they are."""
        return replace(meta, **as_dict(self))

    def meta(self, timestamp: str) -> CommitMeta:
        """Metadata of a commit of which nothing else is known."""
        return CommitMeta(timestamp=timestamp, **as_dict(self))


def facts_of(dump: Blocks) -> Facts:
    """What ``dump`` proves. ``DamagedError`` where it is not a canonical dump."""
    from stratum.tree.digest import merkle_summary, metadata_hash
    from stratum.tree.dump import read_dump

    statistics = Statistics(read_dump(dump))  # the tree goes, which is large, before there are hashes
    summary = merkle_summary(dump)
    return Facts(
        metadata_hash=metadata_hash(dump),
        merkle_root=summary.root,
        file_count=statistics.count,
        total_size=statistics.total_size,
        leaf_count=summary.leaf_count,
        tree_depth=summary.tree_depth,
    )


class Counted(NamedTuple):
    """What a tree that was read has: regular files, and their bytes."""

    file_count: int
    total_size: int


class Reading:
    """A tree that is read from its dump somewhere else.

    ``objects`` are those of the tree: digest -> size in bytes. ``wait`` returns when it is read; it raises
    ``DamagedError`` where the dump is not canonical, ``StratumError``.
    """

    def __init__(self, objects: Mapping[bytes, int], wait: Callable[[], Counted]) -> None:
        self.objects = objects
        self.wait = cache(wait)


def count(dump: Blocks, image: Path | None = None) -> Counted:
    """Read the tree of ``dump``, and write its image to the new file ``image``, durably, where one is given.
    ``DamagedError`` where the dump is not canonical, ``StratumError`` where the image cannot be written."""
    from stratum.tree.dump import read_dump

    root = read_dump(dump)
    if image is not None:
        from stratum.store.imagefile import new_image

        new_image(root, image)
    statistics = Statistics(root)
    return Counted(statistics.count, statistics.total_size)
