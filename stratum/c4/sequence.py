"""Sequences: many numbered files in one entry, such as ``frame.[0001-0100].exr``. Pure.

Between the brackets are numbers and ranges, the latter with a step behind a colon where it is not one. All numbers
have the width of the first. The ID of a sequence is that of its members' IDs, one behind the other without anything
between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain

from stratum.c4.ids import C4Id, id_of_bytes

MEMBERS_MAX = 1_000_000
"""Members that one sequence may have: a range is short to write, whatever is in it."""

_ITEM = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18})(?::([0-9]{1,18}))?)?", re.ASCII)


def ranges(between: str) -> list[range]:
    """The numbers and ranges that are meant, as they stand there. Raises ValueError."""
    found: list[range] = []
    count = 0
    for item in between.split(","):
        parts = _ITEM.fullmatch(item)
        if parts is None:
            raise ValueError("between its brackets are no numbers or ranges of them")
        first = int(parts[1])
        last, step = int(parts[2] or first), int(parts[3] or 1)
        if last < first or not step:
            raise ValueError("its range goes from a number to a smaller one, or has a step of 0")
        found.append(range(first, last + 1, step))
        count += (last - first) // step + 1
        if count > MEMBERS_MAX:
            raise ValueError(f"it has over {MEMBERS_MAX} members")
    return found


def most_members(sequence: tuple[bytes, str, bytes]) -> int:
    """How many members it can have: what is there twice is counted twice. Takes no time."""
    return sum(map(len, ranges(sequence[1])))


def members(sequence: tuple[bytes, str, bytes]) -> list[bytes]:
    """The names of its members, in the order of their numbers, which is that of their IDs. Raises ValueError."""
    before, between, behind = sequence
    width = len(re.split("[-,:]", between, maxsplit=1)[0])
    numbers = sorted(set(chain.from_iterable(ranges(between))))
    return [before + b"%0*d" % (width, number) + behind for number in numbers]


def id_of_list(ids: Iterable[C4Id]) -> C4Id:
    return id_of_bytes("".join(ids).encode())
