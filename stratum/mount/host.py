"""Mounts on the host: make one and put it on record, take one down and clear its record."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from stratum.errors import BusyError, ConflictError, NotFoundError, StratumError, os_error_text
from stratum.frozen import replace
from stratum.mount import build
from stratum.mount.plan import MountPlan
from stratum.mount.record import find_mount
from stratum.mount.state import Record, State, store_key, who_has_a_copy
from stratum.store.holders import HOST, Holder
from stratum.sys import mountinfo
from stratum.sys.mountinfo import MountEntry
from stratum.sys.namespaces import is_own_mount_namespace

COPIES_WAIT = 1.0
"""Seconds that ``unmount`` waits for copies of the mount, which starting containers have for a moment."""
_COPIES_PAUSE = 0.02


def mount_recorded(
    state: State,
    plan: MountPlan,
    *,
    store: Path,
    ref: str,
    commit: str,
    at: Path | None,
    holder: Holder = HOST,
    make: bool = False,
    visible: bool = False,
) -> Record:
    """Claim, mount ``plan`` at the directory ``at``, confirm. A missing ``at`` is made where ``make`` says so.

    Without ``at`` a mountpoint is made in the runtime directory, and removed again by ``unmount``. Raises ``BusyError``
    naming the holder of a worktree, and what ``build_detached`` and ``attach`` raise; nothing is mounted or recorded
    then. ``visible`` has it made where all programs of an ordinary user see it (``mount.visible``).
    """
    with made_mountpoint(at if make else None):
        place = canonical_mountpoint(at) if at is not None else ephemeral_mountpoint(state, store, ref)
        check_hides_nothing(place, store, state.runtime_dir)
        record = state.claim(
            store=store,
            ref=ref,
            commit=commit,
            mountpoint=place,
            read_only=not plan.writable,
            holder=holder,
            gate=plan.gate is not None,
            attended=visible or None,
        )
        process = None
        try:
            if at is None:
                _make_ephemeral(state, place)
            if visible:
                from stratum.mount import visible as outside

                mount_id, process = outside.mount(record, plan, state.runtime_dir)
            else:
                # A path that was asked for is canonical by now; whoever can write above it must not lead it elsewhere.
                mount_id = build.mount(replace(plan, source=record.source), place, follow=at is None)
        except BaseException:
            if at is None:
                _remove_ephemeral(state, place)
            # Interrupted just after it was attached, the mount is there and stays on record.
            if find_mount(record) is None:
                state.release(record)
            raise
        return state.confirm(record, mount_id, process=process)


_ELSEWHERE = "name a directory elsewhere, or none: 'stratum mount REF' makes one"


@contextlib.contextmanager
def made_mountpoint(path: Path | None) -> Iterator[None]:
    """Make the directory ``path`` where just that is missing; it goes again where the block fails."""
    made = False
    if path is not None and _is_missing(path):
        try:
            path.mkdir()
        except FileNotFoundError as exc:
            import shlex

            if path.parent.exists():  # of a file system that takes no directories, such as proc
                raise StratumError(
                    f"cannot make the mountpoint {path}: {os_error_text(exc)}", hint=_ELSEWHERE
                ) from None
            raise NotFoundError(
                f"{path.parent} does not exist", hint=f"make it first: mkdir -p {shlex.quote(str(path.parent))}"
            ) from None
        except OSError as exc:
            raise StratumError(f"cannot make the mountpoint {path}: {os_error_text(exc)}", hint=_ELSEWHERE) from None
        made = True
    try:
        yield
    except BaseException:
        if made and path is not None:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as exc:
        return exc.errno != errno.ENOTCONN  # a mount whose server is gone
    return False


def unmount(
    state: State, target: Path | Record, *, lazy: bool = False, warn: Callable[[str], None] = lambda text: None
) -> Record:
    """Unmount a recorded mount, given by its mountpoint or record; returns the record as it was.

    Raises ``NotFoundError`` for what Stratum did not mount, ``BusyError`` naming the processes in the way or the
    container or process that has it, ``ConflictError`` where something else was mounted over it. ``lazy`` takes it away
    from under the processes that use it; they keep what they have open, and the worktree counts as free although they
    may still write to it. ``warn`` is told where a process has a copy in a mount namespace of its own: the record stays
    until that is gone.
    """
    record = target if isinstance(target, Record) else state.find_mountpoint(target)
    if record is None:
        raise NotFoundError(f"{target} is not a mount of Stratum", hint="'stratum status' lists the mounts there are")
    if record.in_container:
        raise BusyError(
            f"{record.ref} is mounted at {record.mountpoint} in {record.held_by()}",
            hint=record.holder.how_to_release(record.mountpoint),
        )
    mountpoint = Path(record.mountpoint)
    if record.attended:
        from stratum.mount import visible

        visible.unmount(record, state.runtime_dir, lazy=lazy)
    else:
        _check_on_top(record, mountinfo.topmost(mountpoint))
        # A switch that was cut short leaves the old mount above the new one; both are this record's.
        while record.is_mount(mountinfo.topmost(mountpoint)):
            build.unmount(mountpoint, lazy=lazy)
    if mountpoint.parent == state.ephemeral_dir:
        _remove_ephemeral(state, mountpoint)
    deadline = time.monotonic() + COPIES_WAIT
    while (found := find_mount(record)) is not None and time.monotonic() < deadline:
        if is_own_mount_namespace(found[0]):
            break
        time.sleep(_COPIES_PAUSE)
    if found is None:
        state.release(record)
    elif keeper := who_has_a_copy(record):
        warn(f"{keeper} still has {record.ref} in a mount namespace of its own, and keeps it in use until it ends")
    return record


def canonical_mountpoint(path: Path) -> Path:
    """``path`` absolute and without symlinks, but for one as the last component: mounting there is an error."""
    absolute = Path(os.path.abspath(path))
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def check_hides_nothing(place: Path, store: Path, runtime_dir: Path) -> None:
    """Refuse to mount over what commands are made of, as none could take such a mount away: ``ConflictError``."""
    for what, needed in (
        ("the store", store),
        ("the runtime directory", runtime_dir),
        ("Stratum", Path(__file__)),
        ("Python", Path(os.__file__)),
    ):
        if Path(os.path.realpath(needed)).is_relative_to(place):
            raise ConflictError(
                f"{place} cannot be a mountpoint: {what} is in it ({needed}), and the mount would hide that",
                hint=_ELSEWHERE,
            )


def ephemeral_mountpoint(state: State, store: Path, ref: str) -> Path:
    """Where a mount without a mountpoint goes: ``mnt/REF``, or ``mnt/REF@STORE`` where another store's REF has that."""
    place = state.ephemeral_dir / ref
    record = state.find_mountpoint(place)
    key = store_key(store)
    if record is None or record.store_key == key:
        return place
    from stratum.hashes import sha256

    return state.ephemeral_dir / f"{ref}@{sha256(key.encode()).hexdigest()[:8]}"


def _make_ephemeral(state: State, place: Path) -> None:
    try:
        state.ephemeral_dir.mkdir(mode=0o700, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise StratumError(f"cannot make the mountpoint {place}: {os_error_text(exc)}") from None


def _remove_ephemeral(state: State, place: Path) -> None:
    """Remove the empty directories; one that is in use or was filled by somebody stays."""
    with contextlib.suppress(OSError):
        place.rmdir()
        state.ephemeral_dir.rmdir()


def _check_on_top(record: Record, entry: MountEntry | None) -> None:
    if entry is None:
        by = who_has_a_copy(record) or "a process that cannot be seen from here"
        raise BusyError(
            f"{record.ref} is mounted no more at {record.mountpoint}, but {by} has it in a mount namespace of its own",
            hint="it is free when that process, and what it started, has ended",
        )
    if not record.is_mount(entry):
        raise ConflictError(
            f"{entry.source} ({entry.fstype}) was mounted over {record.ref} at {record.mountpoint}",
            hint=f"unmount that first: umount {record.mountpoint}",
        )
