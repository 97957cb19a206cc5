"""The Merkle nodes of large dumps that are stored whole, so that a commit of a small change does not cost hashing every
line of it again: all commits that are stored on one of these have theirs of it.

``STORE/cache/merkle/<metadata_hash>`` (``store.cachefile``) has the leaves and blocks of ``tree.merkle``, where the
blocks begin (8 bytes each, little-endian), then the groups that were made, and a byte with a bit for each kind of them,
the lowest for those that begin at leaf 0. It is only of use for making a new commit's ``merkle_root``: what verifies
one computes it from the dump. One whose root is not the one in the commit's metadata.toml is ignored and written anew.
Those that were last of use are kept, ``KEPT`` of them; ``gc`` drops those of commits that are gone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from stratum.store.cachefile import CacheFile
from stratum.store.layout import Layout
from stratum.store.metadata import CommitMeta
from stratum.sys.atomic import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from stratum.tree.merkle import MerkleNodes

WORTH_KEEPING = 1 << 14
"""Leaves. The tree of fewer is computed in a few hundredths of a second, and never kept."""
KEPT = 8
_FORM = "merkle nodes 4"
_START_SIZE = 8


class MerkleCache:
    """The cache of one store. Whoever uses it holds the store's lock shared."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._directory = layout.merkle_cache

    @staticmethod
    def is_worth(count: int) -> bool:
        """Whether the nodes of a tree of ``count`` leaves are kept."""
        return count >= WORTH_KEEPING

    def load(self, meta: CommitMeta) -> MerkleNodes | None:
        """The nodes of the commit with these metadata; None where they are not there, or not to be trusted."""
        from stratum.tree.digest import HASH_SIZE
        from stratum.tree.merkle import BLOCK, GROUP, MerkleNodes

        file = self._file(meta.metadata_hash)
        body = file.load()
        blocks = -(-meta.leaf_count // BLOCK)
        sizes = [meta.leaf_count * HASH_SIZE, blocks * HASH_SIZE, blocks * _START_SIZE]
        kinds = [kind for kind in range(GROUP) if body and body[-1] & 1 << kind]
        sizes += [(meta.leaf_count - kind) // GROUP * HASH_SIZE for kind in kinds]
        if body is None or len(body) != sum(sizes) + 1:
            return None
        ends = list(accumulate(sizes, initial=0))
        leaves, nodes, starts, *groups = (body[start:end] for start, end in pairwise(ends))
        known = MerkleNodes(leaves, nodes, _starts(starts), dict(zip(kinds, groups, strict=True)))
        if known.summary().root != meta.merkle_root:
            return None
        file.touch()
        return known

    def save(self, commit: str, nodes: MerkleNodes) -> None:
        """Keep the nodes of a commit, if it is large. Failing to is no error: commits on top of it are slower."""
        if self.is_worth(nodes.count):
            kinds = sorted(nodes.groups)
            self._file(commit).save(
                nodes.leaves,
                nodes.blocks,
                _starts(nodes.starts.tobytes()).tobytes(),
                *(nodes.groups[kind] for kind in kinds),
                bytes([sum(1 << kind for kind in kinds)]),
            )
            with contextlib.suppress(OSError):
                self._drop_old()

    def _file(self, commit: str) -> CacheFile:
        return CacheFile(self._layout, self._directory / commit, _FORM)

    def _drop_old(self) -> None:
        names = (name for name in os.listdir(self._directory) if not name.startswith(TEMPORARY_PREFIX))
        files = [self._directory / name for name in names]
        for path in sorted(files, key=lambda path: path.lstat().st_mtime_ns)[:-KEPT]:
            path.unlink()


def _starts(data: bytes | memoryview) -> array[int]:
    """Starts from how they are written, or the other way round: the order of their bytes may be another one here."""
    starts = array("Q", bytes(data))
    if sys.byteorder == "big":
        starts.byteswap()
    return starts
