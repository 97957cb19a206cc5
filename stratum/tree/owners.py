"""The owners in a tree, said in the IDs of a user namespace. Pure.

What belongs to the user 100000 of the host is the user 0's in a container whose user namespace maps 0 to 100000, and
trees say it the container's way. Owners are in three places: of each inode, in its ACLs, and in a file's capabilities.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from stratum.tree.model import Directory, Inode, Xattrs

IdRange = tuple[int, int, int]
"""First ID inside, first ID outside, how many: a line of ``/proc/PID/uid_map``."""

NOBODY = 65534
"""What an ID that has none inside looks like there."""

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_ACL_VERSION = 2
_ACL_USER, _ACL_GROUP = 0x02, 0x08
_STRANGER = b"\xff\xff\xff\xff"
_CAPABILITY = b"security.capability"
_CAPABILITY_V2, _CAPABILITY_V3 = 0x02000000, 0x03000000
_REVISION = 0xFF000000

Translate = Callable[[int], int]


def translation(ranges: Sequence[IdRange]) -> Translate:
    """From IDs outside to IDs inside."""

    def translate(outside: int) -> int:
        for inside, first, count in ranges:
            if first <= outside < first + count:
                return inside + outside - first
        return NOBODY

    return translate


def translate_owners(root: Directory, uid: Translate, gid: Translate) -> None:
    """Change the owners in ``root``, a tree that was just made and that nothing else shares."""
    done: set[int] = set()
    left: list[Inode] = [root]
    while left:
        inode = left.pop()
        if id(inode) in done:  # a hard link
            continue
        done.add(id(inode))
        inode.uid, inode.gid = uid(inode.uid), gid(inode.gid)
        if inode.xattrs:
            inode.xattrs = _xattrs(inode.xattrs, uid, gid)
        if isinstance(inode, Directory):
            left.extend(inode.children.values())


def _xattrs(xattrs: Xattrs, uid: Translate, gid: Translate) -> Xattrs:
    found = []
    for name, value in xattrs:
        changed: bytes | None = value
        if name in _ACLS:
            changed = _acl(value, uid, gid)
        elif name == _CAPABILITY:
            changed = _capability(value, uid)
        if changed is not None:
            found.append((name, changed))
    return tuple(found)


def _acl(value: bytes, uid: Translate, gid: Translate) -> bytes | None:
    """A POSIX ACL as the kernel hands it out: a version, then entries of tag, permissions and ID; None for another."""
    if len(value) % 8 != 4 or struct.unpack_from("<I", value)[0] != _ACL_VERSION:
        return None
    parts = [value[:4]]
    for tag, permissions, number in struct.iter_unpack("<HHI", value[4:]):
        of = uid if tag == _ACL_USER else gid if tag == _ACL_GROUP else None
        parts.append(struct.pack("<HHI", tag, permissions, number if of is None else of(number)))
    return b"".join(parts)


def without_strangers(xattrs: Xattrs) -> Xattrs:
    """``xattrs`` without the entries of access lists for users and groups that have no ID in this user namespace:
    nobody could read or set such a list. The same object where there are none."""
    if not any(name in _ACLS and _STRANGER in value for name, value in xattrs):
        return xattrs
    found = tuple((name, _known(value) if name in _ACLS else value) for name, value in xattrs)
    return xattrs if found == xattrs else found


def _known(value: bytes) -> bytes:
    if len(value) % 8 != 4:
        return value
    entries = [value[start : start + 8] for start in range(4, len(value), 8)]
    named = (_ACL_USER, _ACL_GROUP)
    known = [entry for entry in entries if entry[4:] != _STRANGER or entry[0] not in named or entry[1]]
    return b"".join((value[:4], *known))


def _capability(value: bytes, uid: Translate) -> bytes | None:
    """Capabilities that the namespace's root gave are plain ones inside; anybody else's have no meaning there."""
    if len(value) != 24:
        return None
    (magic,) = struct.unpack_from("<I", value)
    (owner,) = struct.unpack_from("<I", value, 20)
    if magic & _REVISION != _CAPABILITY_V3 or uid(owner) != 0:
        return None
    return struct.pack("<I", (magic & ~_REVISION) | _CAPABILITY_V2) + value[4:20]
