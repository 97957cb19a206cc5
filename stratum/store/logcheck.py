"""What is in a log (``store.segments``): what it needs, what it takes, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stratum.errors import DamagedError, StratumError
from stratum.frozen import frozen
from stratum.store.logwriter import DAMAGED_PREFIX, is_torn
from stratum.store.segments import Log, Segment, lines_with, out_of_order, split_lines, whole_end
from stratum.tree.oplog import parse, parse_end

_DIGEST = re.compile(rb" - ([0-9a-f]{64})")
_PAYLOAD = re.compile(rb"/([0-9a-f]{62})")  # but for the two digits before the slash, for which it would be slow
_HASH = re.compile(rb"[0-9a-f]{64}")
_COMMIT = re.compile(rb'"commit":"([0-9a-f]{64})"')
_OBJECT = re.compile(
    rb'"entry":"([1-9][0-9]{0,15}) [0-7]+ [0-9]+ [0-9]+ 0 [-0-9.]+ [0-9a-f]{2}/[0-9a-f]{62} - ([0-9a-f]{64})[ "]'
)
_TIME = re.compile(rb'\{"n":[0-9]+,"t":"([-0-9T:.]+Z)"')
_RECORD = b'{"n":'
_BASE = (b'"op":"base"', b'"commit":"')  # one changed byte spares one of them
_GAP = b'"op":"gap"'
_TOLD = 20
_SECONDS = len("2026-11-29T23:59:01")
"""Problems of one log that are told one by one."""


@frozen
class HistoryUsage:
    """What a history has and takes: numbers of records and gaps, bytes of its raw and sealed segments, bytes of the
    contents that it names (each once), times of the oldest and newest record (empty where there is none)."""

    records: int = 0
    gaps: int = 0
    raw: int = 0
    sealed: int = 0
    contents: int = 0
    oldest: str = ""
    newest: str = ""


@frozen
class Needs:
    """Digests of the objects that a segment names, and commits; the lines that name a commit and are damaged."""

    digests: frozenset[bytes]
    commits: frozenset[str]
    torn: bytes = b""


def needs(log: Log, segment: Segment) -> Needs:
    """What a segment names, also in lines that are damaged: the digest of an object is in a line twice.

    ``DamagedError`` where a part of it cannot be read at all.
    """
    digests: set[bytes] = set()
    commits: set[str] = set()
    torn: set[bytes] = set()
    for block in log.blocks(segment, whole=False):
        if block is None:
            raise DamagedError(
                f"{log.directory / segment.name} is damaged, so it is not known what the history of {log.what} needs",
                hint="nothing was removed; 'stratum fsck' tells more, and 'stratum fsck --repair' sets it aside",
            )
        found = set(_DIGEST.findall(block))
        for rest in set(_PAYLOAD.findall(block)) - {digest[2:] for digest in found}:
            at = block.find(b"/" + rest)
            found.add(block[max(at - 2, 0) : at] + rest)
        digests.update(bytes.fromhex(text.decode("ascii")) for text in found if _HASH.fullmatch(text))
        commits.update(map(bytes.decode, _COMMIT.findall(block)))
        bases = {line for text in _BASE for line in lines_with(block, text)}
        torn.update(line for line in bases if parse(line) is None)
    return Needs(frozenset(digests), frozenset(commits), b"\n".join(torn))


def named_objects(log: Log, segment: Segment) -> dict[bytes, int]:
    """The objects that a segment names, with their sizes; what is damaged is left out."""
    return {
        bytes.fromhex(digest.decode("ascii")): int(size)
        for block in log.blocks(segment)
        for size, digest in _OBJECT.findall(block or b"")
    }


def usage(log: Log) -> HistoryUsage:
    """What the history has and takes. Damaged parts are left out."""
    records = gaps = raw = sealed = 0
    objects: dict[bytes, int] = {}
    oldest = newest = b""
    for segment in log.segments():
        size = log.size(segment)
        raw, sealed = raw + size * (not segment.sealed), sealed + size * segment.sealed
        for block in log.blocks(segment):
            if not block:
                continue
            records += block.count(b"\n" + _RECORD) + block.startswith(_RECORD)
            gaps += block.count(_GAP)
            objects.update((digest, int(size)) for size, digest in _OBJECT.findall(block))
            if not oldest and (found := _TIME.search(block)):
                oldest = found[1]
            if found := _TIME.match(block, block.rfind(b"\n" + _RECORD) + 1):
                newest = found[1]
    return HistoryUsage(records, gaps, raw, sealed, sum(objects.values()), oldest.decode(), newest.decode())


def gaps_since(log: Log, when: str) -> int:
    """How many gaps the log has that are not older than ``when`` (RFC 3339, UTC; whole seconds count); only its
    end is read."""
    found = 0
    for segment in reversed(log.segments()):
        for block in reversed(log.blocks(segment)):
            if block is None:
                continue
            lines = [
                line
                for line in lines_with(block, _GAP)
                if (time := _TIME.match(line)) and time[1].decode()[:_SECONDS] >= when[:_SECONDS]
            ]
            found += len(lines)
            oldest = _TIME.search(block)
            if oldest is not None and oldest[1].decode()[:_SECONDS] < when[:_SECONDS]:
                return found
    return found


def problems(log: Log) -> list[str]:
    """What is wrong with the log, as ends of sentences about the history. What a crash leaves is no problem."""
    found = [
        f"was damaged before CHANGE {name.removeprefix(DAMAGED_PREFIX).lstrip('0')}; what was cut off is in {name}"
        for name in log.names()
        if name.startswith(DAMAGED_PREFIX)
    ]
    told = list(_problems(log))
    if len(told) > _TOLD:
        told[_TOLD:] = [f"has {len(told) - _TOLD} more such places"]
    return found + told


def _problems(log: Log) -> Iterator[str]:
    before: int | None = None
    segments = log.segments()
    for segment in segments:
        try:
            blocks = log.blocks(segment, whole=False)
        except StratumError as exc:
            yield f"cannot be read: {exc.message}"
            before = None
            continue
        lines = _lines(blocks, segment, is_newest=segment is segments[-1])
        first = True
        for line in lines:
            end, record = parse_end(line), parse(line)
            if end is not None and before in (None, end):
                continue
            if record is None:
                n = before or segment.first - 1
                yield f"is damaged {f'after CHANGE {n}' if n else 'at its beginning'} ({segment.name})"
            elif first and record.n != segment.first:
                yield f"begins {segment.name} with CHANGE {record.n}"
            elif problem := out_of_order(before, record):
                yield problem
            before, first = record.n if record is not None else None, False


def _lines(blocks: list[bytes | None], segment: Segment, *, is_newest: bool) -> Iterator[bytes]:
    """The lines of a segment, without what a crash left behind the last whole batch of the newest."""
    if segment.sealed or not blocks or blocks[0] is None:
        for block in blocks:
            yield from split_lines(block)
        return
    data = blocks[0]
    whole = whole_end(data)
    yield from split_lines(data[:whole])
    if data[whole:] and not (is_newest and is_torn(data[whole:])):
        yield b""
