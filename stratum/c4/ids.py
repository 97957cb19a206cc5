"""C4 IDs, as SMPTE ST 2114 has them: ``c4`` and the SHA-512 of some bytes in base 58, 90 characters in all. Pure.

The digits are ``1`` to ``9``, ``A`` to ``Z`` without ``I`` and ``O``, ``a`` to ``z`` without ``l``. All IDs have one
length, and the digits ascend as ASCII does: sorted as text, IDs are sorted by their numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NewType

from stratum.errors import UsageError, quoted

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

C4Id = NewType("C4Id", str)
"""A C4 ID that is well-formed: only what this module made or parsed."""

ID_LENGTH = 90
DIGEST_SIZE = 64
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_DIGITS = 88
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
_PAIR = len(_PAIRS)
_VALUES = {char: value for value, char in enumerate(ALPHABET)}
_WIDE = _PAIR**4
"""Eight digits: what is cut off a number at once, since dividing long numbers is what takes the time."""
_FORM = re.compile(rf"c4[{ALPHABET}]{{{_DIGITS}}}")


def hasher() -> Hash:
    """A hash to ``update`` with the bytes of a file; ``id_of_digest(hash.digest())`` is their ID."""
    return hashlib.sha512(usedforsecurity=False)


def id_of_digest(digest: bytes) -> C4Id:
    """The ID of what has this SHA-512. Raises ValueError for other than 64 bytes."""
    if len(digest) != DIGEST_SIZE:
        raise ValueError(f"a SHA-512 has {DIGEST_SIZE} bytes, not {len(digest)}")
    number = int.from_bytes(digest, "big")
    parts = []
    for _ in range(_DIGITS // 8):
        number, wide = divmod(number, _WIDE)
        upper, lower = divmod(wide, _PAIR * _PAIR)
        parts.append(_PAIRS[upper // _PAIR] + _PAIRS[upper % _PAIR] + _PAIRS[lower // _PAIR] + _PAIRS[lower % _PAIR])
    parts.append("c4")
    return C4Id("".join(reversed(parts)))


def id_of_bytes(data: bytes) -> C4Id:
    return id_of_digest(hashlib.sha512(data, usedforsecurity=False).digest())


EMPTY = id_of_bytes(b"")
"""The ID of nothing: of the empty file, and of the directory with nothing in it."""


def digest_of(c4id: C4Id) -> bytes:
    """The SHA-512 that a parsed ID stands for, 64 bytes."""
    number = 0
    for char in c4id[2:]:
        number = number * 58 + _VALUES[char]
    return number.to_bytes(DIGEST_SIZE, "big")


_LARGEST = id_of_digest(b"\xff" * DIGEST_SIZE)


def is_id(text: str) -> bool:
    """Whether it is a C4 ID: 90 characters of the alphabet after ``c4``, and a number that 512 bits can have."""
    return len(text) == ID_LENGTH and _FORM.fullmatch(text) is not None and text <= _LARGEST


def parse(text: str) -> C4Id:
    """``text`` as a C4 ID. Raises UsageError that says what is wrong with it."""
    if is_id(text):
        return C4Id(text)
    if len(text) != ID_LENGTH:
        why = f"it has {len(text)} characters, not {ID_LENGTH}"
    elif not text.startswith("c4"):
        why = "it does not begin with 'c4'"
    else:
        bad = next((place for place, char in enumerate(text[2:], 3) if char not in _VALUES), None)
        why = (
            f"character {bad}, {quoted(text[bad - 1])}, is none of its digits"
            if bad
            else "its number has over 512 bits"
        )
    raise UsageError(f"{quoted(text)} is not a C4 ID: {why}")


def tree_id(ids: Iterable[C4Id]) -> C4Id:
    """The ID of a set of IDs, whatever order they come in and however often. Raises UsageError for the empty set.

    They are sorted, and those that are there twice are left out. Neighbours are joined, the smaller digest first, and
    the SHA-512 of both is a member of the next row; an odd one at the end moves up as it is. The last one is the ID.
    """
    row = [digest_of(c4id) for c4id in sorted(set(ids))]
    if not row:
        raise UsageError("the empty set of C4 IDs has no ID")
    while len(row) > 1:
        above = [_joined(row[place], row[place + 1]) for place in range(0, len(row) - 1, 2)]
        row = above + row[2 * len(above) :]
    return id_of_digest(row[0])


def _joined(left: bytes, right: bytes) -> bytes:
    return hashlib.sha512(min(left, right) + max(left, right), usedforsecurity=False).digest()
