"""The messages of FUSE, as the kernel and the server of a FUSE filesystem exchange them. Pure.

A request is a header and a body, an answer a header and a body; one message a read or write of ``/dev/fuse``. All
numbers are in the machine's byte order. Only what a read-only filesystem needs is here. Node IDs and file handles are
the server's own numbers, which the kernel gives back.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

from stratum.errors import StratumError
from stratum.frozen import frozen

ROOT_NODE = 1
"""The node ID of the root directory; all others are the server's choice."""

READ_BUFFER = 1 << 16
"""Bytes to read a request with: more than any that a read-only filesystem is sent. The kernel wants 8 KiB at least."""

MAX_READ = 1 << 20
"""The most bytes that the kernel asks for in one READ."""

FOR_EVER = 1 << 40
"""Seconds that what never changes holds."""

UNIQUE_RESEND = 1 << 63
"""Set in the number of a request that is sent again; its answer has to have it, too."""

_MAJOR = 7
_MINOR = 45
_MINOR_MIN = 31
"""Linux 5.4. What older ones send differs in length, and has no data-only layers above it anyway."""
_MAX_WRITE = 4096
_MAX_BACKGROUND = 64
_CONGESTION = 48
_BLKSIZE = 4096
_NO_REPLY = 0
_NOTIFY_RESEND = 7
_NOTIFY_PRUNE = 9

_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_IN = struct.Struct("=IIIII")
_INIT_IN_SHORT = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_STATUS = struct.Struct("=QQQqqqIIIIIIIIII")  # the same, with times as they are
_ENTRY = struct.Struct("=QQQQII")
_ATTR_OUT = struct.Struct("=QII")
_OPEN_OUT = struct.Struct("=QII")
_DIRENT = struct.Struct("=QQII")
_DIRENT_ALIGN = 8
_GETXATTR_IN = struct.Struct("=II")
_GETXATTR_OUT = struct.Struct("=II")
_READ_IN = struct.Struct("=QQIIQII")
_STATFS_OUT = struct.Struct("=QQQQQIIII24x")
_INTERRUPT_IN = struct.Struct("=Q")
_FORGET_IN = struct.Struct("=Q")
_BATCH_FORGET_IN = struct.Struct("=II")
_FORGET_ONE = struct.Struct("=QQ")
_PRUNE_OUT = struct.Struct("=IIQ")


