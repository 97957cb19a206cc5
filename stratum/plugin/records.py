"""What the volume plugin keeps.

::

    <store>/volumes/            0700
    `-- <name>.json             {"options": {key: value}, "created": RFC 3339}; a volume exists when its file does
    <runtime directory>/volumes/
    |-- <name>/                 the mountpoint, while the volume is mounted
    `-- <name>.users            JSON list: the IDs that mounted it and did not unmount it yet

A record is written durably by one rename before ``Create`` answers, and removed by ``Remove``. The users do not outlive
a reboot, as mounts do not; they are only true while something is mounted at the mountpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.sys.atomic import fsync_dir, write_atomic
from stratum.sys.syscalls import open_nofollow

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A named volume and the options that it was made with."""

    name: str
    options: dict[str, str]
    created: str


def check_volume_name(name: object) -> str:
    """``name``, where it can be a volume's. Raises ``UsageError``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{ascii(name)[:80]} is not a volume name", hint="use letters, digits, '.', '_' and '-'")
    return name


class Records:
    """The plugin's files for the store at ``store`` and the runtime directory ``runtime_dir``."""

    def __init__(self, store: Path, runtime_dir: Path) -> None:
        self._volumes = store / "volumes"
        self._mounts = runtime_dir / "volumes"

    def get(self, name: str) -> VolumeRecord:
        """The record of a volume. Raises ``NotFoundError``, or ``DamagedError`` for a file that is none."""
        path = self._volumes / f"{check_volume_name(name)}.json"
        try:
            table = json.loads(_read(path))
            options, created = table["options"], table["created"]
            if not isinstance(created, str) or not all(isinstance(value, str) for value in options.values()):
                raise TypeError("an option is not text")
        except FileNotFoundError:
            raise NotFoundError(f"there is no volume {name}", hint="'podman volume ls' lists them") from None
        except OSError as exc:
            raise StratumError(f"cannot read {path}: {os_error_text(exc)}") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise DamagedError(f"{path} is no record of a volume: {exc}") from None
        return VolumeRecord(name, dict(options), created)

    def names(self) -> list[str]:
        """The names of all volumes."""
        try:
            found = sorted(path.name.removesuffix(".json") for path in self._volumes.glob("*.json"))
        except OSError as exc:
            raise StratumError(f"cannot read {self._volumes}: {os_error_text(exc)}") from None
        return [name for name in found if _NAME.fullmatch(name)]

    def add(self, record: VolumeRecord) -> None:
        """Write a record; durable when it returns."""
        data = json.dumps({"options": record.options, "created": record.created}, indent=1).encode("ascii")
        try:
            self._volumes.mkdir(mode=0o700, exist_ok=True)
            write_atomic(self._volumes / f"{record.name}.json", data, 0o600)
            fsync_dir(self._volumes.parent)
        except OSError as exc:
            raise StratumError(f"cannot write the record of volume {record.name}: {os_error_text(exc)}") from None

    def remove(self, name: str) -> None:
        """Remove a record."""
        try:
            (self._volumes / f"{name}.json").unlink(missing_ok=True)
            fsync_dir(self._volumes)
        except OSError as exc:
            raise StratumError(f"cannot remove the record of volume {name}: {os_error_text(exc)}") from None

    def mountpoint(self, name: str) -> Path:
        """Where the volume is mounted, if it is."""
        return self._mounts / name

    def make_mountpoint(self, name: str) -> Path:
        """The mountpoint, made."""
        place = self.mountpoint(name)
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise StratumError(f"cannot make the mountpoint {place}: {os_error_text(exc)}") from None
        return place

    def remove_mountpoint(self, name: str) -> None:
        """Remove the empty mountpoint and forget the users."""
        self._users(name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.mountpoint(name).rmdir()

    def users(self, name: str) -> list[str]:
        """The IDs that have it mounted, by what was noted."""
        try:
            found = json.loads(_read(self._users(name)))
        except (OSError, ValueError):
            return []
        return [user for user in found if isinstance(user, str)] if isinstance(found, list) else []

    def set_users(self, name: str, users: list[str]) -> None:
        """Note who has it mounted."""
        try:
            write_atomic(self._users(name), json.dumps(users).encode("ascii"), 0o600, durable=False)
        except OSError as exc:
            raise StratumError(f"cannot note who uses volume {name}: {os_error_text(exc)}") from None

    def _users(self, name: str) -> Path:
        return self._mounts / f"{name}.users"


def _read(path: Path) -> bytes:
    with open(open_nofollow(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        return file.read(_MAX)
