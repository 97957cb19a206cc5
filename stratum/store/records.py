"""Records of services: what those that run on top of the store keep in it, one small file for each thing.

::

    <store>/csi/{volumes,snapshots,pulls,groups,afters}/<key>.json    the CSI driver's (``csi.records``)
    <store>/volumes/<name>.json                                       the volume plugin's (``plugin.records``)

A file is a JSON object: the fields of a record type in their order (text, numbers, booleans, objects of text), then
``check``, the SHA-256 in hex of the same text without it. A file that has none is read as it is; a check of the store
calls it damaged. Fields that are not known are left out when read.

A record is written durably by one rename and removed by one unlink. What a killed writer leaves, the next one deletes.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from stratum.errors import DamagedError, StratumError, UsageError
from stratum.hashes import sha256
from stratum.store.layout import Layout, storage_error, storing
from stratum.sys.atomic import fsync_dir, remove_abandoned, write_atomic

DIRECTORIES = {
    "csi/volumes": "Kubernetes volume",
    "csi/snapshots": "Kubernetes snapshot",
    "csi/pulls": "Kubernetes pull",
    "csi/groups": "Kubernetes group snapshot",
    "csi/afters": "command after a Kubernetes commit",
    "volumes": "volume",
}
"""Where services keep records, below the store, and what of."""

_MAX = 1 << 20
_SUFFIX = ".json"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TYPES = {"str": str, "int": int, "bool": bool, "dict[str, str]": dict}


class Record(Protocol):
    """What a record type has: it is a data class with fields of the types above."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> str:
        """The name of its file, without the suffix."""

    @property
    def created(self) -> Any:
        """When it was made, for their order."""


R = TypeVar("R", bound=Record)
_Records = list[R]
_Errors = list[StratumError]


class Records(Generic[R]):
    """The records of the type ``kind`` in ``directory``, one of ``DIRECTORIES``."""

    def __init__(self, layout: Layout, directory: str, kind: type[R]) -> None:
        self._layout = layout
        self._directory = layout.root / directory
        self._kind = kind

    def get(self, key: str) -> R | None:
        """The record, or None. ``DamagedError`` where its file is none of ours, ``UsageError`` for what is no key."""
        path = self._path(key)
        try:
            table = read_record(self._layout, path)[0]
        except FileNotFoundError:
            return None
        try:
            found = self._kind(**_checked(self._kind, {"key": key, **table}, path))
        except TypeError as exc:  # a field is missing
            raise _damaged(path, str(exc)) from None
        if found.key != key:
            raise _damaged(path, f"it is the record of {found.key!a}")
        return found

    def scan(self) -> tuple[_Records[R], _Errors]:
        """(all records that can be read, oldest first; what is wrong with each of the others)."""
        found: _Records[R] = []
        damaged: _Errors = []
        for name in self._layout.names_in(self._directory):
            if is_record_name(name):
                try:
                    record = self.get(name.removesuffix(_SUFFIX))
                except StratumError as exc:
                    damaged.append(exc)
                    continue
                if record is not None:  # else it was removed at this moment
                    found.append(record)
        return sorted(found, key=lambda record: (record.created, record.key)), damaged

    def list(self) -> _Records[R]:
        """As ``scan``, for who needs to know of all: the error where one cannot be read."""
        found, damaged = self.scan()
        for error in damaged:
            raise error
        return found

    def put(self, record: R) -> None:
        """Write a record, replacing the one of its key; durable when it returns."""
        path = self._path(record.key)
        table = {each.name: getattr(record, each.name) for each in fields(record)}
        with storing(f"write {path}"):
            for place in (self._directory.parent, self._directory):
                with suppress(FileExistsError):
                    place.mkdir(mode=0o700)
                    fsync_dir(place.parent)
            directory = self._layout.open_beneath(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                remove_abandoned(directory)
                write_atomic(Path(path.name), record_text(table), 0o600, directory=directory)
            finally:
                os.close(directory)

    def remove(self, key: str) -> None:
        """Remove a record, damaged or not; one that is gone already is no error."""
        path = self._path(key)
        with storing(f"remove {path}"), suppress(FileNotFoundError):
            directory = self._layout.open_beneath(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.unlink(path.name, dir_fd=directory)
                os.fsync(directory)
            finally:
                os.close(directory)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise UsageError(f"{ascii(key)[:140]} is no name of a record")
        return self._directory / f"{key}{_SUFFIX}"


def is_record_name(name: str) -> bool:
    """Whether a record's file can have this name."""
    return name.endswith(_SUFFIX) and _KEY.fullmatch(name.removesuffix(_SUFFIX)) is not None


def record_text(table: dict[str, Any]) -> bytes:
    """The content of the file of a record with these fields."""
    check = sha256(_text(table)).hexdigest()
    return _text({**table, "check": check})


def read_record(layout: Layout, path: Path) -> tuple[dict[str, Any], bool]:
    """(the fields in a record's file, whether it holds a check). ``FileNotFoundError``; ``DamagedError`` for anything
    else than a small regular file of an object that matches its check."""
    try:
        data = layout.read_beneath(path, _MAX)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise storage_error(exc, f"read {path}") from None
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _damaged(path, str(exc)) from None
    if not isinstance(table, dict):
        raise _damaged(path, "it is not an object")
    check = table.pop("check", None)
    if check is not None and data != record_text(table):
        raise DamagedError(f"{path} was changed after it was written", hint="run 'stratum fsck'")
    return table, check is not None


def _text(table: dict[str, Any]) -> bytes:
    return json.dumps(table, indent=1).encode("ascii") + b"\n"


def _checked(kind: type[Any], table: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of ``kind`` in ``table``, each of its type."""
    found = {}
    for each in fields(kind):
        if each.name in table:
            value = found[each.name] = table[each.name]
            if type(value) is not _TYPES[str(each.type)]:
                raise _damaged(path, f"{each.name} is not of the type {each.type}")
            if isinstance(value, dict) and not all(isinstance(text, str) for text in value.values()):
                raise _damaged(path, f"{each.name} holds something else than text")
    return found


def _damaged(path: Path, why: str) -> DamagedError:
    return DamagedError(f"{path} is not a record: {why}", hint="run 'stratum fsck'")
