"""What the volume plugin keeps: a record for each volume in the store, and in the runtime directory::

    <runtime directory>/volumes/
    |-- <name>/                 the mountpoint, while the volume is mounted
    `-- <name>.users            JSON list: the IDs that mounted it and did not unmount it yet

A record is written before ``Create`` answers, and removed by ``Remove``. The users do not outlive a reboot, as mounts
do not; they are only true while something is mounted at the mountpoint.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from stratum.errors import StratumError, UsageError, os_error_text
from stratum.sys.atomic import write_atomic
from stratum.sys.smallfile import read_regular

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """The named volume ``key``, the options that it was made with, and when (RFC 3339). It exists when its record
    (``store.records``) does."""

    key: str
    options: dict[str, str]
    created: str


def check_volume_name(name: object) -> str:
    """``name``, where it can be a volume's. Raises ``UsageError``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{ascii(name)[:80]} is not a volume name", hint="use letters, digits, '.', '_' and '-'")
    return name


class Mountpoints:
    """The plugin's mountpoints in the runtime directory ``runtime_dir``."""

    def __init__(self, runtime_dir: Path) -> None:
        self._mounts = runtime_dir / "volumes"

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
            found = json.loads(read_regular(self._users(name), _MAX, follow=False)[1])
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
