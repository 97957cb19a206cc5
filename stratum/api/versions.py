"""The history of a worktree, listed: what was done in it, of one path or of all, with the commits in between."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from stratum.api.naming import ref_and_path
from stratum.api.session import Session
from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError, path_text
from stratum.frozen import field, frozen
from stratum.refs import Ref
from stratum.tree.model import Directory, File, content_unknown, lookup
from stratum.tree.oplog import OPS, Record, inode_of
from stratum.tree.timewords import parse_when
from stratum.tree.unknown import similar_name, similar_path

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.reflog import ReflogEntry

KINDS = (*OPS, "commit")
"""What a line can tell of."""
FLUSH_WAIT = 5.0
"""Seconds that a list waits for what is being recorded at this moment."""
_TWIN = timedelta(seconds=10)


@frozen
class Line:
    """One line: an operation, a commit, or the ``base`` that everything above it was done to.

    ``change`` is None of a commit. ``when`` is RFC 3339 in UTC. ``size`` is that of a regular
    file, and ``unknown`` says why its content is not kept (``tree.oplog.UNKNOWN``). ``by`` is a program, ``container``
    its ID; ``commit`` a whole hash; ``why`` what a commit's message, a gap or a base says.
    """

    change: int | None
    when: str
    op: str
    path: bytes | None = None
    was: bytes | None = None
    link: bytes | None = None
    size: int | None = None
    unknown: str | None = None
    by: str | None = None
    container: str | None = None
    commit: str | None = None
    why: str | None = None


@frozen
class Listed:
    """What ``history`` shows, newest first, of ``worktree`` (NAME+WORKTREE), and what to tell about it. ``path`` is
    None for all paths."""

    worktree: str
    path: bytes | None
    lines: list[Line]
    notes: list[str] = field(default_factory=list)


@frozen
class Wanted:
    """Which lines: ``since`` and ``until`` as people write moments, ``ops`` (none: all), at most ``limit``.

    ``follow``: a path goes on under the name that it had before it was renamed. ``everything``: also directories whose
    time moved only because something in them came or went, and bases that a commit beside them tells of.
    """

    since: str | None = None
    until: str | None = None
    ops: Sequence[str] = ()
    limit: int | None = None
    follow: bool = False
    everything: bool = False


def history(session: Session, text: str, path: str | None = None, wanted: Wanted | None = None) -> Listed:
    """The history of the worktree that ``text`` names (a ref, or a path at or below its mountpoint), or of ``path`` and
    what is below it.

    What is recorded at this moment is waited for. Raises ``NotFoundError`` for a worktree without history and for a
    path that was never there, ``UsageError`` for what is no moment or no kind of operation, ``DamagedError``.
    """
    wanted = wanted or Wanted()
    ref, inner = named(session, text)
    raw = path_in(path) if path is not None else inner
    name, worktree = session.store.changes.worktree_of(ref)
    notes = [note] if (note := up_to_date(session, name, worktree)) is not None else []
    listing = _Listing(session, name, worktree, ref.change, wanted)
    if raw is None:
        return Listed(f"{name}+{worktree}", None, list(listing.all()), notes)
    if not session.store.histories.last(name, worktree):
        return Listed(f"{name}+{worktree}", raw, [], [*notes, f"nothing is recorded of {name}+{worktree} yet"])
    settings = session.store.histories.settings(name, worktree)
    if settings is not None and settings.exclude:
        from stratum.history.excluding import Excluding

        if Excluding(settings.exclude).covers(raw):
            notes.append(f"{path_text(raw)} is excluded: nothing more is recorded of it")
    lines, told = listing.of_path(raw)
    return Listed(f"{name}+{worktree}", raw, lines, notes + told)


def named(session: Session, text: str) -> tuple[Ref, bytes | None]:
    """(the worktree that ``text`` is about, the path in it where ``text`` is REF:/PATH or one below its mountpoint)."""
    ref, path = ref_and_path(session, text)
    if ref.tag is not None or ref.past:
        raise UsageError(f"{text} is a tag or commit, which has no history of its own", hint="name NAME+WORKTREE")
    return ref, path_in(path) if path is not None else None


def worktree_named(session: Session, text: str) -> Ref:
    """The worktree with a history that ``text`` is about. ``NotFoundError``, ``UsageError``."""
    ref, inner = named(session, text)
    if inner is not None:
        raise UsageError(f"{text} is a path in {ref}; a worktree is needed here", hint=f"write {ref} and the path")
    if ref.change is not None:
        raise UsageError(f"{ref} is one state already", hint="leave what is after the '@' out, or the moment or CHANGE")
    session.store.changes.worktree_of(ref)
    return ref


def path_in(path: str) -> bytes:
    """A path in a worktree, from its root, as records have it. ``UsageError`` for one with ``..``."""
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise UsageError(f"{path}: a path in a worktree has no '..'")
    return b"/" + b"/".join(names)


def up_to_date(session: Session, name: str, worktree: str, *, timeout: float = FLUSH_WAIT) -> str | None:
    """Have the log say everything that was done by now; a note where that did not work, or nobody watches."""
    from stratum.history.wire import flush

    if session.store.histories.settings(name, worktree) is None:
        return None
    try:
        last = flush(session.config.runtime_dir, session.store.root, name, worktree, timeout=timeout)
    except StratumError as exc:
        return exc.told
    if last is None:
        return f"nobody watches {name}+{worktree} now: 'stratum watch --once' brings its history up to date"
    return None


def moment(text: str) -> datetime:
    """The moment that a user writes, in local time where it has no zone. ``UsageError``."""
    return parse_when(text, datetime.now().astimezone(), datetime.astimezone)


def change_at(session: Session, name: str, worktree: str, text: str) -> tuple[int, str | None]:
    """(the last CHANGE at the moment that ``text`` means, a note where nobody watched then).

    A moment without a fraction is that second as a whole, as lists show no fractions. ``NotFoundError`` where the
    history begins later.
    """
    when = moment(text)
    bound = _stamp(when + timedelta(milliseconds=999) if not when.microsecond else when)
    later: Record | None = None
    for record in session.store.histories.newest(name, worktree):
        if record.when <= bound:
            gap = later is not None and later.op == "gap"
            note = f"nobody watched {name}+{worktree} then: this is what it last was known to be" if gap else None
            return record.n, note
        later = record
    begins = f"; it begins at {later.when}" if later is not None else ""
    raise NotFoundError(
        f"the history of {name}+{worktree} does not reach back to {text}{begins}",
        hint=f"'stratum log {name}+{worktree}' shows the commits there are",
    )


def _stamp(when: datetime) -> str:
    """A moment as records have it."""
    from datetime import timezone

    return when.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


class _Listing:
    """One list of the history of a worktree."""

    def __init__(self, session: Session, name: str, worktree: str, last: int | None, wanted: Wanted) -> None:
        unknown = [op for op in wanted.ops if op not in KINDS]
        if unknown:
            raise UsageError(f"{unknown[0]!a} is no kind of operation", hint=f"those are {', '.join(KINDS)}")
        self._store: Store = session.store
        self._name = name
        self._worktree = worktree
        self._last = last
        self._wanted = wanted
        self._since = _stamp(moment(wanted.since)) if wanted.since is not None else ""
        self._until = _stamp(moment(wanted.until)) if wanted.until is not None else "~"

    def all(self) -> Iterator[Line]:
        """The lines of all paths."""
        return self._wanted_of(self._with_commits(self._store.histories.newest(self._name, self._worktree)))

    def of_path(self, path: bytes) -> tuple[list[Line], list[str]]:
        """The lines of a path and what is below it, and what to tell of it. ``NotFoundError``."""
        records, oldest = self._gathered(path)
        first = next((record.n for record in records if record.path is not None), None)
        ground = self._ground(oldest, records, first)
        if ground is None and not any(_is_of(record, path) for record in records) and not self._is_there(path):
            raise self._never_there(path)
        shown = [record for record in records if first is not None and record.n >= first]
        lines = list(self._wanted_of(self._with_commits(reversed(shown))))
        wanted = self._wanted
        fits = (wanted.limit is None or len(lines) < wanted.limit) and (not wanted.ops or "base" in wanted.ops)
        if ground is not None and fits and not wanted.since:
            lines = [line for line in lines if line.change != ground.change] + [ground]
        return lines, self._told(path, records, ground)

    # What belongs to a path

    def _gathered(self, path: bytes) -> tuple[list[Record], bytes]:
        """(the records of a path and what is below it, of what the directories that it is in were called, and those
        that are of all paths, oldest first; the path that it had before them, where names are followed)."""
        found: dict[int, Record] = {}
        upto = self._last
        while True:
            records = self._of_name(path, upto)
            came = None
            if self._wanted.follow:
                came = next((r for r in reversed(records) if r.op == "rename" and _is_at_or_above(r.path, path)), None)
            found |= {r.n: r for r in records if came is None or r.n >= came.n}
            if came is None:
                break
            assert came.path is not None
            assert came.was is not None
            path, upto = came.was + path[len(came.path) :], came.n - 1
        return [found[n] for n in sorted(found)], path

    def _of_name(self, path: bytes, upto: int | None) -> list[Record]:
        records = self._store.histories.about(self._name, self._worktree, path)
        return [record for record in records if upto is None or record.n <= upto]

    def _ground(self, path: bytes, records: list[Record], first: int | None) -> Line | None:
        """The line that tells what ``path`` was before the CHANGE ``first``, its oldest: in the base of that epoch, or
        else in that of the whole history. None where it was in neither."""
        bases = [record for record in records if record.op == "base"]
        nearest = [record for record in bases if first is None or record.n < first]
        for base in dict.fromkeys((*nearest[-1:], *bases[:1])):
            if base.commit is None or not self._store.commits.exists(base.commit):
                continue
            inode = lookup(self._store.commits.open_tree(base.commit), path)
            if inode is not None:
                size = inode.size if isinstance(inode, File) else None
                return Line(base.n, base.when, "base", path, size=size, commit=base.commit)
        return None

    def _told(self, path: bytes, records: list[Record], ground: Line | None) -> list[str]:
        """How to have a path back that is not there any more."""
        own = [record for record in records if path in (record.path, record.was)]
        if not own or not (own[-1].op == "delete" or (own[-1].op == "rename" and own[-1].was == path)):
            return []
        gone, shown = own[-1], path_text(path)
        if gone.op == "rename":
            return [f"{shown} is {path_text(gone.path or b'')} since CHANGE {gone.n}"]
        last = next((r.n for r in reversed(own[:-1]) if r.path == path and has_content(r)), None)
        last = last if last is not None or ground is None else ground.change
        told = f"{shown} was deleted by CHANGE {gone.n}"
        if last is None:
            return [f"{told}, and its content was never known"]
        return [f"{told}; to have it back: stratum restore {self._name}+{self._worktree} {_word(path)} {last}"]

    def _is_there(self, path: bytes) -> bool:
        """Whether the last state has the path: what it is in can have been renamed to where it is."""
        last = self._last or self._store.histories.last(self._name, self._worktree)
        ref = Ref(self._name, worktree=self._worktree, change=last)
        return bool(last) and lookup(self._store.changes.state(ref).tree, path) is not None

    def _never_there(self, path: bytes) -> NotFoundError:
        whose, shown = f"{self._name}+{self._worktree}", path_text(path)
        hint = f"'stratum history {whose}' lists what was"
        with suppress(StratumError):
            similar = self._similar(path)
            if similar is not None:
                hint = f"did you mean {path_text(similar)}?"
        return NotFoundError(f"{shown} was never in {whose}, as far as its history reaches", hint=hint)

    def _similar(self, path: bytes) -> bytes | None:
        """A path that there is, or was, and that may have been meant."""
        histories, whose = self._store.histories, (self._name, self._worktree)
        state = self._store.changes.state(Ref(self._name, worktree=self._worktree, change=histories.last(*whose)))
        above, _, name = path.rpartition(b"/")
        below = {r.path for r in histories.find(*whose, above or b"/", below=True) if r.path is not None}
        names = {p[len(above) + 1 :].split(b"/")[0] for p in below if p.startswith(above + b"/")} - {b""}
        directory = lookup(state.tree, above)
        close = similar_name(names | (directory.children.keys() if isinstance(directory, Directory) else set()), name)
        return above + b"/" + close if close is not None else similar_path(state.tree, path)

    # Lines

    def _wanted_of(self, lines: Iterable[Line]) -> Iterator[Line]:
        wanted, count = self._wanted, 0
        for line in lines:
            if wanted.limit is not None and count >= wanted.limit:
                return
            if line.when < self._since:
                if line.op != "commit":  # its time may be a second, so that an operation before it is shown above it
                    return
                continue
            if line.when > self._until:
                continue
            if wanted.ops and line.op not in wanted.ops:
                continue
            if line.op == "mtime" and not wanted.everything and "mtime" not in wanted.ops:
                continue
            count += 1
            yield line

    def _with_commits(self, records: Iterable[Record]) -> Iterator[Line]:
        """The lines of ``records``, newest first, with the commits and other moves of the worktree between them."""
        moves = [
            entry
            for entry in reversed(self._store.reflog.read(self._name))
            if entry.kind == "worktree" and entry.which == self._worktree and entry.new is not None
        ]
        last = self._store.histories.get(self._name, self._worktree, self._last) if self._last is not None else None
        if last is not None:
            moves = [entry for entry in moves if entry.when <= last.when]
        times = _times_of(moves)
        for record in records:
            if last is not None and record.n > last.n:
                continue
            while moves and _is_after(moves[0], record.when):
                yield self._move(moves.pop(0))
            told = record.op == "base" and record.n > 1 and _follows(record, times)
            if not told or self._wanted.everything or "base" in self._wanted.ops:
                yield line_of(record)

    def _move(self, entry: ReflogEntry) -> Line:
        assert entry.new is not None
        why: str | None = entry.why if entry.why != "commit" else None
        with suppress(StratumError):
            why = self._store.commits.meta(entry.new).message or why
        return Line(None, entry.when, "commit", commit=entry.new, why=why)


def _times_of(moves: Iterable[ReflogEntry]) -> dict[str, list[datetime]]:
    """When a worktree was moved to each commit."""
    found: dict[str, list[datetime]] = {}
    for entry in moves:
        with suppress(ValueError):
            found.setdefault(entry.new or "", []).append(_time(entry.when))
    return found


def _follows(record: Record, times: Mapping[str, list[datetime]]) -> bool:
    """Whether a ``base`` record is of an epoch that began as the worktree was moved to its commit."""
    then = _time(record.when)
    return any(abs(then - moved) <= _TWIN for moved in times.get(record.commit or "", ()))


def _time(when: str) -> datetime:
    return datetime.fromisoformat(when.replace("Z", "+00:00"))


def line_of(record: Record) -> Line:
    """The line of one record. What its entry says is left out where it is damaged: ``fsck`` tells."""
    size = unknown = None
    if record.entry is not None:
        with suppress(DamagedError):
            inode = inode_of(record.entry)
            size = inode.size if isinstance(inode, File) else None
            unknown = (record.why or "open") if content_unknown(inode) else None
    why = record.why if record.op in ("base", "gap") else None
    more = {"by": record.by, "container": record.container, "commit": record.commit, "why": why}
    return Line(record.n, record.when, record.op, record.path, record.was, record.link, size, unknown, **more)


def has_content(record: Record) -> bool:
    """Whether a record says all of an inode that is no directory, so that it can be brought back."""
    if record.op == "link" or (record.link is not None and record.entry is None):
        return True
    if record.entry is None or record.op == "delete":
        return False
    try:
        inode = inode_of(record.entry)
    except DamagedError:
        return False
    return not isinstance(inode, Directory) and not content_unknown(inode)


def _is_of(record: Record, path: bytes) -> bool:
    """Whether a record is of the path or of something below it."""
    return _is_at_or_above(path, record.path or b"") or _is_at_or_above(path, record.was or b"")


def _is_at_or_above(above: bytes | None, path: bytes) -> bool:
    return above is not None and (path == above or path.startswith(above.rstrip(b"/") + b"/"))


def _is_after(move: ReflogEntry, when: str) -> bool:
    """Whether a worktree was moved after what was recorded then.

    At the same time it was: a commit waits for what is recorded. But nothing was before the worktree. The first
    versions wrote whole seconds.
    """
    began = move.old is None
    moved = move.when if "." in move.when else move.when[:-1] + (".000Z" if began else ".999Z")
    return moved > when if began else moved >= when


def _word(path: bytes) -> str:
    """A path as a word for a shell."""
    import shlex

    return shlex.quote(path.decode("utf-8", "surrogateescape"))
