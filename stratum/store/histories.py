"""Histories of worktrees: what was done in each, operation by operation (``tree.oplog``).

::

    refs/<name>/history/<wt>/settings.toml             there while the history is on
    refs/<name>/history/<wt>/000000000001.jsonl.zst    the log (``store.segments``)
    histories/<name>/<wt>/                             the same of a stratum that was removed
    watch.lock                                         flock: who holds it is the one writer of all histories

    [history]  since (RFC 3339), exclude (patterns of paths), max_file (bytes), strict

Beside the worktrees, not in them: a worktree's directory is exchanged when it gets another base, and the log outlives
the worktree for a while. Reading takes no lock. Writers hold the store's lock, shared, from publishing objects until
the records that name them are appended; garbage collection, which holds it exclusively, takes what the logs name for
needed (``roots``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.frozen import frozen
from stratum.refs import check_name, is_name
from stratum.store.layout import Layout, storage_error

if TYPE_CHECKING:
    from stratum.store.logcheck import HistoryUsage, Needs
    from stratum.store.logwriter import LogWriter
    from stratum.store.segments import Log
    from stratum.tree.oplog import Record

SETTINGS = "settings.toml"
_NUMBER = rb'\{"(n|end)":([1-9][0-9]{0,11}),'
_OTHERS = rb'"op":"(base|gap|rename)"'
MAX_FILE = 64 << 20
_PATTERNS_MAX = 1000
_FILE = r"[0-9]{12}\.jsonl(?:\.zst)?|[0-9]{12}-[0-9]{12}\.jsonl\.zst|damaged-[0-9]{12}"


@frozen
class HistorySettings:
    """How the history of a worktree is kept. ``since`` is RFC 3339; ``exclude`` are patterns of absolute paths of which
    nothing is told; of files larger than ``max_file`` bytes no content is kept; ``strict``: no version is lost, and
    every open waits for the watcher."""

    since: str
    exclude: tuple[str, ...] = ()
    max_file: int = MAX_FILE
    strict: bool = False


_Pairs = list[tuple[str, str]]


class Histories:
    """The histories of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    # Settings

    def settings(self, name: str, worktree: str) -> HistorySettings | None:
        """How the history is kept, or None where it is off. ``DamagedError``."""
        path = self._place(name, worktree) / SETTINGS
        try:
            os.lstat(path)  # all that it costs where there is none
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise storage_error(exc, f"look for {path}") from None
        return self._read_settings(path)

    def _read_settings(self, path: Path) -> HistorySettings | None:
        from stratum.store.tables import Tables, read_tables

        data = self._layout.content_of(path)
        if data is None:
            return None
        tables = Tables(read_tables(data, str(path)), str(path))
        exclude = tables.table("history").get("exclude")
        if not isinstance(exclude, list) or len(exclude) > _PATTERNS_MAX or not all(type(x) is str for x in exclude):
            raise DamagedError(f"{path}: [history] exclude is not a list of patterns", hint="run 'stratum fsck'")
        return HistorySettings(
            tables.text("history", "since"),
            tuple(exclude),
            tables.count("history", "max_file"),
            tables.flag("history", "strict"),
        )

    def set_settings(self, name: str, worktree: str, settings: HistorySettings | None) -> None:
        """Switch a history on, or change how it is kept; with None switch it off, and its log stays. Durable."""
        from stratum.store.tables import write_tables
        from stratum.sys.atomic import remove_abandoned, write_atomic

        directory = self._place(name, worktree)
        try:
            if settings is None:
                _switch_off(self._layout, directory)
                return
            table = {
                "since": settings.since,
                "exclude": list(settings.exclude),
                "max_file": settings.max_file,
                "strict": settings.strict,
            }
            data = write_tables({"history": table}, f"how the history of {name}+{worktree} is kept")
            fd = self._make(directory)
            try:
                remove_abandoned(fd)
                write_atomic(Path(SETTINGS), data, 0o600, directory=fd)
            finally:
                os.close(fd)
        except OSError as exc:
            raise storage_error(exc, f"write {directory / SETTINGS}") from None

    def _make(self, directory: Path) -> int:
        """Make a history's directory, durably, where it is missing; a descriptor of it."""
        for path in (directory.parent, directory):
            _make_directory(self._layout, path)
        return self._layout.open_beneath(directory, os.O_RDONLY | os.O_DIRECTORY)

    # Which there are

    def watched(self) -> _Pairs:
        """(stratum, worktree) of each worktree that exists and has its history on, sorted."""
        return [
            (name, worktree)
            for name, worktree in self.directories()
            if os.path.lexists(self._layout.history(name, worktree) / SETTINGS)
            and os.path.lexists(self._layout.worktree(name, worktree))
        ]

    def each(self) -> _Pairs:
        """(stratum, worktree) of each that has a log, also of those that were removed; sorted."""
        return [pair for pair in self.directories() if self.log(*pair).segments()]

    def directories(self) -> _Pairs:
        """(stratum, worktree) of each that has a directory for its history, with or without a log; sorted."""
        found = {name: self._layout.ref(name) / "history" for name in self._layout.names_in(self._layout.refs)}
        for name in self._layout.names_in(self._layout.removed_histories):
            found.setdefault(name, self._layout.removed_histories / name)
        return [
            (name, worktree)
            for name, directory in sorted(found.items())
            if is_name(name) and os.path.lexists(directory)
            for worktree in self._layout.names_in(directory)
            if is_name(worktree)
        ]

    # Writing

    @contextmanager
    def writing(self, *, timeout: float = 0.0) -> Iterator[None]:
        """Be the one who writes histories, for a block; ``BusyError`` names who is, after ``timeout`` seconds.
        ``StratumError`` where the store cannot be written."""
        from stratum.sys.locks import locked

        lock = locked(self._layout.watch_lock, timeout=timeout, what="the history of this store")
        try:
            lock.acquire()
        except OSError as exc:
            raise storage_error(exc, f"lock {self._layout.watch_lock}") from None
        try:
            yield
        finally:
            lock.release()

    def is_written(self) -> bool:
        """Whether somebody is writing histories now; found without being in anybody's way."""
        from stratum.sys.locks import holders

        try:
            fd = self._layout.open_beneath(self._layout.watch_lock, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            return bool(holders(fd))
        finally:
            os.close(fd)

    def writer(self, name: str, worktree: str) -> LogWriter:
        """Who appends to the log. The caller is ``writing``, and closes it. ``DamagedError``, ``StratumError``."""
        from stratum.store.logwriter import LogWriter

        directory = self._directory(name, worktree)
        try:
            os.close(self._make(directory))
        except OSError as exc:
            raise storage_error(exc, f"make {directory}") from None
        return LogWriter(self.log(name, worktree))

    # Reading

    def records(self, name: str, worktree: str, *, first: int = 0, last: int | None = None) -> Iterator[Record]:
        """The records ``first`` to ``last``, oldest first. ``DamagedError`` where a line between them is none, or
        where some are missing."""
        return self.log(name, worktree).records(first, last)

    def newest(self, name: str, worktree: str) -> Iterator[Record]:
        """All records, newest first, read as they are asked for; damaged ones are left out."""
        from stratum.store.segments import split_lines
        from stratum.tree.oplog import parse

        log = self.log(name, worktree)
        for segment in reversed(log.segments()):
            for block in reversed(log.blocks(segment)):
                for line in reversed(split_lines(block)):
                    if (record := parse(line)) is not None:
                        yield record

    def find(self, name: str, worktree: str, path: bytes, *, below: bool = False) -> list[Record]:
        """The records that are of ``path``, or by which something was renamed from it; oldest first. With ``below``
        also those of all that is below it. Damaged ones are left out."""
        from stratum.store.segments import lines_with
        from stratum.tree.oplog import parse, quote_path

        log = self.log(name, worktree)
        prefix = path.rstrip(b"/") + b"/"
        wanted = b'":"' + quote_path(path) + b'"'
        needle = b'":"' + quote_path(prefix if path == b"/" else path) if below else wanted
        found = []
        for segment in log.segments():
            for block in log.blocks(segment):
                for line in lines_with(block, needle):
                    record = parse(line)
                    if record is not None and _is_of(record, path, prefix if below else None):
                        found.append(record)
        return found

    def about(self, name: str, worktree: str, path: bytes) -> list[Record]:
        """All that bears on ``path``, oldest first: the records of it and of all that is below, renames of directories
        that it is or was in, and every ``base`` and ``gap``. Damaged ones are left out. In one pass over the log."""
        from stratum.store.segments import lines_with
        from stratum.tree.oplog import parse, quote_path

        above, needle = [], b'":"' + quote_path(path.rstrip(b"/") or b"/")
        parent = path.rpartition(b"/")[0]
        while parent:
            above.append(b'":"' + quote_path(parent) + b'"')
            parent = parent.rpartition(b"/")[0]
        log, lines = self.log(name, worktree), list[bytes]()
        for segment in log.segments():
            for block in log.blocks(segment):
                lines += lines_with(block, needle)
                for match in re.finditer(_OTHERS, block or b""):
                    assert block is not None
                    end = block.find(b"\n", match.end())
                    line = block[block.rfind(b"\n", 0, match.start()) + 1 : end if end >= 0 else len(block)]
                    if match[1] != b"rename" or any(text in line for text in above):
                        lines.append(line)
        found = {record.n: record for line in lines if (record := parse(line)) is not None}
        return [found[n] for n in sorted(found) if _bears_on(found[n], path)]

    def is_whole(self, name: str, worktree: str, first: int, last: int) -> bool:
        """Whether the log has all records from ``first`` to ``last`` as they were written, and no other line between
        them: ``find`` and ``about`` then leave out none."""
        from stratum.store.segments import split_lines
        from stratum.tree.oplog import is_intact

        log, before = self.log(name, worktree), 0
        segments = [segment for segment in log.segments() if segment.first <= last]
        begin = max((number for number, segment in enumerate(segments) if segment.first <= first), default=0)
        for segment in segments[begin:]:
            if segment.carried:  # its numbers have gaps
                return False
            for block in log.blocks(segment):
                for line in split_lines(block):
                    found = re.match(_NUMBER, line)
                    if found is None or not is_intact(line):
                        return False
                    n = int(found[2])
                    if n != (before if found[1] == b"end" else before + 1) and before:
                        return False
                    before = n
                    if n >= last:
                        return True
        return False

    def get(self, name: str, worktree: str, n: int) -> Record:
        """The record of CHANGE ``n``. ``NotFoundError``, ``DamagedError``."""
        from stratum.store.segments import record_in

        log = self.log(name, worktree)
        segment = next((found for found in reversed(log.segments()) if found.first <= n), None)
        for block in log.blocks(segment) if segment is not None else ():
            if (record := record_in(block, n)) is not None:
                return record
        raise self._no_change(name, worktree, n)

    def _no_change(self, name: str, worktree: str, n: int) -> NotFoundError:
        segments = self.log(name, worktree).segments()
        if not segments:
            return self._no_history(name, worktree)
        last = self.last(name, worktree)
        return NotFoundError(
            f"there is no CHANGE {n} of {name}+{worktree}",
            hint=f"its history has {segments[0].first} to {last}; 'stratum history {name}+{worktree}' lists them",
        )

    def _no_history(self, name: str, worktree: str) -> NotFoundError:
        return NotFoundError(
            f"there is no history of {name}+{worktree}",
            hint=f"'stratum history on {name}+{worktree}' has one kept from then on",
        )

    def epoch(self, name: str, worktree: str, n: int | None = None) -> Iterator[Record]:
        """The last ``base`` record up to CHANGE ``n`` (default: the last), then all records up to that. Raises
        ``NotFoundError`` where there is no history or no such CHANGE, ``DamagedError`` where it cannot be known what
        was done."""
        log = self.log(name, worktree)
        segments = log.segments()
        if not segments:
            raise self._no_history(name, worktree)
        if n is not None and not segments[0].first <= n <= self.last(name, worktree):
            raise self._no_change(name, worktree, n)
        for segment in reversed(segments):
            if n is not None and segment.first > n:
                continue
            base = log.last_base(segment, n)
            if base is not None:
                return self._checked(name, worktree, log.records(base.n, n, exact=True), n)
        raise log.damaged(0)

    def _checked(self, name: str, worktree: str, records: Iterator[Record], n: int | None) -> Iterator[Record]:
        last = 0
        for record in records:
            last = record.n
            yield record
        if n is not None and last != n:
            raise self._no_change(name, worktree, n)

    def last(self, name: str, worktree: str) -> int:
        """The number of the last record, 0 where there is none."""
        return next((record.n for record in self.newest(name, worktree)), 0)

    def problems(self, name: str, worktree: str) -> list[str]:
        """What is wrong with the log, as ends of sentences about it. What a crash leaves is no problem."""
        from stratum.store.logcheck import problems

        return problems(self.log(name, worktree))

    def usage(self, name: str, worktree: str) -> HistoryUsage:
        """What the history has and takes. Damaged parts are left out."""
        from stratum.store.logcheck import usage

        return usage(self.log(name, worktree))

    def roots(
        self, known: dict[object, Needs] | None = None, *, without: Collection[tuple[str, str]] = ()
    ) -> tuple[set[bytes], dict[str, str]]:
        """What the logs need: digests of objects, and commits -> why. What a damaged line mentions is among them;
        ``DamagedError`` where a part cannot be read at all.

        ``known`` is what segments need that were read before, and gets what others need; the histories ``without`` are
        left out.
        """
        digests: set[bytes] = set()
        commits: dict[str, str] = {}
        known = {} if known is None else known
        seen = set()
        for pair in self.each():
            if pair in without:
                continue
            for key, needed in self._needs(*pair, known):
                seen.add(key)
                digests |= needed.digests
                for commit in (*needed.commits, *self._mentioned(needed.torn)):
                    commits.setdefault(commit, f"history of {'+'.join(pair)}")
        for key in known.keys() - seen:
            del known[key]
        return digests, commits

    def needed_by(self, name: str, worktree: str) -> tuple[set[bytes], set[str]]:
        """What one log needs: digests, and commits; raises as ``roots``."""
        found = [needed for _, needed in self._needs(name, worktree, {})]
        commits = (commit for needed in found for commit in (*needed.commits, *self._mentioned(needed.torn)))
        return set().union(*(needed.digests for needed in found)), set(commits)

    def _needs(self, name: str, worktree: str, known: dict[object, Needs]) -> Iterator[tuple[object, Needs]]:
        """(key, what it needs) of each segment of a log."""
        from stratum.store.logcheck import needs

        log = self.log(name, worktree)
        for segment in log.segments():
            key = log.key(segment)
            needed = known.get(key)
            if needed is None:
                needed = known[key] = needs(log, segment)
            yield key, needed

    def _mentioned(self, lines: bytes) -> list[str]:
        """The commits of this store of which damaged lines have at least half of the name."""
        if not lines:
            return []
        names = self._layout.names_in(self._layout.commits)
        return [name for name in names if name[:32].encode() in lines or name[32:].encode() in lines]

    def stamp(self) -> object:
        """Another one where any log may have changed."""
        logs = [self.log(*pair) for pair in self.directories()]
        return [log.key(segment) for log in logs for segment in log.segments()]

    # Going

    def retire(self, name: str, worktree: str, *, discard: bool = False) -> None:
        """The worktree was removed: its history is off and, with ``discard``, gone; else it goes with its age."""
        directory = self._directory(name, worktree)
        if not os.path.lexists(directory):
            return
        if discard:
            from stratum.store.trash import remove_tree

            try:
                os.close(self._layout.open_beneath(directory, os.O_RDONLY | os.O_DIRECTORY))
                remove_tree(directory)
                with suppress(OSError):  # the others' histories are there too
                    os.rmdir(directory.parent)
            except OSError as exc:
                raise storage_error(exc, f"remove {directory}") from None
            return
        self.set_settings(name, worktree, None)
        with suppress(OSError):  # from now on it ages
            os.utime(directory, follow_symlinks=False)

    def _place(self, name: str, worktree: str) -> Path:
        return self._layout.history(check_name(name), check_name(worktree, "worktree name"))

    def _directory(self, name: str, worktree: str) -> Path:
        """Where the history is: of a stratum that was removed, beside the strata."""
        path = self._place(name, worktree)
        if not os.path.lexists(path) and not os.path.lexists(self._layout.ref(name)):
            removed = self._layout.removed_histories / name / worktree
            return removed if os.path.lexists(removed) else path
        return path

    def log(self, name: str, worktree: str) -> Log:
        """The segments of a history."""
        from stratum.store.segments import Log

        return Log(self._layout, self._directory(name, worktree), f"{name}+{worktree}")


def is_history_file(name: str) -> bool:
    """Whether a file in a history's directory can have this name."""
    return name == SETTINGS or re.fullmatch(_FILE, name) is not None


def keep_of_removed(layout: Layout, name: str) -> None:
    """Take the histories of a stratum that is about to be removed out of its directory. The caller holds the store's
    lock exclusively."""
    directory = layout.ref(name) / "history"
    if not os.path.lexists(directory):
        return
    kept = layout.removed_histories / name
    going = [worktree for worktree in layout.names_in(directory) if is_name(worktree)]
    try:
        for path in (layout.removed_histories, kept) if going else ():
            _make_directory(layout, path)
        for worktree in going:
            if not os.path.lexists(kept / worktree):
                _move(layout, directory / worktree, kept / worktree)
                _switch_off(layout, kept / worktree)
    except OSError as exc:
        raise storage_error(exc, f"keep the histories of {name}") from None


def take_back(layout: Layout, name: str) -> None:
    """A stratum of this name is there again: its worktrees have the histories that they had."""
    kept = layout.removed_histories / name
    if not os.path.lexists(kept):
        return
    try:
        _make_directory(layout, layout.ref(name) / "history")
        for worktree in layout.names_in(kept):
            if not os.path.lexists(layout.history(name, worktree)):
                _move(layout, kept / worktree, layout.history(name, worktree))
        with suppress(OSError):  # what is there twice stays
            os.rmdir(kept)
    except OSError as exc:
        raise storage_error(exc, f"take back the histories of {name}") from None


def _make_directory(layout: Layout, path: Path) -> None:
    fd = layout.open_beneath(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=fd)
            os.fsync(fd)
    finally:
        os.close(fd)


def _switch_off(layout: Layout, directory: Path) -> None:
    with suppress(FileNotFoundError):
        fd = layout.open_beneath(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.unlink(SETTINGS, dir_fd=fd)
            os.fsync(fd)
        finally:
            os.close(fd)


def _move(layout: Layout, old: Path, new: Path) -> None:
    source = layout.open_beneath(old.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        target = layout.open_beneath(new.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.rename(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)
            os.fsync(source)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _bears_on(record: Record, path: bytes) -> bool:
    if record.path is None or _is_of(record, path, path.rstrip(b"/") + b"/"):
        return True
    above = (record.path, record.was or record.path)
    return record.op == "rename" and any(path.startswith(found + b"/") for found in above)


def _is_of(record: Record, path: bytes, prefix: bytes | None) -> bool:
    """Whether the record is of ``path``, or of what begins with ``prefix``."""
    for found in (record.path, record.was):
        if found is not None and (found == path or (prefix is not None and found.startswith(prefix))):
            return True
    return False
