"""The store's TOML files: written with a check of their own bytes, read with typed access to their tables.

The last table of such a file tells a changed byte, be it by a failing disk or by hand::

    [check]  sha256 (hex, of all bytes before the line break before this table)

A file without it is read as it is; ``is_checked`` tells, and a check of the store calls it damaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stratum import toml
from stratum.errors import DamagedError, UsageError
from stratum.hashes import sha256
from stratum.refs import is_hash

_CHECK = b"\n[check]\n"


class Tables:
    """The tables read from the file ``where``; every accessor raises ``DamagedError`` for what is missing or of
    another type."""

    def __init__(self, tables: Mapping[str, Any], where: str) -> None:
        self._tables = tables
        self.where = where

    def table(self, name: str) -> dict[str, Any]:
        """The table ``[name]``."""
        value = self._tables.get(name)
        if not isinstance(value, dict):
            raise DamagedError(f"{self.where} has no table [{name}]")
        return value

    def has(self, table: str, key: str) -> bool:
        """Whether the table has the key."""
        return key in self.table(table)

    def text(self, table: str, key: str) -> str:
        """A string."""
        value = self.table(table).get(key)
        if not isinstance(value, str):
            raise DamagedError(f"{self.where}: [{table}] {key} is missing or not a string")
        return value

    def maybe_text(self, table: str, key: str) -> str | None:
        """A string, or None where the table has no such key."""
        return self.text(table, key) if self.has(table, key) else None

    def hash(self, table: str, key: str) -> str:
        """64 lower-case hex digits."""
        value = self.text(table, key)
        if not is_hash(value):
            raise DamagedError(f"{self.where}: [{table}] {key} is not 64 hex digits")
        return value

    def count(self, table: str, key: str) -> int:
        """An integer from 0 on."""
        value = self.table(table).get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DamagedError(f"{self.where}: [{table}] {key} is missing or not a count")
        return value

    def flag(self, table: str, key: str) -> bool:
        """true or false."""
        value = self.table(table).get(key)
        if not isinstance(value, bool):
            raise DamagedError(f"{self.where}: [{table}] {key} is missing or neither true nor false")
        return value


def write_tables(tables: Mapping[str, Any], what: str) -> bytes:
    """A TOML file with these tables; ``UsageError`` names ``what`` where it holds something that TOML cannot."""
    try:
        body = toml.dumps(tables).encode("utf-8")
    except (TypeError, ValueError) as exc:  # text that is not Unicode is a ValueError
        raise UsageError(f"{what} cannot be stored: {exc}") from None
    return body + _CHECK + f'sha256 = "{sha256(body).hexdigest()}"\n'.encode()


def read_tables(data: bytes, where: str) -> dict[str, Any]:
    """The tables of such a file; ``DamagedError`` names ``where`` and what is wrong."""
    try:
        tables = toml.loads(data.decode("utf-8"))
    except ValueError as exc:
        raise DamagedError(f"{where} is not valid TOML: {exc}", hint="run 'stratum fsck'") from None
    check = tables.pop("check", None)
    if check is not None:
        body, _, _ = data.rpartition(_CHECK)
        if not isinstance(check, dict) or check.get("sha256") != sha256(body).hexdigest():
            raise DamagedError(f"{where} was changed after it was written", hint="run 'stratum fsck'")
    return tables


def is_checked(data: bytes) -> bool:
    """Whether a file that ``read_tables`` took holds a check."""
    return _CHECK in data


def is_intact(data: bytes) -> bool:
    """Whether a file holds a check, as it is written here, that its bytes match."""
    body, check, rest = data.rpartition(_CHECK)
    return bool(check) and rest == f'sha256 = "{sha256(body).hexdigest()}"\n'.encode()
