"""What is likely to be asked for next, in numbers of frames. Pure.

Frames lie in the order of the tree, so whoever reads a directory, or all of it, asks for one frame after the other.
Some such readers are told apart. Whoever goes on where they were gets twice as much ahead whenever they have read a
part of it; whoever jumps gets a little, and nothing any more after many jumps in vain.
"""

from __future__ import annotations

SMALLEST = 2
LARGEST = 32
STREAMS = 4
JUMPS = 16


class _Stream:
    __slots__ = ("ahead", "position", "read", "size")

    def __init__(self, position: int, ahead: int, size: int) -> None:
        self.position = position
        self.read = 0
        self.ahead = ahead
        self.size = size


class ReadAhead:
    """The readers of one artifact. For one thread at a time."""

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._streams: list[_Stream] = []
        self._jumps = 0

    @property
    def size(self) -> int:
        """How many frames whoever asked last has ahead."""
        return self._streams[-1].size if self._streams else 0

    def asked(self, first: int, last: int, end: int) -> tuple[int, int]:
        """The frames [from, to) to be brought, now that [first, last) are asked for. None lies at or behind ``end``.

        They were not named before, unless somebody jumped.
        """
        stream = self._goes_on(first)
        if stream is None:
            self._jumps += 1
            stream = _Stream(first, last, SMALLEST if self._jumps <= JUMPS else 0)
            self._streams = [*self._streams[1 - STREAMS :], stream]
        elif first > stream.position:
            self._jumps = 0
            stream.read += first - stream.position
            if stream.read >= stream.size // 4:
                stream.size, stream.read = min(max(2 * stream.size, SMALLEST), self._largest), 0
            stream.position = first
        start, stop = max(stream.ahead, last), min(last + stream.size, end)
        if start >= stop or (stop - start < stream.size // 4 and stop < end):
            return last, last
        stream.ahead = stop
        return start, stop

    def _goes_on(self, first: int) -> _Stream | None:
        """The reader whom this may be, who then is the last that asked."""
        for stream in reversed(self._streams):
            if stream.position - 1 <= first <= max(stream.ahead, stream.position + 1) + 1:
                self._streams.remove(stream)
                self._streams.append(stream)
                return stream
        return None
