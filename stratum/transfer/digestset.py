"""A set of digests in eight bytes each. Pure.

It keeps the first 64 bits of each digest: what it says of two digests that share these is the same. Where the set is of
what must stay, that keeps a blob too many and none too few. A million digests take 8 MB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

_BUCKETS = 4096
_SHIFT = 64 - 12


class DigestSet:
    """Digests by their 64 hex digits."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, digest: str) -> bool:
        """Add a digest; whether it is new."""
        value = int(digest[:16], 16)
        bucket = self._buckets[value >> _SHIFT]
        at = bisect_left(bucket, value)
        if at < len(bucket) and bucket[at] == value:
            return False
        bucket.insert(at, value)
        self._size += 1
        return True

    def __contains__(self, digest: str) -> bool:
        value = int(digest[:16], 16)
        bucket = self._buckets[value >> _SHIFT]
        at = bisect_left(bucket, value)
        return at < len(bucket) and bucket[at] == value
