"""Typed access to the tables of the store's TOML files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stratum import toml
from stratum.errors import DamagedError, UsageError
from stratum.refs import is_hash


class Tables:
    """The tables read from the file ``where``; every accessor raises ``DamagedError`` for what is missing or of
    another type."""

    def __init__(self, tables: Mapping[str, Any], where: str) -> None:
        self._tables = tables
        self._where = where

    def table(self, name: str) -> dict[str, Any]:
        """The table ``[name]``."""
        value = self._tables.get(name)
        if not isinstance(value, dict):
            raise DamagedError(f"{self._where} has no table [{name}]")
        return value

    def has(self, table: str, key: str) -> bool:
        """Whether the table has the key."""
        return key in self.table(table)

    def text(self, table: str, key: str) -> str:
        """A string."""
        value = self.table(table).get(key)
        if not isinstance(value, str):
            raise DamagedError(f"{self._where}: [{table}] {key} is missing or not a string")
        return value

    def hash(self, table: str, key: str) -> str:
        """64 lower-case hex digits."""
        value = self.text(table, key)
        if not is_hash(value):
            raise DamagedError(f"{self._where}: [{table}] {key} is not 64 hex digits")
        return value

    def count(self, table: str, key: str) -> int:
        """An integer from 0 on."""
        value = self.table(table).get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DamagedError(f"{self._where}: [{table}] {key} is missing or not a count")
        return value

    def flag(self, table: str, key: str) -> bool:
        """true or false."""
        value = self.table(table).get(key)
        if not isinstance(value, bool):
            raise DamagedError(f"{self._where}: [{table}] {key} is missing or neither true nor false")
        return value


def write_tables(tables: Mapping[str, Any], what: str) -> bytes:
    """A TOML file with these tables; ``UsageError`` names ``what`` where it holds something that TOML cannot."""
    try:
        return toml.dumps(tables).encode("utf-8")
    except (TypeError, ValueError) as exc:  # text that is not Unicode is a ValueError
        raise UsageError(f"{what} cannot be stored: {exc}") from None
