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
- Stale records among those that somebody asks for are dropped then; whether a mount is still there is asked of no
  others, so that a mount costs the same beside a thousand. Nothing is ever unmounted for that. A record of another boot
  is stale; one of a PID namespace that the reader cannot look into is never dropped by that reader.
- The lock order is: the store's locks first, this one last.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stratum.errors import BusyError, DamagedError, NotFoundError, StratumError, os_error_text
from stratum.frozen import replace
from stratum.mount.record import (
    CONTAINER,
    ON_HOST,
    PREFIX,
    SESSION,
    Record,
    find_mount,
    is_live,
    new_id,
    record_from_json,
)
from stratum.refs import Ref
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
"""Twenty thousand mounts."""
LOCK_TIMEOUT = 10.0
_FOUND_BY = ("id", "store_key", "ref", "mountpoint")

Entry = dict[str, Any]
"""A record as it is in the file. Made a ``Record``, and checked, only where somebody asks for it."""
Entries = list[Entry]


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
        return self._live(lambda entry: True)

    def find_worktree(self, store: Path, name: str, worktree: str) -> Record | None:
        """The mount of a worktree, if there is one."""
        return next(iter(self.find_ref(store, str(Ref(name, worktree=worktree)))), None)

    def of_store(self, store: Path) -> list[Record]:
        """The mounts of everything in ``store``."""
        key = store_key(store)
        return self._live(lambda entry: entry["store_key"] == key)

    def find_ref(self, store: Path, ref: str) -> list[Record]:
        """The mounts of ``ref``, written as it was mounted."""
        key = store_key(store)
        return self._live(lambda entry: entry["ref"] == ref and entry["store_key"] == key)

    def of_holder(self, holder: Holder) -> list[Record]:
        """The mounts that ``holder`` has."""
        return self._live(lambda entry: True, lambda record: record.holder == holder)

    def find_source(self, source: str) -> Record | None:
        """The record that a mount of this source is of, or a copy."""
        return next(iter(self._live(lambda entry: source.startswith(f"{PREFIX}{entry['id']}:"))), None)

    def find_mountpoint(self, path: Path, *, inside: bool = False) -> Record | None:
        """The mount at ``path``, as the host sees it; with ``inside`` also one that ``path`` is below of.

        Symlinks in ``path`` are followed. Mounts in containers are not found by path.
        """
        resolved = os.path.realpath(path)

        def shown(entry: Entry) -> bool:
            place: str = entry["mountpoint"]
            return place == resolved or (inside and resolved.startswith(place.rstrip("/") + "/"))

        found = None
        for record in self._live(shown, lambda record: not record.in_container):
            if found is None or len(record.mountpoint) >= len(found.mountpoint):
                found = record
        return found

    def peek(self, record_id: str) -> Record | None:
        """The record of this ID as it is noted, without a lock and whether its mount is there or not; for who has seen
        that. None where there is none, or it cannot be read."""
        try:
            return next((self._record(entry) for entry in self._load() if entry["id"] == record_id), None)
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

        def add(entries: Entries) -> Entries:
            kept = []
            for entry in entries:
                near = entry["mountpoint"] == record.mountpoint or (entry["ref"] == ref and record.is_worktree)
                if near and (replacing is None or entry["id"] != replacing.id):
                    other = self._record(entry)
                    if _is_in_the_way(record, other):
                        if not is_live(other):
                            continue
                        _check_free(record, other)
                kept.append(entry)
            return [*kept, record.to_json()]

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
        self._change(lambda entries: [*(other for other in entries if other["id"] != record.id), confirmed.to_json()])
        return confirmed

    def release(self, record: Record) -> None:
        """Drop a record whose mount is gone or was never made; does nothing where it is gone already."""
        if os.path.lexists(self.path):
            self._change(lambda entries: [other for other in entries if other["id"] != record.id])

    def _live(
        self, near: Callable[[Entry], bool], wanted: Callable[[Record], bool] = lambda record: True
    ) -> list[Record]:
        """The live records that are ``wanted``, of the entries that are ``near``; of those the stale ones are
        dropped."""
        if not os.path.lexists(self.path):
            return []
        found: list[Record] = []

        def look(entries: Entries) -> Entries:
            kept = []
            for entry in entries:
                record = self._record(entry) if near(entry) else None
                if record is not None and wanted(record):
                    if not is_live(record):
                        continue
                    found.append(record)
                kept.append(entry)
            return kept

        self._change(look)
        return found

    def _change(self, change: Callable[[Entries], Entries]) -> None:
        """Read, apply ``change`` and write what differs, under the lock."""
        self.make_runtime_dir()
        with self._lock():
            stored = self._load()
            changed = change(stored)
            if changed != stored:
                self._save(changed)

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

    def _load(self) -> Entries:
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

    def _record(self, entry: Entry) -> Record:
        try:
            return record_from_json(entry)
        except ValueError as exc:
            raise self._damaged(str(exc)) from None

    def _save(self, entries: Entries) -> None:
        # ASCII with escapes: names that are no UTF-8 survive as lone surrogates. Without indentation, as with it the
        # encoder in C is not used.
        lines = ",\n".join(map(json.dumps, entries))
        text = f'{{"format": {FORMAT}, "mounts": [\n{lines}\n]}}\n'
        try:
            write_atomic(self.path, text.encode("ascii"), 0o600, durable=False)
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


def _parse(data: bytes) -> Entries:
    """The entries, of which it is known that they have what they are found by."""
    table = json.loads(data)
    if not isinstance(table, dict) or table.get("format") != FORMAT or not isinstance(table.get("mounts"), list):
        raise ValueError(f"it is not a mount state of format {FORMAT}")
    for entry in table["mounts"]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in _FOUND_BY):
            raise ValueError(f"a record has not all of {', '.join(_FOUND_BY)}")
    mounts: Entries = table["mounts"]
    return mounts


def _is_in_the_way(wanted: Record, other: Record) -> bool:
    """Whether no two such mounts may be."""
    if wanted.is_worktree and other.store_key == wanted.store_key and other.ref == wanted.ref:
        return True
    return not other.in_container and not wanted.in_container and other.mountpoint == wanted.mountpoint


def _check_free(wanted: Record, other: Record) -> None:
    """Raise ``BusyError`` where ``other``, which ``_is_in_the_way`` of ``wanted``, is not just a copy."""
    if wanted.is_worktree and other.store_key == wanted.store_key and other.ref == wanted.ref:
        raise taken(other)
    if who_has_a_copy(other) is None:
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
