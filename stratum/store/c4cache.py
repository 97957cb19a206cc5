"""The SHA-512 of objects that were read for their C4 IDs, so that no object is read for that twice.

``STORE/cache/c4/<two hex digits>`` (``store.cachefile``) has what is known of the objects whose digests begin so:
digest and SHA-512, 32 and 64 bytes, in the order of the digests. An object is never another, so what is there stays
right; what is lost, by two who write at once too, is computed again. Where a file would have more than ``MOST``, chance
decides which go. ``gc`` drops those of objects that no commit needs.
"""

from __future__ import annotations

import contextlib
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from stratum.store.cachefile import CacheFile
from stratum.store.layout import Layout

MOST = 1 << 14
"""Objects in a file; four million in all."""
_FORM = "sha-512 of objects 1"
_KEY, _VALUE = 32, 64
_RECORD = _KEY + _VALUE
_STEPS = 16


class C4Cache:
    """What is known of the objects of one store. For all threads and processes; whoever has the store open may use it.
    Nothing here fails: what cannot be read is not known, what cannot be written is computed again."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def get(self, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Digest -> SHA-512, of those that are known. To be asked for many at once: a file is read for each two hex
        digits that the digests begin with."""
        found: dict[bytes, bytes] = {}
        for shard, group in groupby(sorted(digests), lambda digest: digest[0]):
            body = self._load(shard)
            if body is None:
                continue
            asked = list(group)
            if len(asked) * _STEPS > len(body) // _RECORD:  # then reading all is faster
                known = _records(body)
                found.update((digest, known[digest]) for digest in asked if digest in known)
                continue
            for digest in asked:
                start = _find(body, digest)
                if body[start : start + _KEY] == digest:
                    found[digest] = bytes(body[start + _KEY : start + _RECORD])
        return found

    def put(self, found: Mapping[bytes, bytes]) -> None:
        """Remember the SHA-512 of objects, by their digests."""
        for shard, group in groupby(sorted(found.items()), lambda item: item[0][0]):
            known = _records(self._load(shard))
            new = dict(group)
            if new.items() <= known.items():
                continue
            rest = [item for item in known.items() if item[0] not in new]
            room = max(0, MOST - len(new))
            if len(rest) > room:
                rest = random.sample(rest, room)
            self._save(shard, [*rest, *list(new.items())[:MOST]])

    def drop(self, is_needed: Callable[[bytes], bool]) -> None:
        """Forget the objects that are not needed."""
        for shard in range(256):
            known = _records(self._load(shard))
            kept = [item for item in known.items() if is_needed(item[0])]
            if len(kept) == len(known):
                continue
            if kept:
                self._save(shard, kept)
            else:
                with contextlib.suppress(OSError):
                    self._file(shard).path.unlink()

    def _load(self, shard: int) -> memoryview | None:
        body = self._file(shard).load()
        return body if body is not None and len(body) % _RECORD == 0 else None

    def _save(self, shard: int, items: Iterable[tuple[bytes, bytes]]) -> None:
        self._file(shard).save(b"".join(key + value for key, value in sorted(items)))

    def _file(self, shard: int) -> CacheFile:
        return CacheFile(self._layout, self._layout.c4_cache / f"{shard:02x}", _FORM)


def _find(body: memoryview, digest: bytes) -> int:
    """Where the record of the digest is, or would be."""

    def key(number: int) -> bytes:
        return bytes(body[number * _RECORD : number * _RECORD + _KEY])

    return bisect_left(range(len(body) // _RECORD), digest, key=key) * _RECORD


def _records(body: memoryview | None) -> dict[bytes, bytes]:
    data = b"" if body is None else bytes(body)
    starts = range(0, len(data), _RECORD)
    return {data[start : start + _KEY]: data[start + _KEY : start + _RECORD] for start in starts}
