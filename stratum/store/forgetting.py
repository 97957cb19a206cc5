"""Letting histories forget: contents are thinned out (``store.thinning``), what is older than any rule keeps goes.

- Sealed segments are rewritten, each by one rename, without the contents that no rule keeps. The segment that is
  appended to is left alone, so nobody who watches is in the way.
- Where all records of a log's first segments are older than every rule, and there are enough of them, they go. What
  they led to is a commit, and a segment that was carried over begins with it, so every CHANGE behind it stays exact.
- The history of a worktree that was removed goes whole, as long after that.

A plan is made under the store's shared lock, as it reads all logs, and carried out under the exclusive one: what the
end of a log does not show when the plan is made, no later record shows without naming it again. No space is needed:
where there is none, less is forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import BusyError, DamagedError, NotFoundError
from stratum.frozen import replace
from stratum.store.clock import utc_now
from stratum.store.layout import NoSpaceError, storage_error
from stratum.store.logcheck import named_objects
from stratum.store.retention import parse_time
from stratum.store.segments import Log, Segment, pack, segment_name, split_lines
from stratum.store.thinning import DAILY, Kept, lineage
from stratum.sys.atomic import write_atomic
from stratum.tree.oplog import Record, encode, end_line, entry_of, object_of, parse, parse_end, without_content

if TYPE_CHECKING:
    from stratum.store.store import Store
    from stratum.tree.model import Directory

_DAY = timedelta(days=1)
CARRY_SIZE = 256 << 10
"""Bytes of old segments that go at once; fewer only once they are twice as old as they have to be."""


@dataclass(slots=True)
class Forgetting:
    """What histories are to forget: objects that they need not name any more (``going``), and the sealed segments that
    name some; ``expired`` are the (stratum, worktree) whose history goes whole."""

    now: datetime
    going: set[bytes] = field(default_factory=set)
    rewritten: list[tuple[Log, Segment]] = field(default_factory=list)
    expired: list[tuple[str, str]] = field(default_factory=list)


def plan(store: Store, most: int | None = None, *, now: datetime | None = None) -> Forgetting:
    """What is to be forgotten so that all contents that histories keep have at most ``most`` bytes (by default a tenth
    of the file system), as far as nothing shows them at the end of a log. A log that is damaged is left as it is. The
    caller holds the store's lock shared."""
    done = Forgetting(now or utc_now())
    kept, sealed, raw = Kept(), list[tuple[Log, Segment, frozenset[bytes]]](), set[bytes]()
    for pair in store.histories.directories():
        log = store.histories.log(*pair)
        if _is_expired(store, pair, log, done.now):
            done.expired.append(pair)
            continue
        for segment in log.segments():
            objects = named_objects(log, segment)
            if segment.sealed:
                sealed.append((log, segment, frozenset(objects)))
            else:
                raw.update(objects)
        try:
            kept.add(lineage(log.records()), done.now)
        except DamagedError:
            kept.shown.update(_all_objects(log))
    kept.limit(_tenth(store) if most is None else most)
    for log, segment, digests in sealed:
        going = {digest for digest in digests if digest not in kept and digest not in raw}
        if going:
            done.going |= going
            done.rewritten.append((log, segment))
    return done


def _tenth(store: Store) -> int:
    try:
        disk = os.statvfs(store.root)
    except OSError as exc:
        raise storage_error(exc, f"look at the file system of {store.root}") from None
    return disk.f_blocks * disk.f_frsize // 10


def carry_out(store: Store, wanted: Forgetting) -> None:
    """Forget. The caller holds the store's lock exclusively."""
    for pair in wanted.expired:
        store.histories.retire(*pair, discard=True)
    with suppress(NoSpaceError):
        for log, segment in wanted.rewritten:
            _thin(log, segment, wanted.going)
        for name, worktree in store.histories.each():
            with suppress(DamagedError, NotFoundError):
                carry_over(store, name, worktree, wanted.now)


def seal_idle(store: Store, *, now: datetime | None = None) -> None:
    """Seal what was appended to last more than a day ago, so that it can be thinned out; not where somebody watches.
    The caller holds the store's lock shared."""
    histories = store.histories.each()
    if not histories:
        return
    with suppress(BusyError, NoSpaceError), store.histories.writing():
        for name, worktree in histories:
            log = store.histories.log(name, worktree)
            newest = log.segments()[-1]
            last = next(store.histories.newest(name, worktree), None)
            when = parse_time(last.when) if last is not None else None
            if newest.sealed or when is None or (now or utc_now()) - when < _DAY:
                continue
            with suppress(DamagedError):
                writer = store.histories.writer(name, worktree)
                try:
                    writer.seal()
                finally:
                    writer.close()


def _all_objects(log: Log) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for segment in log.segments():
        found.update(named_objects(log, segment))
    return found


def _is_expired(store: Store, pair: tuple[str, str], log: Log, now: datetime) -> bool:
    """Whether the worktree is gone, and was or wrote nothing for as long as the last rule keeps anything."""
    if os.path.lexists(store.layout.worktree(*pair)):
        return False
    try:
        times = [path.lstat().st_mtime for path in (log.directory, *map(log.directory.joinpath, log.files()))]
    except OSError:
        return False
    return now - datetime.fromtimestamp(max(times), timezone.utc) > DAILY


