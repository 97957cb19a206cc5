"""What is answered to the kernel, asked as the kernel asks: the tree that the image was made of, and of an image that
is damaged an answer or EIO."""

from __future__ import annotations

import errno
import random
import stat
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from stratum.composefs.erofs.reader import Image
from stratum.composefs.erofs.writer import image_pieces
from stratum.errors import DamagedError
from stratum.metafs.answers import Answer, Answers, Shows, Wanted
from stratum.metafs.ids import NOBODY, IdTable
from stratum.sys import fuseproto
from stratum.sys.fuseproto import NO_ENTRY, ROOT_NODE, Capability, Opcode, Request
from stratum.tree.dump import count_links
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs, object_path, walk
from stratum.tree.overlay import Dialect, is_whiteout_device
from tests.support.effort import examples
from tests.support.shown import Seen, expected, in_image, in_overlay
from tests.support.trees import TreeBuilder, trees

STATUS = struct.Struct("=QQQqqqIIIIIIIIII")
ENTRY = struct.Struct("=QQQQII")
DIRENT = struct.Struct("=QQII")
DOTS = (b".", b"..")


class Asking:
    """Asks as the kernel does; an errno is an ``OSError``. ``page`` is the room for names in one answer."""

    def __init__(self, image: bytes, shows: Shows, ids: IdTable | None = None, page: int = 4096) -> None:
        self.answers = Answers(Image(image), shows, ids)
        self._page = page

    def ask(self, opcode: Opcode, node: int, body: bytes = b"") -> bytes | Wanted:
        answer: Answer = self.answers.answer(Request(opcode, 2, node, 0, 0, 1, body))
        if isinstance(answer, int):
            raise OSError(answer, opcode.name)
        return answer

    def body(self, opcode: Opcode, node: int, body: bytes = b"") -> bytes:
        answer = self.ask(opcode, node, body)
        assert isinstance(answer, bytes)
        return answer

    def names(self, node: int) -> Iterator[tuple[bytes, bytes, int]]:
        """(name, entry, type) of all in a directory."""
        after = 0
        while data := self.body(Opcode.READDIRPLUS, node, struct.pack("=QQIIQII", 0, after, self._page, 0, 0, 0, 0)):
            assert len(data) <= self._page
            place = 0
            while place < len(data):
                entry = data[place : place + len(NO_ENTRY)]
                _, after, length, kind = DIRENT.unpack_from(data, place + len(NO_ENTRY))
                start = place + len(NO_ENTRY) + DIRENT.size
                yield data[start : start + length], entry, kind
                place = (start + length + 7) & -8

    def lookup(self, node: int, name: bytes) -> bytes:
        return self.body(Opcode.LOOKUP, node, name + b"\0")

    def attribute(self, node: int, name: bytes) -> bytes:
        (size, _) = struct.unpack("=II", self.body(Opcode.GETXATTR, node, struct.pack("=II", 0, 0) + name + b"\0"))
        if size > 1:
            with pytest.raises(OSError, match="GETXATTR"):
                self.ask(Opcode.GETXATTR, node, struct.pack("=II", size - 1, 0) + name + b"\0")
        return self.body(Opcode.GETXATTR, node, struct.pack("=II", size or 1, 0) + name + b"\0")

    def attributes(self, node: int) -> Xattrs:
        names = self.body(Opcode.LISTXATTR, node, struct.pack("=II", 1 << 16, 0)).split(b"\0")[:-1]
        return tuple(sorted((name, self.attribute(node, name)) for name in names))

    def seen(self, node: int, entry: bytes | None, *, read: bool = False) -> Seen:
        """What is shown of a node; ``entry`` is what was said of it with its name."""
        status = self.body(Opcode.GETATTR, node)[16:]
        if entry is not None:
            assert ENTRY.unpack_from(entry)[:4] == (node, 0, fuseproto.FOR_EVER, fuseproto.FOR_EVER)
            assert entry[ENTRY.size :] == status
        number, size, _, _, mtime, _, _, nsec, _, mode, nlink, uid, gid, rdev, _, _ = STATUS.unpack(status)
        assert node in (ROOT_NODE, number)
        content = self.ask(Opcode.READ, node, struct.pack("=QQIIQII", 0, 0, 1 << 17, 0, 0, 0, 0)) if read else None
        return Seen(
            mode,
            uid,
            gid,
            mtime * 10**9 + nsec,
            None if stat.S_ISDIR(mode) else size,
            rdev,
            nlink,
            self.body(Opcode.READLINK, node) if stat.S_ISLNK(mode) else None,
            content if isinstance(content, bytes) else None,
            self.attributes(node),
        )

    def walk(self) -> Iterator[tuple[bytes, int, bytes | None]]:
        """(path, node, entry) of everything; each directory once, whatever the image says."""
        yield b"/", ROOT_NODE, None
        stack, seen = [(b"/", ROOT_NODE)], {ROOT_NODE}
        while stack:
            path, directory = stack.pop()
            for name, entry, kind in self.names(directory):
                if name in DOTS:
                    assert entry == NO_ENTRY
                    continue
                node = ENTRY.unpack_from(entry)[0]
                yield path + name, node, entry
                if kind == stat.S_IFDIR >> 12 and node not in seen:
                    seen.add(node)
                    stack.append((path + name + b"/", node))


