"""A worktree as the kernel has it, for tests: a store, mounts of an upperdir, operations on it, and the full walk.

The walk is the truth that reading an upperdir is compared with: it looks at every entry of a mounted view, metadata and
content, and knows nothing of upperdirs. Two names are one inode there when ``(st_dev, st_ino)`` are equal, which
overlayfs answers without an index like this: base inodes keep theirs; a copied-up inode of a file with one name keeps
the base's, one of a file with several names gets the upper inode's, so that name is no longer a link to the others.
``st_nlink`` is not looked at: overlayfs goes on counting names of the base that are hidden.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stratum.composefs.verity import verity_digest
from stratum.ingest.reader import FileReader, Pending
from stratum.ingest.upperdir import read_upperdir
from stratum.mount.build import mount, unmount
from stratum.mount.plan import Method, MountPlan
from stratum.store.store import Store
from stratum.sys.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from stratum.sys.userns import in_initial_namespace
from stratum.tree import overlay
from stratum.tree.dump import write_dump
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Special, Symlink, Xattrs, lookup

ROOT_USER_ACL = bytes.fromhex(
    "0200000001000600ffffffff02000700e803000004000400ffffffff10000700ffffffff20000400ffffffff"
)
"""u::rw-, u:1000:rwx, g::r--, m::rwx, o::r-- as system.posix_acl_access stores it."""


# --- walking --------------------------------------------------------------------------------------------------------


def walk_view(root: Path) -> Directory:
    """The tree at ``root`` with every byte read; sockets are left out."""
    inodes: dict[tuple[int, int], Inode] = {}
    top = _directory(os.fsencode(root))
    stack = [(os.fsencode(root), top)]
    while stack:
        path, directory = stack.pop()
        for name in os.listdir(path):
            child = path + b"/" + name
            info = os.lstat(child)
            if stat.S_ISSOCK(info.st_mode):
                continue
            if stat.S_ISDIR(info.st_mode):
                directory.children[name] = inner = _directory(child)
                stack.append((child, inner))
            else:
                key = (info.st_dev, info.st_ino)
                if key not in inodes:
                    inodes[key] = _leaf(child, info)
                directory.children[name] = inodes[key]
        directory.xattrs = overlay.directory_xattrs(directory.xattrs, directory.children.values())
    return top


def _xattrs(path: bytes) -> Xattrs:
    names = sorted(map(os.fsencode, os.listxattr(path, follow_symlinks=False)))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def _directory(path: bytes) -> Directory:
    info = os.lstat(path)
    return Directory(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, _xattrs(path))


def _leaf(path: bytes, info: os.stat_result) -> Inode:
    mode, uid, gid, mtime, xattrs = info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, _xattrs(path)
    if stat.S_ISLNK(mode):
        return Symlink(mode, uid, gid, mtime, xattrs, target=os.readlink(path))
    if not stat.S_ISREG(mode):
        return Special(mode, uid, gid, mtime, xattrs, rdev=info.st_rdev)
    dialect = overlay.Dialect.TRUSTED if in_initial_namespace() else overlay.Dialect.USER
    if overlay.stores_whiteout(info.st_size, xattrs, dialect):
        mode = stat.S_IFCHR | stat.S_IMODE(mode)
        return Special(mode, uid, gid, mtime, overlay.whiteout_xattrs(xattrs))
    data = Path(os.fsdecode(path)).read_bytes()
    assert len(data) == info.st_size, path
    if len(data) <= INLINE_MAX:
        return File(mode, uid, gid, mtime, xattrs, size=len(data), content=data or None)
    return File(mode, uid, gid, mtime, xattrs, size=len(data), digest=verity_digest(data))


def lines(tree: Directory) -> list[str]:
    """The tree's dump, for comparisons that pytest can show."""
    return write_dump(tree).decode().splitlines()


# --- mounting -------------------------------------------------------------------------------------------------------


