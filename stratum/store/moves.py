"""The moves of the tags of a stratum that is synced: ``refs/<name>/moves/``.

::

    log      a line for each move, ID (64 hex digits), a space and its text (``sync.moves``); parents come before what
             was made on them; only ever appended to
    commits  a line for each commit that is the stratum's by that, as a peer gave it or a tag named it; only ever
             appended to. What a move names counts only where it is one of these: it may be another stratum's
    state    what this store made of them: a line of JSON, and "check " with the SHA-256 of that line

The ID is the hash of the text, so it tells a changed byte; a line that is damaged or cut short is none, and neither is
what was made on it, until a peer sends them again. ``state`` has::

    tags       tag -> [commit or null, IDs of moves, [[path, shown, other], ...]]: where the tag was put last, what
               moves that shows, and the conflicts that were found when these were merged
    next       the same of tags that are about to be put there: written before, and gone once they are
    conflicts  tag -> commit, of the tags that keep the other side of a conflict
    peers      peer -> IDs of the newest moves that both sides had when they talked last

Without it (it was lost, or is damaged) it is found again by where the tags are. Moves are on disk before a tag is put
where they say. Who writes any of this holds ``refs/<name>/moves.lock`` (``store.locks``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from stratum.errors import DamagedError, StratumError
from stratum.frozen import field, frozen
from stratum.hashes import sha256
from stratum.refs import is_hash, is_name
from stratum.store.layout import Layout, storage_error
from stratum.store.namespaces import Namespaces
from stratum.sync.line import Heads, Line
from stratum.sync.merging import Conflict, Value, conflicts_of
from stratum.sync.moves import Contested, Move, move_id, read_move

if TYPE_CHECKING:
    from stratum.store.transaction import Transaction, Transactions

MOVES = "moves"
LOG, STATE, OWNED = "log", "state", "commits"
LOG_MAX = 1 << 30
FULL = 512 << 20
"""Bytes of a file from which on nothing is added: some two million moves."""
STATE_MAX = 256 << 20
_CHECK = b"\ncheck "
_HASHES = re.compile(rb"[0-9a-f]{64}")


class Shown(NamedTuple):
    """A commit (None: the tag is not there), the moves that it shows, and what is in conflict in these."""

    commit: str | None
    heads: Heads
    contested: tuple[Contested, ...] = ()


@frozen
class State:
    """What the file ``state`` says."""

    tags: dict[str, Shown] = field(default_factory=dict)
    next: dict[str, Shown] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    peers: dict[str, Heads] = field(default_factory=dict)


@frozen
class Book:
    """The moves of a stratum by tag, what the store made of them, and the numbers (from 1) of damaged lines. ``torn``
    is the last one of these where a crash cut it short; ``is_lost``: there is a file ``state`` that cannot be used."""

    lines: dict[str, Line]
    state: State
    damaged: list[int]
    torn: int | None = None
    is_lost: bool = False

    def line(self, tag: str) -> Line:
        """The moves of a tag, to be added to."""
        return self.lines.setdefault(tag, Line())

    @property
    def lost(self) -> list[str]:
        """The tags that were put where moves said that are not here any more."""
        return [tag for tag, shown in self.state.tags.items() if not set(shown.heads) <= self.line(tag).moves.keys()]

    def conflicts(self, tag: str) -> list[Conflict]:
        """What is in conflict in a tag, by path."""
        shown, line = self.state.tags.get(tag), self.lines.get(tag)
        return conflicts_of(line, Value(None, None, shown.contested if shown else ())) if line is not None else []

    def needed(self) -> set[str]:
        """The commits that merging needs: what the heads name, what is in conflict, what peers had last."""
        names = {name for heads in self.state.peers.values() for name in heads}
        wanted = {shown.commit for shown in (*self.state.tags.values(), *self.state.next.values())}
        wanted.update(self.state.conflicts.values())
        for tag, line in self.lines.items():
            others = {conflict.other for conflict in self.conflicts(tag)}
            last = names.intersection(line.moves)
            wanted.update(line.moves[name].commit for name in {*line.heads, *others, *last})
            wanted.update(move.over for move in line.moves.values() if set(move.parents) & {*last, *line.heads})
        return {commit for commit in wanted if commit is not None}


class Moves:
    """The moves of the strata of one store."""

    def __init__(self, layout: Layout, transactions: Transactions, namespaces: Namespaces) -> None:
        self._layout = layout
        self._transactions = transactions
        self._namespaces = namespaces
        self._named: dict[str, tuple[object, set[str]]] = {}

    def exists(self, name: str) -> bool:
        """Whether the stratum was ever synced."""
        return self._layout.moves(name).is_dir()

    def read(self, name: str) -> Book:
        """The moves of stratum ``name``; an empty book where it was never synced. ``DamagedError`` for what is no file,
        ``StratumError`` in the kernel's words."""
        lines: dict[str, Line] = {}
        damaged = []
        texts = (self._read(name, LOG, LOG_MAX) or b"").split(b"\n")
        for number, text in enumerate(texts, 1):
            parsed = _parse_line(text)
            known = parsed is not None and lines.setdefault(parsed[1].tag, Line()).add(*parsed)
            if text and not known:
                damaged.append(number)
        data = self._read(name, STATE, STATE_MAX)
        state = read_state(data) if data is not None else State()
        torn = len(texts) if len(texts) in damaged else None  # all others end with a line break
        return Book(lines, state or State(), damaged, torn, state is None)

    def _read(self, name: str, part: str, limit: int) -> bytes | None:
        path = self._layout.moves(name) / part
        return self._layout.content_of(path, limit)

    def mentioned(self, name: str) -> set[str]:
        """The commits that gc keeps for the moves of stratum ``name``: those that are needed, and whatever damaged
        lines may name."""
        if not self.exists(name):
            return set()
        book = self.read(name)
        found = book.needed()
        if book.damaged:
            lines = (self._read(name, LOG, LOG_MAX) or b"").split(b"\n")
            for number in book.damaged:
                found.update(map(bytes.decode, _HASHES.findall(lines[number - 1])))
        return found

    def commits(self, name: str) -> set[str]:
        """The commits that are the stratum's by a sync: those may ask for them with whom it is shared. Read again when
        there are more."""
        path = self._layout.moves(name) / OWNED
        try:
            info = path.lstat()
        except OSError:
            return set()
        signature = (info.st_ino, info.st_size, info.st_mtime_ns)
        known = self._named.get(name)
        if known is None or known[0] != signature:
            lines = (self._read(name, OWNED, LOG_MAX) or b"").decode("ascii", "replace").split("\n")
            known = self._named[name] = (signature, set(filter(is_hash, lines)))
        return known[1]

    def own(self, name: str, commits: Iterable[str]) -> None:
        """Have commits be the stratum's; durable when it returns. The caller holds the lock of the moves."""
        self._append(name, OWNED, b"".join(commit.encode() + b"\n" for commit in commits))

    def append(self, name: str, moves: Iterable[tuple[str, bytes]]) -> None:
        """Add moves, ID and text, parents first; durable when it returns. The caller holds the lock of the moves."""
        self._append(name, LOG, b"".join(b"%s %s\n" % (one.encode(), text) for one, text in moves))

    def _append(self, name: str, part: str, data: bytes) -> None:
        if not data:
            return
        self._ensure(name)
        path = self._layout.moves(name) / part
        if path.exists() and path.lstat().st_size + len(data) > FULL:
            raise StratumError(f"{name} has more moves than a stratum can have; a peer may have made them up")
        try:
            self._layout.append_beneath(path, data)
        except OSError as exc:
            raise storage_error(exc, f"write {path}") from None

    def write(self, name: str, text: bytes) -> None:
        """Have the file ``state`` say this, durably. The caller holds the lock of the moves."""
        self._ensure(name)
        with self._transactions.begin(f"syncing {name}") as tx:
            tx.place_file(text, self._layout.moves(name) / STATE)

    def without_damaged(self, tx: Transaction, name: str) -> bytes:
        """Write the log without its damaged lines, which are returned."""
        lines, damaged = (self._read(name, LOG, LOG_MAX) or b"").split(b"\n"), set(self.read(name).damaged)
        if damaged:
            good = [line for number, line in enumerate(lines, 1) if line and number not in damaged]
            tx.place_file(b"".join(line + b"\n" for line in good), self._layout.moves(name) / LOG)
        return b"".join(lines[number - 1] + b"\n" for number in sorted(damaged))

    def _ensure(self, name: str) -> None:
        if self.exists(name):
            return
        with self._transactions.begin(f"syncing {name}") as tx:
            directory = tx.new_path(MOVES)
            tx.make_directory(directory)
            tx.write_file(directory / LOG, b"")
            tx.write_file(directory / OWNED, b"")
            tx.place(directory, self._layout.moves(name))


