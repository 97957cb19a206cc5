"""Who had what fetched: counts by object, program and container. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stratum.sys.actors import Actor

READERS_MAX = 1000
TOP = 20
OTHERS = ("(others)", None)


class Account:
    """Counts of one mount. For one thread at a time."""

    def __init__(self) -> None:
        self.asks = 0
        self.hits = 0
        self.errors = 0
        self.objects = 0
        self.bytes = 0
        self._readers: dict[tuple[str, str | None], list[int]] = {}
        self._largest: dict[bytes, int] = {}

    def fetched(self, digest: bytes, size: int, reader: Actor | None) -> None:
        """An object, or ``size`` bytes of it, came, and for whom."""
        self.objects += 1
        self.bytes += size
        if reader is not None:
            count = self._of(reader)
            count[0] += 1
            count[1] += size
        self._largest[digest] = self._largest.get(digest, 0) + size
        if len(self._largest) > 4 * TOP:
            self._largest = dict(sorted(self._largest.items(), key=lambda item: -item[1])[:TOP])

    def _of(self, reader: Actor) -> list[int]:
        key = (reader.name, reader.container)
        if key not in self._readers and len(self._readers) >= READERS_MAX:
            key = OTHERS
        return self._readers.setdefault(key, [0, 0])

    def status(self) -> dict[str, object]:
        """The counts, of readers and objects the ``TOP`` with the most bytes."""
        readers = sorted(self._readers.items(), key=lambda item: -item[1][1])[:TOP]
        largest = sorted(self._largest.items(), key=lambda item: -item[1])[:TOP]
        return {
            "asks": self.asks,
            "hits": self.hits,
            "errors": self.errors,
            "objects": self.objects,
            "bytes": self.bytes,
            "readers": [
                {"program": name, "container": container, "objects": objects, "bytes": size}
                for (name, container), (objects, size) in readers
            ],
            "largest": [{"object": digest.hex(), "bytes": size} for digest, size in largest],
        }