class Lab:
    """A store, and worktrees of its commits that are mounted without the rest of the product, by ``method``."""

    def __init__(
        self, place: Path, dialect: overlay.Dialect = overlay.Dialect.TRUSTED, method: Method | None = None
    ) -> None:
        self.place = place
        self.dialect = dialect
        self.method = method
        self.store = Store.create(place / "store")
        self._count = 0

    def commit_directory(self, source: Path) -> Directory:
        """Store a directory's tree as a commit, by way of ``walk_view``."""
        tree = walk_view(source)
        with self.store.begin() as tx:
            for path, _, names in os.walk(os.fsencode(source)):
                for name in names:
                    info = os.lstat(path + b"/" + name)
                    if stat.S_ISREG(info.st_mode) and info.st_size > INLINE_MAX:
                        tx.add_bytes(Path(os.fsdecode(path + b"/" + name)).read_bytes())
            self.store.commits.write(tx, tree)
        return tree

    def image(self, tree: Directory) -> Path:
        """The image of a tree that is a commit of the store."""
        from stratum.tree.digest import metadata_hash

        return self.store.images.ensure(metadata_hash(write_dump(tree)))

    @contextlib.contextmanager
    def worktree(self, base: Directory) -> Iterator[Worktree]:
        """A mounted worktree of ``base``, gone with everything in it at the end."""
        self._count += 1
        place = self.place / f"worktree-{self._count}"
        tree = Worktree(self, base, place)
        tree.mount()
        try:
            yield tree
        finally:
            tree.unmount()
            shutil.rmtree(place)


class Worktree:
    """An upperdir over a base commit, mounted at ``view``."""

    def __init__(self, lab: Lab, base: Directory, place: Path) -> None:
        self.lab = lab
        self.base = base
        self.place = place
        self.upper = place / "upper"
        self.view = place / "view"
        self.view.mkdir(parents=True)
        self.mounted = False
        self._new_upper()

    def _new_upper(self) -> None:
        root = self.base
        for name in ("upper", "work"):
            shutil.rmtree(self.place / name, ignore_errors=True)
            (self.place / name).mkdir()
        os.chown(self.upper, root.uid, root.gid)
        self.upper.chmod(stat.S_IMODE(root.mode))
        for name, value in self.lab.dialect.escape(root.xattrs):
            os.setxattr(self.upper, name, value)
        os.utime(self.upper, ns=(root.mtime, root.mtime))

    def mount(self) -> None:
        image, data = self.lab.image(self.base), self.lab.store.objects.layers
        ways = {"dialect": self.lab.dialect, "method": self.lab.method}
        mount(MountPlan(image, data, self.upper, self.place / "work", **ways), self.view)
        self.mounted = True

    def unmount(self) -> None:
        if self.mounted:
            unmount(self.view)
            self.mounted = False

    def remount(self) -> None:
        """Forget what the kernel has cached."""
        self.unmount()
        self.mount()

    def read(self, warn: Callable[[str], None] | None = None) -> Directory:
        """The tree according to the upperdir; nothing is kept of what is read."""
        with self.lab.store.begin() as tx, FileReader(tx, self.lab.store.objects) as reader:
            tree = read_upperdir(self.base, self.upper, reader, warn=warn, dialect=self.lab.dialect)
            assert reader.warnings == []
            return tree

    def walk(self) -> Directory:
        """The tree according to the mounted view."""
        return walk_view(self.view)

    def check(self) -> Directory:
        """Compare the two; what was read."""
        tree = self.read()
        assert lines(tree) == lines(self.walk())
        return tree

    def fast_forward(self) -> None:
        """Commit, and go on with the commit as the base and an empty upperdir."""
        before = lines(self.walk())
        with self.lab.store.begin() as tx, FileReader(tx, self.lab.store.objects) as reader:
            tree = read_upperdir(self.base, self.upper, reader, dialect=self.lab.dialect)
            self.lab.store.commits.write(tx, tree, known=self.base)
        self.unmount()
        self.base = tree
        self._new_upper()
        self.mount()
        assert lines(self.walk()) == before


# --- operations -----------------------------------------------------------------------------------------------------

