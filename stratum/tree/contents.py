"""The objects that a dump refers to, without building its tree. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from stratum.tree.blocks import Blocks, lines_of


def object_lines(dump: Blocks) -> Iterator[tuple[bytes, int, bytes]]:
    """(digest of 32 bytes, size, escaped path) of every line of a canonical dump that has its content in an object.

    One object may come several times. The dump must have been verified: nothing is checked here.
    """
    for line in lines_of(dump):
        fields = line.split(b" ", 11)
        if len(fields) > 10 and fields[10] != b"-" and fields[2][:1] != b"@":
            yield bytes.fromhex(fields[10].decode("ascii")), int(fields[1]), fields[0]
