"""How the dumps of a store's commits are stored, and read: records (``store.treerecord``), grounds and frames.

::

    commits/<hash>           a commit's file: metadata.toml, NUL, record
    grounds/<hash>           such a file of a commit that was collected, on whose dump those of others are stored
    frames/ab/<62 digits>    a zstd frame of dumps, by SHA-256 of the file; a tree layer of artifacts (``store.frames``)

A record leads to that of its ground, whose level is lower, and so on to one that is whole: the commit's chain. All
scripts of a chain are composed to one before anything is read of the dump at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, NotFoundError
from stratum.refs import is_hash
from stratum.store.layout import Layout, storage_error
from stratum.store.treerecord import RECORD_MAX, TreeRecord, decode, split_file

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.store.treerecord import FrameRef
    from stratum.tree.blocks import Dump

Chain = list[tuple[str, TreeRecord]]
"""Commits and their records, each but the last stored on the next."""


class Layer(NamedTuple):
    """A tree layer of an artifact: SHA-256 of the blob where the store has it as a frame, else None; bytes of the dump
    in it; and what gives the blob."""

    sha256: bytes | None
    size: int
    data: Callable[[], bytes]


class Trees:
    """The stored dumps of one store. Whoever relies on what is here holds the store's lock shared."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def file(self, commit: str) -> tuple[Path, bytes]:
        """A commit's file, or that of a ground, and where it is. ``NotFoundError``, ``DamagedError``."""
        for directory in (self._layout.commits, self._layout.grounds):
            path = directory / commit
            try:
                return path, self._layout.read_beneath(path, RECORD_MAX)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise storage_error(exc, f"read {path}") from None
        raise NotFoundError(f"there is no commit {commit}")

    def record(self, commit: str) -> TreeRecord:
        """How the dump of a commit, or of a ground, is stored. ``NotFoundError``, ``DamagedError``."""
        path, data = self.file(commit)
        return decode(split_file(data, str(path))[1], commit, str(path))

    def chain(self, commit: str) -> Chain:
        """The commit with its record, and all that it is stored on, down to one that is whole. ``NotFoundError`` for
        the commit; ``DamagedError`` also where one of the others is missing, or levels do not fall."""
        chain = [(commit, self.record(commit))]
        while (ground := chain[-1][1].ground) is not None:
            below, above = chain[-1]
            try:
                record = self.record(ground)
            except NotFoundError:
                raise DamagedError(
                    f"commit {below} is stored on the tree of {ground}, which is lost",
                    hint="pull it again, or restore a backup",
                ) from None
            if record.level >= above.level:
                raise DamagedError(
                    f"commit {below} is stored on {ground}, which is of no lower level", hint="run 'stratum fsck'"
                )
            chain.append((ground, record))
        return chain

    def grounds(self) -> list[str]:
        """The commits that are no more, whose dumps others are stored on; sorted."""
        return [name for name in self._layout.names_in(self._layout.grounds) if is_hash(name)]

    def frames(self) -> Iterator[bytes]:
        """The SHA-256 of each frame that is here, in no order."""
        raise NotImplementedError

    def frame_file(self, sha256: bytes) -> bytes:
        """A frame as it is stored. ``DamagedError`` where it is missing or no file."""
        raise NotImplementedError

    def frame(self, ref: FrameRef) -> bytes:
        """The lines in a frame. ``DamagedError`` where it is missing, damaged, or of another size."""
        raise NotImplementedError

    def pieces(self, commit: str) -> Iterator[bytes]:
        """The commit's dump in blocks of whole lines, which nobody has compared with its hash. Raises as ``chain``."""
        raise NotImplementedError

    def layers(self, commit: str, dump: Dump) -> Iterator[Layer]:
        """The tree layers of the commit, whose dump is given: cut as every artifact's are, those that the store has as
        frames as they are, the others compressed when somebody asks."""
        raise NotImplementedError