class Opcode(IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    GETXATTR = 22
    LISTXATTR = 23
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44


UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
"""Requests that the kernel does not wait for, and takes no answer to."""


class Capability(IntFlag):
    """What kernel and server agree on in INIT."""

    ASYNC_READ = 1 << 0
    DO_READDIRPLUS = 1 << 13
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    INIT_EXT = 1 << 30
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40


WANTED = (
    Capability.ASYNC_READ
    | Capability.PARALLEL_DIROPS
    | Capability.MAX_PAGES
    | Capability.INIT_EXT
    | Capability.HAS_RESEND
    | Capability.ALLOW_IDMAP
)
"""What a gate wants. Without PARALLEL_DIROPS one lookup at a time would wait for a directory."""

WANTED_UNCHANGING = (
    Capability.ASYNC_READ
    | Capability.DO_READDIRPLUS
    | Capability.NO_OPEN_SUPPORT
    | Capability.PARALLEL_DIROPS
    | Capability.MAX_PAGES
    | Capability.CACHE_SYMLINKS
    | Capability.NO_OPENDIR_SUPPORT
    | Capability.INIT_EXT
)
"""What a filesystem that never changes wants: names with their attributes, each asked for once, and no opening. Without
READDIRPLUS_AUTO beside DO_READDIRPLUS, the kernel always asks for both at once."""


class OpenFlag(IntFlag):
    """What the answer to OPEN and OPENDIR says of the file."""

    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5


class Request(NamedTuple):
    """One request. ``opcode`` may be one that ``Opcode`` has not. ``tid`` is the thread that waits, as the PID
    namespace of the mount's maker numbers it; 0 where that has no number for it, or for the kernel itself."""

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    tid: int
    body: bytes

    @property
    def base(self) -> int:
        """The number of the request, however often it is sent."""
        return self.unique & ~UNIQUE_RESEND


@frozen
class Attributes:
    """What stat shows of a node. ``mode`` has the file type."""

    node: int
    mode: int
    size: int = 0
    nlink: int = 1
    blksize: int = 4096


@frozen
class Hello:
    """The kernel's half of INIT."""

    major: int
    minor: int
    max_readahead: int
    flags: int

    @property
    def resends(self) -> bool:
        """Whether the requests of a server that died can be had again (Linux 6.9)."""
        return bool(self.flags & Capability.HAS_RESEND)


class ProtocolError(StratumError):
    """What came from ``/dev/fuse`` is no message that this version of the protocol has."""

    id = "unsupported"


def parse_request(data: bytes) -> Request:
    """The request that one read gave. ``ProtocolError`` where it is none."""
    if len(data) < _IN_HEADER.size:
        raise ProtocolError(f"a FUSE request of {len(data)} bytes")
    length, opcode, unique, node, uid, gid, pid, extensions, _ = _IN_HEADER.unpack_from(data)
    if length != len(data) or extensions * 8 > length - _IN_HEADER.size:
        raise ProtocolError(f"a FUSE request of {len(data)} bytes that says {length}")
    return Request(opcode, unique, node, uid, gid, pid, data[_IN_HEADER.size : length - extensions * 8])


def glance(data: bytes) -> tuple[int, int, int, bytes]:
    """(opcode, unique, node, name) of what one read gave, as far as it is a lookup without more; nothing is checked
    but its length. For those who go on to ``parse_request`` where this is not what they look for."""
    if len(data) < _IN_HEADER.size:
        return 0, 0, 0, b""
    length, opcode, unique, node, _, _, _, extensions, _ = _IN_HEADER.unpack_from(data)
    if length != len(data) or extensions:
        return 0, 0, 0, b""
    return opcode, unique, node, data[_IN_HEADER.size : -1]


def parse_hello(body: bytes) -> Hello:
    """The body of INIT. ``ProtocolError`` where the kernel's protocol is another, or too old."""
    if len(body) >= _INIT_IN.size:
        major, minor, readahead, flags, more = _INIT_IN.unpack_from(body)
    elif len(body) >= _INIT_IN_SHORT.size:
        major, minor, readahead, flags = _INIT_IN_SHORT.unpack_from(body)
        more = 0
    else:
        raise ProtocolError(f"a FUSE greeting of {len(body)} bytes")
    if major != _MAJOR or minor < _MINOR_MIN:
        raise ProtocolError(
            f"this kernel speaks FUSE {major}.{minor}", hint=f"FUSE {_MAJOR}.{_MINOR_MIN} or later is needed: Linux 5.4"
        )
    if flags & Capability.INIT_EXT:
        flags |= more << 32
    return Hello(major, minor, readahead, flags)


def hello(theirs: Hello, wanted: Capability = WANTED) -> bytes:
    """The body of the answer to INIT: what both want, big reads, and all requests for pages at once."""
    flags = int(wanted) & theirs.flags
    return _INIT_OUT.pack(
        _MAJOR,
        min(theirs.minor, _MINOR),
        MAX_READ,
        flags & 0xFFFFFFFF,
        _MAX_BACKGROUND,
        _CONGESTION,
        _MAX_WRITE,
        1,  # granularity of times, in ns
        MAX_READ // 4096,
        0,
        flags >> 32,
        0,
        0,
    )


def reply(unique: int, body: bytes = b"") -> bytes:
    """A message that answers the request ``unique``."""
    return reply_head(unique, len(body)) + body


def reply_head(unique: int, size: int) -> bytes:
    """The part of such a message before a body of so many bytes."""
    return _OUT_HEADER.pack(_OUT_HEADER.size + size, 0, unique)


def refusal(unique: int, code: int) -> bytes:
    """A message that answers the request ``unique`` with an errno."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, -code, unique)


def resend() -> bytes:
    """A message that asks for every request again that was read and not answered."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, _NOTIFY_RESEND, _NO_REPLY)


def prune(nodes: Sequence[int]) -> bytes:
    """A message that has the kernel forget those of the nodes that nobody uses (Linux 6.18). Others stay."""
    body = _PRUNE_OUT.pack(len(nodes), 0, 0) + struct.pack(f"={len(nodes)}Q", *nodes)
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), _NOTIFY_PRUNE, _NO_REPLY) + body


def entry(attributes: Attributes, *, entry_valid: int, attr_valid: int) -> bytes:
    """The body of an answer to LOOKUP; for how many seconds the name and the attributes hold."""
    head = _ENTRY.pack(attributes.node, 0, entry_valid, attr_valid, 0, 0)
    return head + _packed(attributes)


def attributes_reply(attributes: Attributes, *, valid: int) -> bytes:
    """The body of an answer to GETATTR; for how many seconds it holds."""
    return _ATTR_OUT.pack(valid, 0, 0) + _packed(attributes)


