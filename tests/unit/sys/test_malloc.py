"""Memory for a dump that is about to be read: whatever its size turns out to be, the text is what was read."""

from __future__ import annotations

import pytest

from stratum.sys.malloc import large_file
from stratum.tree.blocks import Dump


@pytest.mark.parametrize("size", [0, 1, 4096, 5 << 20])
@pytest.mark.parametrize("lines", [1, 200_000])
def test_a_dump_is_what_was_read_whatever_room_there_was(size: int, lines: int) -> None:
    blocks = [b"/%d\n" % number for number in range(lines)]
    room, seen = large_file(size), list[bytes]()
    assert room.getvalue() == bytes(size)
    dump = Dump(lambda: blocks, seen.append, room=room)
    assert dump.text == b"".join(seen) == b"".join(blocks)
    assert dump.size == len(dump.text)
