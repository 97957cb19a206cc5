"""Files of a directory that is moved into the store become objects as they are, by a second name (link(2)).

Nobody reaches the directory by a path any more (``store.moving``). A file is taken where it is as an object has to be,
and where it is known that its content stays what was hashed:

1. It has one name, more than what a dump holds inline, no extended attributes but those of new objects, none of the
   flags that forbid changes or encrypt, and is on the store's file system.
2. It is **sealed**: it belongs to the store's owner, and nobody else may write to it. What it was before is noted in an
   attribute of its own, in the same journal of the file system, before that changes; ``unseal`` makes it so again.
3. A read lease is granted: nobody has it open for writing or mapped so (``sys.leases``). Nobody can open it so after
   that, but root and the store's owner, by a descriptor of a directory that they have: of those there are none
   (``api.moving`` asks ``/proc``).
4. Only then it is hashed, and gets its name.

Every other file is copied as in any import. What is open for writing is ``EBUSY``: what is written later would be lost
with the file's name. An object that the store has already is read before it is believed: the file may be the only good
copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from contextlib import suppress
from functools import cache

from stratum.composefs.verity import verity_digest
from stratum.errors import StratumError
from stratum.ingest.copying import copy_hashed
from stratum.ingest.staging import IN_MEMORY_MAX, FileRead, Signature, Stager, StagingError, read_whole, signature
from stratum.store.objects import OBJECT_MODE, Objects
from stratum.sys.holes import is_sparse
from stratum.sys.leases import Lease, give_back, is_wanted, take_lease
from stratum.sys.userns import is_privileged
from stratum.sys.xattrs import get_xattr, read_xattrs
from stratum.tree.model import INLINE_MAX

SEALS = (b"trusted.stratum.was", b"user.stratum.was")
"""Attributes that say what a sealed file was: "MODE UID GID", octal and decimal: root's, which nobody else
can write, and users'."""
_FS_IOC_GETFLAGS = 0x80086601
_UNFIT = 0x10 | 0x20 | 0x800
"""FS_IMMUTABLE_FL, FS_APPEND_FL, FS_ENCRYPT_FL."""
_SPECIAL = 0o7000
"""Files with these bits are copied where anybody could have written the note."""
_NOTE = re.compile(rb"([0-7]{1,4}) ([0-9]{1,10}) ([0-9]{1,10})")
_CANNOT = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE)
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK)


