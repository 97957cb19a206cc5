"""Stores, their commits, and trees in the making.

A ``Store`` gives ``Commit``\\ s, and a commit what is in it as ``Entry``\\ s and open files. Nothing here prints, exits
or asks a question; what goes wrong is a ``StratumError``, and what only deserves a warning goes to the logger
``stratum``. The environment and the settings files are read once, when a store is opened, and count as they do for the
command line. Threads may share all objects but trees in the making and open files. None of them keeps a descriptor or a
lock between calls, but for open files; a commit that no tag names can be taken by a garbage collection at any time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from stratum.api.objectfile import ChunkHashes, ObjectFile, buffered
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import DamagedError, NotFoundError, UsageError, path_text
from stratum.public.records import Access, Change, Entry, Pushed, Worktree, entry_of
from stratum.refs import parse_ref, parse_tag, split_ref_path
from stratum.tree.edit import Attributes, TreeEdit
from stratum.tree.follow import follow
from stratum.tree.model import Directory, File, Inode, walk

if TYPE_CHECKING:
    from stratum.oci.access import Access as PlaceAccess
    from stratum.progress import Progress as LongProgress
    from stratum.store.metadata import CommitMeta

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Progress = Callable[[int, int | None], object]

_log = logging.getLogger("stratum")
_log.addHandler(logging.NullHandler())


class Commit:
    """A commit of a store: an immutable tree. A ``Store`` makes them; equal ones name the same tree.

    Its tree is read when it is first asked for, and kept as long as the object is.
    """

    def __init__(self, store: Store, id: str) -> None:  # noqa: A002  (what it is called everywhere)
        self._store = store
        self._id = id
        self._lock = threading.Lock()
        self._meta: CommitMeta | None = None
        self._root: Directory | None = None

    def __repr__(self) -> str:
        return f"<stratum.Commit {self._id[:12]} of {self._store.path}>"

    def __eq__(self, other: object) -> bool:
        return (other._id, other._store.path) == (self._id, self._store.path) if isinstance(other, Commit) else False

    def __hash__(self) -> int:
        return hash(self._id)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Commit, (self._store, self._id))

    # What is said of it

    @property
    def id(self) -> str:
        """Its hash, 64 hex digits."""
        return self._id

    @property
    def store(self) -> Store:
        """The store that it is of."""
        return self._store

    @property
    def parents(self) -> tuple[str, ...]:
        """The IDs of the commits that it was made on top of, which need not be in the store: none or one."""
        parent = self._about().parent_commit
        return () if parent is None else (parent,)

    @property
    def time(self) -> datetime:
        """When it was made, in UTC."""
        text = self._about().timestamp
        try:
            found = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise DamagedError(f"commit {self._id} was made at {text[:80]!r}, which is no time") from None
        return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)

    @property
    def message(self) -> str | None:
        """The message that it was made with."""
        return self._about().message

    @property
    def origin(self) -> Mapping[str, Any]:
        """How it came to be: ``kind``, and what else there is to say."""
        return dict(self._about().origin or {})

    @property
    def file_count(self) -> int:
        """How many names of regular files it has."""
        return self._about().file_count

    @property
    def total_size(self) -> int:
        """The bytes of all its files."""
        return self._about().total_size

    # What is in it

    def stat(self, path: PathLike, *, follow_symlinks: bool = True) -> Entry:
        """What is at ``path``. ``NotFoundError``."""
        where = _path(path)
        return entry_of(where, self._inode(where, follow_symlinks))

    def exists(self, path: PathLike) -> bool:
        """Whether anything is at ``path``; a symbolic link that leads nowhere is not."""
        return follow(self._tree(), _path(path)) is not None

    def listdir(self, path: PathLike = "/") -> list[Entry]:
        """What is in a directory, by name. ``NotFoundError``, ``UsageError`` where it is none."""
        where = _path(path)
        return [entry_of(_below(where, name), inode) for name, inode in sorted(self._directory(where).children.items())]

    def walk(self, path: PathLike = "/") -> Iterator[Entry]:
        """A directory and all that is below it, depth-first, by name; symbolic links in it are not followed.

        ``NotFoundError``, ``UsageError`` where it is no directory.
        """
        where = _path(path)
        found = self._directory(where)
        return (entry_of(where if below == b"/" else _below(where, below[1:]), inode) for below, inode in walk(found))

    def open(self, path: PathLike, *, verify: bool = True) -> BinaryIO:
        """A regular file, open for reading, to be closed; it can be sought in, and ``os.SEEK_DATA`` finds its data.

        With ``verify`` every byte is compared with the file's digest before it is returned; a file of more than 4 MiB
        is read once from its beginning to its end for that, when it is first read. Of a commit that is not here whole,
        the file is fetched first. One thread at a time uses what is returned, which keeps its content whatever becomes
        of the commit. ``NotFoundError``, ``UsageError`` for what is no regular file, ``DamagedError``, also when it is
        read.
        """
        return self._store._open(self, _path(path), verify)

    def read_bytes(self, path: PathLike) -> bytes:
        """The content of a regular file, verified. Raises as ``open``."""
        with self.open(path) as file:
            return file.read()

    def read_text(self, path: PathLike, encoding: str = "utf-8") -> str:
        """The content of a regular file as text. Raises as ``open``, and ``UnicodeDecodeError``."""
        return self.read_bytes(path).decode(encoding)

    def _about(self) -> CommitMeta:
        if self._meta is None:
            self._meta = self._store._session.store.commits.meta(self._id)
        return self._meta

    def _tree(self) -> Directory:
        with self._lock:
            if self._root is None:
                self._root = self._store._session.store.commits.open_tree(self._id)
            return self._root

    def _inode(self, path: bytes, follow_symlinks: bool = True) -> Inode:
        from stratum.tree.unknown import similar_path

        root = self._tree()
        found = follow(root, path, last=follow_symlinks)
        if found is None:
            similar = similar_path(root, path)
            hint = f"did you mean {path_text(similar)}?" if similar is not None and similar != path else ""
            raise NotFoundError(f"commit {self._id[:12]} has no {path_text(path)}", hint=hint)
        return found

    def _directory(self, path: bytes) -> Directory:
        found = self._inode(path)
        if not isinstance(found, Directory):
            raise UsageError(f"{path_text(path)} is no directory of commit {self._id[:12]}")
        return found


class Tree:
    """A tree in the making, for ``Store.commit``: that of ``base``, or an empty one, and what is changed in it.

    Paths are from its root, and lead through no symbolic link; missing directories on the way are made. What replaces a
    regular file has its permissions, owner and extended attributes where none are given; what is new belongs to root,
    with mode 0644, a directory 0755. The time of what has none given is that of the commit.
    """

    def __init__(self, base: Commit | None = None) -> None:
        self._base = base
        self._known = base._tree() if base is not None else None
        self._edit = TreeEdit(self._known)

    def write(
        self,
        path: PathLike,
        content: bytes | bytearray | memoryview | os.PathLike[str],
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        """Have a regular file at ``path`` with ``content``: bytes, or what the file of that path (a ``pathlib.Path``)
        holds when the commit is made. ``ExistsError`` where a directory is there."""
        if not isinstance(content, (bytes, bytearray, memoryview, os.PathLike)):
            raise UsageError(
                f"content is bytes or a pathlib.Path, not {type(content).__name__}", hint="encode text to bytes first"
            )
        held = bytes(content) if isinstance(content, (bytearray, memoryview)) else content
        self._edit.put(_path(path), held, _attributes(mode, uid, gid, mtime_ns, xattrs))

    def symlink(self, path: PathLike, target: PathLike, *, mtime_ns: int | None = None) -> None:
        """Have a symbolic link to ``target`` at ``path``. ``ExistsError`` where a directory is there."""
        self._edit.link(_path(path), os.fsencode(target), Attributes(mtime=mtime_ns))

    def mkdir(
        self,
        path: PathLike,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        """Have a directory at ``path``; one that is there gets what is given. ``ExistsError`` where something else is
        there."""
        self._edit.make_directory(_path(path), _attributes(mode, uid, gid, mtime_ns, xattrs))

    def remove(self, path: PathLike) -> None:
        """Take away what is at ``path``, with all below it. ``NotFoundError``."""
        self._edit.remove(_path(path))


class Store:
    """A store, from ``open_store``. In a ``with`` block it is closed at the end; a closed one does nothing more."""

    def __init__(self, session: Session) -> None:
        self._open_session: Session | None = session
        self._root = session.store.root
        self._hashes = ChunkHashes()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<stratum.Store {self._root}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_store, (str(self._root),))

    def close(self) -> None:
        """Let go of it. Files that are open stay so."""
        self._open_session = None

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._root

    # What is in it

    def resolve(self, ref: str) -> Commit:
        """The commit that ``ref`` means, in all forms that the command line takes: ``NAME``, ``NAME:TAG``,
        ``NAME+WORKTREE``, a hash, ``NAME~2``, ``NAME@{yesterday}`` and so on.

        ``NotFoundError``, ``UsageError`` for what is no ref, ``ConflictError`` for an ambiguous hash.
        """
        alone, path = split_ref_path(ref)
        if path is not None:
            raise UsageError(f"{ref} names a path in a commit", hint=f"resolve {alone}, and open the path in that")
        found = parse_ref(ref)
        session = self._session
        if found.change is not None:
            from stratum.api.versions import up_to_date

            up_to_date(session, *session.store.changes.worktree_of(found))
        return Commit(self, session.store.resolve_commit(found))

    def strata(self) -> list[str]:
        """The names of all strata, sorted."""
        return list(self._session.store.names())

    def tags(self, stratum: str) -> dict[str, Commit]:
        """The tags of a stratum, by name, and what they name. ``NotFoundError``."""
        return {tag: Commit(self, commit) for tag, commit in sorted(self._session.store.tags.list(stratum).items())}

    def worktrees(self, stratum: str) -> list[Worktree]:
        """The worktrees of a stratum, by name. ``NotFoundError``."""
        found = self._session.store.worktrees.list(stratum)
        return [Worktree(str(each), each.base_commit, each.head) for each in found]

    def diff(self, old: str | Commit, new: str | Commit) -> Iterator[Change]:
        """What changed from one commit to another, path by path, depth-first, by name.

        A directory of which only the time moved, because of what changed in it, is left out. Raises as ``resolve``.
        """
        from stratum.tree.diff import diff_trees

        before, after = self._commit(old)._tree(), self._commit(new)._tree()
        return (
            Change(
                os.fsdecode(change.path),
                change.kind,  # type: ignore[arg-type]  # one of those
                change.fields,
                entry_of(change.path, change.old) if change.old is not None else None,
                entry_of(change.path, change.new) if change.new is not None else None,
            )
            for change in diff_trees(before, after)
        )

    # Making commits and tags

    def commit(
        self,
        source: str | os.PathLike[str] | Tree,
        ref: str,
        *,
        message: str | None = None,
        exclude: Iterable[str] = (),
        ignore_files: bool = True,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Commit:
        """Make a commit of ``source``, a directory or a ``Tree``, and point ``ref`` (NAME or NAME:TAG) at it.

        Of a directory what fits a pattern of ``exclude``, as in .gitignore, is left out, and with ``ignore_files`` what
        its files ``.stratumignore`` say. The commit's parent is what the tag names, or the base of the tree. The tag
        ``latest`` moves to what was made on top of it; any other that names another commit is ``ExistsError``, and
        nothing is kept, unless ``force``. ``StratumError`` for what cannot be read, ``UsageError``.
        """
        patterns = [exclude] if isinstance(exclude, str) else list(exclude)
        if isinstance(source, Tree):
            if patterns:
                raise UsageError("something can be left out of a directory only, not of a Tree")
            return self._compose(source, ref, message, force, progress)
        from stratum.api.importing import Options, import_
        from stratum.ingest.selection import Excludes

        path = os.path.abspath(os.fspath(source))
        if not os.path.isdir(path):
            kind = "is no directory" if os.path.lexists(path) else "does not exist"
            raise (UsageError if os.path.lexists(path) else NotFoundError)(f"{path} {kind}")
        excludes = Excludes(tuple(map(os.fsencode, patterns)), ignore_files)
        options = Options(None, True, message, False, _told(progress), force, excludes)
        done = import_(self._session, path, ref, options)
        _warn(done.warnings)
        return Commit(self, done.commit.metadata_hash)

    def commit_worktree(
        self, ref: str, tag: str | None = None, *, message: str | None = None, force: bool = False
    ) -> Commit:
        """Commit what the worktree ``ref`` (NAME+WORKTREE, or NAME for its ``main``) shows now, mounted or not, and
        point ``tag`` (TAG or NAME:TAG) at it. ``ExistsError`` where that names another commit, unless ``force``."""
        with self._session.hold(parse_ref(ref)) as held:
            done = held.commit(tag=tag, force=force, message=message)
        _warn(done.warnings)
        return Commit(self, done.commit)

    def tag(self, ref: str | Commit, tag: str, *, force: bool = False) -> None:
        """Point ``tag``, NAME:TAG, at a commit. ``ExistsError`` where it names another one, unless ``force``."""
        from stratum.api.tags import tag as run

        if ":" not in tag:
            raise UsageError(f"{tag} does not say of which stratum the tag is", hint=f"write NAME:{tag}")
        run(self._session, ref.id if isinstance(ref, Commit) else self.resolve(ref).id, tag, force=force)

    def untag(self, tag: str) -> None:
        """Remove the tag NAME:TAG; its commit stays until a garbage collection. ``NotFoundError``, ``ConflictError``
        where it is pinned."""
        from stratum.api.tags import plan_removal, remove

        if ":" not in tag:
            raise UsageError(f"{tag} is no tag", hint="write NAME:TAG")
        name, tag = parse_tag(tag)
        remove(self._session, plan_removal(self._session, f"{name}:{tag}"))

    # Places

    def push(
        self,
        ref: str | Commit,
        place: str,
        *,
        access: Access | None = None,
        progress: Progress | None = None,
    ) -> Pushed:
        """Send a commit to a place: HOST/REPOSITORY[:TAG], s3://BUCKET/PREFIX, oci:DIRECTORY, as ``stratum push``.

        ``DeniedError``, ``UnreachableError``, ``UntrustedError``, ``StratumError`` with the place's own words.
        """
        from stratum.api.transfer import push

        text = ref.id if isinstance(ref, Commit) else str(parse_ref(ref))
        done = push(self._session, text, place, access=self._access(access), progress=_told(progress))
        return Pushed(done.target, done.manifest_digest, done.bytes_sent)

    def pull(
        self,
        place: str,
        ref: str | None = None,
        *,
        lazy: bool = False,
        force: bool = False,
        access: Access | None = None,
        progress: Progress | None = None,
    ) -> Commit:
        """Fetch the commit at a place and point ``ref`` (NAME or NAME:TAG) at it; its name there by default.

        With ``lazy`` only its tree comes, and each file when it is first opened. A tag moves as the same tag of the
        place does, to a descendant; else one that names another commit is ``ExistsError``, unless ``force``. Raises as
        ``push``, and ``DamagedError`` for what is not what its digest says.
        """
        from stratum.api.transfer import pull

        reached = self._access(access)
        done = pull(self._session, place, ref, access=reached, lazy=lazy, force=force, progress=_told(progress))
        return Commit(self, done.commit)

    # Below

    @property
    def _session(self) -> Session:
        if self._open_session is None:
            raise UsageError(f"the store {self._root} was closed", hint="open it again with stratum.open_store")
        return self._open_session

    def _commit(self, ref: str | Commit) -> Commit:
        return ref if isinstance(ref, Commit) else self.resolve(ref)

    def _access(self, access: Access | None) -> PlaceAccess:
        wanted = access or Access()
        return self._session.access(
            plain_http=wanted.plain_http, ca_file=wanted.ca_file, unsafe_concurrent=wanted.unsafe_concurrent
        )

    def _open(self, commit: Commit, path: bytes, verify: bool) -> BinaryIO:
        import io

        from stratum.api.unreal import bring_inodes

        inode = commit._inode(path)
        if not isinstance(inode, File):
            raise UsageError(f"{path_text(path)} of commit {commit.id[:12]} is no regular file")
        session = self._session
        if inode.digest is None:
            return io.BytesIO(inode.content or b"")
        bring_inodes(session, [commit.id], [inode])
        fd = session.store.objects.open(inode.digest)
        return buffered(ObjectFile(fd, inode.digest, inode.size, self._hashes, checked=verify))

    def _compose(self, tree: Tree, ref: str, message: str | None, force: bool, progress: Progress | None) -> Commit:
        from stratum.api.composing import compose

        base = tree._base
        if base is not None and base.store.path != self.path:
            raise UsageError(f"the tree began with a commit of {base.store.path}, and this store is {self.path}")
        made = compose(
            self._session,
            tree._edit,
            ref,
            base=base.id if base is not None else None,
            known=tree._known,
            message=message,
            force=force,
            progress=_told(progress),
        )
        return Commit(self, made)


def open_store(path: str | os.PathLike[str] | None = None, *, create: bool = False) -> Store:
    """The store at ``path``, by default the one that the command line uses: that of the settings, of STRATUM_STORE, or
    the user's own. ``create`` makes it where there is none; else that is ``NotFoundError``."""
    session = Session(load_config(store=os.fspath(path) if path is not None else None))
    session.tell = _log.warning
    if create:
        session.create_store()
    try:
        return Store(session)
    except NotFoundError as exc:
        raise NotFoundError(exc.message, hint="stratum.open_store(create=True) makes one") from None


def _path(path: PathLike) -> bytes:
    """A path from the root of a tree, with a slash before it and none behind. ``UsageError`` for one with ``..``."""
    raw = os.fsencode(path)
    names = [name for name in raw.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise UsageError(f"{path_text(raw)}: a path in a commit has no '..'")
    return b"/" + b"/".join(names)


def _below(directory: bytes, name: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/" + name


def _attributes(
    mode: int | None, uid: int | None, gid: int | None, mtime_ns: int | None, xattrs: Mapping[str, bytes] | None
) -> Attributes:
    stored = None
    if xattrs is not None:
        stored = tuple(sorted((os.fsencode(name), bytes(value)) for name, value in xattrs.items()))
    return Attributes(mode, uid, gid, mtime_ns, stored)


def _told(progress: Progress | None) -> LongProgress | None:
    if progress is None:
        return None

    def told(done: int, total: int | None, /, files: int | None = None) -> None:
        progress(done, total)

    return told


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        _log.warning("%s", warning)
