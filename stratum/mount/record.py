"""One mount on record: what, where, for whom, and whether it is still there.

A mount is known by the **source** that it was made with, ``stratum-<record id>:<ref>``: every copy of it in any mount
namespace shows that in ``/proc/PID/mountinfo``, and an ID is never used twice. So a record is live

- while the mount is seen in some mount namespace (the host's, the container's, or that of anyone who got a copy of it:
  an upperdir is in use as long as any of them is), or
- while the mount is still being made, by a process that is identified by ID and start time, or
- while nobody here can tell: the holder is in a PID namespace whose processes ``/proc`` does not show.

Neither a recycled process ID nor a recycled mount number makes a stale record look live.

A record ID is 16 characters: 16 hex digits where the store has no ID (``store.layout.store_id``), else its **mark**,
``s`` and five hex digits made of that, and ten letters or digits. By the mark whoever has no record of a mount sees
that it is another store's; a copy of a store has the same.

A source is text that everybody can read, and give to an overlay in a user namespace of their own; and everybody gets
copies of all mounts with a mount namespace of their own. Neither may keep a worktree from root, so a mount counts

- in mount namespaces that belong to our own user namespace, and in the container's,
- in those of other user namespaces where root (or this user) made these, as engines do for containers, if it has the
  device of the recorded mount,
- likewise in those of a user's own processes that this process cannot ask: of a user namespace beside its own, say,
- in no other: whoever made those reaches through their copy only what they could reach by the path, and what they write
  there once it is unmounted is not kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stratum.frozen import as_dict, frozen
from stratum.refs import Ref
from stratum.store.holders import Container, Holder, Host, holder_of, written
from stratum.sys import mountinfo, proc, userns
from stratum.sys.mountinfo import MountEntry
from stratum.sys.namespaces import (
    hides_mount_namespace,
    is_mount_namespace_made_by_us,
    is_mount_namespace_of_ours,
)
from stratum.sys.proc import Process
from stratum.sys.syscalls import mountinfo_id, statx_mount_id

PREFIX = "stratum-"
SOURCE_MAX = 200
"""The kernel takes parameters of up to 255 bytes."""
FUSE_KIND = "stratum"
"""A FUSE filesystem of ours is shown as ``fuse.KIND``."""

_UNIQUE_IDS_FROM = 1 << 31

_MARKED = "s"
"""No hex digit."""
_MARK_SIZE = 6
_ID_SIZE = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"

ON_HOST, CONTAINER, SESSION = "host", "container", "session"


@frozen
class Record:
    """One mount.

    ``store`` is the store's path and ``store_key`` what tells stores apart; ``ref`` is NAME+WORKTREE, NAME:TAG or a
    commit; ``mountpoint`` is an absolute path as ``holder`` sees it, for whom it is mounted. ``process`` is a
    container's first process, else the one that made the mount. ``mount_id`` is None until the mount is attached, and
    unique until reboot where the kernel has such IDs; ``device`` is its filesystem's "major:minor". ``since`` is RFC
    3339 UTC. ``gate`` is whether what is not here of the commit is fetched when it is read; None where nobody noted it,
    as for mounts of versions that had no gate. ``namespace`` is where it can be seen: on the ``host``, in a
    ``container``, or in a user's ``session`` namespace; None where nobody noted it.
    ``attended`` is whether it is one of ``mount.visible``, and ``process`` its attendant.
    """

    id: str
    store: str
    store_key: str
    ref: str
    commit: str
    mountpoint: str
    holder: Holder
    process: Process
    mount_id: int | None
    read_only: bool
    since: str
    device: str | None = None
    gate: bool | None = None
    namespace: str | None = None
    attended: bool | None = None

    @property
    def source(self) -> str:
        """The source to make the mount with; it is what identifies the mount."""
        return f"{self._source_prefix}{self.ref}"[:SOURCE_MAX]

    @property
    def _source_prefix(self) -> str:
        return f"{PREFIX}{self.id}:"

    @property
    def is_worktree(self) -> bool:
        """Whether a worktree is mounted, which has one holder at a time."""
        return "+" in self.ref

    @property
    def in_container(self) -> bool:
        """Whether it is in a container's mount namespace, and not to be found by its path on the host."""
        return isinstance(self.holder, Container)

    @property
    def in_session(self) -> bool:
        """Whether it is in a user's own mount namespace, and not to be seen outside of that."""
        return self.namespace == SESSION

    def held_by(self) -> str:
        """Who has it, in words for a message."""
        if self.in_session:
            who = "" if isinstance(self.holder, Host) else f"{self.holder.words()} in "
            return f"{who}this user's session"
        return self.holder.words() + (f" (process {self.process.pid})" if self.in_container else "")

    def is_mount(self, entry: MountEntry | None) -> bool:
        """Whether ``entry`` is this mount, or a copy of it."""
        if entry is None or not entry.source.startswith(self._source_prefix):
            return False
        if self.attended:  # anybody may make a filesystem of this source and kind, where all see it; but not there
            there = entry.mountpoint == self.mountpoint and self.device in (None, entry.device)
            return there and entry.fstype == f"fuse.{FUSE_KIND}"
        return entry.fstype == "overlay"

    def is_copy(self, pid: int, entry: MountEntry) -> bool:
        """As ``is_mount``, for an ``entry`` in the mount namespace of ``pid``, where a stranger may have made it."""
        if not self.is_mount(entry):
            return False
        if self.attended:  # it is outside, in a namespace of root's; nobody writes there
            return True
        if is_mount_namespace_of_ours(pid):
            return True
        return entry.device == self.device and (is_mount_namespace_made_by_us(pid) or _is_hidden_but_own(pid))

    def is_worktree_of(self, store_key: str, name: str, worktree: str) -> bool:
        """Whether this is a mount of that worktree of that store."""
        return self.store_key == store_key and self.ref == str(Ref(name, worktree=worktree))

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types, as it is stored and as commands print it."""
        table, process = as_dict(self), self.process
        del table["process"]
        numbers = {"pid": process.pid, "start_time": process.start_time}
        where = {"boot": process.boot, "pid_namespace": process.pid_namespace}
        return {**table, "holder": {**written(self.holder), **numbers}, **where}


def record_from_json(table: object) -> Record:
    """The record in a parsed JSON value; ``ValueError`` where it is not one."""
    fields = _checked(table, _RECORD_FIELDS, "a record")
    holder = _checked(fields.pop("holder"), _HOLDER_FIELDS, "a holder")
    if not fields["mountpoint"].startswith("/"):
        raise ValueError("a mountpoint is not an absolute path")
    process = Process(holder["pid"], holder["start_time"], fields.pop("pid_namespace"), fields.pop("boot"))
    return Record(**fields, holder=holder_of(holder["kind"], holder["id"]), process=process)


_HOLDER_FIELDS: Mapping[str, tuple[type, ...]] = {"kind": (str,), "id": (str,), "pid": (int,), "start_time": (int,)}
_RECORD_FIELDS: Mapping[str, tuple[type, ...]] = {
    "id": (str,),
    "store": (str,),
    "store_key": (str,),
    "ref": (str,),
    "commit": (str,),
    "mountpoint": (str,),
    "holder": (dict,),
    "mount_id": (int, type(None)),
    "read_only": (bool,),
    "since": (str,),
    "device": (str, type(None)),
    "gate": (bool, type(None)),
    "namespace": (str, type(None)),
    "attended": (bool, type(None)),
    "boot": (str, type(None)),
    "pid_namespace": (str, type(None)),
}


def _checked(table: object, fields: Mapping[str, tuple[type, ...]], what: str) -> dict[str, Any]:
    """``table`` with exactly the known fields, each of its type. Fields of later versions are left out; those that
    earlier versions did not write are None."""
    if not isinstance(table, dict):
        raise ValueError(f"{what} is not an object")
    for key, kinds in fields.items():
        value = table.get(key)
        if type(value) not in kinds:
            raise ValueError(f"{what} has no valid {key!r}")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{what} has a NUL in {key!r}")
    return {key: table.get(key) for key in fields}


def store_mark(store: Path) -> str:
    """What record IDs of mounts of the store at ``store`` begin with; "" where it has no ID."""
    from stratum.hashes import sha256
    from stratum.store.layout import store_id

    identity = store_id(store)
    return "" if identity is None else _MARKED + sha256(identity).hexdigest()[: _MARK_SIZE - 1]


def new_id(store: Path) -> str:
    """A record ID for a mount of the store at ``store``."""
    mark = store_mark(store)
    return mark + "".join(_LETTERS[byte & 31] for byte in os.urandom(10)) if mark else os.urandom(8).hex()


def is_of_another_store(entry: MountEntry, mark: str) -> bool:
    """Whether the source of ``entry``, one of ``mounts_of``, says that it is of another store than the one of that
    ``store_mark``; False where one of them does not tell."""
    theirs = entry.source.removeprefix(PREFIX)[:_MARK_SIZE]
    return bool(mark) and theirs.startswith(_MARKED) and theirs != mark


def find_mount(record: Record) -> tuple[int, MountEntry] | None:
    """A mount namespace that shows the record's mount: (a process in it, the entry there); None where there is none.

    Looked for where it was put first, then in every other mount namespace.
    """
    first: list[int | str] = ["self"]
    process = record.process
    elsewhere = record.in_container or record.attended
    if elsewhere and process.is_numbered_here and proc.alive(process.pid, process.start_time):
        first.insert(0, process.pid)
    if record.attended:
        first.append(1)  # which sees what the machine has mounted, whoever asks
    for pid in first:
        for entry in reversed(mountinfo.read(pid, record.id)):
            if record.is_mount(entry):
                return (proc.own_pid() if pid == "self" else int(pid)), entry
    return next(((pid, entry) for pid, entry in mountinfo.everywhere(record.id) if record.is_copy(pid, entry)), None)


def takes_writes(record: Record) -> bool:
    """Whether the record's mount is seen where it was put, and nothing that is seen of it there refuses writes."""
    seen = mountinfo.read(record.process.pid if record.in_container else "self", record.id)
    options = [entry.options.split(",") for entry in seen if record.is_mount(entry)]
    return bool(options) and not any("ro" in words for words in options)


