"""What single lines of a dump say, without building its tree. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from stratum.errors import DamagedError
from stratum.tree.blocks import Blocks, lines_of, small_blocks

_PATH, _SIZE, _MODE, _PAYLOAD, _DIGEST, _COLUMNS = 0, 1, 2, 8, 10, 11
"""Columns of a line (``tree.dump``), and how many every line has."""

_LINK_MARK = b"@"
_OBJECT = re.compile(r" - ([0-9a-f]{64})(?![^ \n])")
"""Of a line: no content, and a digest. Nothing else in a line has a column that is just "-" and such a one next."""
_OBJECT_LINE = re.compile(r"^[^ \n]+ ([0-9]{1,19}) [0-7]+ (?:[^ \n]+ ){7}([0-9a-f]{64})(?=[ \n]|\Z)", re.MULTILINE)
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


def named_digests(lines: str) -> list[str]:
    """The digest, in hex, of each of some lines of a dump that has its content in an object: several times faster than
    ``object_lines``. What is no line of a dump may be passed over or not."""
    return _OBJECT.findall(lines)


def digests_in(lines: bytes) -> Iterator[bytes]:
    """The same as bytes, of lines as bytes."""
    return map(bytes.fromhex, named_digests(lines.decode("latin-1")))


def named_objects(lines: str) -> list[tuple[str, str]]:
    """The same with sizes: (size, digest). What is no line of a dump is passed over."""
    return _OBJECT_LINE.findall(lines)


def objects_of(dump: Blocks) -> dict[bytes, int]:
    """The objects of a canonical dump, as digest (32 bytes) -> size in bytes, in tree order.

    ``DamagedError`` as ``object_lines``, and for one object with two sizes.
    """
    return counted_objects(dump)[0]


def counted_objects(dump: Blocks) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """The same, and how many lines name each object that more than one does, by its digest."""
    objects: dict[bytes, int] = {}
    counts: dict[bytes, int] = {}
    for digest, size, path in object_lines(dump):
        known = len(objects)
        if objects.setdefault(digest, size) != size:
            raise _damaged(path, f"has object {digest.hex()} with another size than a file before it")
        if len(objects) == known:
            counts[digest] = counts.get(digest, 1) + 1
    return objects, counts


def graded_objects(dump: Blocks, grade: Callable[[bytes], int]) -> dict[bytes, tuple[int, int]]:
    """The objects of a canonical dump: digest (32 bytes) -> (size, the greatest ``grade`` of the escaped paths of the
    files that have it, all names of a file taken). ``DamagedError`` as ``object_lines``."""
    found: dict[bytes, tuple[int, int]] = {}
    links: dict[bytes, int] = {}
    for line in lines_of(dump):
        target = link_target(line)
        if target is not None:
            links[target] = max(links.get(target, 0), grade(line.partition(b" ")[0]))
    for digest, size, path in object_lines(dump):
        level = max(grade(path), links.get(path, 0))
        known = found.get(digest)
        found[digest] = (size, level if known is None else max(level, known[1]))
    return found


def has_path(dump: Blocks, path: bytes) -> bool:
    """Whether the dump has a line for the escaped ``path``."""
    wanted = path + b" "
    return any(block.startswith(wanted) or b"\n" + wanted in block for block in small_blocks(dump))


def link_target(line: bytes) -> bytes | None:
    """The escaped path of the first name of the file that ``line`` gives another name; None for any other line."""
    fields = line.split(b" ", _PAYLOAD + 1)
    return fields[_PAYLOAD] if fields[_MODE].startswith(_LINK_MARK) else None


def _damaged(path: bytes, problem: str) -> DamagedError:
    return DamagedError(f"{path[:_SHOWN_MAX].decode('ascii', 'replace')} in the dump {problem}")
