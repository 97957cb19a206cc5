"""User and group IDs of a commit as others have them: those of a container whose users are numbered anew. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

NOBODY: Final = 0xFFFFFFFE
"""What an ID becomes that has no other: the kernel takes it, and shows it as its overflow ID where nothing maps it."""

_ID_MAX: Final = 1 << 32
_ACL_HEADER: Final = struct.Struct("<I")
_ACL_ENTRY: Final = struct.Struct("<HHI")  # tag, permissions, ID
_ACL_USER: Final = 0x02
_ACL_GROUP: Final = 0x08

Range = tuple[int, int, int]


class IdTable:
    """Ranges (inside, outside, count): the ID ``inside + n`` of the commit is to be ``outside + n``, and one that none
    has, ``nobody``.

    ``ValueError`` for what are no ranges.
    """

    def __init__(self, uids: Iterable[Range], gids: Iterable[Range], nobody: int = NOBODY) -> None:
        self.uids = _checked(uids)
        self.gids = _checked(gids)
        self.nobody = nobody
        self._uid = lru_cache(256)(lambda uid: _translated(self.uids, uid, nobody))
        self._gid = lru_cache(256)(lambda gid: _translated(self.gids, gid, nobody))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdTable) and self._all == other._all

    def __hash__(self) -> int:
        return hash(self._all)

    @property
    def _all(self) -> tuple[object, ...]:
        return self.uids, self.gids, self.nobody

    def __repr__(self) -> str:
        return f"IdTable({self.uids}, {self.gids})"

    def translate(self, uid: int, gid: int) -> tuple[int, int]:
        """(user, group) as they are to be."""
        return self._uid(uid), self._gid(gid)

    def translate_acl(self, value: bytes) -> bytes:
        """A POSIX ACL as an extended attribute, with its users and groups as they are to be; what is none, as it is."""
        entries = value[_ACL_HEADER.size :]
        if len(value) < _ACL_HEADER.size or len(entries) % _ACL_ENTRY.size:
            return value
        found = [value[: _ACL_HEADER.size]]
        for tag, permissions, identity in _ACL_ENTRY.iter_unpack(entries):
            if tag == _ACL_USER:
                identity = self._uid(identity)  # noqa: PLW2901 - the entry is written anew
            elif tag == _ACL_GROUP:
                identity = self._gid(identity)  # noqa: PLW2901
            found.append(_ACL_ENTRY.pack(tag, permissions, identity))
        return b"".join(found)


def _checked(ranges: Iterable[Range]) -> tuple[Range, ...]:
    found = tuple((int(inside), int(outside), int(count)) for inside, outside, count in ranges)
    for inside, outside, count in found:
        if min(inside, outside) < 0 or count < 1 or max(inside, outside) + count > _ID_MAX:
            raise ValueError(f"no range of IDs: {inside} {outside} {count}")
    return found


def _translated(ranges: tuple[Range, ...], identity: int, nobody: int) -> int:
    for inside, outside, count in ranges:
        if inside <= identity < inside + count:
            return outside + identity - inside
    return nobody
