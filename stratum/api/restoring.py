"""``restore``: files and directories of a commit or an earlier state, back into a directory or a worktree."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.held import Held
from stratum.api.naming import ref_or_mountpoint, with_paths
from stratum.api.reading import found_in, warning_of
from stratum.api.session import Session
from stratum.api.unreal import bring_inodes
from stratum.api.versions import change_at, up_to_date, worktree_named
from stratum.errors import ConflictError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.progress import Progress
from stratum.refs import DEFAULT_WORKTREE, Ref, is_change, parse_lasting, parse_ref
from stratum.store.holders import Host, NamedVolume
from stratum.tree.model import Directory, Inode

if TYPE_CHECKING:
    from stratum.ingest.restore import Rules, Told
    from stratum.mount.record import Record


@dataclass(frozen=True, slots=True)
class Restored:
    """What was written: the places (paths of the file system, or paths in ``worktree`` where one is set), warnings, and
    what it was taken from."""

    places: list[str]
    worktree: str | None = None
    warnings: list[str] = field(default_factory=list)
    source: str = ""


def restore(
    session: Session,
    source: str,
    paths: list[str],
    to: str | None = None,
    *,
    force: bool = False,
    devices: bool = False,
    setuid: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
    writing: Progress | None = None,
) -> Restored:
    """Bring ``paths`` of what ``source`` shows back.

    ``source`` is any ref, or a path that shows one. ``to`` is a directory (each path goes there under its last name;
    the root fills it) or NAME+WORKTREE (each path goes to the same place there; no mount is needed, and a mounted one
    is written through its mount). Without ``to`` it is the worktree whose state ``source`` is (NAME+WORKTREE@CHANGE,
    NAME+WORKTREE@{WHEN}), else the one that is
    mounted at the current directory. In a directory, what exists and is not what is restored is ``ExistsError`` unless
    ``force``; in a worktree it is replaced: its uncommitted state can be committed first. A directory that exists is
    filled, and what else is in it stays. In a directory, ``devices`` asks for device nodes, and ``setuid`` for what
    makes a program run as somebody else (``ingest.restore.Rules``).

    What is not here is fetched first (``api.unreal``), with ``offline`` it is an error. ``progress`` is told how far
    that is, ``writing`` what is written then. Raises as ``found_in`` does,
    before anything is written.
    """
    with found_in(session, source, paths) as items:
        target = _worktree_target(session, to, source)
        commits, inodes = {item.commit for item in items}, [item.inode for item in items]
        bring_inodes(session, commits, inodes, offline=offline, progress=progress)
        found = [(os.fsdecode(item.path.strip(b"/")), item.inode) for item in items]
        from stratum.ingest.restore import Rules

        told = _telling(inodes, writing) if writing is not None else None
        if target is None:
            assert to is not None
            done = _to_directory(session, found, to, Rules(force, devices, setuid), told)
        else:
            done = _to_worktree(session, found, target, told)
        left_out = [path for item in items for path in item.left_out]
        warnings = [warning_of(left_out, "what was restored")] if left_out else []
        return Restored(done.places, done.worktree, warnings + done.warnings, source)


def state_at(session: Session, source: str, at: str) -> tuple[str, list[str]]:
    """(the state NAME+WORKTREE@CHANGE that the worktree ``source`` showed at the moment ``at``, notes on it)."""
    ref = worktree_named(session, source)
    stale = up_to_date(session, ref.name, ref.worktree or DEFAULT_WORKTREE)
    change, note = change_at(session, ref.name, ref.worktree or DEFAULT_WORKTREE, at)
    return str(Ref(ref.name, worktree=ref.worktree, change=change)), [
        text for text in (stale, note) if text is not None
    ]


def with_change(session: Session, source: str, paths: Sequence[str]) -> tuple[str, list[str]]:
    """(source, paths) of ``restore NAME+WORKTREE PATH CHANGE``, or ``restore MOUNTPOINT/PATH CHANGE``, as of ``restore
    NAME+WORKTREE@CHANGE PATH``; any other arguments as they are. A number is a CHANGE where the worktree has a history;
    as a path it is written ``./4711``.
    """
    if not paths or len(paths) > 2 or not is_change(paths[-1]):
        return source, list(paths)
    whose, wanted = with_paths(session, source, paths[:-1])
    try:
        ref = worktree_named(session, whose) if len(wanted) == 1 else None
    except (NotFoundError, UsageError):
        ref = None
    if ref is None:
        return source, list(paths)
    return str(Ref(ref.name, worktree=ref.worktree, change=int(paths[-1]))), wanted


def _worktree_target(session: Session, to: str | None, source: str) -> Ref | None:
    """The worktree that is the target; None for a directory."""
    state = parse_ref(source) if to is None and "/" not in source and source not in (".", "..") else None
    if state is not None and state.tag is None and (state.change is not None or state.when is not None):
        ref = Ref(state.name, worktree=state.worktree or DEFAULT_WORKTREE)
    elif to is None:
        ref = ref_or_mountpoint(session, ".")
    elif "+" in to and "/" not in to and not os.path.isdir(to):
        ref = parse_lasting(to)
    else:
        return None
    if ref.worktree is None:
        raise UsageError("what is mounted here is read-only", hint="give --to DIRECTORY or --to NAME+WORKTREE")
    session.store.worktrees.check(ref.name, ref.worktree)
    return ref


def _telling(inodes: list[Inode], writing: Progress) -> Told:
    """What a restore of ``inodes`` calls, to have ``writing`` told of all that there is, too."""
    from stratum.tree.model import File, walk

    below = (walk(inode) if isinstance(inode, Directory) else ((b"", inode),) for inode in inodes)
    sizes = {id(inode): inode.size for entries in below for _, inode in entries if isinstance(inode, File)}
    total, done, files = sum(sizes.values()), 0, 0

    def told(size: int, ends: bool) -> None:
        nonlocal done, files
        done, files = done + size, files + ends
        writing(done, total, files=files)

    return told


def _to_directory(
    session: Session, found: list[tuple[str, Inode]], to: str, rules: Rules, told: Told | None
) -> Restored:
    from stratum.ingest.restore import is_device, restore_below

    places, warnings = [], []
    # Links on the way to it are the user's choice; below it none is followed, whatever others do there meanwhile.
    with _opened(to) as root:
        for path, inode in found:
            if is_device(inode) and not rules.devices:
                raise StratumError(f"{path} is a device node", hint="make device nodes with --devices")
        for path, inode in found:
            name = os.path.basename(path)
            warnings += restore_below(session.store.objects, inode, root, Path(to), os.fsencode(name), rules, told)
            places.append(os.path.join(to, name) if name else to)
    return Restored(places, None, warnings + _others_in(found))


def _others_in(found: list[tuple[str, Inode]]) -> list[str]:
    """A line on what an ordinary user restored that belongs to others than the user: outside of the namespace, where
    these have no such ID, the user may not even be able to remove it."""
    from stratum.sys.userns import in_initial_namespace, is_mapped, owns_system
    from stratum.tree.model import walk

    if in_initial_namespace() or owns_system():
        return []
    owners = set()
    for _, inode in found:
        owners |= {each.uid for _, each in walk(inode)} if isinstance(inode, Directory) else {inode.uid}
    others = sorted(uid for uid in owners if uid and is_mapped(uid))
    if not others:
        return []
    whom = ", ".join(map(str, others[:5])) + (" and others" if len(others) > 5 else "")
    return [f"what belongs to {whom} is of subordinate IDs of yours outside of 'stratum unshare'"]


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor of the directory ``path``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path} is not a directory", hint=f"make it first: mkdir {shlex.quote(path)}") from None
    except OSError as exc:
        raise StratumError(f"cannot open {path}: {os_error_text(exc)}") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _to_worktree(session: Session, found: list[tuple[str, Inode]], ref: Ref, told: Told | None) -> Restored:
    from stratum.ingest.restore import Rules, restore_below

    places = [path or "/" for path, _ in found]
    with session.hold(ref) as held:
        record = held.reachable_mount()
        if record is None:
            _write_unmounted(session, found, held)
            return Restored(places, str(held))
        with _shown_by(record) as root:
            rules, shown = Rules(overwrite=True), Path(record.mountpoint)
            warnings = []
            for path, inode in found:
                warnings += restore_below(session.store.objects, inode, root, shown, os.fsencode(path), rules, told)
        return Restored(places, str(held), warnings)


@contextmanager
def _shown_by(record: Record) -> Iterator[int]:
    """A descriptor of the root of a worktree's mount, to write through. ``ConflictError`` where it is not shown there,
    ``UsageError`` where it is in a place that cannot be written to from here."""
    from stratum.sys.syscalls import statx_mount_id

    mountpoint = record.mountpoint
    if record.in_container:
        from stratum.mount.swap import check_nothing_below, opened

        with opened(record) as live:
            if live.process is not None and live.process.has_user_namespace:
                raise UsageError(
                    f"{record.ref} is mounted in {record.held_by()}, whose users have other IDs",
                    hint="restore to a directory and copy it in (podman cp)",
                )
            check_nothing_below(live)
            yield live.root
        return
    if not isinstance(record.holder, (Host, NamedVolume)):
        raise UsageError(f"{record.ref} is mounted in {record.held_by()}", hint="restore to a directory and copy it in")
    with _opened(mountpoint) as root:
        # Whoever can rename what is above a mountpoint could have led the path to another place.
        if statx_mount_id(directory=root) != record.mount_id:
            raise ConflictError(
                f"{mountpoint} does not show {record.ref}, which is mounted there",
                hint="something above it was moved or replaced: put that back, or unmount it where it is now",
            )
        yield root


def _write_unmounted(session: Session, found: list[tuple[str, Inode]], held: Held) -> None:
    """Give the worktree an upperdir that shows the restored inodes too."""
    from stratum.ingest.restore import restore_upper
    from stratum.tree.merge import make_layer

    store, base_commit = session.store, held.worktree.base_commit
    base = store.commits.tree(base_commit)
    with store.begin(f"restoring into {held}") as tx:
        merged = _merged(found, held.shown(tx, base))
        tx.publish_objects()
        upperdir = store.worktrees.new_upperdir(tx, base_commit, of=held.worktree)
        restore_upper(store.objects, make_layer(base, merged), upperdir, store.dialect)
        held.write_upperdir(tx, upperdir)


def _merged(found: list[tuple[str, Inode]], shown: Directory) -> Directory:
    from stratum.tree.merge import apply_layer

    for path, inode in found:
        names = [part for part in os.fsencode(path).split(b"/") if part]
        shown = apply_layer(shown, _layer_with(shown, names, inode, path))
    return shown


def _layer_with(tree: Directory, names: list[bytes], inode: Inode, path: str) -> Directory:
    """A layer over ``tree`` that brings ``inode`` to the path ``names`` and leaves the directories above as they are.

    Like what is restored to a directory, a directory is filled: what else is in it stays.
    """
    above: list[Directory] = [tree]
    for name in names[:-1]:
        below = above[-1].children.get(name)
        if not isinstance(below, Directory):
            raise NotFoundError(
                f"the worktree has no directory to put {path} into", hint="restore the directory itself first"
            )
        above.append(below)
    layer = inode
    for directory, name in zip(reversed(above), reversed(names), strict=bool(names)):
        layer = directory.with_children({name: layer})
    assert isinstance(layer, Directory)
    return layer