def mounts_of(ref: str = "") -> Iterator[tuple[int, MountEntry]]:
    """The mounts of ``ref``, of every store's (of everything where it is empty), on record or not: (a process that sees
    it, the entry).

    Only those in mount namespaces of this user's: in others, anybody may have made one of that source. Of a user who is
    not root these are those of all their sessions.
    """
    for pid, entry in mountinfo.everywhere(f":{source_ref(ref)}" if ref else PREFIX):
        ours = entry.fstype == "overlay" and entry.source.startswith(PREFIX) and (not ref or shows_ref(entry, ref))
        if ours and (is_mount_namespace_of_ours(pid) or _is_in_own_session(pid)):
            yield pid, entry


def mount_at(path: str) -> tuple[str, str] | None:
    """(record ID, ref) by the source of the mount that ``path`` is on; None where that is none of Stratum's, or the
    path is not there. The ref may be cut off (``SOURCE_MAX``), and anybody who may mount may have written it."""
    try:
        number = mountinfo_id(path, follow=True)
    except OSError:
        return None
    entry = next((entry for entry in mountinfo.read(containing=PREFIX) if entry.id == number), None)
    if entry is None or entry.fstype != "overlay" or not entry.source.startswith(PREFIX):
        return None
    found, _, ref = entry.source.removeprefix(PREFIX).partition(":")
    return found, ref


