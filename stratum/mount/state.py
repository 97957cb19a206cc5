"""The record of what Stratum has mounted, for as long as the machine runs.

::

    <runtime directory>/    0700, owned by the user whose mounts these are (``/run/stratum`` for root)
    |-- state               JSON: {"format": 1, "mounts": [record, ...]}; see ``record.Record``
    |-- state.lock          flock, exclusive, for every reading and writing of ``state``
    `-- mnt/                mountpoints of mounts that were asked for without one

Rules:

- ``state`` is replaced by a rename, never written in place; it needs no sync, as a reboot voids it together with the
  mounts. The lock is held for one read-change-write only, never while something is mounted.
- A mount is **claimed** before it is made and **confirmed** when it is attached. A claim and the check that nobody
  else has the worktree are one step under the lock, so of two that race one wins. Whoever dies in between leaves a
  record that is live only if the mount was attached after all.
- Stale records are dropped whenever the state is read. Nothing is ever unmounted for that. A record of another boot is
  stale; one of a PID namespace that the reader cannot look into is never dropped by that reader.
- The lock order is: the store's locks first, this one last.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from stratum.errors import BusyError, DamagedError, NotFoundError, StratumError, os_error_text
from stratum.frozen import replace
from stratum.mount.record import (
    CONTAINER,
    ON_HOST,
    SESSION,
    Record,
    find_mount,
    is_live,
    new_id,
    record_from_json,
)
from stratum.store.holders import HOST, Container, Holder
from stratum.sys import proc, userns
from stratum.sys.atomic import write_atomic
from stratum.sys.locks import FileLock, locked
from stratum.sys.namespaces import is_own_mount_namespace
from stratum.sys.proc import Process
from stratum.sys.smallfile import read_regular

__all__ = ["Record", "State", "store_key"]

FORMAT = 1
MAX_STATE = 16 << 20
LOCK_TIMEOUT = 10.0


def store_key(store: Path) -> str:
    """What tells the store at ``store`` from others, by whatever path it is reached."""
    try:
        info = os.stat(store)
    except OSError as exc:
        raise NotFoundError(f"cannot find the store {store}: {os_error_text(exc)}") from None
    return f"{info.st_dev}:{info.st_ino}"


class State:
    """The mount records below ``runtime_dir``, which is made when the first record is written."""

    def __init__(self, runtime_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self.path = runtime_dir / "state"
        self.ephemeral_dir = runtime_dir / "mnt"

    def records(self) -> list[Record]:
        """All live records, oldest first; stale ones are dropped from the file.

        Raises ``DamagedError`` for a state that Stratum did not write, ``BusyError`` where it stays locked.
        """
        if not os.path.lexists(self.path):
            return []
        return self._change(lambda records: records)

    def find_worktree(self, store: Path, name: str, worktree: str) -> Record | None:
        """The mount of a worktree, if there is one."""
        key = store_key(store)
        return next((record for record in self.records() if record.is_worktree_of(key, name, worktree)), None)

    def of_store(self, store: Path) -> list[Record]:
        """The mounts of everything in ``store``."""
        key = store_key(store)
        return [record for record in self.records() if record.store_key == key]

    def find_ref(self, store: Path, ref: str) -> list[Record]:
        """The mounts of ``ref``, written as it was mounted."""
        return [record for record in self.of_store(store) if record.ref == ref]

    def find_mountpoint(self, path: Path, *, inside: bool = False) -> Record | None:
        """The mount at ``path``, as the host sees it; with ``inside`` also one that ``path`` is below of.

        Symlinks in ``path`` are followed. Mounts in containers are not found by path.
        """
        resolved = os.path.realpath(path)
        found = None
        for record in self.records():
            below = inside and resolved.startswith(record.mountpoint.rstrip("/") + "/")
            if record.in_container or not (record.mountpoint == resolved or below):
                continue
            if found is None or len(record.mountpoint) >= len(found.mountpoint):
                found = record
        return found

    def peek(self, record_id: str) -> Record | None:
        """The record of this ID as it is noted, without a lock and whether its mount is there or not; for who has seen
        that. None where there is none, or it cannot be read."""
        try:
            return next((record for record in self._load() if record.id == record_id), None)
        except DamagedError:
            return None

    def claim(
        self,
        *,
        store: Path,
        ref: str,
        commit: str,
        mountpoint: Path,
        read_only: bool,
        holder: Holder = HOST,
        process: Process | None = None,
        replacing: Record | None = None,
        gate: bool | None = None,
        namespace: str | None = None,
        attended: bool | None = None,
    ) -> Record:
        """Reserve a mount about to be made; the record's ``source`` is to be the plan's.

        ``holder`` is for whom, ``process`` the one that keeps the claim alive (default: this one). ``replacing`` is the
        mount that it is to take the place of, ``gate`` whether the plan has a gate, ``namespace`` where it is to be,
        if not in the container's, or this process's own, mount namespace. Raises ``BusyError`` where ``ref``
        is a worktree that somebody has, or where the mountpoint shows another mount of Stratum.
        """
        record = Record(
            id=new_id(store),
            store=str(store),
            store_key=store_key(store),
            ref=ref,
            commit=commit,
            mountpoint=str(mountpoint),
            holder=holder,
            process=process or proc.this_process(),
            mount_id=None,
            read_only=read_only,
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            gate=gate,
            namespace=namespace or _namespace(holder),
            attended=attended,
        )

        def add(records: list[Record]) -> list[Record]:
            for other in records:
                if replacing is None or other.id != replacing.id:
                    _check_free(record, other)
            return [*records, record]

        self._change(add)
        return record

    def confirm(
        self,
        record: Record,
        mount_id: int,
        *,
        process: Process | None = None,
        commit: str | None = None,
        gate: bool | None = None,
    ) -> Record:
        """Note that the claimed (or switched) mount is attached, of ``process``, showing ``commit`` and with or without
        ``gate`` if given."""
        confirmed = replace(
            record,
            mount_id=mount_id,
            process=process or record.process,
            commit=commit or record.commit,
            gate=record.gate if gate is None else gate,
        )
        found = find_mount(confirmed)
        confirmed = replace(confirmed, device=found[1].device if found is not None else None)
        self._change(lambda records: [*(other for other in records if other.id != record.id), confirmed])
        return confirmed

    def release(self, record: Record) -> None:
        """Drop a record whose mount is gone or was never made; does nothing where it is gone already."""
        if os.path.lexists(self.path):
            self._change(lambda records: records, without=record)

    def _change(self, change: Callable[[list[Record]], list[Record]], *, without: Record | None = None) -> list[Record]:
        """Read, drop what is stale and ``without``, apply ``change`` and write what differs, under the lock."""
        self.make_runtime_dir()
        with self._lock():
            stored = self._load()
            gone = None if without is None else without.id
            changed = change([record for record in stored if record.id != gone and is_live(record)])
            if changed != stored:
                self._save(changed)
        return changed

    def _lock(self) -> FileLock:
        return locked(self.runtime_dir / "state.lock", timeout=LOCK_TIMEOUT, what="the mount state")

    def make_runtime_dir(self) -> None:
        """Make the directory, or check that nobody else can have put things into it."""
        try:
            self.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = os.lstat(self.runtime_dir)
        except OSError as exc:
            raise StratumError(f"cannot make the runtime directory {self.runtime_dir}: {os_error_text(exc)}") from None
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            raise DamagedError(
                f"{self.runtime_dir} is not a directory of user {os.geteuid()}",
                hint="remove it, or choose another with STRATUM_RUNTIME_DIR",
            )
        if info.st_mode & 0o077:
            os.chmod(self.runtime_dir, 0o700)

    def _load(self) -> list[Record]:
        try:
            status, data = read_regular(self.path, MAX_STATE, follow=False)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise self._damaged(os_error_text(exc)) from None
        if status.st_uid != os.geteuid():
            raise self._damaged("it is not this user's file")
        try:
            return _parse(data)
        except (ValueError, RecursionError) as exc:
            raise self._damaged(str(exc)) from None

    def _save(self, records: Iterable[Record]) -> None:
        table = {"format": FORMAT, "mounts": [record.to_json() for record in records]}
        try:
            # ASCII with escapes: names that are no UTF-8 survive as lone surrogates.
            write_atomic(self.path, json.dumps(table, indent=1).encode("ascii"), 0o600, durable=False)
        except OSError as exc:
            raise StratumError(f"cannot write the mount state {self.path}: {os_error_text(exc)}") from None

    def _damaged(self, reason: str) -> DamagedError:
        return DamagedError(
            f"the mount state {self.path} is damaged: {reason}",
            hint="unmount what findmnt shows with a source of 'stratum-...' by hand, then remove that file",
        )


def _namespace(holder: Holder) -> str:
    """Where a mount for ``holder`` goes that this process makes (``Record.namespace``)."""
    if isinstance(holder, Container):
        return CONTAINER
    return ON_HOST if userns.in_initial_namespace() or userns.owns_system() else SESSION


def _parse(data: bytes) -> list[Record]:
    table = json.loads(data)
    if not isinstance(table, dict) or table.get("format") != FORMAT or not isinstance(table.get("mounts"), list):
        raise ValueError(f"it is not a mount state of format {FORMAT}")
    return [record_from_json(entry) for entry in table["mounts"]]


def _check_free(wanted: Record, other: Record) -> None:
    """Raise ``BusyError`` where ``other`` is in the way of ``wanted``."""
    if wanted.is_worktree and other.store_key == wanted.store_key and other.ref == wanted.ref:
        raise taken(other)
    same_place = not other.in_container and not wanted.in_container
    if same_place and other.mountpoint == wanted.mountpoint and who_has_a_copy(other) is None:
        raise BusyError(
            f"{other.mountpoint} already shows {other.ref}", hint=other.holder.how_to_release(other.mountpoint)
        )


def taken(record: Record) -> BusyError:
    """The refusal of a worktree that has a recorded mount."""
    keeper = who_has_a_copy(record)
    if keeper is not None:
        return BusyError(
            f"{record.ref} is mounted no more at {record.mountpoint}, but {keeper} has it in a mount namespace of its"
            " own",
            hint="it is free when that process, and what it started, has ended",
        )
    return BusyError(
        f"{record.ref} is mounted already, at {record.mountpoint}, by {record.held_by()}, since {record.since}",
        hint=record.holder.how_to_release(record.mountpoint),
    )


def who_has_a_copy(record: Record) -> str | None:
    """The process, in words, that keeps a recorded mount of the host alive where it is not mounted here any more: one
    with a copy in a mount namespace of its own. None where it is mounted here, or nobody is seen to have it."""
    if record.in_container or record.mount_id is None:
        return None
    found = find_mount(record)
    if found is None or is_own_mount_namespace(found[0]):
        return None
    return f"process {found[0]} ({proc.command_name(found[0])})"
