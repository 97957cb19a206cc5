"""The reflog of a stratum: ``refs/<name>/log.jsonl``, one JSON object a line, oldest first, only ever appended to.

::

    {"when": "2025-06-09T10:30:00.125Z", "kind": "tag", "which": "latest", "old": HASH or null, "new": HASH or null,
     "why": "import", "check": 16 hex digits}

``when`` has milliseconds, as the records of a worktree's history have; the first versions wrote whole seconds.
``kind`` is ``tag`` or ``worktree``; ``new`` is null where the tag or worktree was removed. An entry is written, in one
write(2) and synced, *before* the move that it tells of, so a crash may leave an entry whose move did not happen, but
never a commit that was moved away from and is named nowhere. Writers hold the stratum's lock. A line that a crash cut
short is closed by the next writer and skipped by readers.

``check`` is the BLAKE2b hash, of 8 bytes, of all bytes of the line before ``, "check"``: it tells a changed byte. A
line without it, as the first versions wrote them, is read as it is. That whole lines are gone is seen where a tag or
worktree is at a commit that its history does not know (``unknown``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stratum.frozen import frozen
from stratum.refs import is_hash
from stratum.store.clock import rfc3339, utc_now
from stratum.store.layout import Layout, NoSpaceError, storage_error

if TYPE_CHECKING:
    from stratum.store.transaction import Transactions

Kind = Literal["tag", "worktree"]
Place = tuple[Kind, str, str]
"""A tag or worktree, its name, and the commit that it is at."""
KEPT_BEFORE = "kept before "
"""How ``why`` begins where changes that nobody committed were made a commit, before a reset, rebase or removal."""
_READ_MAX = 1 << 30
_CHECK = b', "check": "'
_NAMED = rb'"(?:old|new)": "([0-9a-f]{64})"'  # with quotes that no text in a line has
_COMPLETE = rb', "check": "[0-9a-f]{16}"\}'


@frozen
class ReflogEntry:
    """One move of a tag or a worktree's head. ``when`` is RFC 3339, with milliseconds or, where it is old, without;
    ``old`` is None for a new ref, ``new`` for a removed one."""

    when: str
    kind: Kind
    which: str
    old: str | None
    new: str | None
    why: str


class Reflog:
    """The reflogs of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def append(self, name: str, kind: Kind, which: str, old: str | None, new: str | None, why: str) -> None:
        """Add an entry, durably. The caller holds the lock of stratum ``name``."""
        import json

        when = rfc3339(utc_now(), milliseconds=True)
        entry = {"when": when, "kind": kind, "which": which, "old": old, "new": new, "why": why}
        body = json.dumps(entry).encode("ascii")[:-1]
        line = body + _CHECK + _hash(body) + b'"}\n'
        try:
            self._layout.append_beneath(self._layout.reflog(name), line)
        except OSError as exc:
            raise storage_error(exc, f"write the history of {name}") from None

    def read(self, name: str) -> list[ReflogEntry]:
        """The entries, oldest first; lines that are none are left out (``scan`` tells of them)."""
        return self.scan(name)[0]

    def named(self, name: str) -> set[str]:
        """The commits that a tag or worktree of the stratum ever was at. Quicker than ``read``."""
        return {found.decode() for line in self.lines(name) for found in re.findall(_NAMED, line)}

    def scan(self, name: str) -> tuple[list[ReflogEntry], list[int]]:
        """The entries, oldest first, and the numbers (from 1) of the lines that are cut short or damaged."""
        entries, damaged = [], []
        for number, line in enumerate(self.lines(name), 1):
            entry = parse_entry(line)
            if entry is not None:
                entries.append(entry)
            elif line:
                damaged.append(number)
        return entries, damaged

    def lines(self, name: str) -> list[bytes]:
        """The file's lines as they are, whatever they hold; the last is empty unless it was cut short."""
        try:
            return self._layout.read_beneath(self._layout.reflog(name), _READ_MAX).split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise storage_error(exc, f"read the history of {name}") from None


def remove_logged(
    reflog: Reflog, transactions: Transactions, path: Path, name: str, kind: Kind, which: str, old: str | None, why: str
) -> None:
    """Log the removal of a tag or worktree at ``path``, and remove it. The caller holds the lock of stratum ``name``.

    On a full disk it is the other way round, as what is removed makes room for the entry; where even that is not
    enough, the entry is lost rather than the removal refused.
    """
    try:
        reflog.append(name, kind, which, old, None, why)
    except NoSpaceError:
        transactions.discard(path)
        with suppress(NoSpaceError):
            reflog.append(name, kind, which, old, None, why)
    else:
        transactions.discard(path)


def _hash(body: bytes) -> bytes:
    from stratum.hashes import blake2b

    return blake2b(body, digest_size=8).hexdigest().encode()


def is_cut_short(line: bytes) -> bool:
    """Whether a line that holds no entry may be the beginning of one, as a crash leaves it at the end of the file."""
    return re.search(_COMPLETE, line) is None


def unknown(entries: Iterable[ReflogEntry], refs: Iterable[Place]) -> list[Place]:
    """Those of ``refs`` that are at a commit to which no entry tells that they moved: its line is lost."""
    told = {(entry.kind, entry.which, entry.new) for entry in entries}
    return [ref for ref in refs if ref not in told]


def parse_entry(line: bytes) -> ReflogEntry | None:
    """The entry in a line, or None where there is none, or one that was changed after it was written."""
    import json

    body, checked, rest = line.rpartition(_CHECK)
    if checked and rest != _hash(body) + b'"}':
        return None
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(table, dict) or table.get("kind") not in ("tag", "worktree"):
        return None
    if not all(isinstance(table.get(key), str) for key in ("when", "which", "why")):
        return None
    old, new = table.get("old"), table.get("new")
    if not all(value is None or (isinstance(value, str) and is_hash(value)) for value in (old, new)):
        return None
    return ReflogEntry(table["when"], table["kind"], table["which"], old, new, table["why"])