Operation = tuple[str, int, int, int]
"""A kind from ``KINDS`` and three numbers that choose among what there is."""

ACCEPTED = {
    errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EXDEV, errno.EINVAL, errno.EPERM,
    errno.ENODATA, errno.EOPNOTSUPP, errno.EMLINK, errno.EBUSY,
    errno.EADDRINUSE, errno.ENXIO, errno.EACCES, errno.ELOOP,
}  # fmt: skip
"""What the kernel may answer to a senseless operation. EIO, ESTALE or ENOENT would be a damaged view."""

NAMES = [b"f", b"d", b"large", b"new", b"other", b"\xff\n ", b"00"]
SIZES = [0, 1, 64, 65, 4096, 5000, 70000]
MODES = [0o644, 0o600, 0o755, 0o4755, 0o1777, 0]
XATTRS = [
    b"user.a",
    b"user.b",
    b"trusted.c",
    b"trusted.overlay.redirect",
    b"trusted.overlay.metacopy",
    b"user.overlay.d",
]
TIMES = [0, -1, 1_700_000_000_123_456_789, 5_000_000_000_000_000_000]


class Operations:
    """Carries out operations below ``root``, each on what exists at that moment."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def run(self, operation: Operation) -> None:
        kind, a, b, c = operation
        with contextlib.suppress(_Pointless):
            try:
                getattr(self, kind)(a, b, c)
            except OSError as exc:
                if exc.errno not in ACCEPTED:
                    raise

    def _paths(self, *types: int) -> list[bytes]:
        """All paths of the given file types (none: all types), the root left out, sorted."""
        found = []
        for path, directories, others in os.walk(self.root):
            found += [path + b"/" + name for name in (*directories, *others)]
        return sorted(p for p in found if not types or stat.S_IFMT(os.lstat(p).st_mode) in types)

    def _pick(self, number: int, *types: int) -> bytes:
        paths = self._paths(*types)
        if not paths:
            raise _Pointless
        return paths[number % len(paths)]

    def _file(self, number: int) -> bytes:
        return self._pick(number, stat.S_IFREG)

    def _directory(self, number: int) -> bytes:
        directories = [self.root, *self._paths(stat.S_IFDIR)]
        return directories[number % len(directories)]

    def _free_or_taken(self, directory: int, name: int) -> bytes:
        return self._directory(directory) + b"/" + NAMES[name % len(NAMES)]

    # files

    def create(self, a: int, b: int, c: int) -> None:
        fd = os.open(self._free_or_taken(a, b), os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "wb") as file:
            file.write(b"n" * SIZES[c % len(SIZES)])

    def write(self, a: int, b: int, c: int) -> None:
        fd = os.open(self._file(a), os.O_WRONLY)
        with os.fdopen(fd, "wb") as file:
            file.seek(SIZES[b % len(SIZES)])
            file.write(b"w" * SIZES[c % len(SIZES)])

    def append(self, a: int, b: int, c: int) -> None:
        with open(self._file(a), "ab") as file:
            file.write(b"a" * SIZES[b % len(SIZES)])

    def truncate(self, a: int, b: int, c: int) -> None:
        os.truncate(self._file(a), SIZES[b % len(SIZES)])

    def open_for_writing(self, a: int, b: int, c: int) -> None:
        os.close(os.open(self._file(a), os.O_RDWR))

    def write_mapped(self, a: int, b: int, c: int) -> None:
        with open(self._file(a), "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size:
                with mmap.mmap(file.fileno(), size) as mapped:
                    mapped[b % size] = c % 256
                    mapped.flush()

    def punch_sparse(self, a: int, b: int, c: int) -> None:
        fd = os.open(self._free_or_taken(a, b), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.ftruncate(fd, 200_000)
            os.pwrite(fd, b"middle", 100_000)
        finally:
            os.close(fd)

    def temporary_file(self, a: int, b: int, c: int) -> None:
        target = self._free_or_taken(a, b)
        fd = os.open(os.path.dirname(target), os.O_TMPFILE | os.O_WRONLY)
        try:
            os.write(fd, b"t" * SIZES[c % len(SIZES)])
            os.link(f"/proc/self/fd/{fd}", target, src_dir_fd=fd, follow_symlinks=True)
        finally:
            os.close(fd)

    def replace_by_rename(self, a: int, b: int, c: int) -> None:
        path = self._file(a)
        with open(path + b".tmp", "xb") as file:
            file.write(b"r" * SIZES[b % len(SIZES)])
        os.rename(path + b".tmp", path)

    # metadata

    def chmod(self, a: int, b: int, c: int) -> None:
        path = self._directory(a) if c % 4 == 0 else self._pick(a, stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO)
        os.chmod(path, MODES[b % len(MODES)])

    def chown(self, a: int, b: int, c: int) -> None:
        os.chown(self._pick(a), b % 70000, c % 70000, follow_symlinks=False)

    def utime(self, a: int, b: int, c: int) -> None:
        time = TIMES[b % len(TIMES)]
        os.utime(self._pick(a), ns=(time, time), follow_symlinks=False)

    def set_xattr(self, a: int, b: int, c: int) -> None:
        value = b"v" * (c % 300)
        os.setxattr(self._pick(a), XATTRS[b % len(XATTRS)], value, follow_symlinks=False)

    def remove_xattr(self, a: int, b: int, c: int) -> None:
        path = self._pick(a)
        names = os.listxattr(path, follow_symlinks=False)
        if names:
            os.removexattr(path, names[b % len(names)], follow_symlinks=False)

    def set_acl(self, a: int, b: int, c: int) -> None:
        kind = "default" if b % 2 else "access"
        os.setxattr(self._pick(a, stat.S_IFDIR, stat.S_IFREG), f"system.posix_acl_{kind}", ROOT_USER_ACL)

    # names

    def rename(self, a: int, b: int, c: int) -> None:
        os.rename(self._pick(a), self._free_or_taken(b, c))

    def rename_directory(self, a: int, b: int, c: int) -> None:
        os.rename(self._pick(a, stat.S_IFDIR), self._free_or_taken(b, c))

    def rename_in_place(self, a: int, b: int, c: int) -> None:
        path = self._pick(a)
        os.rename(path, os.path.dirname(path) + b"/" + NAMES[b % len(NAMES)])

    def rename_over(self, a: int, b: int, c: int) -> None:
        os.rename(self._pick(a), self._pick(b))

    def rename_if_free(self, a: int, b: int, c: int) -> None:
        source, target = self._pick(a), self._free_or_taken(b, c)
        _renameat2(source, target, RENAME_NOREPLACE)

    def exchange(self, a: int, b: int, c: int) -> None:
        _renameat2(self._pick(a), self._pick(b), RENAME_EXCHANGE)

    def exchange_directories(self, a: int, b: int, c: int) -> None:
        _renameat2(self._pick(a, stat.S_IFDIR), self._pick(b, stat.S_IFDIR), RENAME_EXCHANGE)

    def link(self, a: int, b: int, c: int) -> None:
        os.link(self._pick(a), self._free_or_taken(b, c), follow_symlinks=False)

    def unlink(self, a: int, b: int, c: int) -> None:
        os.unlink(self._pick(a))

    def rmdir(self, a: int, b: int, c: int) -> None:
        os.rmdir(self._pick(a, stat.S_IFDIR))

    def remove_tree(self, a: int, b: int, c: int) -> None:
        shutil.rmtree(self._pick(a, stat.S_IFDIR))

    def empty_directory(self, a: int, b: int, c: int) -> None:
        path = self._pick(a, stat.S_IFDIR)
        shutil.rmtree(path)
        os.mkdir(path)

    # making

    def mkdir(self, a: int, b: int, c: int) -> None:
        os.mkdir(self._free_or_taken(a, b))

    def symlink(self, a: int, b: int, c: int) -> None:
        os.symlink(NAMES[c % len(NAMES)] * 3, self._free_or_taken(a, b))

    def fifo(self, a: int, b: int, c: int) -> None:
        os.mkfifo(self._free_or_taken(a, b))

    def device(self, a: int, b: int, c: int) -> None:
        kind = stat.S_IFCHR if c % 2 else stat.S_IFBLK
        os.mknod(self._free_or_taken(a, b), kind | 0o600, os.makedev(c % 300, b % 300))

    def bind_socket(self, a: int, b: int, c: int) -> None:
        target = self._free_or_taken(a, b)
        back = os.open(".", os.O_PATH)
        try:
            os.chdir(os.path.dirname(target))
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(os.path.basename(target))
        finally:
            os.fchdir(back)
            os.close(back)

    def file_for_directory(self, a: int, b: int, c: int) -> None:
        path = self._pick(a, stat.S_IFDIR)
        shutil.rmtree(path)
        Path(os.fsdecode(path)).write_bytes(b"f" * SIZES[b % len(SIZES)])

    def directory_for_file(self, a: int, b: int, c: int) -> None:
        path = self._file(a)
        os.unlink(path)
        os.mkdir(path)
        Path(os.fsdecode(path), "f").write_bytes(b"d" * SIZES[b % len(SIZES)])


class _Pointless(Exception):  # noqa: N818  (no error: there is nothing to do the operation on)
    pass


KINDS = [name for name in vars(Operations) if not name.startswith("_") and name != "run"]


def _renameat2(source: bytes, target: bytes, flags: int) -> None:
    renameat2(-100, source, -100, target, flags)


def make_source(place: Path, *, nested: bool = True) -> Path:
    """A directory with every kind of thing that a commit can hold; ``nested``: also what means something to overlayfs,
    so that the directory itself cannot be a layer."""
    source = place / "source"
    inner = source / "d" / "sub" / "deep"
    inner.mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "other").mkdir()
    for number, directory in enumerate((source, source / "d", source / "d" / "sub", inner, source / "other")):
        (directory / "f").write_bytes(b"inline %d" % number)
        (directory / "large").write_bytes(b"%d" % number * 5000)
        (directory / "none").touch()
    (source / "d" / "big").write_bytes(b"big" * 50_000)
    (source / "exactly64").write_bytes(b"x" * 64)
    with open(source / "sparse", "wb") as file:
        file.truncate(300_000)
    for name in ("large", "f", "none"):
        os.link(source / "d" / name, source / f"hard-{name}")
        os.link(source / "d" / name, source / "other" / f"hard-{name}")
    os.symlink("../f", source / "d" / "link")
    os.link(source / "d" / "link", source / "hard-link", follow_symlinks=False)
    os.mkfifo(source / "d" / "fifo")
    os.mknod(source / "d" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(source / "d", "user.a", b"directory")
    os.setxattr(source / "d" / "f", "user.a", b"file")
    if nested:
        os.mknod(source / "other" / "whiteout", stat.S_IFCHR | 0o640, 0)
        os.setxattr(source / "d" / "big", "trusted.overlay.redirect", b"/etc/shadow")
        os.setxattr(source / "d" / "sub", "trusted.overlay.origin", b"not a handle")
    os.setxattr(source / "d" / "link", "trusted.c", b"symlink", follow_symlinks=False)
    os.setxattr(source / "d" / "sub" / "f", "system.posix_acl_access", ROOT_USER_ACL)
    os.setxattr(source, "user.b", b"root")
    os.chown(source / "d" / "sub", 1000, 100_000)
    (source / "d" / "large").chmod(0o4711)
    for time, path in zip(TIMES, (source / "f", source / "d" / "f", source / "d" / "sub", source), strict=True):
        os.utime(path, ns=(time, time))
    return source


class NothingToRead:
    """A content reader for upperdirs that hold no data."""

    def read(self, directory: int, path: bytes, files: Sequence[Pending]) -> None:
        raise AssertionError(f"{files[0].name!r} in {path!r} was read")

    def finish(self) -> None:
        """There was nothing."""


def file_at(tree: Directory, path: bytes) -> File:
    inode = lookup(tree, path)
    assert isinstance(inode, File), path
    return inode
