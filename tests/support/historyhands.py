"""A process that does random things to a directory, for tests of what is recorded of it.

``python historyhands.py DIR SEED TRACE MODE``: for each number that it reads from its standard input it carries out so
many operations below ``DIR``, closes what it held open, and answers with a line. What it did is in the file ``TRACE``.
Equal seeds do equal things in equal directories. It needs nothing but Python, so that it starts at once.

``MODE`` is ``alone`` where nobody else changes the directory; in a crowd, names may go before they are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import stat
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

ACCEPTED = {
    errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EXDEV, errno.EINVAL, errno.EPERM,
    errno.ENODATA, errno.EOPNOTSUPP, errno.EMLINK, errno.EBUSY, errno.ENXIO, errno.EACCES, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EFAULT,
}  # fmt: skip
"""What the kernel may answer to a senseless operation."""
IN_A_CROWD = {errno.ENOENT, errno.ESTALE, errno.ESPIPE}
"""And to one on what has just gone, or is a FIFO now."""
FULL = {errno.ENOSPC, errno.EDQUOT}
SIZES = (0, 1, 64, 65, 4096, 5000, 70_000)
LARGE = 1_500_000
MODES = (0o644, 0o600, 0o755, 0o4755, 0o1777, 0)
XATTRS = ("user.a", "user.b", "trusted.c", "user.overlay.d")
NAMES = (b"f", b"d", b"large", b"new", b"other", b"\xff\n ", b"00", b"a.txt", b".hidden")
DEPTH = 6
_AT_FDCWD = -100
_EXCHANGE = 2


class Hands:
    """Operations below ``root``, chosen by ``seed``; each on what is there at that moment."""

    def __init__(self, root: bytes, seed: str, trace: TextIO) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.trace = trace
        self.held: list[int] = []
        self.mapped: list[tuple[int, int]] = []
        self.count = 0
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.kinds = [getattr(self, name) for name, weight in WEIGHTS.items() for _ in range(weight)]

    def work(self, count: int, accepted: set[int]) -> None:
        """Do ``count`` operations, and let go of everything."""
        for _ in range(count):
            kind: Callable[[], object] = self.random.choice(self.kinds)
            self.count += 1
            try:
                kind()
            except OSError as exc:
                if exc.errno not in accepted:
                    raise
            except LookupError:
                continue  # there is nothing to do it on
        self.let_go()

    def let_go(self) -> None:
        """Close what is held open."""
        for mapped in self.mapped:
            self.unmap(*mapped)
        for fd in self.held:
            os.close(fd)
        self.mapped.clear()
        self.held.clear()

    # Choosing

    def say(self, *words: object) -> None:
        self.trace.write(f"{self.count} {' '.join(map(str, words))}\n")
        self.trace.flush()

    def pick(self, *types: int) -> bytes:
        """A random entry of one of these types (none: any), found by going down from the root."""
        for _ in range(8):
            path = self.root
            for _ in range(DEPTH):
                try:
                    names = sorted(os.listdir(path))
                except OSError:
                    break
                if not names:
                    break
                path += b"/" + self.random.choice(names)
                try:
                    kind = stat.S_IFMT(os.lstat(path).st_mode)
                except OSError:
                    break
                if kind != stat.S_IFDIR or self.random.random() < 0.3:
                    if not types or kind in types:
                        return path
                    break
        raise LookupError

    def file(self) -> bytes:
        return self.pick(stat.S_IFREG)

    def directory(self) -> bytes:
        return self.root if self.random.random() < 0.15 else self.pick(stat.S_IFDIR)

    def place(self) -> bytes:
        """A path in a directory, free or taken."""
        directory = self.directory()
        if directory.count(b"/") - self.root.count(b"/") > DEPTH:
            directory = self.root
        if self.random.random() < 0.5:
            return directory + b"/" + self.random.choice(NAMES)
        return directory + b"/n%d" % self.random.randrange(40)

    def data(self) -> bytes:
        size = LARGE if self.random.random() < 0.002 else self.random.choice(SIZES)
        seed = b"%d %d " % (self.count, self.random.randrange(1 << 30))
        return (seed * (size // len(seed) + 1))[:size]

    @contextlib.contextmanager
    def opened(self, path: bytes, flags: int) -> Iterator[int]:
        """A descriptor for the block."""
        fd = self.open(path, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def open(self, path: bytes, flags: int) -> int:
        """Never waits for the other end of a FIFO, as one may have come in place of a file. While the watcher reads a
        file, who does not wait is sent away; nobody but such programs as this one opens files like that."""
        while True:
            with contextlib.suppress(BlockingIOError):
                return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)

    # Contents

    def create(self) -> None:
        path, data = self.place(), self.data()
        self.say("create", path, len(data))
        with self.opened(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC) as fd:
            os.write(fd, data)

    def write(self) -> None:
        path, data = self.file(), self.data()
        self.say("write", path, len(data))
        with self.opened(path, os.O_WRONLY) as fd:
            os.pwrite(fd, data, self.random.choice(SIZES))

    def append(self) -> None:
        path, data = self.file(), self.data()
        self.say("append", path, len(data))
        with self.opened(path, os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, data)

    def rewrite(self) -> None:
        """In place, several times."""
        path = self.file()
        for _ in range(self.random.randrange(1, 4)):
            data = self.data()
            self.say("rewrite", path, len(data))
            with self.opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
                os.write(fd, data)

    def truncate(self) -> None:
        path, size = self.file(), self.random.choice(SIZES)
        self.say("truncate", path, size)
        os.truncate(path, size)

    def ftruncate(self) -> None:
        path, size = self.file(), self.random.choice(SIZES)
        self.say("ftruncate", path, size)
        with self.opened(path, os.O_RDWR) as fd:
            os.ftruncate(fd, size)

    def open_and_close(self) -> None:
        path = self.file()
        self.say("open_and_close", path)
        os.close(self.open(path, os.O_RDWR))

    def hold(self) -> None:
        """Open for writing over several operations."""
        path, data = self.file(), self.data()
        self.say("hold", path, len(data))
        fd = self.open(path, os.O_RDWR)
        self.held.append(fd)
        os.pwrite(fd, data, 0)
        if len(self.held) > 2:
            os.close(self.held.pop(0))

    def go_on(self) -> None:
        """Write to what is held open, whatever its name is by now."""
        fd, data = self.random.choice(self.held), self.data()
        self.say("go_on", len(data))
        os.pwrite(fd, data, self.random.choice(SIZES))

    def write_mapped(self) -> None:
        """Through a mapping that outlives the descriptor."""
        path = self.file()
        with self.opened(path, os.O_RDWR) as fd:
            size = os.fstat(fd).st_size
            if not size:
                raise LookupError
            address = self.libc.mmap(None, ctypes.c_size_t(size), 3, 1, fd, ctypes.c_long(0))  # read, write; shared
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        self.mapped.append((address, size))
        at = self.random.randrange(size)
        self.say("write_mapped", path, at)
        if len(self.mapped) > 1:
            self.unmap(*self.mapped.pop(0))
        self.store(address + at, self.count % 256)

    def unmap(self, address: int, size: int) -> None:
        self.libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))

    def store(self, address: int, byte: int) -> None:
        """The kernel stores the byte: where the file was cut meanwhile it says so, and we live on."""
        ours, theirs = os.pipe()
        try:
            os.write(theirs, bytes([byte]))
            os.readv(ours, [(ctypes.c_char * 1).from_address(address)])
        finally:
            os.close(ours)
            os.close(theirs)

    def fallocate(self) -> None:
        path = self.file()
        mode, at = self.random.choice([(0, 0), (1, 0), (3, 100), (0x10 | 1, 50)])  # grow, keep the size, punch, zero
        self.say("fallocate", path, mode)
        with self.opened(path, os.O_RDWR) as fd:
            arguments = (ctypes.c_int(mode), ctypes.c_long(at), ctypes.c_long(3000))
            if self.libc.fallocate(fd, *arguments):
                raise OSError(ctypes.get_errno(), "fallocate")

    def copy_range(self) -> None:
        source, target = self.file(), self.file()
        self.say("copy_range", source, target)
        with os.fdopen(self.open(source, os.O_RDONLY), "rb") as a, os.fdopen(self.open(target, os.O_WRONLY), "wb") as b:
            os.copy_file_range(a.fileno(), b.fileno(), 70_000)

    def send(self) -> None:
        source, target = self.file(), self.file()
        self.say("send", source, target)
        with os.fdopen(self.open(source, os.O_RDONLY), "rb") as a, os.fdopen(self.open(target, os.O_WRONLY), "wb") as b:
            os.sendfile(b.fileno(), a.fileno(), 0, 70_000)

    def sparse(self) -> None:
        path = self.place()
        self.say("sparse", path)
        with self.opened(path, os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, 200_000)
            os.pwrite(fd, b"middle %d" % self.count, 100_000)

    def temporary(self) -> None:
        """A file without a name gets one, and may be written to after that."""
        path, data = self.place(), self.data()
        self.say("temporary", path, len(data))
        fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(fd, data)
            os.link(b"/proc/self/fd/%d" % fd, path, src_dir_fd=fd, follow_symlinks=True)  # linkat(2)
            if self.random.random() < 0.5:
                os.pwrite(fd, b"more", 0)
        finally:
            os.close(fd)

    def save(self) -> None:
        """As editors do: a new file takes the place of the old one."""
        path, data = self.file(), self.data()
        self.say("save", path, len(data))
        with self.opened(path + b".tmp", os.O_CREAT | os.O_WRONLY | os.O_TRUNC) as fd:
            os.write(fd, data)
            if self.random.random() < 0.5:
                os.rename(path + b".tmp", path)
                return
        os.rename(path + b".tmp", path)

    # Metadata

    def chmod(self) -> None:
        path, mode = self.pick(stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO), self.random.choice(MODES)
        self.say("chmod", path, oct(mode))
        os.chmod(path, mode)

    def chown(self) -> None:
        path, owner = self.pick(), self.random.randrange(70_000)
        self.say("chown", path, owner)
        os.chown(path, owner, owner // 2, follow_symlinks=False)

    def utime(self) -> None:
        path, when = self.pick(), self.random.choice((0, -1, 1_700_000_000_123_456_789, self.random.randrange(1 << 60)))
        self.say("utime", path, when)
        os.utime(path, ns=(when, when), follow_symlinks=False)

    def set_xattr(self) -> None:
        path, name = self.pick(), self.random.choice(XATTRS)
        self.say("set_xattr", path, name)
        os.setxattr(path, name, b"%d" % self.count * self.random.randrange(30), follow_symlinks=False)

    def remove_xattr(self) -> None:
        path = self.pick()
        names = os.listxattr(path, follow_symlinks=False)
        name = self.random.choice(sorted(names)) if names else ""
        self.say("remove_xattr", path, name)
        if name:
            os.removexattr(path, name, follow_symlinks=False)

    # Names

    def rename(self) -> None:
        source, target = self.pick(), self.place()
        self.say("rename", source, target)
        os.rename(source, target)

    def rename_over(self) -> None:
        source, target = self.pick(), self.pick()
        self.say("rename_over", source, target)
        os.rename(source, target)

    def rename_directory(self) -> None:
        source, target = self.pick(stat.S_IFDIR), self.place()
        self.say("rename_directory", source, target)
        os.rename(source, target)

    def exchange(self) -> None:
        one, two = self.pick(), self.pick()
        self.say("exchange", one, two)
        if self.libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, two, _EXCHANGE):
            raise OSError(ctypes.get_errno(), "exchange")

    def link(self) -> None:
        source, target = self.pick(stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO), self.place()
        self.say("link", source, target)
        os.link(source, target, follow_symlinks=False)

    def unlink(self) -> None:
        path = self.pick(stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)
        self.say("unlink", path)
        os.unlink(path)

    def mkdir(self) -> None:
        path = self.place()
        self.say("mkdir", path)
        os.mkdir(path)

    def fill(self) -> None:
        """A new directory with something in it at once."""
        path = self.place()
        self.say("fill", path)
        os.mkdir(path)
        os.mkdir(path + b"/inner")
        for name in (b"/one", b"/two", b"/inner/three"):
            with self.opened(path + name, os.O_CREAT | os.O_WRONLY) as fd:
                os.write(fd, self.data())

    def rmdir(self) -> None:
        path = self.pick(stat.S_IFDIR)
        self.say("rmdir", path)
        os.rmdir(path)

    def remove_tree(self) -> None:
        path = self.pick(stat.S_IFDIR)
        if path.count(b"/") - self.root.count(b"/") < 2:
            raise LookupError  # or soon there is nothing
        self.say("remove_tree", path)
        self.remove_all(path)
        if self.random.random() < 0.3:
            os.mkdir(path)

    def remove_all(self, path: bytes) -> None:
        for name in os.listdir(path):
            inner = path + b"/" + name
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                self.remove_all(inner)
            else:
                os.unlink(inner)
        os.rmdir(path)

    def symlink(self) -> None:
        path = self.place()
        self.say("symlink", path)
        os.symlink(b"to/%d" % self.count, path)

    def special(self) -> None:
        path, kind = self.place(), self.random.choice((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK))
        self.say("special", path, oct(kind))
        os.mknod(path, kind | 0o600, 0 if kind == stat.S_IFIFO else os.makedev(1, 1 + self.count % 200))


WEIGHTS = {
    "create": 10, "write": 8, "append": 6, "rewrite": 8, "truncate": 3, "ftruncate": 3, "open_and_close": 2, "hold": 3,
    "go_on": 3, "write_mapped": 4, "fallocate": 2, "copy_range": 2, "send": 1, "sparse": 1, "temporary": 4, "save": 10,
    "chmod": 3, "chown": 3, "utime": 4, "set_xattr": 4, "remove_xattr": 2, "rename": 8, "rename_over": 4,
    "rename_directory": 4, "exchange": 3, "link": 5, "unlink": 6, "mkdir": 4, "fill": 3, "rmdir": 2, "remove_tree": 1,
    "symlink": 3, "special": 2,
}  # fmt: skip
"""How often each is chosen, beside the others."""


def main(root: str, seed: str, trace: str, mode: str) -> None:
    """Be the process."""
    accepted = ACCEPTED | (set() if mode == "alone" else IN_A_CROWD) | (FULL if "full" in mode else set())
    with open(trace, "a", errors="backslashreplace") as log:
        hands = Hands(os.fsencode(root), seed, log)
        for line in sys.stdin:
            hands.work(int(line), accepted)
            print("done", flush=True)
    with contextlib.suppress(OSError):
        sys.stdout.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
