"""What of the file system reads: commits of the local store and of places, or one of them with a layer over it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike, stringify_path

from stratum.api.reading import kind_of
from stratum.errors import StratumError
from stratum.fs import view
from stratum.fs.address import Address, clean, split_path
from stratum.fs.cache import DISK, MEMORY
from stratum.fs.copying import copy_content
from stratum.fs.files import ReadFile
from stratum.fs.opened import Content
from stratum.fs.opening import Opener, caching_of
from stratum.fs.words import is_a_directory, shown, translated
from stratum.tree.model import Directory, File

if TYPE_CHECKING:
    from stratum.fs.view import Info

PROTOCOL = "stratum"
EXPIRY = 60.0
"""Seconds for which it is believed what a tag of a place named."""
_PREFIX = f"{PROTOCOL}://"
_AT_ONCE = 8
"""Files of a place that are read at the same time."""


@dataclass(frozen=True, slots=True)
class At:
    """A path: ``inner`` in the tree ``root``. ``name`` makes names of paths in the tree, ``content`` opens its files,
    which is slow where they are ``remote``; ``when`` is the time of the commit."""

    root: Directory
    inner: str
    name: Callable[[str], str]
    content: Callable[[File], Content]
    remote: bool
    when: datetime


class ReadingFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The part of ``StratumFileSystem`` that changes nothing; its parameters are told there."""

    protocol = PROTOCOL
    root_marker = ""

    def __init__(
        self,
        ref: str | None = None,
        place: str | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        plain_http: bool = False,
        ca_file: str | os.PathLike[str] | None = None,
        endpoint: str | None = None,
        region: str | None = None,
        cache_bytes: int = MEMORY,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_dir_bytes: int = DISK,
        listings_expiry_time: float | None = None,
        **storage_options: Any,
    ) -> None:
        super().__init__(use_listings_cache=False, **storage_options)
        if ref is not None and place is not None:
            raise ValueError("give a ref of the local store or a place, not both")
        with translated():
            self._opener = Opener(
                os.fspath(store) if store is not None else None,
                plain_http=plain_http,
                ca_file=os.fspath(ca_file) if ca_file is not None else None,
                endpoint=endpoint,
                region=region,
                caching=caching_of(cache_bytes, cache_dir, cache_dir_bytes),
                expiry=EXPIRY if listings_expiry_time is None else float(listings_expiry_time),
            )
        self._only: Address | None = None
        if ref is not None or place is not None:
            self._only = Address(ref or place or "", place is not None)
        else:
            self._strip_protocol = self._canonical  # type: ignore[method-assign]  # fsspec calls it on the class first

    # Paths

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """A path without its protocol, and without slashes around it."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        text = stringify_path(path)
        return text.removeprefix(_PREFIX).strip("/")

    def _canonical(self, path: Any) -> Any:
        """The same of paths that name commits, in the form that lists have them in."""
        if isinstance(path, list):
            return [self._canonical(each) for each in path]
        text: str = type(self)._strip_protocol(path)
        try:
            address, inner = split_path(text)
        except StratumError:
            return text
        return address.path(inner) if address is not None else ""

    def _at(self, path: str) -> At:
        """Where a path leads. ``OSError`` where there is no such commit, ``IsADirectoryError`` for the root above all
        of them."""
        with translated(shown(path)):
            address, inner = (self._only, clean(self._strip_protocol(path))) if self._only else split_path(path)
            if address is None:
                raise is_a_directory(path)
            opened = self._opener.open(address)
            name = address.path if self._only is None else str
            return At(opened.root, inner, name, opened.content, opened.remote, opened.when)

    @property
    def _above_commits(self) -> bool:
        """Whether paths name commits, and the empty one is above them all."""
        return self._only is None

    def invalidate_cache(self, path: str | None = None) -> None:
        """Ask places anew what their tags name; of the local store that is asked each time."""
        if path is None:
            self._opener.forget()
        super().invalidate_cache(path)

    # Looking

    def info(self, path: str, **kwargs: Any) -> Info:
        """What is at ``path``, with links followed: name, size, type ("file", "directory" or "other"), mode, uid, gid,
        mtime (seconds), islink, destination (of a link), digest (of a file).

        ``FileNotFoundError``; a link that leads to nothing is "link" with ``follow_symlinks=False``, as it is in
        lists.
        """
        path = self._strip_protocol(path)
        if not path and self._above_commits:
            return {"name": "", "size": 0, "type": "directory", "islink": False}
        at = self._at(path)
        found = view.find(at.root, at.inner, follow=kwargs.get("follow_symlinks", True))
        return view.info_of(at.name(at.inner), found.inode, found.link)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """What is in a directory, sorted; of a file, the file. Above all commits of the local store, they are listed by
        their tags, as NAME:TAG. ``FileNotFoundError``."""
        path = self._strip_protocol(path)
        if not path and self._above_commits:
            infos = self._tags()
        else:
            at = self._at(path)
            found = view.find(at.root, at.inner)
            if isinstance(found.inode, Directory):
                children = sorted(found.inode.children.items())
                infos = [view.child_info(at.root, at.inner, name, inode, at.name) for name, inode in children]
            else:
                infos = [view.info_of(at.name(at.inner), found.inode, found.link)]
        return infos if detail else [info["name"] for info in infos]

    def _tags(self) -> list[Info]:
        with translated():
            session = self._opener.session
            if session.no_store_yet:
                return []
            store = session.store
            names = [f"{name}:{tag}" for name in store.names() for tag in store.tags.names(name)]
        return [{"name": name, "size": 0, "type": "directory", "islink": False} for name in names]

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any, Any]]:
        """As fsspec tells. Links to directories are listed among these, and not descended into."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        detail = kwargs.pop("detail", False)
        todo: list[tuple[str, int, Any]] = [(self._strip_protocol(path), 1, None)]
        while todo:
            at, depth, done = todo.pop()
            if done is not None:
                yield done
                continue
            try:
                listing = self.ls(at, detail=True, **kwargs)
            except OSError as exc:
                if on_error == "raise":
                    raise
                if callable(on_error):
                    on_error(exc)
                continue
            dirs, files, below = _sorted_out(at, listing)
            told = (at, dirs, files) if detail else (at, list(dirs), list(files))
            if topdown:
                yield told
            else:
                todo.append((at, depth, told))
            if maxdepth is None or depth < maxdepth:
                todo += [(below[name], depth + 1, None) for name in reversed(list(told[1])) if name in below]

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether anything is at ``path``. What keeps that from being known is raised."""
        try:
            self.info(path, **kwargs)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL):
                return False
            raise
        return True

    def lexists(self, path: str, **kwargs: Any) -> bool:
        """Whether anything is at ``path``, also a link that leads to nothing."""
        return self.exists(path, follow_symlinks=False)

    def islink(self, path: str) -> bool:
        """Whether a symbolic link is at ``path``."""
        try:
            return bool(self.info(path, follow_symlinks=False)["type"] == "link")
        except OSError:
            return False

    def du(
        self, path: str, total: bool = True, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> Any:
        """Bytes of the files below ``path``, of each or of all, by the sizes that they have."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        sizes = {name: info.get("size", 0) if info else self.size(name) for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    def created(self, path: str) -> datetime:
        """The time of the commit: since when what is there is kept. Trees do not say when a file was made."""
        return self._at(self._strip_protocol(path)).when

    def modified(self, path: str) -> datetime:
        """The modification time that the tree has, in UTC."""
        return datetime.fromtimestamp(self.info(path)["mtime"], timezone.utc)

    def ukey(self, path: str) -> str:
        """The digest of a file's content, as fs-verity has it: the same for the same bytes, wherever they are."""
        return self._digest(path).hex()

    def checksum(self, path: str) -> int:
        """The same as a number."""
        return int.from_bytes(self._digest(path), "big")

    def _digest(self, path: str) -> bytes:
        return view.digest_of(self._file(self._strip_protocol(path))[1])

    # Contents

    def _file(self, path: str) -> tuple[At, File, Info]:
        """The file at ``path``. ``FileNotFoundError``, ``IsADirectoryError``, ``OSError`` for what has no content."""
        at = self._at(path)
        found = view.find(at.root, at.inner)
        if isinstance(found.inode, File):
            return at, found.inode, view.info_of(at.name(at.inner), found.inode, found.link)
        if isinstance(found.inode, Directory):
            raise is_a_directory(path)
        raise OSError(errno.EINVAL, f"it is {kind_of(found.inode)}, which has no content", shown(path))

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        at, file, info = self._file(path)
        with translated(shown(path)):
            content = at.content(file)
        options = {"block_size": block_size, "cache_options": cache_options, **kwargs}
        return ReadFile(self, path, content, info, remote=at.remote, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """The bytes [start, end) of a file; negative ones count from its end, as in slices."""
        at, file, _ = self._file(self._strip_protocol(path))
        first, last, _ = slice(start, end).indices(file.size)
        with translated(shown(path)):
            content = at.content(file)
            try:
                return content.read(first, last) if first < last else b""
            finally:
                content.close()

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """As fsspec tells; of a place, several are fetched at the same time."""
        if not isinstance(paths, list):
            raise TypeError("paths are a list")
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if len(starts) != len(paths) or len(ends) != len(paths):
            raise ValueError("there are as many paths as starts and ends")

        def one(path: str, start: int | None, end: int | None) -> Any:
            try:
                return self.cat_file(path, start, end)
            except Exception as exc:  # on_error="return" is fsspec's word for just that
                if on_error == "return":
                    return exc
                raise

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(one, paths, starts, ends))

    def get(self, rpath: Any, lpath: Any, recursive: bool = False, **kwargs: Any) -> None:
        """Copy to the local file system, as fsspec tells. Of a directory, what is no file or directory (links that lead
        to nothing, fifos, devices) is left out."""
        super().get(rpath, lpath, recursive=recursive, **kwargs, **({"specials": "omit"} if recursive else {}))

    def get_file(
        self, rpath: str, lpath: Any = None, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        """Copy a file to the local file system, or make a directory that is one here. Holes stay holes."""
        outfile = lpath if outfile is None and isfilelike(lpath) else outfile
        path = self._strip_protocol(rpath)
        at = self._at(path) if path or not self._above_commits else None
        try:
            inode = view.find(at.root, at.inner).inode if at is not None else None
        except OSError:
            if kwargs.get("specials") == "omit" and self.islink(path):
                return
            raise
        if inode is None or isinstance(inode, Directory):
            if outfile is not None:
                raise is_a_directory(path)
            os.makedirs(lpath, exist_ok=True)
            return
        if not isinstance(inode, File):
            if kwargs.get("specials") == "omit":
                return
            self._file(path)
        assert at is not None
        assert isinstance(inode, File)
        with translated(shown(path)):
            content = at.content(inode)
        try:
            if outfile is not None:
                copy_content(content, inode.size, outfile, callback, path, sparse=False)
                return
            parent = os.path.dirname(os.path.abspath(lpath))
            os.makedirs(parent, exist_ok=True)
            with open(lpath, "wb") as file:
                copy_content(content, inode.size, file, callback, path, sparse=True)
        finally:
            content.close()


def _sorted_out(path: str, listing: list[Info]) -> tuple[dict[str, Info], dict[str, Info], dict[str, str]]:
    """(directories, files, the paths of those directories that are no links) of a list of ``path``, by their names."""
    dirs: dict[str, Info] = {}
    files: dict[str, Info] = {}
    below: dict[str, str] = {}
    for info in listing:
        name = info["name"].rsplit("/", 1)[-1]
        if info["name"] == path:
            files[""] = info
        elif info["type"] == "directory":
            dirs[name] = info
            if not info["islink"]:
                below[name] = info["name"]
        else:
            files[name] = info
    return dirs, files, below
