"""What is said of a commit: ``commits/<metadata_hash>/metadata.toml``, which has these tables::

    [commit]  merkle_root, metadata_hash, timestamp (RFC 3339 UTC), parent_commit?, message?
    [files]   count (names of regular files: a hard link counts each time), total_size (bytes; each inode once)
    [merkle]  leaf_count, tree_depth
    [origin]  optional: how the commit came to be
    [check]   tells changed bytes (``store.tables``)

Of these only ``metadata_hash`` is proven by the commit's name; timestamp, parent, message and origin are what the first
writer of this tree said.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Mapping
from functools import cache
from typing import Any

from stratum.frozen import frozen
from stratum.store.tables import Tables, is_intact, read_tables, write_tables
from stratum.tree.model import Directory, File

METADATA = "metadata.toml"
METADATA_MAX = 1 << 20
"""Bytes of metadata.toml. No commit with more is made, and none is taken from elsewhere."""
_HEAD = (
    rb'\[commit\]\nmerkle_root = "[0-9a-f]{64}"\nmetadata_hash = "([0-9a-f]{64})"\ntimestamp = "[^"\n]*"\n'
    rb'(?:parent_commit = "([0-9a-f]{64})"\n|message = |\n\[)'
)
"""The beginning of metadata.toml as it is written here."""
_READ_SLOWLY = 8
"""So many metadata.toml are read in the time that it takes to make ``_written``."""
_reads = itertools.count()


@frozen
class CommitMeta:
    """What metadata.toml says. Hashes are lower-case hex, sizes bytes, ``timestamp`` RFC 3339 in UTC."""

    metadata_hash: str
    merkle_root: str
    timestamp: str
    file_count: int
    total_size: int
    leaf_count: int
    tree_depth: int
    parent_commit: str | None = None
    message: str | None = None
    origin: Mapping[str, Any] | None = None

    def to_table(self) -> dict[str, Any]:
        """The tables of metadata.toml."""
        commit = {
            "merkle_root": self.merkle_root,
            "metadata_hash": self.metadata_hash,
            "timestamp": self.timestamp,
        }
        if self.parent_commit is not None:
            commit["parent_commit"] = self.parent_commit
        if self.message is not None:
            commit["message"] = self.message
        table: dict[str, Any] = {
            "commit": commit,
            "files": {"count": self.file_count, "total_size": self.total_size},
            "merkle": {"leaf_count": self.leaf_count, "tree_depth": self.tree_depth},
        }
        if self.origin is not None:
            table["origin"] = dict(self.origin)
        return table

    def to_toml(self) -> bytes:
        """metadata.toml. ``UsageError`` where message or origin hold something that TOML cannot."""
        return write_tables(self.to_table(), "the commit's message or origin")

    @classmethod
    def from_toml(cls, data: bytes, where: str) -> CommitMeta:
        """Read metadata.toml; ``DamagedError`` names ``where`` and what is wrong. Unknown tables are ignored."""
        written = _as_written(data) if next(_reads) >= _READ_SLOWLY else None
        return written or cls._from_tables(read_tables(data, where), where)

    @classmethod
    def _from_tables(cls, table: Mapping[str, Any], where: str) -> CommitMeta:
        fields = Tables(table, where)
        return cls(
            metadata_hash=fields.hash("commit", "metadata_hash"),
            merkle_root=fields.hash("commit", "merkle_root"),
            timestamp=fields.text("commit", "timestamp"),
            file_count=fields.count("files", "count"),
            total_size=fields.count("files", "total_size"),
            leaf_count=fields.count("merkle", "leaf_count"),
            tree_depth=fields.count("merkle", "tree_depth"),
            parent_commit=fields.hash("commit", "parent_commit") if fields.has("commit", "parent_commit") else None,
            message=fields.text("commit", "message") if fields.has("commit", "message") else None,
            origin=fields.table("origin") if "origin" in table else None,
        )


@cache
def _written() -> re.Pattern[str]:
    """metadata.toml as it is written here, where no text in it needs an escape."""
    text, number, digest = r'"([^"\\\x00-\x1f\x7f]*)"', r"(0|[1-9][0-9]{0,17})", r'"([0-9a-f]{64})"'
    return re.compile(
        rf"\[commit\]\nmerkle_root = {digest}\nmetadata_hash = {digest}\ntimestamp = {text}\n"
        rf"(?:parent_commit = {digest}\n)?(?:message = {text}\n)?\n"
        rf"\[files\]\ncount = {number}\ntotal_size = {number}\n\n"
        rf"\[merkle\]\nleaf_count = {number}\ntree_depth = {number}\n\n"
        rf"(?:\[origin\]\n((?:[a-z_]+ = {text.replace('(', '(?:', 1)}\n)*)\n)?\[check\]\nsha256 = \"[0-9a-f]{{64}}\"\n"
    )


def _as_written(data: bytes) -> CommitMeta | None:
    """What metadata.toml says, where it is just as it is written here; else None. For those who read thousands."""
    try:
        found = _written().fullmatch(data.decode())
    except UnicodeDecodeError:
        return None
    if found is None or not is_intact(data):
        return None
    root, commit, time, parent, message, count, size, leaves, depth, origin = found.groups()
    numbers = int(count), int(size), int(leaves), int(depth)
    fields = [line.split(" = ", 1) for line in origin[:-1].split("\n")] if origin else []
    said = {key: text[1:-1] for key, text in fields} if origin is not None else None
    if said is not None and len(said) < len(fields):  # a key twice: TOML has none
        return None
    return CommitMeta(commit, root, time, *numbers, parent, message, said)


def parent_of(data: bytes) -> tuple[str | None, str | None]:
    """(the commit, its parent) that ``data``, a metadata.toml, names, where it is just as it was written here; else
    (None, None). For those who ask for many, as TOML is slow to read."""
    found = re.match(_HEAD, data)
    if found is None or not is_intact(data):
        return None, None
    return found[1].decode(), found[2].decode() if found[2] is not None else None


class Statistics:
    """Names of regular files, and the bytes of their inodes, but for directories whose ``id`` is in ``left_out``."""

    def __init__(self, root: Directory, left_out: Container[int] = ()) -> None:
        from stratum.tree.dump import count_links

        self.count = 0
        self.total_size = 0
        links, seen = count_links(root, left_out), set[int]()
        stack = [root] if id(root) not in left_out else []
        while stack:
            for inode in stack.pop().children.values():
                if isinstance(inode, Directory):
                    if id(inode) not in left_out:
                        stack.append(inode)
                elif isinstance(inode, File):
                    self.count += 1
                    key = id(inode)
                    if key in links:  # few have several names, and only those are noted
                        if key in seen:
                            continue
                        seen.add(key)
                    self.total_size += inode.size
