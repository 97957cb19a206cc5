"""A worker process for tests: sends back what it gets, and what it reads from descriptors."""

from __future__ import annotations

import importlib
import os
from typing import Any

from stratum.sys.workers import Connection, serve


def answer(connection: Connection, value: Any, descriptors: list[int]) -> None:
    if value == "too much":
        raise MemoryError
    if isinstance(value, list) and value[0] == "import":
        value = [importlib.import_module(name).__name__ for name in value[1:]]
    connection.send(value if not descriptors else [os.read(fd, 100) for fd in descriptors])


def main() -> None:
    serve(answer)
