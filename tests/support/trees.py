"""Generated trees: small ones from hypothesis, which shrink, and large ones from a seed, which have everything."""

from __future__ import annotations

import random
import stat
from collections.abc import Callable

from hypothesis import strategies as st

from stratum.tree.limits import NAME_MAX, PATH_MAX
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs
from stratum.tree.overlay import is_whiteout_device

SECOND = 1_000_000_000
BIG_SIZES = (65, 4095, 4096, 4097, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 43) + 1, 600 << 43, 1023 << 43, 1 << 53)
TIMES = (0, -1, -5 * SECOND - 3, 1, SECOND - 1, 1_700_000_000 * SECOND, (1 << 32) * SECOND + 7, (1 << 62) * SECOND)
IDS = (0, 0, 1000, 65535, 65536, 1 << 31, (1 << 32) - 1)
XATTR_PREFIXES = (
    b"user.",
    b"trusted.",
    b"security.",
    b"lustre.",
    b"system.",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"trusted.overlay.",
    b"trusted.overlay.overlay.",
    b"user.overlay.",
    b"",
)
XATTR_NAMES = (
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"trusted.overlay.metacopy",
    b"trusted.overlay.redirect",
    b"trusted.overlay.origin",
    b"trusted.overlay.overlay.redirect",
    b"security.selinux",
    b"security.capability",
    b"user.mime_type",
)
MOUNTABLE_PREFIXES = (
    b"user.",
    b"trusted.",
    b"security.",
    b"trusted.overlay.",
    b"trusted.overlay.overlay.",
    b"user.overlay.",
)
MOUNTABLE_NAMES = (
    b"trusted.overlay.metacopy",
    b"trusted.overlay.redirect",
    b"trusted.overlay.origin",
    b"trusted.overlay.overlay.redirect",
    b"security.label",
    b"user.mime_type",
)

_bytes_name = st.binary(min_size=1, max_size=24).filter(
    lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name
)
names = _bytes_name | st.sampled_from([b"a", b"-", b"=", b"\\", b"00", b"ff", b"\xff", b" ", b"\n", b"x" * 255, b"..."])
mtimes = st.sampled_from(TIMES) | st.integers(-(1 << 63), (1 << 64) - 1)
ids = st.sampled_from(IDS)
_xattr_names = st.sampled_from(XATTR_NAMES) | st.builds(
    bytes.__add__,
    st.sampled_from(XATTR_PREFIXES[:-1]),
    st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name),
)
xattrs: st.SearchStrategy[Xattrs] = st.dictionaries(
    _xattr_names, st.binary(max_size=40) | st.just(b"x" * 3000), max_size=4
).map(lambda pairs: tuple(sorted(pairs.items())))


def _common(kind: int) -> st.SearchStrategy[tuple[int, int, int, int, Xattrs]]:
    return st.tuples(st.integers(0, 0o7777).map(lambda mode: kind | mode), ids, ids, mtimes, xattrs)


def _file(common: tuple[int, int, int, int, Xattrs], size: int, byte: int) -> File:
    if size <= 64:
        return File(*common, size=size, content=bytes((byte,)) * size or None)
    return File(*common, size=size, digest=bytes((byte,)) * 32)


files = st.builds(
    _file, _common(stat.S_IFREG), st.sampled_from([0, 1, 64, *BIG_SIZES]) | st.integers(0, 200), st.integers(0, 255)
)
symlinks = st.builds(
    lambda common, target: Symlink(*common, target=target),
    _common(stat.S_IFLNK),
    st.binary(min_size=1, max_size=20).filter(lambda target: b"\0" not in target)
    | st.sampled_from([b"-", b"x" * 4095, b"y" * 3900]),
)
specials = st.builds(
    lambda common, rdev: Special(*common, rdev=rdev if stat.S_IFMT(common[0]) in (stat.S_IFCHR, stat.S_IFBLK) else 0),
    st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]).flatmap(_common),
    st.sampled_from([0, 0, 0x103, (1 << 32) - 1]),
)


def _directories(children: st.SearchStrategy[Inode]) -> st.SearchStrategy[Directory]:
    return st.builds(
        lambda common, entries: Directory(*common, children=entries),
        _common(stat.S_IFDIR),
        st.dictionaries(names, children, max_size=5),
    )


def _link_some(root: Directory, numbers: list[int]) -> Directory:
    """Give some of the tree's inodes further names; every directory is made its own."""
    places: list[Directory] = []
    inodes: list[Inode] = []
    stack = [root]
    while stack:
        directory = stack.pop()
        places.append(directory)
        for child in directory.children.values():
            if isinstance(child, Directory):
                stack.append(child)
            else:
                inodes.append(child)
    for number in numbers if inodes else ():
        places[number % len(places)].children.setdefault(b"link%d" % (number % 7), inodes[number % len(inodes)])
    return root


_leaves: st.SearchStrategy[Inode] = files | symlinks | specials
trees: st.SearchStrategy[Directory] = st.builds(
    _link_some,
    _directories(st.recursive(_leaves, lambda children: _leaves | _directories(children), max_leaves=12)),
    st.lists(st.integers(0, 1 << 16), max_size=4),
)
"""Trees of a few entries of every kind. Directories may be shared only within hypothesis's own examples."""


