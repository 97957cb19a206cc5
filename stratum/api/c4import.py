"""Commits of C4M files, whose contents come from a content store.

Everything is looked up before anything is taken: what is missing is named, and then nothing is imported. Contents are
compared with their IDs as they are read. Equal manifests and contents give the same commit.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.api.c4 import pieces_of, what_of
from stratum.api.c4export import content_store
from stratum.api.importing import Imported
from stratum.c4.ids import EMPTY, ID_LENGTH, C4Id, id_of_bytes, is_id
from stratum.c4.model import UNKNOWN, Manifest, Node, paths
from stratum.c4.reader import EXPANDED_MAX, LIST_MAX, Section, read, read_sections, resolve, split_lines
from stratum.c4.sequence import members, most_members
from stratum.c4.writer import fill, id_of, listing
from stratum.errors import NotFoundError, StratumError, UsageError, path_text, quoted
from stratum.progress import Progress
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Special, Symlink

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.content.base import ContentStore
    from stratum.store.transaction import Transaction

LISTINGS_MAX = 200_000
"""Listings of directories that are looked up: a few that name one another can stand for any number."""
_SECOND = 1_000_000_000
_SHOWN = 5
_PIECE = 1 << 20
_IN_MEMORY = 4 << 20

Owner = tuple[int, int]
Content = tuple[int, bytes | None, bytes | None]
"""Size, digest and inline content of a file."""


@dataclass(frozen=True, slots=True)
class Options:
    """``owner`` is the user and group that everything belongs to, by default those who import."""

    owner: Owner | None = None
    message: str | None = None
    force: bool = False
    progress: Progress | None = None


DEFAULTS = Options()


def import_c4m(session: Session, path: str, name: str, store: str, options: Options = DEFAULTS) -> Imported:
    """Make a commit of the C4M file ``path`` and point ``name`` (NAME or NAME:TAG) at it, as ``importing.import_``
    does.

    Contents, listings of directories that the file has the IDs of, and a manifest that it is a patch of come from the
    content store ``store``. Raises ``UsageError`` for what is no C4M, ``NotFoundError`` naming what is missing,
    ``DamagedError`` for a content that is not what its ID says.
    """
    from stratum.api.tagmoves import tag_move
    from stratum.refs import DEFAULT_TAG, parse_tag

    stratum, tag = parse_tag(name)
    what = what_of(path)
    with pieces_of(path) as pieces:
        sections = read_sections(split_lines(pieces, what), what)
    with content_store(session, store, create=False) as contents:
        plan = _Plan(what, contents)
        manifest = plan.resolved(sections)
        c4id = id_of(manifest)
        plan.expand(manifest)
        plan.check(manifest)
        store_here = session.create_store()
        with store_here.begin(f"importing {path}", resumable=True) as tx:
            move = tag_move(store_here, stratum, tag, force=options.force)
            owner = options.owner or (os.getuid(), os.getgid())
            build = _Build(tx, plan, owner, options.progress)
            root = build.tree(manifest)
            meta = store_here.commits.write(
                tx,
                root,
                parent=move.previous,
                message=options.message,
                origin={"kind": "import", "c4": str(c4id)},
                timestamp=session.now(),
                accept=lambda commit: move.check(commit, follows=move.tag == DEFAULT_TAG),
            )
            move.set(store_here, meta.metadata_hash, f"import of {path}")
    return Imported(str(move), meta, move.previous, plan.warnings() + build.warnings())


class _Plan:
    """What is to be imported, and where its contents are."""

    def __init__(self, what: str, contents: ContentStore[C4Id]) -> None:
        self._what = what
        self.contents = contents
        self.sizes: dict[C4Id, int] = {EMPTY: 0}
        """Size of every content that is needed."""
        self._expanded = 0
        self._listings = 0
        self._missing: list[str] = []
        self._wrong: list[bytes] = []

    # Reading

    def resolved(self, sections: list[Section]) -> Manifest:
        """The manifest, all patches applied; what it is a patch of comes from the content store."""
        for section in sections:
            if section.before is not None and not section.manifest.children:
                raise UsageError(f"{self._what}, line {section.line}: a patch without entries")
        base = None
        if sections and (before := sections[0].before) is not None:
            base = self._listing(before)
            if base is None:
                raise NotFoundError(f"{self._what} is a patch of {before}, which is not in {self.contents}")
            self._expand_directories(base)
        return resolve(sections, self._what, base=base)

    def _listing(self, c4id: C4Id) -> Manifest | None:
        """The listing with this ID in the content store, or None. ``UsageError`` where it is no C4M."""
        if c4id == EMPTY:
            return Manifest()
        self._listings += 1
        if self._listings > LISTINGS_MAX:
            raise UsageError(
                f"{self._what} stands for over {LISTINGS_MAX} directories that it does not list",
                hint="list them, or import it in parts",
            )
        if not self.contents.has(c4id):
            return None
        with self.contents.get(c4id) as stream:
            pieces = iter(lambda: stream.read(_PIECE), b"")
            return read(split_lines(pieces, f"content {c4id}"), f"content {c4id}")

    # Expanding

    def expand(self, manifest: Manifest) -> None:
        """Put members in the place of sequences, and what is in directories of which only the ID is said into them."""
        self._wrong = list(_with_wrong_ids(manifest))
        self._expand_directories(manifest)

    def _expand_directories(self, manifest: Manifest) -> None:
        work = [manifest.children]
        while work:
            children = work.pop()
            for key, node in list(children.items()):
                if node.sequence is not None:
                    self._expand_sequence(children, key, node, manifest)
            for node in children.values():
                if node.children is None:
                    continue
                if not node.children and node.c4id is not None:
                    inside = self._listing(node.c4id)
                    if inside is None:
                        self._missing.append(f"the listing of {path_text(node.name)} ({node.c4id})")
                        continue
                    if inside.base is not None:
                        raise UsageError(f"content {node.c4id} is a patch, and no listing of a directory")
                    self._count(len(inside.children))
                    node.children = inside.children
                    manifest.lists.update(inside.lists)
                work.append(node.children)

    def _expand_sequence(self, children: dict[bytes, Node], key: bytes, node: Node, manifest: Manifest) -> None:
        assert node.sequence is not None
        if node.kind == "l" or node.target is not None:
            raise self._error(node, "is a sequence of symbolic links, which does not say where each points")
        if node.c4id is None:
            raise self._error(node, "is a sequence without the ID of its list")
        self._count(most_members(node.sequence))
        names = members(node.sequence)
        ids = manifest.lists.get(node.c4id) or self._list(node.c4id)
        if ids is None:
            self._missing.append(f"the list of {path_text(node.name)} ({node.c4id})")
            del children[key]
            return
        if len(ids) != len(names):
            raise self._error(node, f"has {len(names)} members, and its list {len(ids)} IDs")
        del children[key]
        slash = key[len(node.name) :]
        for name, c4id in zip(names, ids, strict=True):
            if name in children or name + b"/" in children:
                raise self._error(node, f"has the member {path_text(name)}, which is also an entry")
            member = node.copy()
            member.name, member.sequence, member.size, member.c4id = name, None, None, c4id
            children[name + slash] = member

    def _count(self, entries: int) -> None:
        """Bound what a short text stands for."""
        self._expanded += entries
        if self._expanded > EXPANDED_MAX:
            raise UsageError(
                f"{self._what} stands for over {EXPANDED_MAX} entries that it does not list",
                hint="list them, or import it in parts",
            )

    def _list(self, c4id: C4Id) -> tuple[C4Id, ...] | None:
        """The list of IDs that is in the content store."""
        size = self.contents.size(c4id)
        if size is None:
            return None
        if size > LIST_MAX or size % ID_LENGTH:
            raise UsageError(f"content {c4id} has {size} bytes, and is no list of IDs")
        with self.contents.get(c4id) as stream:
            text = stream.read().decode("latin-1")
        ids = [text[start : start + ID_LENGTH] for start in range(0, len(text), ID_LENGTH)]
        if not all(map(is_id, ids)):
            raise UsageError(f"content {c4id} is no list of IDs")
        return tuple(map(C4Id, ids))

    def _error(self, node: Node, problem: str) -> UsageError:
        return UsageError(f"{self._what}, line {node.line}: {quoted(node.name)} {problem}")

    # Checking

    def check(self, manifest: Manifest) -> None:
        """Look every content up. ``NotFoundError`` that names what is missing, ``UsageError`` for files without ID."""
        unknown: list[str] = []
        for path, node in paths(manifest.children):
            if node.children is not None or node.target is not None or node.kind not in {"-", UNKNOWN}:
                continue
            if node.c4id is None:
                if node.size or node.size is None:
                    unknown.append(path_text(path))
                continue
            size = self.sizes.get(node.c4id)
            if size is None:
                size = self.contents.size(node.c4id)
                if size is None:
                    self._missing.append(f"{path_text(path)} ({node.c4id})")
                    continue
                self.sizes[node.c4id] = size
            if node.size is not None and node.size != size:
                raise UsageError(
                    f"{self._what}: {path_text(path)} is said to have {node.size} bytes, and its content has {size}"
                )
        if self._missing:
            raise NotFoundError(
                f"{_some(self._missing)}: not in {self.contents}", hint="nothing was imported; store what is missing"
            )
        if unknown:
            raise UsageError(f"{self._what} has no ID of {_some(unknown)}", hint="nothing was imported")

    def warnings(self) -> list[str]:
        """What is not as it is said, and does not matter to what was imported."""
        if not self._wrong:
            return []
        wrong = _some([path_text(path) for path in self._wrong])
        return [f"{self._what} says another ID than that of what it lists, of {wrong}"]


def _with_wrong_ids(manifest: Manifest) -> Iterator[bytes]:
    """Directories whose listing has another ID than they say."""
    filled = fill(manifest.children)
    for path, node in paths(manifest.children):
        if node.children and node.c4id is not None and id_of_bytes(listing(node.children, filled)) != node.c4id:
            yield path


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


class _Build:
    """The tree of a manifest, its contents in a transaction."""

    def __init__(self, tx: Transaction, plan: _Plan, owner: Owner, progress: Progress | None) -> None:
        self._tx = tx
        self._plan = plan
        self._owner = owner
        self._progress = progress
        self._total = sum(plan.sizes.values())
        self._done = 0
        self._contents: dict[C4Id, Content] = {EMPTY: (0, None, None)}
        self._linked: dict[tuple[int, C4Id | None], File] = {}
        self._left_out: Counter[str] = Counter()

    def tree(self, manifest: Manifest) -> Directory:
        """The root: with mode 0755, and the time of the newest entry in it."""
        newest = max((node.time or 0 for node in manifest.children.values()), default=0)
        root = Directory(stat.S_IFDIR | 0o755, *self._owner, newest * _SECOND)
        work = [(root, manifest.children)]
        while work:
            directory, children = work.pop()
            for node in children.values():
                inode = self._inode(node)
                if inode is not None:
                    directory.children[node.name] = inode
                if isinstance(inode, Directory):
                    work.append((inode, node.children or {}))
        return root

    def _inode(self, node: Node) -> Inode | None:
        mtime = (node.time or 0) * _SECOND
        if node.flow:
            self._left_out["flow links are left out: a commit has none"] += 1
        if node.children is not None:
            return Directory(stat.S_IFDIR | _mode(node, 0o755), *self._owner, mtime)
        if node.target is not None:
            return Symlink(stat.S_IFLNK | 0o777, *self._owner, mtime, target=node.target)
        if node.kind == "p":
            return Special(stat.S_IFIFO | _mode(node, 0o644), *self._owner, mtime)
        if node.kind in "bc":
            self._left_out["device nodes are left out: C4M does not say their numbers"] += 1
            return None
        if node.kind == "s":
            self._left_out["sockets are left out"] += 1
            return None
        return self._file(node, mtime)

    def _file(self, node: Node, mtime: int) -> File:
        mode = stat.S_IFREG | _mode(node, 0o644)
        if node.group and (linked := self._linked.get((node.group, node.c4id))) is not None:
            if (linked.mode, linked.mtime) != (mode, mtime):
                raise UsageError(
                    f"line {node.line}: {quoted(node.name)} is a hard link, and differs from another name of it"
                )
            return linked
        size, digest, content = self._content(node.c4id or EMPTY)
        file = File(mode, *self._owner, mtime, size=size, digest=digest, content=content)
        if node.group:
            self._linked[node.group, node.c4id] = file
        return file

    def _content(self, c4id: C4Id) -> Content:
        """The content of an ID, which is taken from the content store the first time."""
        known = self._contents.get(c4id)
        if known is not None:
            return known
        size = self._plan.sizes[c4id]
        with self._plan.contents.get(c4id) as stream:
            if size <= _IN_MEMORY:
                data = stream.read(size + 1) + stream.read()
                if len(data) != size:
                    raise StratumError(f"content {c4id} changed while it was read")
                found: Content = (
                    (size, None, data or None) if size <= INLINE_MAX else (size, self._tx.add_bytes(data), None)
                )
            else:
                found = (size, self._tx.add_pieces(iter(lambda: stream.read(_PIECE), b""), size), None)
        self._contents[c4id] = found
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)
        return found

    def warnings(self) -> list[str]:
        """What was left out, a line for each kind."""
        return [f"{count} {what}" for what, count in sorted(self._left_out.items())]


def _mode(node: Node, default: int) -> int:
    return default if node.mode is None else node.mode