def _is_in_own_session(pid: int) -> bool:
    """Whether ``pid`` is in a user namespace of this user, who is not root, that this process is outside of."""
    return _is_hidden_but_own(pid) or (
        userns.in_initial_namespace() and not userns.is_privileged() and is_mount_namespace_made_by_us(pid)
    )


def _is_hidden_but_own(pid: int) -> bool:
    """Whether ``pid`` is this user's, in a namespace that this process is not told: one beside its own, or above."""
    return not userns.is_privileged() and userns.is_own_process(pid) and hides_mount_namespace(pid)


def is_source(source: str) -> bool:
    """Whether the source of a mount is as a record's, and not just begins like that."""
    return source.startswith(PREFIX) and source[len(PREFIX) :].find(":") == _ID_SIZE


def shows_ref(entry: MountEntry, ref: str) -> bool:
    """Whether the source of ``entry``, one of ``mounts_of``, names ``ref``."""
    return entry.source.partition(":")[2] == source_ref(ref)


def source_ref(ref: str) -> str:
    """As much of ``ref`` as a source has room for."""
    return ref[: SOURCE_MAX - len(PREFIX) - 17]


def is_live(record: Record) -> bool:
    """Whether the record's mount exists, or is being made by a process that still runs, as far as can be told here."""
    if record.process.boot not in (None, proc.boot_id()):
        return False
    if record.mount_id is None:
        return record.process.fate() is not False or find_mount(record) is not None
    if _shows_at_mountpoint(record) or find_mount(record) is not None:
        return True
    return not proc.sees_processes_of(record.process.pid_namespace)


def _shows_at_mountpoint(record: Record) -> bool:
    """The usual case, without reading mountinfo. Mount IDs that come back later (before Linux 6.8) do not count."""
    if record.mount_id is None or record.mount_id < _UNIQUE_IDS_FROM or record.in_container:
        return False
    try:
        return statx_mount_id(Path(record.mountpoint)) == record.mount_id
    except OSError:
        return False
