"""Mounting and unmounting on the host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import NotFoundError
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, parse_ref

if TYPE_CHECKING:
    from stratum.mount.state import Record


def mount(session: Session, text: str, mountpoint: str | None = None, *, read_only: bool = False) -> Record:
    """Mount what ``text`` names: a worktree writable (NAME alone is ``main``), a tag or commit read-only.

    Without ``mountpoint`` one is made in the runtime directory. Raises ``BusyError`` naming the holder where the
    worktree is mounted already, ``UnsupportedError`` without the privilege or the kernel features.
    """
    from stratum.mount import host

    store = session.store
    found = store.resolve_mountable(parse_ref(text))
    at = None if mountpoint is None else Path(mountpoint)
    if found.kind != "worktree":
        return host.mount_commit(
            session.state,
            store=store.root,
            ref=str(found),
            commit=found.commit,
            image=store.ensure_image(found.commit),
            objects=store.layout.objects,
            mountpoint=at,
        )
    assert found.name is not None
    assert found.worktree is not None
    with store.worktrees.lock(found.name, found.worktree):
        tree = store.worktrees.get(found.name, found.worktree)
        return host.mount_worktree(
            session.state,
            store=store.root,
            ref=str(tree.ref),
            commit=tree.base_commit,
            image=store.ensure_image(tree.base_commit),
            objects=store.layout.objects,
            upperdir=tree.upperdir,
            workdir=tree.workdir,
            mountpoint=at,
            read_only=read_only,
        )


def unmount(session: Session, text: str, *, lazy: bool = False) -> list[Record]:
    """Unmount what is mounted at the path ``text``, or every host mount of the ref ``text``; the records as they were.

    Raises ``NotFoundError`` for what Stratum did not mount, ``BusyError`` naming the processes in the way.
    """
    from stratum.mount import host

    if "/" in text or text in (".", ".."):
        return [host.unmount(session.state, Path(text), lazy=lazy)]
    records = find_mounts(session, text)
    if not records:
        raise NotFoundError(f"{text} is not mounted", hint="'stratum status' lists the mounts there are")
    return [host.unmount(session.state, record, lazy=lazy) for record in records]


def find_mounts(session: Session, text: str) -> list[Record]:
    """The mounts of the ref ``text``: as it was written when it was mounted, or as it resolves now.

    NAME alone is its worktree ``main`` where that is mounted, else its tag ``latest``. Nothing is made.
    """
    store, ref = session.store, parse_ref(text)
    spellings = [f"{text}+{DEFAULT_WORKTREE}", f"{text}:{DEFAULT_TAG}"] if ref.bare else []
    for spelling in [text, *spellings]:
        records = session.state.find_ref(store.root, spelling)
        if records:
            return records
    return session.state.find_ref(store.root, str(store.resolve(ref)))
