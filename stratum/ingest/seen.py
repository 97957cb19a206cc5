"""Whatever a walk has listed, in little memory: a million files are a few times 50 bytes, and not 300."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from stratum.ingest.staging import Signature
from stratum.tree.model import Inode

_RECORD = struct.Struct("<QQqqqq")


class Seen:
    """Inodes, each with the signature that it was listed with, and when that was (ns)."""

    def __init__(self) -> None:
        self._records = bytearray()
        self._nodes: list[Inode] = []
        self._odd: dict[int, Signature] = {}
        """Those with times outside 1677 to 2262."""

    def add(self, key: Signature, listed: int, node: Inode) -> None:
        """One more."""
        try:
            self._records += _RECORD.pack(*key, listed)
        except struct.error:
            self._odd[len(self._nodes)] = key
            self._records += _RECORD.pack(0, 0, 0, 0, 0, listed)
        self._nodes.append(node)

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[tuple[Signature, int, Inode]]:
        """In the order in which they were listed."""
        for number, (fields, node) in enumerate(zip(_RECORD.iter_unpack(self._records), self._nodes, strict=True)):
            key: Signature = self._odd.get(number) or fields[:5]
            yield key, fields[5], node
