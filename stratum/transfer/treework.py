"""Reading a tree, and making its image where that is wanted, beside all else that a pull does with the dump.

Done by a worker process (``workers``), which loads little, so that it is there when the dump has arrived. The messages
(``sys.workers``): a request is the path of the image to be, or "", with the descriptor of a file that holds the
dump; the answer is ``(DONE, Counted as a tuple)`` or ``(FAILED, name of the error's class, message, hint)``.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stratum.errors import StratumError
from stratum.store.facts import count
from stratum.sys.workers import Connection, serve
from stratum.tree.blocks import BLOCK_SIZE, whole_lines

DONE, FAILED = 1, 2


def _blocks(fd: int) -> Iterator[bytes]:
    """A dump that is a file; it need not be in memory a second time."""
    position = 0
    while block := os.pread(fd, BLOCK_SIZE, position):
        position += len(block)
        yield block


def main() -> None:
    """Answer the requests of the process that started this one."""

    def answer(connection: Connection, request: Any, fds: list[int]) -> None:
        try:
            counted = count(whole_lines(_blocks(fds[0])), Path(request) if request else None)
        except StratumError as exc:
            connection.send((FAILED, type(exc).__name__, exc.message, exc.hint))
        else:
            connection.send((DONE, tuple(counted)))

    gc.set_threshold(50_000, 20, 50)  # as the command line does
    serve(answer)