class TreeBuilder:
    """Large trees from a seed: every kind of entry, pools of shared and unshared attributes, blocks that just fit.

    With ``mountable`` all of it can be seen on a mount: no attributes that the kernel does not show or that have to
    follow rules of its own (ACLs, capabilities, ``user.*`` on what is neither a file nor a directory), and no owner
    with the number that the kernel has for "none".
    """

    def __init__(self, seed: int, *, mountable: bool = False) -> None:
        self.random = random.Random(seed)
        self._mountable = mountable
        self._xattr_pool = [self._xattrs(self.random.choice((1, 2, 5))) for _ in range(self.random.choice((0, 3, 40)))]
        self._digests = [self.random.randbytes(32) for _ in range(20)]
        self._mtimes = [self._mtime() for _ in range(self.random.choice((1, 2, 50)))]
        self._long_names = self.random.random() < 0.3
        self._xattr_rate = self.random.choice((0.0, 0.1, 0.8))
        self._whiteout_rate = self.random.choice((0.0, 0.0, 0.5))
        self._inodes: list[Inode] = []

    def tree(self, entries: int) -> Directory:
        """A tree of about ``entries`` entries."""
        root = self._directory()
        open_directories = [(root, 1)]  # with the length of the path, so that none gets longer than a tree can have
        kinds: list[tuple[int, Callable[[], Inode]]] = [
            (50, self._file),
            (15, self._directory),
            (15, self._symlink),
            (5, self._special),
            (6, self._linked),
        ]
        weights = [weight for weight, _ in kinds]
        width = self.random.choice((1.0, 0.5, 0.1))  # how likely entries spread over all directories
        for _ in range(entries):
            make = self.random.choices(kinds, weights)[0][1]
            spread = self.random.random() < width
            parent, length = self.random.choice(open_directories) if spread else open_directories[-1]
            inode, name = make(), self._name()
            parent.children.setdefault(name, inode)
            length += len(name) + 1
            if isinstance(inode, Directory) and length + NAME_MAX <= PATH_MAX:
                open_directories.append((inode, length))
        return root

    def _name(self) -> bytes:
        r = self.random
        if r.random() < 0.02:
            return b"%02x" % r.randrange(256)
        length = r.choice((1, 2, 3, 8, 20, 255)) if self._long_names else r.choice((1, 2, 3, 5, 8, 12))
        alphabet = (
            bytes(set(range(1, 256)) - {0x2F}) if r.random() < 0.2 else b"abcdefghijklmnopqrstuvwxyz0123456789-_.~ "
        )
        name = bytes(r.choices(alphabet, k=length))
        return name if name not in (b".", b"..") else b"dot"

    def _mtime(self) -> int:
        r = self.random
        return r.choice((r.choice(TIMES), r.randrange(-(10**18), 10**19), r.randrange(0, 2 * 10**18)))

    def _xattrs(self, most: int) -> Xattrs:
        r = self.random
        pairs: dict[bytes, bytes] = {}
        for _ in range(r.randint(0, most)):
            name = r.choice(MOUNTABLE_NAMES if self._mountable else XATTR_NAMES)
            if r.random() < 0.6:
                name = r.choice(MOUNTABLE_PREFIXES if self._mountable else XATTR_PREFIXES) + bytes(
                    r.choices(range(1, 256), k=r.choice((1, 5, 15, 16, 17, 60)))
                )
            pairs[name] = r.randbytes(
                r.choice((0, 1, 2, 3, 4, 20, 36, 100, 1000, 4000) if r.random() < 0.3 else (0, 3, 20))
            )
        return tuple(sorted(pairs.items()))

    def _common(self, kind: int) -> tuple[int, int, int, int, Xattrs]:
        r = self.random
        xattrs: Xattrs = ()
        if r.random() < self._xattr_rate:
            xattrs = r.choice(self._xattr_pool) if self._xattr_pool and r.random() < 0.8 else self._xattrs(3)
        if self._mountable and kind not in (stat.S_IFREG, stat.S_IFDIR):
            xattrs = tuple(pair for pair in xattrs if not pair[0].startswith(b"user."))
        ids = IDS[:-1] if self._mountable else IDS
        owner = (r.choice(ids), r.choice(ids)) if r.random() < 0.3 else (1000, 1000)
        return kind | r.choice((0o644, 0o755, 0o7777, 0)), *owner, r.choice(self._mtimes), xattrs

    def _keep(self, inode: Inode) -> Inode:
        if not (self._mountable and is_whiteout_device(inode)):  # only its first directory is marked in an image
            self._inodes.append(inode)
        return inode

    def _file(self) -> Inode:
        r = self.random
        size = r.choice((0, 1, 64, r.randint(1, 64), r.randint(65, 1 << 40), r.choice(BIG_SIZES)))
        common = self._common(stat.S_IFREG)
        if size <= 64:
            return self._keep(File(*common, size=size, content=r.randbytes(size) or None))
        digest = r.choice(self._digests) if r.random() < 0.2 else r.randbytes(32)
        return self._keep(File(*common, size=size, digest=digest))

    def _directory(self) -> Directory:
        return Directory(*self._common(stat.S_IFDIR))

    def _symlink(self) -> Inode:
        r = self.random
        length = r.choice((1, 5, 20, 100, 4000, 4031, 4032, 4063, 4064, 4065, 4095)) if r.random() < 0.2 else 12
        return self._keep(Symlink(*self._common(stat.S_IFLNK), target=bytes(r.choices(range(1, 256), k=length))))

    def _special(self) -> Inode:
        r = self.random
        kind = r.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK))
        rdev = r.choice((0x103, 0x10300, (1 << 32) - 1)) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        if r.random() < self._whiteout_rate:
            kind, rdev = stat.S_IFCHR, 0
        return self._keep(Special(*self._common(kind), rdev=rdev))

    def _linked(self) -> Inode:
        return self.random.choice(self._inodes) if self._inodes else self._file()
