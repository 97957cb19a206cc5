"""C4M texts of trees: canonical, and laid out for reading; and the IDs of directories. Pure.

A directory's ID is that of its listing of one level: a line for each child, without indentation, in order. Where a
directory says no size, it is that of what is in it and of that listing; where it says no time, the last of its
children's. One child that does not say leaves it null. The specification counts the contents only: its own program and
its tests count the listings too, and IDs can only be equal if that is done everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from stratum.c4.ids import C4Id, id_of_bytes
from stratum.c4.model import SIZE_MAX, UNGROUPED, Manifest, Node, bottom_up, ordered, walk, walk_unordered
from stratum.c4.names import written_name, written_target
from stratum.c4.times import pretty_time, written_time

INDENT = "  "

Filled = tuple[int | None, int | None, C4Id | None]
"""Size, time and ID of a directory."""

NOTHING: Mapping[int, Filled] = MappingProxyType({})
_COLUMN = 80
_GAP = 10

_MODES: dict[tuple[str, int], str] = {}


def mode_text(kind: str, mode: int | None) -> str:
    """``-rw-r--r--``; null is ``-``, which no permissions at all is not."""
    if mode is None:
        return "-"
    text = _MODES.get((kind, mode))
    if text is None:
        text = _MODES[kind, mode] = _written_mode(kind, mode)
    return text


def _written_mode(kind: str, mode: int) -> str:
    chars = [char if mode & 1 << (8 - place) else "-" for place, char in enumerate("rwxrwxrwx")]
    for bit, place, letter in ((0o4000, 2, "s"), (0o2000, 5, "s"), (0o1000, 8, "t")):
        if mode & bit:
            chars[place] = letter if chars[place] == "x" else letter.upper()
    return kind + "".join(chars)


def name_text(node: Node) -> str:
    if node.sequence is not None:
        before, between, behind = node.sequence
        written = f"{written_name(before)}[{between}]{written_name(behind)}"
    else:
        written = written_name(node.name)
    return written if node.children is None else written + "/"


def link_text(node: Node) -> str:
    """What is between the name and the ID, with a space before it; or nothing."""
    if node.target is not None:
        return " -> " + written_target(node.target)
    if node.group:
        return " ->" if node.group == UNGROUPED else f" ->{node.group}"
    return f" {node.flow} {node.place}" if node.flow else ""


def line_of(node: Node, filled: Filled | None = None) -> str:
    """The canonical line of an entry, without indentation and line feed; ``filled`` goes before what it says itself."""
    size, time, c4id = filled or (node.size, node.time, node.c4id)
    mode = mode_text(node.kind, node.mode)
    length = "-" if size is None else str(size)
    return f"{mode} {written_time(time)} {length} {name_text(node)}{link_text(node)} {c4id or '-'}"


def listing(children: dict[bytes, Node], filled: Mapping[int, Filled] = NOTHING) -> bytes:
    """The listing of one level: what the ID of a directory is that of."""
    return "".join([line_of(node, filled.get(id(node))) + "\n" for node in ordered(children)]).encode()


def fill(children: dict[bytes, Node], *, with_ids: bool = False) -> dict[int, Filled]:
    """``id`` of each directory that says no size or time, or ``with_ids`` no ID -> all three, as far as they can be
    known."""
    found: dict[int, Filled] = {}
    for node in bottom_up(children):
        size, time, c4id = node.size, node.time, node.c4id
        inside = node.children or {}
        values = [found.get(id(child)) or (child.size, child.time, child.c4id) for child in inside.values()]
        if size is None or (with_ids and c4id is None):
            text = listing(inside, found)
            if size is None and None not in (sizes := [value[0] for value in values]):
                total = sum(size for size in sizes if size is not None) + len(text)
                size = total if total <= SIZE_MAX else None
            if with_ids and c4id is None:
                c4id = id_of_bytes(text)
        if time is None and values and None not in (times := [value[1] for value in values]):
            time = max(time for time in times if time is not None)
        if (size, time, c4id) != (node.size, node.time, node.c4id):
            found[id(node)] = (size, time, c4id)
    return found


def complete(children: dict[bytes, Node]) -> None:
    """Have every directory say its size, time and ID, as far as they can be known."""
    filled = fill(children, with_ids=True)
    for _, node in walk_unordered(children):
        if (found := filled.get(id(node))) is not None:
            node.size, node.time, node.c4id = found


def id_of(manifest: Manifest) -> C4Id:
    """The ID of what a manifest lists: of its top level, as it is a directory's, sizes and times filled in."""
    return id_of_bytes(listing(manifest.children, fill(manifest.children)))


def write(manifest: Manifest) -> Iterator[str]:
    """The lines of a manifest, each with its line feed: entries, indented by two, then the lists of sequences."""
    for depth, node in walk(manifest.children):
        yield f"{INDENT * depth}{line_of(node)}\n"
    for c4id in sorted(manifest.lists):
        yield "".join(manifest.lists[c4id]) + "\n"


def pretty(manifest: Manifest) -> Iterator[str]:
    """The same for reading: sizes with commas and in a column, times as ``ls`` has them, IDs in a column."""
    rows: list[tuple[str, str, str, Node]] = []
    width = 1
    for depth, node in walk(manifest.children):
        size = "-" if node.size is None else f"{node.size:,}"
        width = max(width, len(size))
        rows.append((INDENT * depth + mode_text(node.kind, node.mode), pretty_time(node.time), size, node))
    lines = [f"{mode} {time} {size:>{width}} {name_text(node)}{link_text(node)}" for mode, time, size, node in rows]
    longest = max(map(len, lines), default=0) + _GAP
    column = max(_COLUMN, -(-longest // 10) * 10)
    for line, (_, _, _, node) in zip(lines, rows, strict=True):
        yield f"{line:<{column}}{node.c4id or '-'}\n"
    for c4id in sorted(manifest.lists):
        yield "".join(manifest.lists[c4id]) + "\n"
