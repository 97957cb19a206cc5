"""Pins: the tags and commits of a stratum that nothing removes until they are unpinned: ``refs/<name>/pins.toml``.

::

    [pins]   tags, commits (lists, sorted)
    [check]  tells changed bytes (``store.tables``)

A pinned tag may be moved, not removed; a pinned commit stays in the store, named or not. There is no file where nothing
is pinned. Writers hold the stratum's lock.
"""

from __future__ import annotations

from stratum.errors import ConflictError, DamagedError
from stratum.frozen import frozen
from stratum.refs import is_hash, is_name
from stratum.store.layout import Layout
from stratum.store.tables import Tables, read_tables, write_tables
from stratum.store.transaction import Transaction, Transactions

PINS = "pins.toml"


@frozen
class Pinned:
    """What is pinned in one stratum: names of tags, and commits by their whole hashes."""

    tags: frozenset[str] = frozenset()
    commits: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.tags or self.commits)


def read_pins(layout: Layout, name: str) -> Pinned:
    """What is pinned in stratum ``name``. ``DamagedError``."""
    path = layout.ref(name) / PINS
    if not path.is_symlink() and not path.exists():
        return Pinned()
    data = layout.content_of(path)
    if data is None:
        return Pinned()
    table = Tables(read_tables(data, str(path)), str(path)).table("pins")
    tags, commits = _texts(table.get("tags")), _texts(table.get("commits"))
    if tags is None or commits is None or not all(map(is_name, tags)) or not all(map(is_hash, commits)):
        raise DamagedError(f"{path} does not say which tags and commits are pinned", hint="run 'stratum fsck'")
    return Pinned(frozenset(tags), frozenset(commits))


def write_pins(tx: Transaction, transactions: Transactions, layout: Layout, name: str, pinned: Pinned) -> None:
    """Have just ``pinned`` pinned in stratum ``name``, durably. The caller holds its lock."""
    path = layout.ref(name) / PINS
    if pinned:
        table = {"tags": sorted(pinned.tags), "commits": sorted(pinned.commits)}
        tx.place_file(write_tables({"pins": table}, f"the pins of {name}"), path)
    elif path.exists():
        transactions.discard(path)


def pinned_error(what: str, unpin: str) -> ConflictError:
    """Why ``what`` is not removed; ``unpin`` is the ref to unpin."""
    return ConflictError(
        f"{what} is pinned", hint=f"let it go first: stratum tag --unpin {unpin}; or repeat the command with --force"
    )


def _texts(value: object) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else None