def _parse_line(line: bytes) -> tuple[str, Move] | None:
    name, _, text = line.partition(b" ")
    if not text or move_id(text).encode() != name:
        return None
    try:
        return name.decode(), read_move(text)
    except DamagedError:
        return None


def state_text(state: State) -> bytes:
    """The file ``state``."""
    table = {
        "tags": {tag: _row(shown) for tag, shown in state.tags.items()},
        "next": {tag: _row(shown) for tag, shown in state.next.items()},
        "conflicts": state.conflicts,
        "peers": state.peers,
    }
    body = json.dumps(table, sort_keys=True).encode("ascii")
    return body + _CHECK + sha256(body).hexdigest().encode() + b"\n"


def _row(shown: Shown) -> list[Any]:
    contested = [(path.decode("utf-8", "surrogateescape"), *both) for path, *both in shown.contested]
    return [shown.commit, shown.heads, contested]


def read_state(data: bytes) -> State | None:
    """What such a file says; None where it is damaged."""
    body, _, check = data.rpartition(_CHECK)
    if check != sha256(body).hexdigest().encode() + b"\n":
        return None
    try:
        table: dict[str, Any] = json.loads(body)
        return State(
            tags={_tag(tag): _shown(*shown) for tag, shown in table["tags"].items()},
            next={_tag(tag): _shown(*shown) for tag, shown in table["next"].items()},
            conflicts={_tag(tag): _hash(commit) for tag, commit in table["conflicts"].items()},
            peers={str(peer): tuple(map(_hash, heads)) for peer, heads in table["peers"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _shown(commit: Any, heads: Any, contested: Any) -> Shown:
    found = tuple((path.encode("utf-8", "surrogateescape"), _hash(a), _hash(b)) for path, a, b in contested)
    return Shown(None if commit is None else _hash(commit), tuple(map(_hash, heads)), found)


def _hash(text: Any) -> str:
    if not isinstance(text, str) or not is_hash(text):
        raise ValueError(text)
    return text


def _tag(text: str) -> str:
    if not is_name(text):
        raise ValueError(text)
    return text
