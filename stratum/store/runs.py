"""When a store was last collected and checked, and what came of it: for who watches over many stores.

``STORE/cache/runs/<what>`` (``store.cachefile``) has the last run of each kind as JSON: ``time`` in seconds since 1970,
and counts by the names that whoever ran it gives them. It may be deleted, and then nothing is known.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stratum.frozen import frozen
from stratum.store.cachefile import CacheFile

if TYPE_CHECKING:
    from stratum.store.layout import Layout

GC, FSCK, FSCK_QUICK = "gc", "fsck", "fsck-quick"
_FORM = "runs 1"
_SIZE_MAX = 4096


@frozen
class Run:
    """A run that came to its end at ``time`` (seconds since 1970), and its ``counts``."""

    time: int
    counts: dict[str, int]


def note_run(layout: Layout, what: str, counts: Mapping[str, int]) -> None:
    """Note that a run has come to its end now. Failing to is no error."""
    CacheFile(layout, layout.runs / what, _FORM).save(json.dumps({**counts, "time": int(time.time())}).encode())


def last_run(layout: Layout, what: str) -> Run | None:
    """The last run, or None where none is known."""
    body = CacheFile(layout, layout.runs / what, _FORM).load()
    return None if body is None or len(body) > _SIZE_MAX else read_run(bytes(body))


def read_run(body: bytes) -> Run | None:
    """What a file says, or None where it is none."""
    try:
        table = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(table, dict) or not all(type(value) is int for value in table.values()):
        return None
    when = table.pop("time", None)
    return Run(when, table) if when is not None else None
