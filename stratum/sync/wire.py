"""What two hosts send each other of the moves of a stratum: lines, of which the first is the head. Pure.

::

    {"stratum-moves": 1, "have": [ID, ...], "more": false, "note": TEXT}
    TEXT OF A MOVE
    ...

``have`` are the newest moves of each tag that the sender has, ``more`` tells that moves are left which the other lacks,
``note`` (empty mostly) is for people. Moves stand behind those that they were made on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from stratum.errors import DamagedError
from stratum.frozen import frozen
from stratum.refs import is_hash
from stratum.sync.moves import TEXT_MAX, Move, move_id, read_move

MESSAGE_MAX = 8 << 20
"""Bytes of a message that is sent. What is read may have twice that."""
HAVE_MAX = 65536
_NOTE_MAX = 500
_KEY = "stratum-moves"


@frozen
class Message:
    """A message: ``moves`` are (ID, text, move)."""

    have: tuple[str, ...]
    moves: Sequence[tuple[str, bytes, Move]] = ()
    more: bool = False
    note: str = ""


def message_text(have: Iterable[str], moves: Iterable[bytes] = (), note: str = "") -> tuple[bytes, int]:
    """A message with as many of the texts ``moves`` as fit, and how many these are."""
    lines: list[bytes] = []
    size, more = 0, False
    for text in moves:
        size += len(text) + 1
        if size > MESSAGE_MAX - (1 << 20) and lines:
            more = True
            break
        lines.append(text)
    newest = sorted(have)[:HAVE_MAX]
    head = json.dumps({_KEY: 1, "have": newest, "more": more, "note": note[:_NOTE_MAX]}).encode("ascii")
    return b"\n".join((head, *lines)) + b"\n", len(lines)


def read_message(data: bytes, who: str) -> Message:
    """A message that ``who`` sent; ``DamagedError`` where it is none."""
    if len(data) > 2 * MESSAGE_MAX:
        raise DamagedError(f"{who} sent moves of {len(data)} bytes; {2 * MESSAGE_MAX} is the limit")
    head, *texts = data.removesuffix(b"\n").split(b"\n")
    try:
        table = json.loads(head) if len(head) <= 80 * HAVE_MAX else None
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or _KEY not in table:
        raise DamagedError(f"{who} sent something that is no list of moves")
    if table[_KEY] != 1:
        raise DamagedError(f"{who} sends moves in a format that this version does not know", hint="update Stratum here")
    have, more, note = table.get("have"), table.get("more"), table.get("note")
    if not isinstance(have, list) or len(have) > HAVE_MAX or not all(isinstance(i, str) and is_hash(i) for i in have):
        raise DamagedError(f"{who} sent something that is no list of moves")
    if not isinstance(more, bool) or not isinstance(note, str) or any(len(t) > TEXT_MAX for t in texts):
        raise DamagedError(f"{who} sent something that is no list of moves")
    try:
        moves = [(move_id(text), text, read_move(text)) for text in texts]
    except DamagedError as exc:
        raise DamagedError(f"{who} sent something that is no move: {exc.message}", hint=exc.hint) from None
    return Message(tuple(have), moves, more, note[:_NOTE_MAX])
