"""The Merkle nodes of large commits, so that a small change to one does not cost hashing every line of it again.

``STORE/cache/merkle/<metadata_hash>``::

    magic            b"stratum merkle cache 1\\n"
    check            BLAKE3-256 of all that follows
    commit           its metadata_hash, 32 bytes
    count            leaves: u64, little-endian
    leaves, blocks   as in ``tree.merkle``

The cache may be deleted at any time, and is only of use for making a new commit's ``merkle_root``: what verifies one
computes it from the dump. A file that is damaged, of another version, or whose root is not the one in the commit's
metadata.toml is ignored and written anew. Files appear by one rename and are not synced. Those of the commits that
were last built on are kept, ``KEPT`` of them; ``gc`` drops those of commits that are gone.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING

from stratum.errors import DamagedError
from stratum.store.layout import Layout
from stratum.sys.atomic import TEMPORARY_PREFIX, write_atomic

if TYPE_CHECKING:
    from stratum.store.commits import CommitMeta
    from stratum.tree.merkle import MerkleNodes

WORTH_KEEPING = 1 << 14
"""Leaves. The tree of fewer is computed in a few hundredths of a second, and never kept."""
KEPT = 8
_MAGIC = b"stratum merkle cache 1\n"
_HEAD = struct.Struct("<32sQ")
_FILE_MAX = 1 << 32


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
        from blake3 import blake3

        from stratum.tree.digest import HASH_SIZE
        from stratum.tree.merkle import BLOCK, MerkleNodes

        path = self._directory / meta.metadata_hash
        try:
            data = memoryview(self._layout.read_beneath(path, _FILE_MAX))
        except (OSError, DamagedError):
            return None
        start = len(_MAGIC) + HASH_SIZE
        body = data[start:]
        if data[: len(_MAGIC)] != _MAGIC or blake3(body).digest() != data[len(_MAGIC) : start]:
            return None
        commit, count = _HEAD.unpack_from(body)
        middle = _HEAD.size + count * HASH_SIZE
        if commit.hex() != meta.metadata_hash or len(body) != middle + -(-count // BLOCK) * HASH_SIZE:
            return None
        nodes = MerkleNodes(bytes(body[_HEAD.size : middle]), bytes(body[middle:]))
        summary = nodes.summary()
        if (summary.root, summary.leaf_count) != (meta.merkle_root, meta.leaf_count):
            return None
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)
        return nodes

    def save(self, commit: str, nodes: MerkleNodes) -> None:
        """Keep the nodes of a commit, if it is large. Failing to is no error: commits on top of it are slower."""
        from blake3 import blake3

        if not self.is_worth(nodes.count):
            return
        body = _HEAD.pack(bytes.fromhex(commit), nodes.count) + nodes.leaves + nodes.blocks
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._directory / commit, _MAGIC + blake3(body).digest() + body, 0o600, durable=False)
            self._drop_old()

    def _drop_old(self) -> None:
        names = (name for name in os.listdir(self._directory) if not name.startswith(TEMPORARY_PREFIX))
        files = [self._directory / name for name in names]
        for path in sorted(files, key=lambda path: path.lstat().st_mtime_ns)[:-KEPT]:
            path.unlink()