def _thin(log: Log, segment: Segment, going: set[bytes]) -> None:
    """Rewrite a sealed segment without the contents that are ``going``."""
    lines = []
    for block in log.blocks(segment):
        if block is None:
            return
        lines += [_thinned(line, going) for line in split_lines(block)]
    _write_sealed(log, segment.name, b"".join(lines))


def _thinned(line: bytes, going: set[bytes]) -> bytes:
    record = parse(line)
    if record is not None and record.entry is not None:
        named = object_of(record.entry)
        if named is not None and named[0] in going:
            return encode(replace(record, entry=without_content(record.entry), why="thinned"))
    return line + b"\n"


def _write_sealed(log: Log, name: str, lines: bytes) -> None:
    try:
        directory = log.open_directory()
        try:
            write_atomic(Path(name), b"".join(pack(lines)), 0o600, directory=directory)
        finally:
            os.close(directory)
    except OSError as exc:
        raise storage_error(exc, f"thin out the history of {log.what}") from None


def carry_over(store: Store, name: str, worktree: str, now: datetime) -> bool:
    """Let the first segments of a log go where they are old enough; whether any went. The caller holds the store's lock
    exclusively. ``DamagedError`` where it is not known what they led to, ``NoSpaceError``."""
    log = store.histories.log(name, worktree)
    _drop_void(log)
    segments = log.segments()
    count = _old(log, segments, now)
    if not count:
        return False
    last = segments[count].first - 1
    first = next(log.records(last + 1, last + 1), None)
    if first is None or first.op != "base":
        _write_carried(store, name, worktree, log, segments[0].first, last)
    for segment in segments[:count]:
        with suppress(FileNotFoundError):
            _unlink(log, segment.name)
    return True


def _old(log: Log, segments: list[Segment], now: datetime) -> int:
    """How many of the first segments are to go."""
    count = size = 0
    oldest = now
    for segment in segments[:-1]:
        times = [parse_time(record.when) for record in _records_of(log, segment)]
        if not segment.sealed or not times or any(time is None or now - time <= DAILY for time in times):
            break
        oldest = min([oldest, *(time for time in times if time is not None)])
        size += log.size(segment)
        count += 1
    if segments and segments[0].carried and count == 1:
        return 0  # nothing came to what was carried over
    return count if size >= CARRY_SIZE or now - oldest > 2 * DAILY else 0


def _records_of(log: Log, segment: Segment) -> Iterator[Record]:
    """The records of one segment. ``DamagedError``."""
    for line in log.lines(segment):
        if parse_end(line) is None:
            record = parse(line)
            if record is None:
                raise log.damaged(segment.first)
            yield record


def _write_carried(store: Store, name: str, worktree: str, log: Log, first: int, last: int) -> None:
    """Write what the records up to ``last`` led to: a commit, and the files of which no content is known."""
    from stratum.tree.replay import Replay
    from stratum.tree.unknown import unknown_files, without

    records = list(store.histories.epoch(name, worktree, last))
    base = records[0]
    if base.commit is None:
        raise log.damaged(base.n)
    ground = store.commits.open_tree(base.commit)
    replay = Replay(ground)
    for record in records:
        replay.apply(record)
    root = replay.root
    unknown = unknown_files(root, ground)
    begins = last - len(unknown)
    if begins < first:
        raise DamagedError(f"the history of {log.what} has more files without content than CHANGES")
    origin = {"kind": "history", "worktree": f"{name}+{worktree}", "change": last}
    with store.begin(f"forgetting the old history of {log.what}") as tx:
        made = store.commits.write(tx, without(root, unknown), origin=origin, known=ground)
    when = records[-1].when
    lines = [
        encode(
            Record(
                begins,
                when,
                "base",
                commit=made.metadata_hash,
                over=base.over or base.commit,
                why="what was before went with its age",
            )
        )
    ]
    lines += [encode(record) for record in _unknown(root, unknown, begins + 1, when)]
    _write_sealed(log, segment_name(begins, carried=last), b"".join([*lines, end_line(last)]))


def _unknown(root: Directory, paths: list[bytes], first: int, when: str) -> Iterator[Record]:
    """Records that make the files at ``paths``, of which no content is known."""
    from stratum.tree.model import lookup

    places: dict[int, bytes] = {}
    for n, path in enumerate(paths, first):
        inode = lookup(root, path)
        assert inode is not None
        if id(inode) in places:
            yield Record(n, when, "link", path, link=places[id(inode)])
        else:
            places[id(inode)] = path
            yield Record(n, when, "create", path, entry_of(inode), why="thinned")


def _drop_void(log: Log) -> None:
    """Remove the segments that one carried over stands for, as a crash may have left some."""
    there = {segment.name for segment in log.segments()}
    for name in log.files():
        first = int(name[:12])
        carried = log.segments()[0].carried
        if name not in there and first <= carried:
            _unlink(log, name)


def _unlink(log: Log, name: str) -> None:
    try:
        directory = log.open_directory()
        try:
            os.unlink(name, dir_fd=directory)
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise storage_error(exc, f"thin out the history of {log.what}") from None
