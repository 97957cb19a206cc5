"""Imports: directories become commits; a new stratum begins with one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import ConflictError, ExistsError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, check_name, parse_ref

if TYPE_CHECKING:
    from stratum.mount.state import Record
    from stratum.store.commits import CommitMeta

Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made: the tag, its commit, the commit that the tag named before, and warnings."""

    ref: str
    commit: CommitMeta
    previous: str | None
    warnings: list[str] = field(default_factory=list)
    mount: Record | None = None

    @property
    def changed(self) -> bool:
        """Whether the tag names another commit than before."""
        return self.previous != self.commit.metadata_hash


def import_directory(
    session: Session,
    path: str,
    name: str,
    *,
    message: str | None = None,
    devices: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Make a commit of the directory ``path`` and point ``name`` (NAME or NAME:TAG) at it.

    A tag that exists moves, and its commit becomes the new one's parent; the reflog keeps where it was. Raises
    ``UsageError``, ``NotFoundError`` and ``StratumError`` naming the path that cannot be read.
    """
    from stratum.ingest.directory import import_directory as read

    stratum, tag = tag_to_set(name)
    store = session.create_store()
    with store.begin(f"importing {path}") as tx:
        previous = store.tags.find(stratum, tag)
        root, warnings = read(
            store,
            tx,
            Path(path),
            jobs=session.config.jobs,
            devices=devices,
            progress=progress,
        )
        meta = store.write_commit(
            tx,
            root,
            parent=previous,
            message=message,
            origin={"kind": "import"},
            timestamp=session.now(),
        )
        store.tags.set(stratum, tag, meta.metadata_hash, expected=previous, why=f"import {path}")
    return Imported(f"{stratum}:{tag}", meta, previous, warnings)


def import_patch(
    session: Session,
    path: str,
    name: str,
    base: str,
    *,
    message: str | None = None,
    devices: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Lay the patch tree in the directory ``path`` over the commit ``base`` and point ``name`` at the result.

    The patch may delete with whiteouts (``tree.patch``); what it does not mention stays. Raises as
    ``import_directory`` does, and ``UsageError`` for markers that mean nothing.
    """
    from stratum.ingest.directory import import_directory as read
    from stratum.tree.merge import apply_layer
    from stratum.tree.patch import layer_from_patch_tree

    store = session.store
    stratum, tag = tag_to_set(name)
    commit = store.resolve_commit(parse_ref(base))
    with store.begin(f"importing the patch {path}") as tx:
        previous = store.tags.find(stratum, tag)
        tree = store.commits.tree(commit)
        patch, warnings = read(store, tx, Path(path), jobs=session.config.jobs, devices=devices, progress=progress)
        meta = store.write_commit(
            tx,
            apply_layer(tree, layer_from_patch_tree(patch)),
            parent=commit,
            message=message,
            origin={"kind": "import", "patch_of": commit},
            timestamp=session.now(),
            known=tree,
        )
        store.tags.set(stratum, tag, meta.metadata_hash, expected=previous, why=f"import of the patch {path}")
    return Imported(f"{stratum}:{tag}", meta, previous, warnings)


def tag_to_set(name: str) -> tuple[str, str]:
    """(stratum, tag) of NAME or NAME:TAG; ``UsageError`` for a worktree."""
    ref = parse_ref(name)
    if ref.worktree is not None:
        raise UsageError(f"{name} is a worktree; a tag is set here", hint="give NAME or NAME:TAG")
    return check_name(ref.name), check_name(ref.tag or DEFAULT_TAG, "tag")


def init(
    session: Session,
    name: str,
    mountpoint: str,
    *,
    migrate: bool = False,
    message: str | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Make the stratum ``name`` with a first commit, and mount its worktree ``main`` at ``mountpoint``.

    The commit is empty, or with ``migrate`` what the directory holds; the mount then covers it, and it is untouched
    below. Without ``migrate`` a directory that holds anything is ``ConflictError``. Where anything fails there is no
    stratum, and the directory is as it was.
    """
    from stratum.api.mounting import made_mountpoint, mount

    check_name(name)
    place = Path(mountpoint)
    _check_mountpoint(place, migrate)
    with made_mountpoint(place):
        store = session.create_store()
        if store.namespaces.exists(name):
            raise ExistsError(f"the stratum {name} exists already", hint=f"mount it: stratum mount {name} {mountpoint}")
        try:
            if migrate:
                done = import_directory(session, mountpoint, name, message=message, progress=progress)
            else:
                done = _import_empty(session, place, name, message)
            store.worktrees.create(name, DEFAULT_WORKTREE, done.commit.metadata_hash, why="init")
            record = mount(session, f"{name}+{DEFAULT_WORKTREE}", mountpoint)
        except BaseException:
            if store.namespaces.exists(name):
                store.namespaces.remove(name)
            raise
    return Imported(done.ref, done.commit, None, done.warnings, record)


def _check_mountpoint(path: Path, migrate: bool) -> None:
    """Refuse a directory that holds something unless it migrates, and a missing one that should."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        if migrate:
            raise NotFoundError(f"{path} does not exist, so there is nothing to migrate") from None
        return
    except NotADirectoryError:
        raise UsageError(f"{path} is not a directory") from None
    except OSError as exc:
        raise StratumError(f"cannot read {path}: {os_error_text(exc)}") from None
    if names and not migrate:
        raise ConflictError(
            f"{path} is not empty", hint="--migrate takes what is in it as the first commit and mounts over it"
        )


def _import_empty(session: Session, directory: Path, name: str, message: str | None) -> Imported:
    """A commit of an empty tree whose root has the owner, mode and time of ``directory``."""
    from stratum.tree.model import Directory

    info = os.stat(directory)
    root = Directory(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns)
    store = session.store
    with store.begin(f"initialising {name}") as tx:
        meta = store.write_commit(tx, root, message=message, origin={"kind": "import"}, timestamp=session.now())
        store.tags.set(name, DEFAULT_TAG, meta.metadata_hash, expected=None, why="init")
    return Imported(f"{name}:{DEFAULT_TAG}", meta, None)
