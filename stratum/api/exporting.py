"""Exports: commits as ``.stratum.tar`` files, or with their tags in an object store."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.naming import ref_or_mountpoint
from stratum.api.session import Session
from stratum.api.unreal import bring_all
from stratum.errors import NotFoundError, StratumError, UsageError, os_error_text
from stratum.progress import Progress
from stratum.refs import check_name
from stratum.store.resolve import tag_elsewhere

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.oci.remote import Sink
    from stratum.oci.target import Target
    from stratum.store import Store

STDOUT = "-"
ARCHIVE = ".tar"
"""How the name of an object ends that an export is written to as a file; other names in object stores are places."""
_MODE = 0o600
"""An export holds what only root may read."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: the commits (the ones asked for by tag in the archive, then their history) and bytes."""

    path: str
    tags: dict[str, str]
    history: list[str] = field(default_factory=list)
    size: int = 0


def export(
    session: Session,
    text: str,
    path: str,
    *,
    tags: Sequence[str] = (),
    with_history: bool = False,
    image: str | None = None,
    offline: bool = False,
    access: Access | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the commit that ``text``, a ref or a path at or below a mountpoint, names to the file ``path`` (``-``:
    standard output), which appears whole.

    Where ``path`` is in an object store and ends in ``.tar``, the file is an object there; any other name is a place,
    which gets the same tags. In the archive the commit has its own tag, or the name of its worktree, or the first 12
    digits of its hash; ``latest`` where ``text`` is NAME alone. ``tags`` are further tags of the same stratum that go
    there; ``with_history`` adds the parents of all of them that the store has. ``image`` is the compression of the
    layers (``transfer.imagepush``) where ordinary images are written. ``access`` is how an object store is reached.
    What is not here is fetched first (``api.unreal``), with ``offline`` it is an error. Raises ``NotFoundError`` for
    what there is not.
    """
    if image is not None and with_history:
        raise UsageError("an image has no history to take along", hint="leave --with-history or '--as image' out")
    store, place = session.store, _object_store(path)
    named = _named(session, text, tags)
    order, history = _with_parents(store, named) if with_history else (list(dict.fromkeys(named.values())), [])
    names: dict[str, list[str]] = {}
    for tag, commit in named.items():
        names.setdefault(commit, []).append(tag)
    tagged = [(commit, names.get(commit, [commit])) for commit in order]

    def run(archive: Sink) -> None:
        from stratum.transfer.imagepush import push_image
        from stratum.transfer.push import push_in_order

        base = None
        for commit, (first, *others) in tagged:
            if image is not None:
                done = push_image(store, commit, archive, first, compression=image, deltas=False, progress=progress)
            else:
                done = push_in_order(
                    store, commit, archive, first, base=base, jobs=session.config.jobs, progress=progress
                )
            base = done.manifest_digest
            for tag in others:
                archive.put_manifest(archive.get_manifest(base)[0], tag)

    for commit in order:
        bring_all(session, commit, offline=offline, progress=progress)
    if place is None:
        with store.locks.store():
            size = write_archive(path.removeprefix("file://"), run)
    elif place.bucket is not None and place.bucket.prefix.endswith(ARCHIVE):
        size = _to_object(session, place, access or session.access(), run)
    else:
        size = _to_place(session, place, access or session.access(), tagged, image, progress)
    return Exported(path, named, history, size)


def _to_object(session: Session, target: Target, access: Access, run: Callable[[Sink], None]) -> int:
    """Have ``run`` fill an archive that is one object; its size."""
    from stratum.api.objects import put_object
    from stratum.oci.archive import ArchiveWriter

    def fill(write: Callable[[bytes], None]) -> None:
        archive = ArchiveWriter(write, target)
        with session.store.locks.store():
            run(archive)
            archive.finish()

    return put_object(session, target, access, fill)


def _to_place(
    session: Session,
    place: Target,
    access: Access,
    tagged: Sequence[tuple[str, list[str]]],
    image: str | None,
    progress: Progress | None,
) -> int:
    """Push each commit with its tags, in their order; the bytes that were sent. A commit without a tag gets its hash as
    one, as what nothing names goes."""
    from stratum.oci.places import open_sink
    from stratum.transfer.imagepush import push_image
    from stratum.transfer.push import push

    sent, store, jobs = 0, session.store, session.config.jobs
    with open_sink(place, access, create=True) as sink:
        for commit, (first, *others) in tagged:
            if image is not None:
                done = push_image(store, commit, sink, first, compression=image, progress=progress)
            else:
                done = push(store, commit, replace(place, tag=first), access, jobs=jobs, progress=progress)
            sent += done.bytes_sent
            for tag in others:
                sink.put_manifest(sink.get_manifest(done.manifest_digest)[0], tag)
    return sent


def _object_store(path: str) -> Target | None:
    """The place or object in an object store that ``path`` names; None for a file, which file:// names as well."""
    from stratum.oci.bucketname import BUCKET_PREFIXES
    from stratum.oci.target import parse_target

    if not path.startswith(BUCKET_PREFIXES) or (path.startswith("file://") and path.endswith(ARCHIVE)):
        return None
    target = parse_target(path, default_tag="")
    if target.tag or target.digest:
        raise UsageError(
            f"{path} names a tag or a digest, and an export has the tags of what it exports",
            hint="leave it out, or use 'stratum push' for one commit under another tag",
        )
    return target


def _named(session: Session, text: str, tags: Sequence[str]) -> dict[str, str]:
    """Tag in the archive -> commit."""
    store, ref = session.store, ref_or_mountpoint(session, text)
    found = store.resolve(ref)
    named = {tag_elsewhere(found, ref): found.commit}
    for tag in tags:
        if found.name is None:
            raise UsageError(f"{text} is no stratum, so it has no tag {tag}", hint="name it as NAME:TAG")
        commit = store.tags.get(found.name, check_name(tag, "tag"))
        if named.setdefault(tag, commit) != commit:
            raise UsageError(
                f"{text}, which is {found}, goes into the archive as {tag}, and {found.name}:{tag} is another commit",
                hint=f"name one of them otherwise: {found}, {found.name}:{tag}, or {found.name}:HASH",
            )
    return named


def _with_parents(store: Store, named: dict[str, str]) -> tuple[list[str], list[str]]:
    """(all commits to export, parents before their children; those of them that have no tag)."""
    from stratum.store.ancestry import Ancestry

    ancestry = Ancestry(store)
    order: dict[str, None] = {}
    for commit in named.values():
        chain: list[str] = []
        current: str | None = commit
        while current is not None and current not in order and current not in chain and store.commits.exists(current):
            chain.append(current)
            current = next(filter(ancestry.has, ancestry.known(current).ancestors), None)
        order.update(dict.fromkeys(reversed(chain)))
    tagged = set(named.values())
    return list(order), [commit for commit in order if commit not in tagged]


def write_archive(path: str, run: Callable[[Sink], object]) -> int:
    """Have ``run`` fill an archive in the file ``path``; its size in bytes."""
    from stratum.oci.archive import ArchiveWriter
    from stratum.oci.target import Target
    from stratum.sys.atomic import write_all

    written = 0
    with _output(path) as fd:

        def write(data: bytes) -> None:
            nonlocal written
            try:
                write_all(fd, data)
            except BrokenPipeError:
                raise
            except OSError as exc:
                raise StratumError(f"cannot write {path}: {os_error_text(exc)}") from None
            written += len(data)

        archive = ArchiveWriter(write, Target(archive=Path(path)))
        run(archive)
        archive.finish()
    return written


@contextmanager
def _output(path: str) -> Iterator[int]:
    """A descriptor of what becomes the file ``path`` when all is written."""
    from stratum.sys.atomic import create_atomic

    if path == STDOUT:
        if sys.stdout.isatty():
            raise UsageError("an archive is not for a terminal", hint="give a FILE, or redirect the output")
        yield sys.stdout.fileno()
        return
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError:
        kind = stat.S_IFREG  # missing, or what creating it will tell
    if kind != stat.S_IFREG:
        raise UsageError(f"{path} is there and is not a regular file", hint="write to standard output with '-'")
    try:
        with create_atomic(Path(path), _MODE) as fd:
            yield fd
    except FileNotFoundError as exc:
        raise NotFoundError(f"cannot write {path}: {os_error_text(exc)}") from None
    except OSError as exc:
        raise StratumError(f"cannot write {path}: {os_error_text(exc)}") from None
