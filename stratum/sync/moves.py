"""Moves of a tag: what several stores tell each other, as text. Pure.

A commit ID names a tree, so going back to an earlier tree gives an old ID again, and descent of commits orders no
histories. What does is the graph of **moves** of one tag. A move says where the tag went, on which moves that was made,
and by whom. Its ID is the BLAKE3 hash of its text, so there are no circles, and all who have the same moves have the
same graph.

The text is one line of JSON in its canonical form (keys sorted, ASCII, no spaces), with these keys; those that are
empty are left out::

    author     NAME~KEYID of the store that made it
    commit     what the tag names from now on; left out where it was removed
    conflicts  [[PATH, WINNER, LOSER], ...]: what was found when the parents were merged, by the IDs of moves
    lineage    of a move without parents: commits that came before, the nearest first
    over       of a move with several parents: the commit that merging them gave
    parents    IDs of moves, sorted
    settles    [[PATH, LOSER], ...]: conflicts that count no more
    tag        the tag
    time       milliseconds since the epoch, by the author's clock

Only what people did is a move: what merging gives follows from the moves (``sync.merging``), so each store finds it by
itself, and no two stores can go on merging each other's merges.
"""

from __future__ import annotations

import json
import re
from typing import Any

from stratum.errors import DamagedError
from stratum.frozen import frozen
from stratum.refs import is_hash, is_name

TEXT_MAX = 1 << 20
"""Bytes of the text of a move."""
PARENTS_MAX = 64
LINEAGE_MAX = 100
CONFLICTS_MAX = 1000
"""Conflicts in one move; there are more paths in one where that would not do (``sync.merging.gathered``)."""
_PATH_MAX = 4096
_TIME_MAX = 253_402_300_800_000  # the year 10000, which dates do not have
_AUTHOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}~[0-9a-f]{16}")
_KEYS = frozenset(("author", "commit", "conflicts", "lineage", "over", "parents", "settles", "tag", "time"))

Contested = tuple[bytes, str, str]
"""A path, the move whose version is shown, and the one whose version is not."""
Settled = tuple[bytes, str]
"""A path, and the move whose version was not shown."""


@frozen
class Move:
    """One move of ``tag``; ``commit`` is None where it was removed. ``time`` is in milliseconds since the epoch, paths
    are absolute, raw bytes."""

    tag: str
    commit: str | None
    parents: tuple[str, ...]
    author: str
    time: int
    over: str | None = None
    lineage: tuple[str, ...] = ()
    conflicts: tuple[Contested, ...] = ()
    settles: tuple[Settled, ...] = ()

    @property
    def host(self) -> str:
        """The name that its author goes by."""
        return self.author.partition("~")[0]


def move_text(move: Move) -> bytes:
    """Its text, without a line break."""
    table: dict[str, Any] = {
        "author": move.author,
        "commit": move.commit,
        "conflicts": [[_text(path), winner, loser] for path, winner, loser in move.conflicts],
        "lineage": list(move.lineage),
        "over": move.over,
        "parents": list(move.parents),
        "settles": [[_text(path), loser] for path, loser in move.settles],
        "tag": move.tag,
        "time": move.time,
    }
    left = {key: value for key, value in table.items() if value not in (None, [])}
    return json.dumps(left, sort_keys=True, separators=(",", ":")).encode("ascii")


def move_id(text: bytes) -> str:
    """The ID of the move with this text: 64 hex digits."""
    from blake3 import blake3

    return blake3(text).hexdigest()


def read_move(text: bytes) -> Move:
    """The move with this text; ``DamagedError`` where it is none, or not canonical."""
    if len(text) > TEXT_MAX:
        raise DamagedError(f"a move of a tag has {len(text)} bytes; {TEXT_MAX} is the limit")
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        raise DamagedError("a move of a tag is no JSON") from None
    if not isinstance(table, dict) or not table.keys() <= _KEYS:
        raise DamagedError("a move of a tag has keys that this version does not know", hint="update Stratum here")
    try:
        move = Move(
            tag=table.get("tag", ""),
            commit=table.get("commit"),
            parents=tuple(_list(table, "parents", PARENTS_MAX)),
            author=table.get("author", ""),
            time=table.get("time", -1),
            over=table.get("over"),
            lineage=tuple(_list(table, "lineage", LINEAGE_MAX)),
            conflicts=tuple((_path(path), won, lost) for path, won, lost in _list(table, "conflicts", CONFLICTS_MAX)),
            settles=tuple((_path(path), lost) for path, lost in _list(table, "settles", 10 * CONFLICTS_MAX)),
        )
        fits = _fits(move) and move_text(move) == text
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise DamagedError("a move of a tag has a text that none has")
    return move


def _list(table: dict[str, Any], key: str, limit: int) -> list[Any]:
    value = table.get(key, [])
    if not isinstance(value, list) or len(value) > limit:
        raise ValueError(key)
    return value


def _fits(move: Move) -> bool:
    """Whether each part is what it may be."""
    ids = [*move.parents, *(name for _, *both in move.conflicts for name in both), *(name for _, name in move.settles)]
    commits = [commit for commit in (move.commit, move.over, *move.lineage) if commit is not None]
    return (
        all(isinstance(name, str) and is_hash(name) for name in (*ids, *commits))
        and isinstance(move.tag, str)
        and is_name(move.tag)
        and isinstance(move.author, str)
        and _AUTHOR.fullmatch(move.author) is not None
        and type(move.time) is int
        and 0 <= move.time < _TIME_MAX
        and list(move.parents) == sorted(set(move.parents))
        and not (move.lineage and move.parents)
        and not ((move.over or move.conflicts) and len(move.parents) < 2)
    )


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _path(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError(text)
    path = text.encode("utf-8", "surrogateescape")
    if not path.startswith(b"/") or len(path) > _PATH_MAX or b"\0" in path:
        raise ValueError(text)
    return path
