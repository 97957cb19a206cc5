"""A tree, or a part of one, becomes files again.

Restored are content, type, permissions, owner, mtime in nanoseconds, extended attributes, hard links and holes. Every
file's content is checked against its digest while it is written. What only root may do is left undone for others and
reported, once for each kind: owners (and set-user-ID bits, which would then mean somebody else), device nodes,
``trusted.*`` and ``security.*`` attributes.

The target may be in a directory that others can write to. Below the target every step is by descriptor and follows no
symbolic link; a new directory is closed to everybody else (0700) until all that is in it is done; what is made in a
directory that was there before is complete, and checked to be what was just made, before it gets its name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stratum.errors import ConflictError, DamagedError, ExistsError, NotFoundError, StratumError, os_error_text
from stratum.ingest.attributes import stored_xattrs
from stratum.ingest.copying import SourceError, copy_hashed, is_sparse
from stratum.ingest.dirstack import OPEN_DIRECTORY, DirectoryStack
from stratum.store.objects import Objects
from stratum.sys.atomic import temporary_name, write_all
from stratum.sys.syscalls import (
    RENAME_NOREPLACE,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    fd_path,
    openat2,
    renameat2,
)
from stratum.sys.xattrs import read_xattrs
from stratum.tree.dump import count_links
from stratum.tree.model import Directory, File, Inode, Special, Symlink

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_Target = int | str
"""A file by descriptor, or by the ``/proc`` path of one that cannot be read or written (a symbolic link, a device)."""


def restore(objects: Objects, inode: Inode, target: Path, *, overwrite: bool = False) -> list[str]:
    """Make ``target`` what ``inode`` (of a commit's tree) describes; warnings, a line each.

    A directory is restored into ``target``, which is made where it is missing; another inode becomes ``target``. What
    is in the way is ``ExistsError``; with ``overwrite`` it is replaced (a directory only by a directory, whose other
    entries stay). Raises ``DamagedError`` for content that is not what its digest says, ``NotFoundError`` for a missing
    object or parent directory, ``StratumError`` in the kernel's words for what cannot be written.
    """
    path = os.fsencode(target)
    if isinstance(inode, Directory):
        with _writing(path), suppress(FileExistsError):
            os.mkdir(target, 0o700)
        with _writing(path):
            root = os.open(target, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
        return _fill(objects, inode, root, path, overwrite)
    with _writing(path):
        parent = os.open(target.parent, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    return _put(objects, inode, parent, path, overwrite)


def restore_below(objects: Objects, inode: Inode, root: Path, path: bytes, *, overwrite: bool = False) -> list[str]:
    """As ``restore``, to ``path`` in the directory ``root``, by no symbolic link from there on: whoever writes there
    cannot lead it elsewhere. The empty path is ``root`` itself.

    ``NotFoundError`` where the directory that ``path`` is in is missing, or is none.
    """
    names = [name for name in path.split(b"/") if name]
    where = b"/".join([os.fsencode(root), *names])
    parent = _open_below(root, names[:-1])
    if not isinstance(inode, Directory):
        return _put(objects, inode, parent, where, overwrite)
    if not names:
        return _fill(objects, inode, parent, where, overwrite)
    try:
        with _writing(where):
            with suppress(FileExistsError):
                os.mkdir(names[-1], 0o700, dir_fd=parent)
            try:
                top = os.open(names[-1], OPEN_DIRECTORY, dir_fd=parent)
            except NotADirectoryError:  # a symbolic link too
                raise FileExistsError from None
    finally:
        os.close(parent)
    return _fill(objects, inode, top, where, overwrite)


def _open_below(root: Path, names: list[bytes]) -> int:
    with _writing(os.fsencode(root)):
        top = os.open(root, OPEN_DIRECTORY)
    try:
        below = b"/".join(names) or b"."
        return openat2(top, below, OPEN_DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as exc:
        shown = os.fsdecode(b"/".join([os.fsencode(root), *names]))
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotFoundError(
                f"there is no directory {shown} to restore into", hint="restore the directory itself first"
            ) from None
        raise StratumError(f"cannot open {shown}: {os_error_text(exc)}") from None
    finally:
        os.close(top)


def _fill(objects: Objects, tree: Directory, root: int, path: bytes, overwrite: bool) -> list[str]:
    """Restore ``tree`` into the open directory ``root``, which is called ``path`` and closed here."""
    restorer = _Restorer(objects, overwrite)
    with DirectoryStack(root) as stack:
        restorer.directory(stack, tree, path.rstrip(b"/"))
    return restorer.warnings()


def _put(objects: Objects, inode: Inode, parent: int, path: bytes, overwrite: bool) -> list[str]:
    """Restore ``inode``, no directory, as ``path``, in the open directory ``parent``, which is closed here."""
    restorer = _Restorer(objects, overwrite)
    directory, _, name = path.rpartition(b"/")
    try:
        restorer.entry(parent, name, inode, directory, fresh=False)
    finally:
        os.close(parent)
    return restorer.warnings()


@contextmanager
def _writing(path: bytes) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, IsADirectoryError):
        raise ExistsError(f"{os.fsdecode(path)} exists", hint="restore to another place, or remove it first") from None
    except FileNotFoundError as exc:
        raise NotFoundError(f"cannot write {os.fsdecode(path)}: {os_error_text(exc)}") from None
    except OSError as exc:
        raise StratumError(f"cannot write {os.fsdecode(path)}: {os_error_text(exc)}") from None


class _Restorer:
    """Writes inodes; remembers where hard-linked ones went and what could not be done."""

    def __init__(self, objects: Objects, overwrite: bool) -> None:
        self._objects = objects
        self._overwrite = overwrite
        self._root = os.geteuid() == 0
        self._undone: dict[str, tuple[bytes, int]] = {}  # what -> the first path, how many
        self._names: list[bytes] = []  # of the directories between the target and the current one
        self._links: dict[int, tuple[list[bytes], bytes, int]] = {}  # id(inode) -> where, name, inode number
        self._shared: set[int] = set()

    def warnings(self) -> list[str]:
        """One line for each kind of thing that was not done."""
        return [
            f"{what}: {os.fsdecode(path)}" + (f" and {count - 1} more" if count > 1 else "")
            for what, (path, count) in self._undone.items()
        ]

    def directory(self, stack: DirectoryStack, root: Directory, path: bytes) -> None:
        """Fill the open directory at the bottom of ``stack``, which is called ``path``, with ``root``."""
        self._shared = set(count_links(root))
        frames = [(root, iter(sorted(root.children.items())), path, False)]
        self._strip_acls(stack.top)
        while frames:
            node, children, path, fresh = frames[-1]
            for name, child in children:
                if not isinstance(child, Directory):
                    self._linked_or_new(stack, name, child, path, fresh)
                    continue
                with _writing(path + b"/" + name):
                    made = self._enter(stack, name)
                self._names.append(name)
                frames.append((child, iter(sorted(child.children.items())), path + b"/" + name, made))
                break
            else:
                with _writing(path):
                    if not fresh:
                        self._remove_other_xattrs(stack.top, node)
                    self._metadata(stack.top, node, path)
                frames.pop()
                if frames:
                    self._names.pop()
                    stack.pop()

    def _enter(self, stack: DirectoryStack, name: bytes) -> bool:
        """Go into the subdirectory ``name``, made where it is missing; whether it was."""
        _check_name(name)
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=stack.top)
        except FileExistsError:
            if not self._overwrite:
                raise
            made = False
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=stack.top)
        except NotADirectoryError:
            raise FileExistsError from None
        info = os.fstat(fd)
        stack.push(fd, info)
        if made and (info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077):
            raise ConflictError(f"the new directory {os.fsdecode(name)} was replaced by another while it was restored")
        self._strip_acls(fd)
        return made

    def _linked_or_new(self, stack: DirectoryStack, name: bytes, inode: Inode, path: bytes, fresh: bool) -> None:
        first = self._links.get(id(inode))
        if first is None:
            number = self.entry(stack.top, name, inode, path, fresh=fresh)
            if id(inode) in self._shared and number:
                self._links[id(inode)] = (list(self._names), name, number)
            return
        with _writing(path + b"/" + name):
            self._link(stack, name, *first)

    def _link(self, stack: DirectoryStack, name: bytes, where: list[bytes], first: bytes, number: int) -> None:
        """Make ``name`` in the current directory another name of the file ``first`` in the directory ``where``."""
        _check_name(name)
        source = os.dup(stack.bottom)
        try:
            for step in where:
                below = os.open(step, OPEN_DIRECTORY, dir_fd=source)
                os.close(source)
                source = below
            temporary = temporary_name().encode()
            os.link(first, temporary, src_dir_fd=source, dst_dir_fd=stack.top, follow_symlinks=False)
        finally:
            os.close(source)
        try:
            if os.stat(temporary, dir_fd=stack.top, follow_symlinks=False).st_ino != number:
                raise ConflictError("a restored file was replaced by another while its hard links were made")
            self._give_name(stack.top, temporary, name)
        except BaseException:
            os.unlink(temporary, dir_fd=stack.top)
            raise

    def entry(self, directory: int, name: bytes, inode: Inode, path: bytes, *, fresh: bool) -> int:
        """Make ``name`` in the open ``directory`` (called ``path``) from an inode that is no directory.

        ``fresh``: nobody else has been able to put anything there. The new inode's number, 0 where it was left out.
        """
        _check_name(name)
        where = path + b"/" + name
        first = name if fresh else temporary_name().encode()
        with _writing(where):
            try:
                handle = self._make(directory, first, inode, where)
            except PermissionError as exc:
                if self._root or not isinstance(inode, Special) or exc.errno != errno.EPERM:
                    raise
                self._note("not restored, it takes root", where)
                return 0
            try:
                made: _Target = handle if isinstance(inode, File) else fd_path(handle)
                if not fresh:
                    self._strip_acls(made)
                self._metadata(made, inode, where)
                number = os.fstat(handle).st_ino
                if not fresh:
                    self._give_name(directory, first, name)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(first, dir_fd=directory)
                raise
            finally:
                os.close(handle)
        return number

    def _make(self, directory: int, name: bytes, inode: Inode, where: bytes) -> int:
        """A new inode with its content and no metadata yet; a descriptor of it."""
        if isinstance(inode, File):
            handle = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
            try:
                self._content(handle, inode, where)
            except BaseException:
                os.close(handle)
                os.unlink(name, dir_fd=directory)
                raise
            return handle
        if isinstance(inode, Symlink):
            os.symlink(inode.target, name, dir_fd=directory)
        elif isinstance(inode, Special):
            os.mknod(name, stat.S_IFMT(inode.mode) | 0o600, inode.rdev, dir_fd=directory)
        else:
            raise DamagedError(f"{os.fsdecode(where)} is a whiteout, which no commit holds")
        handle = os.open(name, _HANDLE, dir_fd=directory)
        info = os.fstat(handle)
        if stat.S_IFMT(info.st_mode) != stat.S_IFMT(inode.mode) or info.st_nlink != 1 or info.st_uid != os.geteuid():
            os.close(handle)
            raise ConflictError(f"{os.fsdecode(where)} was replaced by something else while it was restored")
        return handle

    def _content(self, handle: int, file: File, where: bytes) -> None:
        if file.digest is None:
            write_all(handle, file.content or b"")
            return
        source = self._objects.open(file.digest)
        try:
            digest, size = copy_hashed(source, handle, file.size, sparse=is_sparse(os.fstat(source)))
        except SourceError as exc:
            raise StratumError(
                f"cannot read object {file.digest.hex()}: {os_error_text(exc.error)}",
                hint="the disk reports errors: check it before anything else",
            ) from None
        finally:
            os.close(source)
        if digest != file.digest or size != file.size:
            raise DamagedError(
                f"{os.fsdecode(where)}: object {file.digest.hex()} does not match its digest", hint="run 'stratum fsck'"
            )

    def _metadata(self, made: _Target, inode: Inode, where: bytes) -> None:
        """Owner, attributes, permissions and times, in the order in which one does not undo another."""
        mode = stat.S_IMODE(inode.mode)
        if self._root:
            os.chown(made, inode.uid, inode.gid)
        elif (inode.uid, inode.gid) != (os.geteuid(), os.getegid()):
            self._note("owner not restored, it takes root", where)
            if not isinstance(inode, Directory):
                mode &= ~(stat.S_ISUID | stat.S_ISGID)
        for name, value in inode.xattrs:
            self._set_xattr(made, name, value, where)
        if not isinstance(inode, Symlink):
            os.chmod(made, mode)
        os.utime(made, ns=(inode.mtime, inode.mtime))

    def _set_xattr(self, made: _Target, name: bytes, value: bytes, where: bytes) -> None:
        try:
            os.setxattr(made, name, value)
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            self._note(f"attribute {os.fsdecode(name)} not restored ({os_error_text(exc)})", where)

    def _give_name(self, directory: int, temporary: bytes, name: bytes) -> None:
        if self._overwrite:
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        else:
            renameat2(directory, temporary, directory, name, RENAME_NOREPLACE)

    def _strip_acls(self, made: _Target) -> None:
        """Remove what a default ACL of the directory above gave to a new inode."""
        for name in _ACLS:
            with suppress(OSError):
                os.removexattr(made, name)

    def _remove_other_xattrs(self, fd: int, node: Directory) -> None:
        """Remove what a directory that was there before has beyond its node."""
        wanted = {name for name, _ in node.xattrs}
        for name, _ in stored_xattrs(read_xattrs(fd)):
            if name not in wanted:
                os.removexattr(fd, name)

    def _note(self, what: str, path: bytes) -> None:
        first, count = self._undone.get(what, (path, 0))
        self._undone[what] = (first, count + 1)


def _check_name(name: bytes) -> None:
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise DamagedError(f"the tree has an entry with the impossible name {name!r}")
