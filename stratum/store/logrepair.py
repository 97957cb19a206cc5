"""Mending the log of a history: what is damaged goes into quarantine, and a gap tells what CHANGES are lost.

A segment with damage is kept as it was in the quarantine, and written anew with the records that are left. Where some
are missing, a gap takes the place of the last of them; who needs every CHANGE is refused there (``Histories.epoch``)
until the next base, with which whoever watches begins again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from stratum.store.layout import storage_error
from stratum.store.logwriter import DAMAGED_PREFIX
from stratum.store.quarantine import Quarantine
from stratum.store.segments import Log, Segment, out_of_order, pack, segment_name, split_lines
from stratum.sys.atomic import write_atomic
from stratum.tree.oplog import LOST, Record, encode, end_line, parse, parse_end


@dataclass(slots=True)
class _Part:
    """A segment, the records that are left of it, and whether that is not all that it had."""

    segment: Segment
    records: list[Record] = field(default_factory=list)
    changed: bool = False


def mend(log: Log, quarantine: Quarantine) -> str:
    """Mend a log; in words what was done. The caller holds the store exclusively, and is the one who writes histories.
    ``StratumError``."""
    for name in log.names():
        if name.startswith(DAMAGED_PREFIX):
            quarantine.take(log.directory / name)
    parts = [_Part(segment) for segment in log.segments()]
    before: Record | None = None
    previous: _Part | None = None
    for part in parts:
        for line in (line for block in log.blocks(part.segment, whole=False) for line in split_lines(block)):
            record = parse(line)
            if record is None or (before is not None and record.n <= before.n):
                part.changed |= parse_end(line) is None or record is not None
                continue
            if out_of_order(before.n if before is not None else None, record):
                assert before is not None
                lost = part if part.records else previous or part
                lost.records.append(Record(record.n - 1, before.when, "gap", why=LOST))
                lost.changed = True
            part.records.append(record)
            before = record
        part.changed |= bool(part.records) and part.records[0].n != part.segment.first
        previous = part if part.records else previous
    mended = [part for part in parts if part.changed or not part.records]
    for part in mended:
        _rewrite(log, part, quarantine)
    return "put what is damaged into quarantine" if mended else "mended already"


def _rewrite(log: Log, part: _Part, quarantine: Quarantine) -> None:
    segment, path = part.segment, log.directory / part.segment.name
    quarantine.keep(path, log.raw(segment))
    name = ""
    try:
        directory = log.open_directory()
        try:
            if part.records:
                lines = b"".join([*map(encode, part.records), end_line(part.records[-1].n)])
                carried = max(segment.carried, part.records[-1].n) if segment.carried else 0
                name = segment_name(part.records[0].n, sealed=True, carried=carried)
                write_atomic(Path(name), b"".join(pack(lines)), 0o600, directory=directory)
            if name != segment.name:
                os.unlink(segment.name, dir_fd=directory)
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as exc:
        raise storage_error(exc, f"mend {path}") from None
