"""What single lines of a dump say, without building its tree. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from stratum.errors import DamagedError
from stratum.tree.blocks import Blocks, lines_of

_PATH, _SIZE, _MODE, _PAYLOAD, _DIGEST, _COLUMNS = 0, 1, 2, 8, 10, 11
"""Columns of a line (``tree.dump``), and how many every line has."""

_LINK_MARK = b"@"
_SHOWN_MAX = 200


def object_lines(dump: Blocks) -> Iterator[tuple[bytes, int, bytes]]:
    """(digest of 32 bytes, size, escaped path) of every line of a canonical dump that has its content in an object.

    One object may come several times. The dump must have been verified; a digest or size that cannot be is
    ``DamagedError`` all the same.
    """
    for line in lines_of(dump):
        fields = line.split(b" ", _COLUMNS)
        if len(fields) < _COLUMNS or fields[_DIGEST] == b"-" or fields[_MODE].startswith(_LINK_MARK):
            continue
        try:
            digest, size = bytes.fromhex(fields[_DIGEST].decode("ascii")), int(fields[_SIZE])
        except ValueError:
            raise _damaged(fields[_PATH], "has a malformed digest or size") from None
        if len(digest) != 32 or size <= 0:
            raise _damaged(fields[_PATH], "has a digest or size that cannot be")
        yield digest, size, fields[_PATH]


def objects_of(dump: Blocks) -> dict[bytes, int]:
    """The objects of a canonical dump, as digest (32 bytes) -> size in bytes, in tree order.

    ``DamagedError`` as ``object_lines``, and for one object with two sizes.
    """
    objects: dict[bytes, int] = {}
    for digest, size, path in object_lines(dump):
        if objects.setdefault(digest, size) != size:
            raise _damaged(path, f"has object {digest.hex()} with another size than a file before it")
    return objects


def link_target(line: bytes) -> bytes | None:
    """The escaped path of the first name of the file that ``line`` gives another name; None for any other line."""
    fields = line.split(b" ", _PAYLOAD + 1)
    return fields[_PAYLOAD] if fields[_MODE].startswith(_LINK_MARK) else None


def _damaged(path: bytes, problem: str) -> DamagedError:
    return DamagedError(f"{path[:_SHOWN_MAX].decode('ascii', 'replace')} in the dump {problem}")
