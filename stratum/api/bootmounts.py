"""Mounts that outlive a reboot: keeping them on record in the store, and bringing them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stratum.api.mounting import mount, unmount
from stratum.api.session import Session
from stratum.errors import ConflictError, DamagedError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.frozen import frozen
from stratum.refs import DEFAULT_WORKTREE, Ref, is_hash, is_name, parse_ref
from stratum.store.holders import Host

if TYPE_CHECKING:
    from stratum.mount.state import Record
    from stratum.store.bootmounts import BootMount


def mount_kept(
    session: Session, text: str, mountpoint: str | None, *, read_only: bool = False, keep: bool = True
) -> Record:
    """Mount as ``mounting.mount`` does, and have that done again at every start; without ``keep``, not any more.

    Where it is mounted just so already, only the record is made or dropped. Where the record cannot be made, the mount
    that was made for it is taken away again. Raises ``UsageError`` without a mountpoint, and what ``mount`` and
    ``BootMounts.set`` raise.
    """
    from stratum.mount.host import canonical_mountpoint

    if mountpoint is None:
        raise UsageError("a mount that outlives a reboot needs a MOUNTPOINT", hint="write: mount --persist REF DIR")
    place = canonical_mountpoint(Path(mountpoint))
    boot_mounts = session.store.boot_mounts
    if keep:
        boot_mounts.check(full_ref(session, text), place)
    record = mounted_there(session, text, place, read_only=read_only)
    made = record is None
    if record is None:
        record = mount(session, text, mountpoint, read_only=read_only)
    if not keep:
        forget(session, lambda kept: (kept.mountpoint, kept.ref) == (str(place), record.ref))
        return record
    try:
        # A tag or commit is read-only by itself.
        boot_mounts.set(record.ref, place, read_only=read_only)
    except BaseException:
        if made:
            with suppress(StratumError):  # the first error is the one to tell
                unmount(session, record.mountpoint, lazy=True)
        raise
    return record


def mounted_there(session: Session, text: str, place: Path, *, read_only: bool = False) -> Record | None:
    """The mount of ``text`` on the host at ``place``, with that access, if there is one."""
    from stratum.mount.state import store_key

    record = session.state.find_mountpoint(place)
    if record is None or not isinstance(record.holder, Host) or record.store_key != store_key(session.store.root):
        return None
    if record.ref != full_ref(session, text) or record.read_only != (read_only or not record.is_worktree):
        return None
    return record


def full_ref(session: Session, text: str) -> str:
    """A ref as a mount of it is recorded: NAME alone is NAME+main."""
    ref = parse_ref(text)
    if ref.bare and session.store.namespaces.exists_name(ref.name):
        return str(Ref(ref.name, worktree=DEFAULT_WORKTREE))
    return text if ref.live else str(session.store.resolve(ref))


@frozen
class Brought:
    """One mount that is wanted at every start: it was ``mounted`` now, was ``there`` already, or ``failed``.

    Of a damaged record ``ref`` and ``mountpoint`` are empty.
    """

    ref: str
    mountpoint: str
    read_only: bool
    state: Literal["mounted", "there", "failed"]
    error: StratumError | None = None


def mount_all(session: Session) -> Iterator[Brought]:
    """Bring back every mount that is on record, parents before what is mounted below them.

    Those that are there already are left alone; one that fails does not stop the others. No mountpoint is made: one
    that is missing may be on a disk that is not there.
    """
    records, damaged = session.store.boot_mounts.scan()
    for error in damaged.values():
        yield Brought("", "", False, "failed", error)
    for record in records:
        state: Literal["mounted", "there", "failed"] = "mounted"
        problem = None
        try:
            if mounted_there(session, record.ref, Path(record.mountpoint), read_only=record.read_only) is not None:
                state = "there"
            else:
                _check_place(Path(record.mountpoint))
                mount(session, record.ref, record.mountpoint, read_only=record.read_only, make=False)
        except StratumError as exc:
            state, problem = "failed", exc
        except OSError as exc:
            state, problem = "failed", StratumError(os_error_text(exc))
        yield Brought(record.ref, record.mountpoint, record.read_only, state, problem)


def _check_place(place: Path) -> None:
    """Refuse a place that is another directory than when it was put on record: somebody may have changed the path."""
    from stratum.mount.host import canonical_mountpoint

    if canonical_mountpoint(place) != place:
        raise ConflictError(f"{place} leads through a symbolic link, which it did not when it was put on record")


def unmount_and_forget(
    session: Session, text: str, *, warn: Callable[[str], None] = lambda text: None
) -> tuple[list[Record], list[str]]:
    """Unmount as ``unmount`` does, where it is mounted, and drop what brings it back: (the mounts, the mountpoints).

    Raises ``NotFoundError`` where there is neither.
    """
    path = means_boot_mount(session, text)
    if path is not None:
        mounted = session.state.find_mountpoint(Path(path)) is not None
        done = unmount(session, path, warn=warn) if mounted else []
        forgotten = [path] if session.store.boot_mounts.forget(path) else []
    else:
        try:
            done = unmount(session, text, warn=warn)
        except NotFoundError:
            done = []
        forgotten = forget(session, _same_ref(session, text))
    if not done and not forgotten:
        raise NotFoundError(
            f"{text} is neither mounted nor to be mounted at every start", hint="'stratum status' lists what is"
        )
    return done, forgotten


def means_boot_mount(session: Session, text: str) -> str | None:
    """The mountpoint that an argument means where it is a path, as records have it; None for a ref."""
    from stratum.api.naming import means_path
    from stratum.mount.host import canonical_mountpoint

    place = str(canonical_mountpoint(Path(text)))
    if not means_path(session, text):
        store = session.store
        kept = [] if is_name(text) and store.namespaces.exists(text) else store.boot_mounts.scan()[0]
        if all(record.mountpoint != place for record in kept):
            return None
    record = session.state.find_mountpoint(Path(text))
    return record.mountpoint if record is not None else place


def _same_ref(session: Session, text: str) -> Callable[[BootMount], bool]:
    ref = parse_ref(text)
    # Not resolved: what is to be forgotten may be gone.
    wanted = str(Ref(ref.name, worktree=DEFAULT_WORKTREE)) if ref.bare and not is_hash(ref.name) else text
    return lambda record: record.ref == wanted


def forget_removed(session: Session, ref: Ref) -> list[str]:
    """Drop the records of a worktree or tag, or of all that is in a stratum (a bare ``ref``), which were just removed.

    Returns their mountpoints. A removal that was interrupted before leaves records that ``mount_all`` tells of.
    """
    if ref.bare:
        return forget(session, lambda record: record.parsed().name == ref.name and not record.parsed().bare)
    return forget(session, lambda record: record.ref == str(ref))


def rename(session: Session, old: str, new: str) -> None:
    """Have the places of the tag ``old`` show the tag ``new``, which it was renamed to."""
    for record in session.store.boot_mounts.scan()[0]:
        if record.ref == old:
            place = Path(record.mountpoint)
            session.store.boot_mounts.set(new, place, read_only=record.read_only, replacing=old)


def forget(session: Session, which: Callable[[BootMount], bool]) -> list[str]:
    """Drop the records that ``which`` holds for; their mountpoints. Damaged ones are left to ``fsck``."""
    boot_mounts = session.store.boot_mounts
    return [r.mountpoint for r in boot_mounts.scan()[0] if which(r) and boot_mounts.forget(r.mountpoint)]


def damaged_records(session: Session) -> list[DamagedError]:
    """What is wrong with records that cannot be read."""
    if session.no_store_yet:
        return []
    return list(session.store.boot_mounts.scan()[1].values())


def at_boot(session: Session) -> dict[str, list[str]]:
    """Ref -> the mountpoints where it is mounted at every start, of the records that can be read."""
    found: dict[str, list[str]] = {}
    for record in session.store.boot_mounts.scan()[0]:
        found.setdefault(record.ref, []).append(record.mountpoint)
    return found


def is_kept(session: Session, mountpoint: str, ref: str | None = None) -> bool:
    """Whether a mountpoint, as a mount's record has it, is on record (for ``ref``, where given)."""
    return any(
        record.mountpoint == mountpoint and ref in (None, record.ref) for record in session.store.boot_mounts.scan()[0]
    )