def image_of(root: Directory, dialect: Dialect = Dialect.TRUSTED) -> bytes:
    return b"".join(image_pieces(root, dialect))


def readable(xattrs: Xattrs) -> Xattrs:
    """Those that an ordinary user may read, and can."""
    return tuple(pair for pair in xattrs if not pair[0].startswith(b"trusted.") and len(pair[0]) <= 255)


def wanted(shows: Shows, path: bytes, inode: Inode, seen: Seen) -> Seen:
    """What is to be shown: what an image in the dialect of users has, or what is seen in an overlay over that."""
    if shows is Shows.TREE:
        mount = in_overlay(path, inode, seen, Dialect.USER)
        return mount._replace(nlink=seen.nlink, xattrs=readable(mount.xattrs))
    image = in_image(path, inode, seen, Dialect.USER)
    content = (b"user.overlay.metacopy", b"user.overlay.redirect") if shows is Shows.FILES else ()
    return image._replace(xattrs=tuple(pair for pair in readable(image.xattrs) if pair[0] not in content))


def check(root: Directory, shows: Shows, page: int) -> None:
    asking = Asking(image_of(root), shows, page=page)
    inodes, want, links = dict(walk(root)), expected(root), count_links(root)
    nodes: dict[int, Inode] = {}
    found = {}
    for path, node, entry in asking.walk():
        inode = inodes[path]
        seen = asking.seen(node, entry, read=isinstance(inode, File) and inode.digest is None)
        wish = wanted(shows, path, inode, want[path])
        if isinstance(inode, Directory):
            if any(is_whiteout_device(child) and id(child) in links for child in inode.children.values()):
                wish = wish._replace(xattrs=seen.xattrs)  # an image marks only the first directory of such a device
        else:
            assert nodes.setdefault(node, inode) is inode
        if isinstance(inode, File) and inode.digest is None:
            wish = wish._replace(content=inode.content or b"")
        assert seen == wish, path
        found[path] = node
        if path != b"/":
            parent, _, name = path.rpartition(b"/")
            assert asking.lookup(found[parent or b"/"], name) == entry
    assert found.keys() == inodes.keys()
    assert len(nodes) == len({id(inode) for inode in nodes.values()})
    for number in range(256):
        if b"%02x" % number not in root.children:
            assert asking.lookup(ROOT_NODE, b"%02x" % number) == NO_ENTRY
    assert asking.lookup(ROOT_NODE, b"not\xffthere") == NO_ENTRY


@pytest.mark.parametrize("shows", Shows)
@given(root=trees)
@settings(max_examples=examples(40))
def test_small_trees_are_shown_as_they_are(shows: Shows, root: Directory) -> None:
    check(root, shows, 4096)


@pytest.mark.parametrize("seed", range(6))
def test_large_trees_are_shown_as_they_are(seed: int) -> None:
    rng = random.Random(seed)
    check(TreeBuilder(seed).tree(400), rng.choice(list(Shows)), rng.choice((1000, 4096, 1 << 20)))


