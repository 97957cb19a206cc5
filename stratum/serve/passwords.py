"""Passwords: a file as ``htpasswd -B`` writes it, with a line NAME:HASH for each user, hashes by bcrypt.

The file is read again when it changes. Where it cannot be read any more, or others could write it, nobody has a
password that is right. A check takes a tenth of a second of a processor, so one that succeeded counts for some minutes,
until the line changes.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stratum.errors import StratumError, UsageError, quoted
from stratum.sys.smallfile import read_trusted
from stratum.sys.userns import system_owners

_FILE_MAX = 1 << 20
_NAME_MAX = 64
_HASH = re.compile(r"\$2[aby]\$(0[4-9]|1[0-5])\$[./A-Za-z0-9]{53}")
"""Up to a cost of 15: more would take a processor for seconds."""
_PASSWORD_MAX = 72
"""Bytes that bcrypt heeds."""
_REMEMBERED = 300.0
_MOST = 1000
AT_ONCE = 2
"""Passwords that are hashed at the same time."""
_NOBODY = "$2b$10$" + "." * 53
"""A hash that no password has: for users that there are not, so that these take as long as others."""


_HOW = "'htpasswd -B FILE NAME' writes such a line"


def parse_passwords(data: bytes) -> dict[str, str]:
    """User -> hash. ``UsageError`` where a line is something else."""
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.strip().partition(":")
        if not (colon and name.isprintable() and 0 < len(name) <= _NAME_MAX):
            raise UsageError(f"line {number} is not NAME:HASH", hint=_HOW)
        if not _HASH.fullmatch(hashed):
            raise UsageError(
                f"line {number}: the hash of {quoted(name)} is not one by bcrypt with a cost of 4 to 15",
                hint=_HOW,
            )
        if name in found:
            raise UsageError(f"line {number}: {quoted(name)} has a line already")
        found[name] = hashed
    return found


class Passwords:
    """The users of a file. Threads may share one."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        """Raises ``UsageError`` for a file that cannot be read, that others could write, or that has other lines."""
        self._path = path
        self._log = log
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(AT_ONCE)
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, float] = {}
        self._state = self._stat()
        self._users = self._read()

    def line(self, user: str) -> str | None:
        """The hash of a user; None where there is no such user."""
        return self._known().get(user)

    def right(self, user: str, password: str) -> bool:
        """Whether that is the password of that user. May take a while; see ``remembered``."""
        import bcrypt

        hashed, given = self._known().get(user), password.encode("utf-8", "surrogateescape")
        mark = self._mark(user, given, hashed or "")
        with self._turns:
            if self._is_remembered(mark):
                return True
            fits = len(given) <= _PASSWORD_MAX and b"\0" not in given
            same = bcrypt.checkpw(given if fits else b"", (hashed or _NOBODY).encode("ascii"))
            if not (same and fits and hashed):
                return False
        with self._lock:
            if len(self._right) >= _MOST:
                self._right.clear()
            self._right[mark] = time.monotonic() + _REMEMBERED
        return True

    def remembered(self, user: str, password: str) -> bool:
        """Whether that is known to be right since lately: at once."""
        hashed = self._known().get(user)
        given = password.encode("utf-8", "surrogateescape")
        return hashed is not None and self._is_remembered(self._mark(user, given, hashed))

    def _mark(self, user: str, password: bytes, hashed: str) -> bytes:
        text = b"\0".join((user.encode("utf-8", "surrogateescape"), hashed.encode("ascii"), password))
        return hmac.digest(self._key, text, hashlib.sha256)

    def _is_remembered(self, mark: bytes) -> bool:
        with self._lock:
            return self._right.get(mark, 0.0) > time.monotonic()

    def _known(self) -> dict[str, str]:
        state = self._stat()
        with self._lock:
            if state == self._state:
                return self._users
            self._state = state
            try:
                self._users = self._read()
            except StratumError as exc:
                self._users = {}
                self._log(f"nobody can sign in: {exc.told}")
            return self._users

    def _stat(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _read(self) -> dict[str, str]:
        data = read_trusted(self._path, _FILE_MAX, system_owners() | {os.geteuid()})
        if data is None:
            raise UsageError(f"cannot read {self._path}: {os.strerror(errno.ENOENT)}")
        try:
            return parse_passwords(data)
        except UsageError as exc:
            raise UsageError(f"{self._path}: {exc.message}", hint=exc.hint) from None
