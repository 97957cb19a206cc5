"""``StratumFileSystem``: what reads (``fs.reading``), and what writes to a layer."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fsspec.core import has_magic

from stratum.fs import view
from stratum.fs.address import clean
from stratum.fs.contents import Draft
from stratum.fs.files import WriteFile
from stratum.fs.layered import Layered, open_layer
from stratum.fs.reading import At, ReadingFileSystem
from stratum.fs.words import is_a_directory, not_found, read_only, shown, translated
from stratum.tree.limits import check_path
from stratum.tree.model import Directory, File, lookup

if TYPE_CHECKING:
    from stratum.fs.layer import Changes

_PIECE = 1 << 20


class StratumFileSystem(ReadingFileSystem):
    """Commits as a file system of fsspec.

    Without ``ref`` and ``place``, a path names a commit and what is in it (``fs.address``): ``models:v3/x.parquet`` of
    the local store, ``HOST/REPOSITORY:TAG/x.parquet`` of a registry, ``s3://BUCKET/PREFIX:TAG/x.parquet`` of an object
    store. All of that is only read.

    Parameters, all of them text or numbers, so that they can be ``storage_options``:

    - ``ref``: a commit of the local store, as on the command line; paths begin in it. ``place``: the same of a place.
    - ``layer``: have it written to. ``"memory"``, for as long as the process has a file system of it; or a directory,
      which is made on need, survives the process and can be written to by several. What is read is looked for in the
      layer, then in the commit. ``flatten`` makes a commit of it.
    - ``store``: the store's directory; without it the one of the command line.
    - ``plain_http``, ``ca_file``: how a registry is reached, as the options of the verbs. ``endpoint``, ``region``: of
      an object store, where its reference does not tell.
    - ``cache_bytes``: how much of what is fetched is kept in memory, of all file systems with the same settings;
      ``cache_dir``: a directory where it is kept too, at most ``cache_dir_bytes`` of it.
    - ``listings_expiry_time``: seconds for which it is believed what a tag of a place named, 60 without it. A tag of
      the local store is looked at each time. What is open stays as it was.

    What cannot be found is ``FileNotFoundError``; what may not be done ``PermissionError``; everything else that fails
    is another ``OSError``, in the words of the command line. Threads may share one.
    """

    def __init__(
        self,
        ref: str | None = None,
        place: str | None = None,
        *,
        layer: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(ref, place, **options)
        self._layered: Layered | None = None
        if layer is not None:
            self._strip_protocol = type(self)._strip_protocol  # type: ignore[method-assign]  # a layer has plain paths
            with translated():
                self._layered = open_layer(self._opener, os.fspath(layer), ref, place)

    def __reduce__(self) -> Any:
        if self._layered is not None and not self._layered.lasting:
            raise TypeError(
                "a layer in memory belongs to its process: give layer= a directory to use it in another one"
            )
        return super().__reduce__()

    def _at(self, path: str) -> At:
        layered = self._layered
        if layered is None:
            return super()._at(path)
        with translated(shown(path)):
            root = layered.tree()
            return At(root, clean(self._strip_protocol(path)), str, layered.content, layered.remote, layered.when)

    @property
    def _above_commits(self) -> bool:
        return super()._above_commits and self._layered is None

    # The commit of a layer

    def flatten(self, tag: str | None = None, *, message: str | None = None, force: bool = False) -> str:
        """Make a commit of what is shown, in the local store, and have ``tag`` name it: TAG or NAME:TAG, without it the
        tag that the file system was opened with. The commit's hash, which is that of the same tree imported.

        Its parent is the commit below the layer. Afterwards the layer is empty, and lies over the new commit. A tag
        that somebody else moved meanwhile is left alone, and so is another tag that exists, unless ``force``: that is
        ``ConflictError``, and the layer stays as it is. Raises ``StratumError``, ``UsageError`` where no tag is known.
        """
        return self._writable("").flatten(tag, message, force)

    @property
    def base(self) -> str:
        """The hash of the commit below the layer."""
        layered = self._writable("")
        layered.tree()
        return layered.layer.base

    @property
    def changed(self) -> bool:
        """Whether anything was written to the layer."""
        layered = self._writable("")
        layered.tree()
        return layered.layer.changed

    # Writing

    def _writable(self, path: str) -> Layered:
        if self._layered is None:
            raise read_only(path)
        return self._layered

    def _place_of(self, path: str, *, follow: bool = True) -> tuple[Layered, Directory, list[bytes]]:
        """The layer, its tree, and the real names of a path in it, whether anything is there or not."""
        layered = self._writable(path)
        with translated(shown(path)):
            root = layered.tree()
        return layered, root, _real(root, clean(self._strip_protocol(path)), follow)

    @contextmanager
    def _changing(self, layered: Layered, path: str) -> Iterator[Changes]:
        with translated(shown(path)), layered.changing() as changes:
            yield changes

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if mode == "rb":
            return super()._open(path, mode, block_size, autocommit, cache_options, **kwargs)
        self._writable(path)
        if mode not in ("wb", "ab", "xb"):
            raise ValueError(f"a file is opened for 'rb', 'wb', 'ab' or 'xb', not for {mode!r}")
        draft = self._draft(path, mode)
        return WriteFile(self, path, mode, draft, block_size=block_size, autocommit=autocommit, **kwargs)

    def _draft(self, path: str, mode: str) -> Draft:
        """A file in the making that becomes the one at ``path``."""
        layered, root, names = self._place_of(path)
        found = lookup(root, b"/".join(names))
        if isinstance(found, Directory):
            raise is_a_directory(path)
        if found is not None and mode == "xb":
            raise _exists(path)
        for depth in range(1, len(names)):
            above = lookup(root, b"/".join(names[:depth]))
            if above is not None and not isinstance(above, Directory):
                raise NotADirectoryError(errno.ENOTDIR, "what it would be in is no directory", shown(path))

        def placed(draft: Draft) -> None:
            with self._changing(layered, path) as changes:
                if mode == "xb" and changes.at(names) is not None:
                    raise _exists(path)
                changes.put(names, draft.keep())

        appended = found if mode == "ab" and isinstance(found, File) else None
        with translated(shown(path)):
            return Draft(layered.layer.contents, placed, _pieces_of(layered, appended))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a file as a whole; ``mode`` "create": ``FileExistsError`` where there is one."""
        draft = self._draft(path, "xb" if mode == "create" else "wb")
        with translated(shown(path)):
            draft.write(value)
            draft.place()

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file, or give one that is there the time of now and, with ``truncate``, no content."""
        layered, root, names = self._place_of(path)
        if truncate or lookup(root, b"/".join(names)) is None:
            self.pipe_file(path, b"")
            return
        with self._changing(layered, path) as changes:
            changes.set_time(names, time.time_ns())

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Make a directory. ``FileExistsError`` where something is; ``FileNotFoundError`` where what it would be in is
        missing, without ``create_parents``."""
        layered, root, names = self._place_of(path)
        if lookup(root, b"/".join(names)) is not None:
            raise _exists(path)
        if not create_parents and lookup(root, b"/".join(names[:-1])) is None:
            raise not_found(path, "the directory that it would be in is not there")
        with self._changing(layered, path) as changes:
            changes.directory(names)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a directory, and those that it is in."""
        layered, root, names = self._place_of(path)
        found = lookup(root, b"/".join(names))
        if isinstance(found, Directory) and exist_ok:
            return
        if found is not None:
            raise _exists(path)
        with self._changing(layered, path) as changes:
            changes.directory(names)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        layered, root, names = self._place_of(path, follow=False)
        found = lookup(root, b"/".join(names))
        if found is None:
            raise not_found(path)
        if not isinstance(found, Directory):
            raise NotADirectoryError(errno.ENOTDIR, "it is no directory", shown(path))
        if found.children or not names:
            raise OSError(errno.ENOTEMPTY, "the directory is not empty", shown(path))
        with self._changing(layered, path) as changes:
            changes.remove(names)

    def rm_file(self, path: str) -> None:
        """Remove a file or a link."""
        layered, root, names = self._place_of(path, follow=False)
        found = lookup(root, b"/".join(names))
        if found is None:
            raise not_found(path)
        if isinstance(found, Directory):
            raise is_a_directory(path)
        with self._changing(layered, path) as changes:
            changes.remove(names)

    def _rm(self, path: str) -> None:
        if self.isdir(path) and not self.islink(path):
            self.rmdir(path)
        else:
            self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files and, with ``recursive``, directories with what is in them. A link is removed, and not what it
        leads to."""
        if not isinstance(path, list) and recursive and maxdepth is None and not has_magic(self._strip_protocol(path)):
            layered, root, names = self._place_of(path, follow=False)
            if lookup(root, b"/".join(names)) is None:
                raise not_found(path)
            with self._changing(layered, path) as changes:
                changes.remove_tree(names)
            return
        self._writable(str(path))
        for each in reversed(self.expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            self._rm(each)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file: only its name is new, its content is there once. Of a directory, it is made and nothing else."""
        self._writable(path2)
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        _, file, _ = self._file(self._strip_protocol(path1))
        layered, root, names = self._place_of(path2)
        if isinstance(lookup(root, b"/".join(names)), Directory):
            raise is_a_directory(path2)
        owner = (os.geteuid(), os.getegid())
        made = File(file.mode, *owner, time.time_ns(), size=file.size, digest=file.digest, content=file.content)
        with self._changing(layered, path2) as changes:
            changes.put(names, made)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        """Move, as fsspec tells. A file, link or directory that is moved as a whole keeps its owner, time and mode."""
        self._writable(str(path2))
        simple = isinstance(path1, str) and isinstance(path2, str) and maxdepth is None
        if not simple or has_magic(path1) or path1.endswith("/"):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        layered, root, old = self._place_of(path1, follow=False)
        if not old or lookup(root, b"/".join(old)) is None:
            raise not_found(path1)
        if path2.endswith("/") or self.isdir(path2):
            path2 = f"{path2.rstrip('/')}/{os.fsdecode(old[-1])}"
        _, _, new = self._place_of(path2, follow=False)
        if new == old:
            return
        if new[: len(old)] == old:
            raise OSError(errno.EINVAL, "a directory cannot be moved into itself", shown(path2))
        with self._changing(layered, path2) as changes:
            changes.rename(old, new)


def _real(root: Directory, path: str, follow: bool) -> list[bytes]:
    """The names of the path, with links followed, that something at ``path`` has or would have.

    ``FileNotFoundError`` for a link that leads to nothing.
    """
    names, missing = view.parts_of(path), list[bytes]()
    if problem := check_path(len(os.fsencode(path)) + 1):
        raise OSError(errno.ENAMETOOLONG, f"it {problem}", shown(path))
    while True:
        try:
            found = view.find(root, os.fsdecode(b"/".join(names)), follow=follow or bool(missing))
        except FileNotFoundError:
            missing.append(names.pop())
            continue
        break
    if missing and isinstance(found.inode, Directory) and missing[-1] in found.inode.children:
        raise not_found(path, "it is a symbolic link to what is not in the commit")
    return [*(name for name in found.path.split(b"/") if name), *reversed(missing)]


def _pieces_of(layered: Layered, file: File | None) -> Iterator[bytes]:
    """The content of a file, in pieces."""
    if file is None:
        return
    content = layered.content(file)
    try:
        for start in range(0, file.size, _PIECE):
            yield content.read(start, min(start + _PIECE, file.size))
    finally:
        content.close()


def _exists(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "something is there already", shown(path))
