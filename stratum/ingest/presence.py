"""Whether many objects are in the store."""

from __future__ import annotations

import os
import re

from stratum.store.objects import Objects

_LIST_FACTOR = 3
_REST = re.compile("[0-9a-f]{62}")


class Presence:
    """Answers by one lstat an object, or by one listing of each shard where about as many are asked for as are there.

    ``expected`` is the number of objects that will be asked for. The caller holds the store lock shared, so that no
    object goes away meanwhile.
    """

    def __init__(self, objects: Objects, expected: int) -> None:
        self._objects = objects
        self._expected = expected
        self._listing: bool | None = None
        self._there: set[bytes] = set()

    def has(self, digest: bytes, size: int) -> bool:
        """Whether the store has the object; its size, ``size``, may or may not be looked at."""
        if self._listing is None:
            shard = self._shard(digest[0])
            self._listing = len(shard) * 256 < self._expected * _LIST_FACTOR
            if self._listing:
                self._there.update(shard, *(self._shard(number) for number in range(256) if number != digest[0]))
        if self._listing:
            return digest in self._there
        return self._objects.has(digest, size)

    def _shard(self, number: int) -> list[bytes]:
        name = f"{number:02x}"
        try:
            names = os.listdir(self._objects.directory / name)
        except FileNotFoundError:
            return []
        return [bytes.fromhex(name + rest) for rest in names if _REST.fullmatch(rest)]