def test_names_are_found_in_directories_of_many_blocks() -> None:
    root = Directory(0o40755, 0, 0, 0)
    for number in range(3000):
        root.children[b"%x" % (number * 7919) + b"n" * (number % 200)] = File(0o100644, 0, 0, number)
    asking = Asking(image_of(root), Shows.NAMES, page=1 << 20)
    found = {name: entry for name, entry, _ in asking.names(ROOT_NODE) if name not in DOTS}
    assert found.keys() == root.children.keys()
    assert all(asking.lookup(ROOT_NODE, name) == entry for name, entry in found.items())
    assert asking.lookup(ROOT_NODE, b"\x01") == asking.lookup(ROOT_NODE, b"\xff") == NO_ENTRY


def test_attributes_that_have_too_long_a_name_below_an_overlay_are_not_shown() -> None:
    long: Xattrs = ((b"user.overlay." + b"x" * 242, b""), (b"user.y", b"z"))
    image = image_of(Directory(0o40755, 0, 0, 0, long))
    assert Asking(image, Shows.NAMES).attributes(ROOT_NODE) == ((b"user.overlay.opaque", b"y"), (b"user.y", b"z"))
    assert Asking(image, Shows.TREE).attributes(ROOT_NODE) == long


def test_content_is_where_the_image_says() -> None:
    file = File(0o100644, 0, 0, 7, size=10_000, digest=b"\xab" * 32)
    image = image_of(Directory(0o40755, 0, 0, 0, children={b"f": file}))
    asking = Asking(image, Shows.FILES)
    node = ENTRY.unpack_from(asking.lookup(ROOT_NODE, b"f"))[0]
    for offset, size, what in (
        (0, 1 << 17, Wanted(object_path(file.digest or b""), 0, 10_000, True)),
        (4096, 4096, Wanted(object_path(file.digest or b""), 4096, 4096, False)),
        (8192, 4096, Wanted(object_path(file.digest or b""), 8192, 1808, False)),
        (12288, 4096, Wanted(object_path(file.digest or b""), 12288, 0, False)),
    ):
        assert asking.ask(Opcode.READ, node, struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0)) == what
    with pytest.raises(OSError, match="READ") as caught:
        Asking(image, Shows.NAMES).ask(Opcode.READ, node, struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0))
    assert caught.value.errno == errno.EIO


def test_nobody_is_asked_for_attributes_again_where_no_file_has_any() -> None:
    files = {b"%d" % number: File(0o100644, 0, 0, 7, size=99, digest=b"%32d" % number) for number in range(5)}
    some: Xattrs = ((b"user.a", b"b"),)
    for shows in Shows:
        for xattrs, has_some in (((), False), (some, True)):
            link = Symlink(0o120777, 0, 0, 7, xattrs, target=b"t")
            inner = Directory(0o40755, 0, 0, 0, children={**files, b"l": link})
            asking = Asking(image_of(Directory(0o40755, 0, 0, 0, children={b"d": inner})), shows)
            codes = [
                asking.answers.answer(
                    Request(Opcode.GETXATTR, 2, ROOT_NODE, 0, 0, 1, struct.pack("=II", 0, 0) + b"a\0")
                )
                for _ in range(1100)
            ]
            assert codes[0] == errno.ENODATA
            assert codes[-1] == (errno.ENODATA if has_some or shows is Shows.NAMES else errno.ENOSYS)


