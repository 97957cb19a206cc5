"""Directories and refs as C4M files, and their contents into a content store."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stratum.api.c4trees import DEFAULTS, STDIN, Options, Tree, is_path, listed
from stratum.c4.ids import C4Id
from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.tree.model import Directory, File

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.content.base import ContentStore

Writer = Callable[[bytes], object]

_MODE = 0o600
"""A listing names what only root may see."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the ID of the tree, entries, bytes of the text, what the text does not say (what -> of how many
    entries), and how many contents and listings went to the content store (None: there was none to go to)."""

    file: str
    id: C4Id
    entries: int
    size: int
    lost: dict[str, int] = field(default_factory=dict)
    stored: int | None = None


@contextmanager
def content_store(session: Session, text: str, *, create: bool) -> Iterator[ContentStore[C4Id]]:
    """The content store in a directory or, for ``s3://BUCKET[/PREFIX]`` and the like, in an object store.

    ``NotFoundError`` for a directory that is not there, unless it is to be made; ``UsageError`` for a tag.
    """
    from stratum.oci.bucketname import BUCKET_PREFIXES, split_bucket

    if text.startswith(BUCKET_PREFIXES):
        from stratum.content.objectstore import ObjectStore
        from stratum.oci.bucket import open_bucket

        bucket, tag, digest = split_bucket(text)
        if tag is not None or digest is not None:
            raise UsageError(f"a content store has no tags and digests: {bucket}")
        with open_bucket(bucket, session.access()) as opened:
            yield ObjectStore(opened)
        return
    from stratum.content.treestore import TreeStore

    yield TreeStore(text, create=create)


def export(
    session: Session,
    text: str,
    file: str,
    *,
    store: str | None = None,
    laid_out: bool = False,
    options: Options = DEFAULTS,
) -> Exported:
    """Write what ``text`` names as a C4M text to ``file`` (``-``: standard output), which appears whole, and with
    ``store`` every content and every directory's listing there first. ``laid_out``: for reading.

    Raises ``NotFoundError``, ``UsageError``, ``StratumError`` naming what cannot be read or written.
    """
    with listed(session, text, options) as tree:
        stored = None
        if store is not None:
            with content_store(session, store, create=True) as contents:
                stored = _store(session, text, tree, contents)
        size = 0
        with _opened(file) as write:
            for piece in _laid_out(tree, text) if laid_out else tree.lister.text():
                write(piece)
                size += len(piece)
        return Exported(file, tree.id, tree.lister.entries, size, dict(tree.lister.lost), stored)


def _laid_out(tree: Tree, what: str) -> Iterator[bytes]:
    from stratum.c4.reader import read, split_lines
    from stratum.c4.writer import pretty

    for line in pretty(read(split_lines(tree.lister.text(), what), what)):
        yield line.encode()


@contextmanager
def _opened(file: str) -> Iterator[Writer]:
    """What writes a piece of the text to a file, which has its name at the end of the block."""
    from stratum.sys.atomic import create_atomic, write_all

    if file == STDIN:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    if os.path.exists(file) and not stat.S_ISREG(os.stat(file).st_mode):
        raise UsageError(f"{file} is there and is not a regular file", hint="write to standard output with '-'")
    try:
        with create_atomic(Path(file), _MODE) as fd:
            yield lambda piece: write_all(fd, piece)
    except FileNotFoundError as exc:
        raise NotFoundError(f"cannot write {file}: {os_error_text(exc)}") from None
    except OSError as exc:
        raise StratumError(f"cannot write {file}: {os_error_text(exc)}") from None


def _store(session: Session, text: str, tree: Tree, contents: ContentStore[C4Id]) -> int:
    """Put each content of a tree, and each listing, into a content store; how many."""
    if is_path(text):
        raise UsageError(f"{text} is not in the store", hint="import it, and export that; or leave --store out")
    expected: list[C4Id] = []
    count = 0
    for found in contents.put_all(_streams(session, tree, expected)):
        if found != expected[count]:
            raise DamagedError(f"content {expected[count]} was read as {found}", hint="run 'stratum fsck'")
        count += 1
    return count


def _streams(session: Session, tree: Tree, expected: list[C4Id]) -> Iterator[BinaryIO | bytes]:
    """Each content once; ``expected`` gets their IDs."""
    done: set[C4Id] = set()
    for file in _files(tree.lister.directory):
        c4id = tree.ids(file)
        if c4id in done:
            continue
        done.add(c4id)
        expected.append(c4id)
        if file.digest is None:
            yield file.content or b""
        else:
            with open(session.store.objects.open(file.digest), "rb") as stream:
                yield stream
    for c4id, extents in tree.lister.listings():
        if c4id not in done:
            done.add(c4id)
            expected.append(c4id)
            yield b"".join(tree.spool.read(*extent) for extent in extents)


def _files(root: Directory) -> Iterator[File]:
    todo = [root]
    while todo:
        for inode in todo.pop().children.values():
            if isinstance(inode, File):
                yield inode
            elif isinstance(inode, Directory):
                todo.append(inode)