def _packed(attributes: Attributes) -> bytes:
    blocks = -(-attributes.size // 512)
    return _ATTR.pack(
        attributes.node,
        attributes.size,
        blocks,
        *(0,) * 6,  # times
        attributes.mode,
        attributes.nlink,
        *(0,) * 3,  # owner, group and device
        attributes.blksize,
        0,
    )


def status(
    node: int, mode: int, size: int, nlink: int, uid: int, gid: int, rdev: int, mtime: int, mtime_ns: int
) -> bytes:
    """The attributes of a node in full, as all answers that have some contain them. Times in seconds and nanoseconds;
    the only one is that of the last change. Not of ``Attributes``: a directory has thousands of these."""
    blocks = -(-size // _BLKSIZE) * (_BLKSIZE // 512)
    return _STATUS.pack(
        *(
            node,
            size,
            blocks,
            mtime,
            mtime,
            mtime,
            mtime_ns,
            mtime_ns,
            mtime_ns,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            _BLKSIZE,
            0,
        )
    )


def entry_of(node: int, packed: bytes) -> bytes:
    """The body of an answer to LOOKUP that holds for ever; ``packed`` is the node's ``status``."""
    return _ENTRY.pack(node, 0, FOR_EVER, FOR_EVER, 0, 0) + packed


NO_ENTRY = _ENTRY.pack(0, 0, FOR_EVER, FOR_EVER, 0, 0) + bytes(_ATTR.size)
"""The body of an answer to LOOKUP: there is no such name, for ever."""


def attributes_of(packed: bytes) -> bytes:
    """The body of an answer to GETATTR that holds for ever; ``packed`` is the node's ``status``."""
    return _ATTR_OUT.pack(FOR_EVER, 0, 0) + packed


def name_size(name: bytes) -> int:
    """The bytes that ``named`` takes for a name."""
    return len(NO_ENTRY) + (_DIRENT.size + len(name) + _DIRENT_ALIGN - 1) // _DIRENT_ALIGN * _DIRENT_ALIGN


def named(entry: bytes, inode: int, after: int, kind: int, name: bytes) -> bytes:
    """One of the names that are the body of an answer to READDIRPLUS. ``entry`` is as for LOOKUP, ``NO_ENTRY`` where
    nothing is to be said of it (``.`` and ``..``); ``after`` is where a reading goes on behind it, ``kind`` as
    readdir(3) has it in ``d_type``."""
    pad = -(_DIRENT.size + len(name)) % _DIRENT_ALIGN
    return b"".join((entry, _DIRENT.pack(inode, after, len(name), kind), name, bytes(pad)))


def parse_getxattr(body: bytes) -> tuple[int, bytes]:
    """(bytes that there is room for, 0 to ask for the size; name) of the body of GETXATTR; no name for that of
    LISTXATTR. ``ProtocolError``."""
    size, _ = _unpacked(_GETXATTR_IN, body)
    return size, body[_GETXATTR_IN.size :].rstrip(b"\0")


def xattr_size(size: int) -> bytes:
    """The body of an answer to GETXATTR or LISTXATTR that asked for the size."""
    return _GETXATTR_OUT.pack(size, 0)


def directory(node: int) -> Attributes:
    """What a directory that anybody may look into is."""
    return Attributes(node, stat.S_IFDIR | 0o555, nlink=2)


def regular(node: int, size: int) -> Attributes:
    """What a file of ``size`` bytes that anybody may read is."""
    return Attributes(node, stat.S_IFREG | 0o444, size=size)


def opened(handle: int, flags: OpenFlag) -> bytes:
    """The body of an answer to OPEN and OPENDIR."""
    return _OPEN_OUT.pack(handle, flags, 0)


def parse_read(body: bytes) -> tuple[int, int]:
    """(offset, bytes wanted) of the body of READ. ``ProtocolError``."""
    _, offset, size, *_ = _unpacked(_READ_IN, body)
    return offset, size


def parse_interrupt(body: bytes) -> int:
    """The number of the request that a signal came for, as it was last sent. ``ProtocolError``."""
    return int(_unpacked(_INTERRUPT_IN, body)[0])


def parse_forget(request: Request) -> list[tuple[int, int]]:
    """(node, number of LOOKUPs that gave it) of those that the kernel knows no more, of a FORGET of either kind.
    ``ProtocolError``."""
    if request.opcode == Opcode.FORGET:
        return [(request.node, _unpacked(_FORGET_IN, request.body)[0])]
    (count, _) = _unpacked(_BATCH_FORGET_IN, request.body)
    rest = request.body[_BATCH_FORGET_IN.size :]
    if len(rest) < count * _FORGET_ONE.size:
        raise ProtocolError(f"a FUSE request that forgets {count} nodes in {len(rest)} bytes")
    return [_FORGET_ONE.unpack_from(rest, place * _FORGET_ONE.size) for place in range(count)]


def parse_name(body: bytes) -> bytes:
    """The name of the body of LOOKUP. ``ProtocolError``."""
    name, end, _ = body.partition(b"\0")
    if not end:
        raise ProtocolError("a FUSE lookup of a name without an end")
    return name


def statfs(blocks: int = 0, inodes: int = 0) -> bytes:
    """The body of an answer to STATFS: so many blocks of 4 KiB and inodes, none of them free."""
    return _STATFS_OUT.pack(blocks, 0, 0, inodes, 0, _BLKSIZE, 255, _BLKSIZE, 0)


def _unpacked(form: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) < form.size:
        raise ProtocolError(f"a FUSE request with {len(body)} bytes instead of {form.size}")
    return form.unpack_from(body)