def test_other_ids_are_those_of_the_table_for_files_and_in_acls() -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in (
            (1, 7, 0xFFFFFFFF),
            (2, 6, 1000),
            (2, 6, 5),
            (4, 4, 0xFFFFFFFF),
            (8, 4, 1000),
            (16, 7, 0xFFFFFFFF),
        )
    )
    name = b"system.posix_acl_access"
    root = Directory(0o40755, 0, 0, 0, children={b"f": File(0o100664, 1000, 1000, 7, ((name, acl),))})
    table = IdTable([(0, 500, 1), (1000, 0, 1)], [(1000, 77, 1)])
    asking = Asking(image_of(root), Shows.NAMES, table)
    node = ENTRY.unpack_from(asking.lookup(ROOT_NODE, b"f"))[0]
    assert asking.seen(ROOT_NODE, None)[1:3] == (500, NOBODY)
    assert asking.seen(node, None)[1:3] == (0, 77)
    entries = list(struct.iter_unpack("<HHI", asking.attribute(node, name)[4:]))
    assert [entry[2] for entry in entries] == [0xFFFFFFFF, 0, NOBODY, 0xFFFFFFFF, 77, 0xFFFFFFFF]
    assert table.translate_acl(b"no ACL") == b"no ACL"
    assert IdTable([(0, 5, 1)], [(0, 6, 1)], 65534).translate(0, 7) == (5, 65534)
    for wrong in ((0, 0, 0), (-1, 0, 1), (0, 1 << 32, 1)):
        with pytest.raises(ValueError, match="range"):
            IdTable([wrong], [])


def test_acls_are_asked_for_only_where_there_are_some() -> None:
    theirs = fuseproto.Hello(7, 45, 0, -1)
    for name in (b"user.a", b"system.posix_acl_access"):
        root = Directory(0o40755, 0, 0, 0, ((name, b"x"),))
        answer = Answers(Image(image_of(root)), Shows.NAMES).hello(theirs)
        assert bool(struct.unpack_from("=I", answer, 12)[0] & Capability.POSIX_ACL) == name.startswith(b"system")


def test_what_a_filesystem_that_never_changes_needs_no_request_for_is_refused_for_ever() -> None:
    answers = Answers(Image(image_of(Directory(0o40755, 0, 0, 0))), Shows.NAMES)
    for opcode in (Opcode.OPEN, Opcode.OPENDIR, Opcode.ACCESS, Opcode.FLUSH, Opcode.FSYNC, 39, 46, 52):
        assert answers.answer(Request(opcode, 2, ROOT_NODE, 0, 0, 1, bytes(64))) == errno.ENOSYS


@pytest.mark.parametrize("seed", range(examples(6)))
def test_damage_is_an_answer_or_an_error(seed: int) -> None:
    rng = random.Random(seed)
    root = TreeBuilder(seed).tree(rng.choice((20, 60)))
    root.children[b"whiteout"] = Special(0o20644, 0, 0, 5, rdev=0)
    whole = image_of(root)
    end = whole.rindex(b"whiteout") + 8
    for _ in range(60):
        image = bytearray(whole)
        for _ in range(rng.choice((1, 3, 100))):
            start = rng.randrange(1024, end)
            size = rng.choice((1, 1, 2, 4, 8))
            image[start : start + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
        cut = rng.choice((len(image), len(image), rng.randrange(len(image))))
        errors = asked_everything(bytes(image[:cut]))
        assert errors <= {errno.EIO, errno.ENODATA, errno.EINVAL, errno.ERANGE}


def asked_everything(image: bytes) -> set[int]:
    """Ask for all that there is in an image that may be damaged; the errors that were answered."""
    errors: set[int] = set()
    try:
        asking = Asking(image, Shows.FILES, page=1 << 20)
    except DamagedError:
        return errors
    requests = 0
    directories = {ROOT_NODE}
    stack = [ROOT_NODE]
    while stack and requests < 20_000:
        node = stack.pop()
        try:
            for name, entry, _ in asking.names(node):
                inner = ENTRY.unpack_from(entry)[0]
                assert name
                assert not {0, ord("/")} & set(name)
                if name not in DOTS and inner not in directories:
                    directories.add(inner)
                    stack.append(inner)
        except OSError as exc:
            errors.add(exc.errno)
        for opcode, body in (
            (Opcode.GETATTR, b""),
            (Opcode.READLINK, b""),
            (Opcode.LOOKUP, b"whiteout\0"),
            (Opcode.READ, struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0)),
            (Opcode.LISTXATTR, struct.pack("=II", 0, 0)),
            (Opcode.GETXATTR, struct.pack("=II", 0, 0) + b"user.mime_type\0"),
        ):
            requests += 1
            try:
                asking.ask(opcode, node, body)
            except OSError as exc:
                errors.add(exc.errno)
    return errors
