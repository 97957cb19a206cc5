"""What the driver keeps about the volumes and snapshots that it made, and about what it pulled: ``<store>/csi/``.

::

    <store>/csi/                0700
    |-- volumes/<key>.json      a provisioned or inline volume; <key> is the name of its worktree
    |-- snapshots/<key>.json    a snapshot; <key> is its tag
    `-- pulls/<key>.json        what a source was when it was last pulled, for one namespace

The key follows from the name that the orchestrator gives a thing, so a call that comes again finds what an earlier one
began. A record is written (durably, by one rename) before the worktree or tag that it describes is made, and removed
after it: a volume or snapshot exists when both are there, and a lone record is the trace of a call that was cut short.
Records of one thing are written under its lock (``driver.Driver.locked``). Unknown fields are left out when read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from stratum.errors import DamagedError, StratumError, os_error_text
from stratum.refs import check_name, is_name
from stratum.sys.atomic import fsync_dir, write_atomic
from stratum.sys.syscalls import open_nofollow

_PLAIN_KEY_MAX = 63
_RECORD_MAX = 1 << 20


def key_for(name: str, prefix: str) -> str:
    """The key of what the orchestrator calls ``name``: the name itself where it can be a worktree or tag."""
    if is_name(name) and len(name) <= _PLAIN_KEY_MAX:
        return name
    return f"{prefix}-{hashlib.sha256(name.encode()).hexdigest()[:40]}"


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume: worktree ``key`` of ``stratum`` over ``commit``.

    ``name`` is the orchestrator's name, ``id`` the volume ID, ``capacity`` what was asked for in bytes, ``created``
    nanoseconds since the epoch. ``origin`` is what it was made from and ``attributes`` what governs it later.
    """

    key: str
    name: str
    id: str
    stratum: str
    commit: str
    capacity: int
    origin: str
    inline: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    created: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot: tag ``key`` of ``stratum`` at ``commit``.

    ``target`` is the registry reference it is pushed to, or empty; ``pushed`` whether it is there. ``size`` is in
    bytes, ``created`` in nanoseconds since the epoch.
    """

    key: str
    name: str
    id: str
    source_volume: str
    stratum: str
    commit: str
    size: int
    target: str = ""
    pushed: bool = False
    created: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True)
class PullRecord:
    """What ``name``, a reference in a registry, was when it was last pulled for ``owner``.

    ``commit`` has the tag ``tag`` of ``stratum``, and is empty during the first pull. ``used`` is when a volume last
    began with it, in nanoseconds since the epoch.
    """

    key: str
    name: str
    owner: str
    stratum: str
    tag: str
    commit: str = ""
    used: int = field(default_factory=time.time_ns)
    created: int = field(default_factory=time.time_ns)


R = TypeVar("R", VolumeRecord, SnapshotRecord, PullRecord)

_DIRECTORIES = {VolumeRecord: "volumes", SnapshotRecord: "snapshots", PullRecord: "pulls"}


class Records(Generic[R]):
    """The records of one kind."""

    def __init__(self, store: Path, kind: type[R]) -> None:
        self._kind: type[R] = kind
        self._directory = store / "csi" / _DIRECTORIES[kind]

    def get(self, key: str) -> R | None:
        """The record, or None. ``DamagedError`` where it cannot be understood."""
        path = self._path(key)
        try:
            with open(open_nofollow(path, os.O_RDONLY), "rb") as file:
                data = file.read(_RECORD_MAX)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise DamagedError(f"cannot read {path}: {os_error_text(exc)}") from None
        try:
            return self._kind(**_fields(self._kind, json.loads(data)))
        except (ValueError, TypeError, RecursionError) as exc:
            raise DamagedError(f"{path} is not a record: {exc}") from None

    def list(self) -> list[R]:
        """All records, oldest first."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        keys = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        found = [record for key in keys if is_name(key) and (record := self.get(key)) is not None]
        return sorted(found, key=lambda record: (record.created, record.key))

    def put(self, record: R) -> None:
        """Write a record, replacing the one of its key; durable when it returns."""
        path = self._path(record.key)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, json.dumps(asdict(record), indent=1).encode() + b"\n", 0o600)
        except OSError as exc:
            raise StratumError(f"cannot write {path}: {os_error_text(exc)}") from None

    def remove(self, key: str) -> None:
        """Remove a record; one that is gone already is no error."""
        path = self._path(key)
        try:
            path.unlink()
            fsync_dir(self._directory)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StratumError(f"cannot remove {path}: {os_error_text(exc)}") from None

    def _path(self, key: str) -> Path:
        return self._directory / f"{check_name(key)}.json"


def _fields(kind: type[VolumeRecord] | type[SnapshotRecord] | type[PullRecord], table: object) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise ValueError("it is not an object")
    types = {"str": str, "int": int, "bool": bool, "dict[str, str]": dict}
    found = {}
    for known in fields(kind):
        if known.name in table:
            if type(table[known.name]) is not types[str(known.type)]:
                raise ValueError(f"{known.name} is not of type {known.type}")
            found[known.name] = table[known.name]
    return found
