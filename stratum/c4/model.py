"""What a C4M text says: entries in directories, and the lists of IDs that come with sequences. Pure.

A manifest is a tree of ``Node``\\ s. Children have keys: the name in bytes, and a slash behind it where it is a
directory's. All that is null in a text is None here.
"""

from __future__ import annotations

from collections.abc import Iterator

from stratum.c4.ids import C4Id
from stratum.c4.names import in_order

UNKNOWN = "?"
"""The kind of an entry whose mode is null, and that is no directory."""

SIZE_MAX = (1 << 63) - 1
"""Bytes of a file or directory; what has more is null."""

UNGROUPED = -1
"""The group of a hard link that says no group."""


class Node:
    """An entry.

    ``kind`` is the first character of the mode: ``-dlpsbc``, or ``UNKNOWN``. ``mode`` has the permissions, at most
    ``0o7777``; ``time`` is in seconds since the epoch; ``size`` is in bytes. ``target`` is a symbolic link's,
    ``group`` a hard link's (0: none); ``flow`` is ``->``, ``<-``, ``<>`` or empty, with the ``place`` that it leads to
    or from. A sequence has its name in three parts: before the brackets, between them, behind them. ``children`` is
    None for what is no directory. ``line`` is where it was read, or 0.
    """

    __slots__ = (
        "c4id", "children", "flow", "group", "kind", "line", "mode", "name", "place", "sequence", "size", "target",
        "time",
    )  # fmt: skip

    def __init__(
        self,
        name: bytes,
        kind: str,
        mode: int | None,
        time: int | None,
        size: int | None,
        c4id: C4Id | None = None,
        *,
        target: bytes | None = None,
        group: int = 0,
        flow: str = "",
        place: str = "",
        sequence: tuple[bytes, str, bytes] | None = None,
        line: int = 0,
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.time = time
        self.size = size
        self.c4id = c4id
        self.target = target
        self.group = group
        self.flow = flow
        self.place = place
        self.sequence = sequence
        self.line = line
        self.children: dict[bytes, Node] | None = {} if kind == "d" else None

    @property
    def key(self) -> bytes:
        return self.name if self.children is None else self.name + b"/"

    def said(self) -> tuple[object, ...]:
        """All that its line says: what two entries must share to be the same to a patch."""
        return (
            self.name, self.kind, self.mode, self.time, self.size, self.c4id, self.target, self.group, self.flow,
            self.place,
        )  # fmt: skip

    def copy(self) -> Node:
        """The same entry, over no children of its own."""
        return Node(
            self.name, self.kind, self.mode, self.time, self.size, self.c4id, target=self.target, group=self.group,
            flow=self.flow, place=self.place, sequence=self.sequence, line=self.line,
        )  # fmt: skip


class Manifest:
    """``children`` are the entries at the top; ``lists`` the members' IDs of sequences, by the ID of the list;
    ``base`` is the manifest that these entries are a patch of, where the text begins with its ID."""

    __slots__ = ("base", "children", "lists")

    def __init__(self, base: C4Id | None = None) -> None:
        self.base = base
        self.children: dict[bytes, Node] = {}
        self.lists: dict[C4Id, tuple[C4Id, ...]] = {}


def ordered(children: dict[bytes, Node]) -> list[Node]:
    """Children as a listing has them: files first, then directories, each in natural order."""
    files = [key for key in children if not key.endswith(b"/")]
    directories = [key for key in children if key.endswith(b"/")]
    return [children[key] for key in in_order(files) + in_order(directories)]


def walk(children: dict[bytes, Node]) -> Iterator[tuple[int, Node]]:
    """Everything as (depth, node), in the order of a listing. No recursion: depth is what a text says."""
    stack = [iter(ordered(children))]
    while stack:
        for node in stack[-1]:
            yield len(stack) - 1, node
            if node.children:
                stack.append(iter(ordered(node.children)))
                break
        else:
            stack.pop()


def paths(children: dict[bytes, Node]) -> Iterator[tuple[bytes, Node]]:
    """Everything as (path, node); paths begin with no slash, and those of directories end with one."""
    prefixes: list[bytes] = [b""]
    for depth, node in walk(children):
        del prefixes[depth + 1 :]
        path = prefixes[depth] + node.key
        yield path, node
        if node.children is not None:
            prefixes.append(path)


def bottom_up(children: dict[bytes, Node]) -> list[Node]:
    """Every directory, those inside before those around them."""
    found = [node for _, node in walk_unordered(children) if node.children is not None]
    found.reverse()
    return found


def walk_unordered(children: dict[bytes, Node]) -> Iterator[tuple[int, Node]]:
    """Everything as (depth, node), directories before what is in them, in no order of names: what needs none is
    faster so."""
    stack = [iter(children.values())]
    while stack:
        for node in stack[-1]:
            yield len(stack) - 1, node
            if node.children:
                stack.append(iter(node.children.values()))
                break
        else:
            stack.pop()
