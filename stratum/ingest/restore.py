"""A tree, or a part of one, becomes files again.

Restored are content, type, permissions, owner, mtime in nanoseconds, extended attributes, hard links and holes. Every
file's content is checked against its digest while it is written. What only root may do is left undone for others and
reported, once for each kind: owners (and set-user-ID bits, which would then mean somebody else), device nodes,
``trusted.*`` and ``security.*`` attributes. So is what ``Rules`` leave out. In a user namespace, 0 may give files to
the IDs that this has.

The target may be in a directory that others can write to. Below the target every step is by descriptor and follows no
symbolic link; a new directory is closed to everybody else (0700) until all that is in it is done; what is made in a
directory that was there before is complete, and checked to be what was just made, before it gets its name.

A restore that was cut short can be run again: what has its name is complete, and an entry that is just what the tree
has is left as it is (``ingest.alike``); a directory is gone on with where it is as it should be, or as a restore leaves
it before it is done. Names that were given for a moment (``_TEMPORARY``) are removed by the next restore.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stratum.errors import (
    ConflictError,
    DamagedError,
    ExistsError,
    NotFoundError,
    StratumError,
    UnsupportedError,
    os_error_text,
)
from stratum.frozen import frozen
from stratum.ingest.alike import find_alike
from stratum.ingest.attributes import stored_xattrs
from stratum.ingest.copying import SourceError, copy_hashed
from stratum.store.objects import Objects
from stratum.store.upperdirs import out_of_reach, within_reach
from stratum.sys.atomic import write_all
from stratum.sys.dirstack import OPEN_DIRECTORY, DirectoryStack
from stratum.sys.holes import is_sparse
from stratum.sys.syscalls import (
    RENAME_NOREPLACE,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    fd_path,
    openat2,
    renameat2,
)
from stratum.sys.userns import is_mapped, is_privileged
from stratum.sys.xattrs import read_xattrs
from stratum.tree.dump import count_links
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs
from stratum.tree.overlay import Dialect
from stratum.tree.upperform import upper_form

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_CAPABILITY = b"security.capability"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = b".stratum-restore-"
_LEFTOVER = re.compile(re.escape(_TEMPORARY) + rb"[0-9a-f]{16}")
Told = Callable[[int, bool], None]
"""Is called with the bytes of a piece, and whether it ends a file."""

_Target = int | str
"""A file by descriptor, or by the ``/proc`` path of one that cannot be read or written (a symbolic link, a device)."""


@frozen
class Rules:
    """How to restore: whether what is in the way is replaced, and what is left out unless it is asked for: device
    nodes, and what makes a program run as somebody else (set-user-ID and set-group-ID bits of files, file
    capabilities)."""

    overwrite: bool = False
    devices: bool = True
    setuid: bool = True


def restore(objects: Objects, inode: Inode, target: Path, *, overwrite: bool = False) -> list[str]:
    """Make ``target`` what ``inode`` (of a commit's tree) describes, in all; warnings, a line each.

    A directory is restored into ``target``, which is made where it is missing; another inode becomes ``target``. What
    is in the way, and not what it should be, is ``ExistsError``; with ``overwrite`` it is replaced (a directory only by
    a directory, whose other entries stay). Raises ``DamagedError`` for content that is not what its digest says,
    ``NotFoundError`` for a missing object or parent directory, ``StratumError`` in the kernel's words for what cannot
    be written. ``target`` may be reached through links: this is for directories that nobody else writes to.
    """
    path = os.fsencode(target)
    if isinstance(inode, Directory):
        with _writing(path), suppress(FileExistsError):
            os.mkdir(target, 0o700)
        with _writing(path):
            root = os.open(target, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
        return _fill(objects, inode, root, path, Rules(overwrite))
    with _writing(path):
        parent = os.open(target.parent, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    return _put(objects, inode, parent, path, Rules(overwrite))


def make_outline(objects: Objects, tree: Directory, target: Path) -> list[str]:
    """As ``restore``, without content: a file that has a digest becomes one of its size, all hole
    (``composefs.outline``)."""
    path = os.fsencode(target)
    with _writing(path):
        os.mkdir(target, 0o700)
        root = os.open(target, OPEN_DIRECTORY)
    with DirectoryStack(root) as stack:
        outliner = _Outliner(objects, Rules(), True, None)
        outliner.directory(stack, tree, path)
    return outliner.warnings()


def restore_upper(objects: Objects, layer: Directory, upperdir: Path, dialect: Dialect) -> None:
    """Fill a new, empty upperdir, of which nobody knows yet, so that a mount of ``dialect`` shows ``layer`` over the
    base. Raises as ``restore`` does, and ``UnsupportedError`` for what a user's worktree cannot hold, and where nobody
    could read it again."""
    if not within_reach(dialect):
        raise out_of_reach("a worktree", dialect)
    undone = restore(objects, upper_form(layer, dialect), upperdir)
    if undone and dialect is Dialect.USER:
        raise UnsupportedError(f"a worktree of yours cannot hold all of it: {undone[0]}")


def restore_below(
    objects: Objects, inode: Inode, root: int, shown: Path, path: bytes, rules: Rules, told: Told | None = None
) -> list[str]:
    """As ``restore``, to ``path`` in the open directory ``root`` (called ``shown``), by no symbolic link from there on:
    whoever writes there cannot lead it elsewhere. The empty path is ``root`` itself. ``told`` is called with the
    bytes of each piece that is written or there already, and whether it ends a file.

    ``NotFoundError`` where the directory that ``path`` is in is missing, or is none.
    """
    names = [name for name in path.split(b"/") if name]
    where = b"/".join([os.fsencode(shown), *names])
    parent = _open_below(root, shown, names[:-1])
    if not isinstance(inode, Directory):
        return _put(objects, inode, parent, where, rules, told)
    if not names:
        return _fill(objects, inode, parent, where, rules, told)
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
    return _fill(objects, inode, top, where, rules, told)


def _open_below(root: int, place: Path, names: list[bytes]) -> int:
    try:
        below = b"/".join(names) or b"."
        return openat2(root, below, OPEN_DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as exc:
        shown = os.fsdecode(b"/".join([os.fsencode(place), *names]))
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotFoundError(
                f"there is no directory {shown} to restore into", hint="restore the directory itself first"
            ) from None
        raise StratumError(f"cannot open {shown}: {os_error_text(exc)}") from None


def _fill(
    objects: Objects, tree: Directory, root: int, path: bytes, rules: Rules, told: Told | None = None
) -> list[str]:
    """Restore ``tree`` into the open directory ``root``, which is called ``path`` and closed here."""
    with DirectoryStack(root) as stack:
        restorer = _Restorer(objects, rules, _alone_in(root), told)
        restorer.directory(stack, tree, path.rstrip(b"/"))
    return restorer.warnings()


def _put(objects: Objects, inode: Inode, parent: int, path: bytes, rules: Rules, told: Told | None = None) -> list[str]:
    """Restore ``inode``, no directory, as ``path``, in the open directory ``parent``, which is closed here."""
    directory, _, name = path.rpartition(b"/")
    try:
        restorer = _Restorer(objects, rules, _alone_in(parent), told)
        restorer.clean(parent, (name,))
        restorer.entry(parent, name, inode, directory, fresh=False)
    finally:
        os.close(parent)
    return restorer.warnings()


def _alone_in(directory: int) -> bool:
    """Whether nobody else restores to the open directory; until it is closed nobody will, or know that they are alone.

    Who is alone may clean up after those who were killed.
    """
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _writing(path: bytes) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, IsADirectoryError):
        raise ExistsError(
            f"{os.fsdecode(path)} exists, and is not what is restored",
            hint="restore to another place, remove it first, or replace what is there with --force",
        ) from None
    except FileNotFoundError as exc:
        raise NotFoundError(f"cannot write {os.fsdecode(path)}: {os_error_text(exc)}") from None
    except OSError as exc:
        raise StratumError(f"cannot write {os.fsdecode(path)}: {os_error_text(exc)}") from None


def _nobody(_size: int, _ends: bool) -> None:
    pass


class _Restorer:
    """Writes inodes; remembers where hard-linked ones went and what could not be done.

    ``alone``: nobody else restores to the same place now.
    """

    def __init__(self, objects: Objects, rules: Rules, alone: bool, told: Told | None) -> None:
        self._objects = objects
        self._told = told or _nobody
        self._rules = rules
        self._alone = alone
        self._root = os.geteuid() == 0
        self._privileged = is_privileged()
        self._undone: dict[str, tuple[bytes, bytes, int]] = {}  # what -> the first path, the last, how many
        self._names: list[bytes] = []  # of the directories between the target and the current one
        self._links: dict[int, tuple[list[bytes], bytes, int]] = {}  # id(inode) -> where, name, inode number
        self._shared: set[int] = set()

    def warnings(self) -> list[str]:
        """One line for each kind of thing that was not done."""
        return [
            f"{what}: {os.fsdecode(path)}" + (f" and {count - 1} more" if count > 1 else "")
            for what, (path, _, count) in self._undone.items()
        ]

    def directory(self, stack: DirectoryStack, root: Directory, path: bytes) -> None:
        """Fill the open directory at the bottom of ``stack``, which is called ``path``, with ``root``."""
        self._shared = set(count_links(root))
        frames = [(root, iter(sorted(root.children.items())), path, False)]
        self._begin(stack.top, root)
        while frames:
            node, children, path, fresh = frames[-1]
            for name, child in children:
                if not isinstance(child, Directory):
                    self._linked_or_new(stack, name, child, path, fresh)
                    continue
                with _writing(path + b"/" + name):
                    made = self._enter(stack, name, child)
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

    def _enter(self, stack: DirectoryStack, name: bytes, node: Directory) -> bool:
        """Go into the subdirectory ``name``, made where it is missing; whether it was."""
        _check_name(name)
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=stack.top)
        except FileExistsError:
            made = False
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=stack.top)
        except NotADirectoryError:
            raise FileExistsError from None
        info = os.fstat(fd)
        stack.push(fd, info)
        if made:
            if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
                raise ConflictError(
                    f"the new directory {os.fsdecode(name)} was replaced by another while it was restored"
                )
            self._strip_acls(fd)
        else:
            if not (self._rules.overwrite or self._may_go_on(info, node)):
                raise FileExistsError
            self._begin(fd, node)
        return made

    def _may_go_on(self, info: os.stat_result, node: Directory) -> bool:
        """Whether a directory that is there is one that a restore made, complete or not yet."""
        modes, owners = {0o700, stat.S_IMODE(node.mode)}, {os.geteuid()}
        if self._root:
            owners.add(node.uid)
        return stat.S_IMODE(info.st_mode) in modes and info.st_uid in owners

    def _begin(self, fd: int, node: Directory) -> None:
        """Make ready a directory that was there before."""
        self._strip_acls(fd)
        self.clean(fd, node.children)

    def clean(self, fd: int, wanted: Container[bytes]) -> None:
        """Remove what killed restores left in a directory, but for the names that are ``wanted``."""
        if not self._alone:
            return
        for name in map(os.fsencode, os.listdir(fd)):
            if _LEFTOVER.fullmatch(name) and name not in wanted:
                with suppress(OSError):
                    os.unlink(name, dir_fd=fd)

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
        with suppress(FileNotFoundError):
            if os.stat(name, dir_fd=stack.top, follow_symlinks=False).st_ino == number:
                return
        source = os.dup(stack.bottom)
        try:
            for step in where:
                below = os.open(step, OPEN_DIRECTORY, dir_fd=source)
                os.close(source)
                source = below
            temporary = _temporary()
            os.link(first, temporary, src_dir_fd=source, dst_dir_fd=stack.top, follow_symlinks=False)
        finally:
            os.close(source)
        try:
            if os.stat(temporary, dir_fd=stack.top, follow_symlinks=False).st_ino != number:
                raise ConflictError("a restored file was replaced by another while its hard links were made")
            self._rename(stack.top, temporary, name)
        except BaseException:
            os.unlink(temporary, dir_fd=stack.top)
            raise

    def entry(self, directory: int, name: bytes, inode: Inode, path: bytes, *, fresh: bool) -> int:
        """Make ``name`` in the open ``directory`` (called ``path``) from an inode that is no directory.

        ``fresh``: nobody else has been able to put anything there. The new inode's number, 0 where it was left out.
        """
        _check_name(name)
        where = path + b"/" + name
        if not self._rules.devices and is_device(inode):
            self._note("device nodes are left out (--devices makes them)", where)
            return 0
        with _writing(where):
            if not (fresh or self._rules.overwrite) and (number := self._found(directory, name, inode, where)):
                self._told(getattr(inode, "size", 0), True)
                return number
            try:
                handle, made_as = self._make(directory, inode, where)
            except PermissionError as exc:
                if self._privileged or not isinstance(inode, Special) or exc.errno != errno.EPERM:
                    raise
                self._note("not restored, it takes root", where)
                return 0
            try:
                made: _Target = handle if isinstance(inode, File) else fd_path(handle)
                if not fresh:
                    self._strip_acls(made)
                self._metadata(made, inode, where)
                number = os.fstat(handle).st_ino
                if made_as is None:
                    self._give_name(directory, handle, name)
                else:
                    self._rename(directory, made_as, name)
            except BaseException:
                if made_as is not None:
                    with suppress(FileNotFoundError):
                        os.unlink(made_as, dir_fd=directory)
                raise
            finally:
                os.close(handle)
        return number

    def _found(self, directory: int, name: bytes, inode: Inode, where: bytes) -> int:
        """The number of the inode that ``name`` is, where that is just what would be made, up to attributes that are
        missing and are added; else 0."""
        wanted = self._xattrs(inode, where)
        owner = (inode.uid, inode.gid) if self._root and self._can_own(inode) else None
        shared = id(inode) in self._shared
        fd = find_alike(directory, name, inode, mode=self._mode(inode, where), owner=owner, shared=shared)
        if fd is None:
            return 0
        try:
            target: _Target = fd if isinstance(inode, File) else fd_path(fd)
            there = dict(stored_xattrs(read_xattrs(target)) if isinstance(target, int) else ())
            if any(dict(wanted).get(key) != value for key, value in there.items()):
                return 0
            for key, value in wanted:
                if key not in there:
                    self._set_xattr(target, key, value, where)
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def _make(self, directory: int, inode: Inode, where: bytes) -> tuple[int, bytes | None]:
        """A new inode with its content and no metadata yet: a descriptor of it, and its name for now, if it has one."""
        name = _temporary()
        if isinstance(inode, File):
            return self._new_file(directory, name, inode, where)
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
        return handle, name

    def _new_file(self, directory: int, name: bytes, file: File, where: bytes) -> tuple[int, bytes | None]:
        """As ``_make``: a file without a name, so that a kill leaves nothing, or ``name`` where there are none such."""
        made_as: bytes | None = None
        try:
            handle = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            made_as = name
            handle = os.open(made_as, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            self._content(handle, file, where)
        except BaseException:
            os.close(handle)
            if made_as is not None:
                os.unlink(made_as, dir_fd=directory)
            raise
        return handle, made_as

    def _told_piece(self, size: int) -> None:
        self._told(size, False)

    def _content(self, handle: int, file: File, where: bytes) -> None:
        if file.digest is None:
            write_all(handle, file.content or b"")
            self._told(file.size, True)
            return
        source = self._objects.open(file.digest)
        try:
            sparse = is_sparse(os.fstat(source))
            digest, size = copy_hashed(source, handle, file.size, sparse=sparse, told=self._told_piece)
            self._told(0, True)
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

    def _mode(self, inode: Inode, where: bytes) -> int:
        """The permissions to give."""
        mode = stat.S_IMODE(inode.mode)
        privilege = mode & (stat.S_ISUID | stat.S_ISGID) if not isinstance(inode, Directory) else 0
        if privilege and not self._rules.setuid:
            self._note_privilege(where)
            return mode & ~privilege
        return mode if self._can_own(inode) else mode & ~privilege

    def _can_own(self, inode: Inode) -> bool:
        """Whether what is made can have the owner that it should have."""
        if not self._root:
            return (inode.uid, inode.gid) == (os.geteuid(), os.getegid())
        return self._privileged or (is_mapped(inode.uid) and is_mapped(inode.gid, "gid_map"))

    def _xattrs(self, inode: Inode, where: bytes) -> Xattrs:
        """The attributes to give."""
        if self._rules.setuid or all(name != _CAPABILITY for name, _ in inode.xattrs):
            return inode.xattrs
        self._note_privilege(where)
        return tuple(item for item in inode.xattrs if item[0] != _CAPABILITY)

    def _note_privilege(self, where: bytes) -> None:
        self._note("set-user-ID and set-group-ID bits and capabilities are left out (--setuid keeps them)", where)

    def _metadata(self, made: _Target, inode: Inode, where: bytes) -> None:
        """Owner, attributes, permissions and times, in the order in which one does not undo another."""
        mode = self._mode(inode, where)
        if not self._can_own(inode):
            self._note("owner not restored, it takes root" + (" or more IDs in /etc/subuid" * self._root), where)
        elif self._root:
            os.chown(made, inode.uid, inode.gid)
        for name, value in self._xattrs(inode, where):
            self._set_xattr(made, name, value, where)
        if not isinstance(inode, Symlink):
            os.chmod(made, mode)
        os.utime(made, ns=(inode.mtime, inode.mtime))

    def _set_xattr(self, made: _Target, name: bytes, value: bytes, where: bytes) -> None:
        try:
            os.setxattr(made, name, value)
        except OSError as exc:
            unmapped = exc.errno == errno.EINVAL and name in _ACLS and not self._privileged
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP) and not unmapped:
                raise
            self._note(f"attribute {os.fsdecode(name)} not restored ({os_error_text(exc)})", where)

    def _give_name(self, directory: int, handle: int, name: bytes) -> None:
        """Give the file that is open as ``handle``, and has no name yet, its name."""
        # With a directory's descriptor, because only then is the link in /proc followed.
        if not self._rules.overwrite:
            os.link(fd_path(handle), name, dst_dir_fd=directory, follow_symlinks=True)
            return
        temporary = _temporary()
        os.link(fd_path(handle), temporary, dst_dir_fd=directory, follow_symlinks=True)
        try:
            self._rename(directory, temporary, name)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise

    def _rename(self, directory: int, temporary: bytes, name: bytes) -> None:
        if self._rules.overwrite:
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
        first, last, count = self._undone.get(what, (path, b"", 0))
        self._undone[what] = (first, path, count + (path != last))


class _Outliner(_Restorer):
    """Writes inodes, and of contents nothing but the size."""

    def _content(self, handle: int, file: File, where: bytes) -> None:
        if file.digest is None:
            super()._content(handle, file, where)
        else:
            os.ftruncate(handle, file.size)


def is_device(inode: Inode) -> bool:
    """Whether the inode is a device node; character device 0:0 is none, as overlayfs deletes with it."""
    if not isinstance(inode, Special):
        return False
    return stat.S_ISBLK(inode.mode) or (stat.S_ISCHR(inode.mode) and inode.rdev != 0)


def _temporary() -> bytes:
    """A fresh name, unguessable and recognised by its prefix."""
    return _TEMPORARY + os.urandom(8).hex().encode()


def _check_name(name: bytes) -> None:
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise DamagedError(f"the tree has an entry with the impossible name {name!r}")