class Adopter(Stager):
    """A stager for a directory that is moved. ``adopts``: nobody reaches it by a path; else every file is copied."""

    def __init__(self, store: bytes, staging: bytes, tag: str, *, adopts: bool) -> None:
        super().__init__(store, staging, tag)
        self._adopts = adopts
        self._objects = Objects.below(os.fsdecode(store))
        self._owner = os.geteuid(), os.getegid()
        self._device = -1
        self._plain: tuple[tuple[bytes, bytes], ...] = ()
        self._believed: set[bytes] = set()

    def _taken(self, fd: int, directory: int, name: bytes, listed: Signature) -> FileRead | None:
        """The file as an object, None where it is to be copied. ``OSError`` (EBUSY where somebody writes to it)."""
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return None
        sealed = self._seal(fd, info) if self._is_fit(fd, info) else None
        lease = take_lease(fd)
        if lease is Lease.GRANTED and sealed is not None:
            found = self._adopted(fd, directory, name, info)
            if is_wanted(fd):
                raise OSError(errno.EBUSY, "it is open for writing")
            if found is not None:
                return self._as_listed(found, info, listed)
        if sealed:
            unseal(fd)
        if lease is Lease.REFUSED:
            raise OSError(errno.EBUSY, "it is open for writing")
        if lease is Lease.GRANTED:
            give_back(fd)
        return None

    def _as_listed(self, found: tuple[int, bytes, bool], info: os.stat_result, listed: Signature) -> FileRead:
        size, digest, staged = found
        metadata = None if signature(info) == listed else (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns)
        return size, digest, None, (), staged, False, metadata

    def _stored(self, digest: bytes, size: int) -> bool:
        if not super()._stored(digest, size):
            return False
        if digest not in self._believed:
            try:
                self._objects.verify(digest, size)
            except StratumError as exc:
                raise StagingError(OSError(errno.EIO, exc.message)) from None
            self._believed.add(digest)
        return True

    def _is_fit(self, fd: int, info: os.stat_result) -> bool:
        if not self._adopts:
            return False
        if self._device < 0:
            self._look_at_new()
        return (
            info.st_size > INLINE_MAX
            and info.st_nlink == 1
            and info.st_dev == self._device
            and read_xattrs(fd) == self._plain
            and not _flags(fd) & _UNFIT
        )

    def _look_at_new(self) -> None:
        """What a new object is like."""
        self._device = os.fstat(self._opened()).st_dev
        name = f"{self._tag}-plain"
        fd = os.open(name, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, OBJECT_MODE, dir_fd=self._opened())
        try:
            self._plain = read_xattrs(fd)
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=self._opened())

    def _seal(self, fd: int, info: os.stat_result) -> bool | None:
        """Have nobody else write to it. Whether anything was changed for that; None where it cannot be."""
        if info.st_uid == self._owner[0] and not info.st_mode & 0o022:
            return False
        if info.st_mode & _SPECIAL and not is_privileged():
            return None
        note = b"%o %d %d" % (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
        try:
            os.setxattr(fd, _seal_name(), note, os.XATTR_CREATE)
        except OSError as exc:
            if exc.errno in _CANNOT:
                return None
            raise
        try:
            if (info.st_uid, info.st_gid) != self._owner:
                os.fchown(fd, *self._owner)
            os.fchmod(fd, OBJECT_MODE)
        except OSError as exc:
            unseal(fd)
            if exc.errno in _CANNOT:
                return None
            raise
        return True

    def _adopted(self, fd: int, directory: int, name: bytes, info: os.stat_result) -> tuple[int, bytes, bool] | None:
        """Hash the sealed file and give it a name among the objects; (size, digest, whether it is staged). None where
        it can have no second name."""
        size = info.st_size
        if size <= IN_MEMORY_MAX:
            data = read_whole(fd, size)
            size, digest = len(data), verity_digest(data)
        else:
            digest, size = copy_hashed(fd, None, size, sparse=is_sparse(info))
        if self._stored(digest, size):
            return size, digest, False
        names = 2
        try:
            target = self._staging.made(digest)
            os.link(name, target, src_dir_fd=directory, dst_dir_fd=self._opened(), follow_symlinks=False)
        except FileExistsError:  # another file has the same content
            names = 1
        except OSError as exc:
            if exc.errno in _CANNOT_LINK:
                return None
            raise StagingError(exc) from None
        after = os.fstat(fd)
        if (after.st_nlink, after.st_size, after.st_mtime_ns) != (names, size, info.st_mtime_ns):
            raise OSError(errno.EBUSY, "it was changed meanwhile")
        return size, digest, True


def unseal(fd: int) -> None:
    """Make the open file what it was before it was sealed; nothing where it was not. ``OSError``."""
    note = _note(fd)
    if note is not None:
        mode = int(note[1], 8)
        os.fchown(fd, int(note[2]), int(note[3]))
        os.fchmod(fd, mode if is_privileged() else mode & ~_SPECIAL)
        os.removexattr(fd, _seal_name())


def made_object(fd: int) -> None:
    """Make the open file, which is an object by another name, as objects are. ``OSError``."""
    os.fchmod(fd, OBJECT_MODE)
    if _note(fd) is not None:
        os.removexattr(fd, _seal_name())


def _note(fd: int) -> re.Match[bytes] | None:
    found = get_xattr(fd, _seal_name())
    return _NOTE.fullmatch(found) if found is not None else None


@cache
def _seal_name() -> bytes:
    return SEALS[0] if is_privileged() else SEALS[1]


def _flags(fd: int) -> int:
    with suppress(OSError):
        return int(struct.unpack("I", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(4)))[0])
    return 0
