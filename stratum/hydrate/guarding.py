"""Which mounts of a store would miss an object that is evicted, and which are to look anew afterwards."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import NotFoundError, UsageError
from stratum.mount.record import SOURCE_MAX, Record, find_mount, mounts_of
from stratum.refs import is_hash, parse_lasting

if TYPE_CHECKING:
    from stratum.mount.state import State
    from stratum.store.store import Store
    from stratum.sys.mountinfo import MountEntry

_DATA_LAYER = re.compile(r",datadir\+=(.*?)(?=,(?:datadir\+|upperdir|redirect_dir)=)", re.DOTALL)
_ID = slice(len("stratum-"), len("stratum-") + 16)


def unguarded(store: Store, state: State) -> set[str]:
    """The commits of the store that a mount shows without a gate, or with one that nobody serves: whoever reads there
    would find that an evicted object is missing.

    The caller holds the store's lock, so that no mount is being made meanwhile. Raises ``StratumError`` where the
    record of mounts cannot be read, or the keeper of the gates does not answer.
    """
    records = state.records()
    own = state.of_store(store.root)
    served = _served(state) if any(record.gate for record in own) else set()
    found = set[str]()
    for record in own:
        if not record.gate or record.id not in served:
            found |= {record.commit, *_of_worktree(store, record.ref)}
    known = {record.id for record in records}
    for pid, entry in mounts_of():
        # Those of another runtime directory, or whose record was lost.
        if entry.source[_ID] not in known and may_show(entry, store.layout.objects, pid):
            found |= _commits_of(store, entry.source)
    return found


def may_show(entry: MountEntry, objects: Path, pid: int) -> bool:
    """Whether a mount that process ``pid`` sees may have the directory ``objects`` as a layer. Kernels before 6.15 do
    not tell; nor does a path that is another in the namespace of who mounted it."""
    match = _DATA_LAYER.search(entry.super_options)
    told = match[1] if match is not None else ""
    if told == str(objects) or not told.startswith("/") or told.startswith("/proc/self/fd/"):
        return True
    for root in ("", f"/proc/{pid}/root"):
        with suppress(OSError):
            # A container's root is another, where the path may be there and be something else.
            if not root or os.path.samestat(os.stat(root), os.stat("/")):
                return os.path.samestat(os.stat(root + told), os.stat(objects))
    return True


def _served(state: State) -> set[str]:
    """The IDs of the records of mounts whose gate the keeper serves."""
    from stratum.mount.gate import ask_keeper

    found = set()
    for answer in ask_keeper(state.runtime_dir, {"op": "list"}):
        for connection in answer.get("connections", ()):
            found.add(str(connection.get("source"))[_ID])
    return found


def _commits_of(store: Store, source: str) -> set[str]:
    """The commits that a mount of this ``source`` may show: those that its ref names, or named before."""
    text = source.partition(":")[2]
    if is_hash(text):
        return {text}
    if len(source) >= SOURCE_MAX:  # the ref may go on
        return set(store.commits.list())
    try:
        ref = parse_lasting(text)
        if not store.namespaces.exists(ref.name):
            return set()
    except UsageError:
        return set()
    which = ref.worktree or ref.tag
    moves = [entry for entry in store.reflog.read(ref.name) if entry.which == which]
    found = {entry.old for entry in moves} | {entry.new for entry in moves}
    with suppress(NotFoundError):
        found.add(store.resolve(ref).commit)
    return {commit for commit in found if commit is not None} | _of_worktree(store, text)


def _of_worktree(store: Store, text: str) -> set[str]:
    """What the worktree that the ref ``text`` names may show, be it in the middle of a switch; nothing for another
    ref."""
    ref = parse_lasting(text)
    if ref.worktree is None:
        return set()
    try:
        worktree = store.worktrees.get(ref.name, ref.worktree)
        interrupted = store.worktrees.interrupted_switch(ref.name, ref.worktree)
    except NotFoundError:
        return set()
    found = {worktree.base_commit, worktree.commit}
    if interrupted is not None and interrupted.old is not None:
        found.add(interrupted.old.base_commit)
    return found


def refresh(store: Store, state: State) -> int:
    """Have the mounts of the store that have a gate look for objects anew; how many did. One that cannot be reached
    keeps what it has until its kernel objects go by themselves."""
    from stratum.sys.mountapi import refresh_mount

    done = 0
    for record in state.of_store(store.root):
        if not record.gate:
            continue
        with suppress(OSError):
            root = _open_root(record)
            if root is not None:
                try:
                    refresh_mount(root)
                    done += 1
                finally:
                    os.close(root)
    return done


def _open_root(record: Record) -> int | None:
    """A descriptor of the root of a recorded mount, in whatever mount namespace it is; None where it is not to be
    found. Raises ``OSError``."""
    from stratum.sys.syscalls import open_in_root

    found = find_mount(record)
    if found is None:
        return None
    pid, entry = found
    outside = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        root = open_in_root(outside, entry.mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    finally:
        os.close(outside)
    device = os.fstat(root).st_dev
    # Somebody in there may have put something else in its way.
    if f"{os.major(device)}:{os.minor(device)}" != entry.device:
        os.close(root)
        return None
    return root
