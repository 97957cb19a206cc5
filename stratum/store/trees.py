"""How the dumps of a store's commits are stored, and read: records (``store.treerecord``), grounds and frames.

::

    commits/<hash>           a commit's file: metadata.toml, NUL, record
    grounds/<hash>           such a file of a commit that was collected, on whose dump those of others are stored
    frames/ab/<62 digits>    a zstd frame of dumps, by SHA-256 of the file; a tree layer of artifacts (``store.frames``)

A record leads to that of its ground, whose level is lower, and so on to one that is whole: the commit's chain. All
scripts of a chain are composed to one before anything is read of the dump at its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, NotFoundError
from stratum.refs import is_hash
from stratum.store.frames import Frames
from stratum.store.layout import Layout, NoSpaceError, storage_error, storing
from stratum.store.metadata import METADATA_MAX
from stratum.store.treerecord import HEAD_MAX, RECORD_MAX, TreeRecord, decode, read_head, split_file
from stratum.sys.atomic import fsync_dir
from stratum.tree.blocks import Span, whole_lines

if TYPE_CHECKING:
    from stratum.store.treerecord import FrameRef
    from stratum.tree.script import Script

Chain = list[tuple[str, TreeRecord]]
"""Commits and their records, each but the last stored on the next."""


class Layer(NamedTuple):
    """A tree layer of an artifact: a frame of the store, or the piece of the dump that is to be compressed to one."""

    frame: FrameRef | None
    piece: bytes


class Trees:
    """The stored dumps of one store. Whoever relies on what is here holds the store's lock shared."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._frames = Frames(layout)

    def file(self, commit: str) -> tuple[Path, bytes]:
        """A commit's file, or that of a ground: where it is, and what is in it. ``NotFoundError``, ``DamagedError``."""
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

    def chain(self, commit: str, read: Callable[[str], TreeRecord] | None = None) -> Chain:
        """The commit with its record, and all that it is stored on, down to one that is whole. ``NotFoundError`` for
        the commit; ``DamagedError`` also where one of the others is missing, or levels do not fall. ``read`` is for
        who remembers records: it does what ``record`` does."""
        read = read or self.record
        chain = [(commit, read(commit))]
        while (ground := chain[-1][1].ground) is not None:
            below, above = chain[-1]
            try:
                record = read(ground)
            except NotFoundError:
                raise DamagedError(
                    f"commit {below} is stored on the tree of commit {ground}, which is lost",
                    hint="pull it again, or restore a backup",
                ) from None
            if record.level >= above.level:
                raise DamagedError(
                    f"commit {below} is stored on {ground}, which is of no lower level", hint="run 'stratum fsck'"
                )
            chain.append((ground, record))
        return chain

    def level(self, commit: str) -> int | None:
        """The level of the record of a commit, or ground, told from the beginning of its file; None where that tells of
        none."""
        with suppress(DamagedError):
            head = self._head(commit)
            return None if head is None else head[0]
        return None

    def grounds_of(self, commits: Iterable[str]) -> set[str]:
        """All that the commits are stored on, told from the beginnings of their files."""
        found: set[str] = set()
        waiting = list(commits)
        while waiting:
            head = self._head(waiting.pop())
            if head is not None and head[1] is not None and head[1] not in found:
                found.add(head[1])
                waiting.append(head[1])
        return found

    def _head(self, commit: str) -> tuple[int, str | None] | None:
        """The level and the ground in a commit's or ground's file."""
        for directory in (self._layout.commits, self._layout.grounds):
            with storing(f"read {directory / commit}"), suppress(FileNotFoundError):
                return read_head(self._layout.head_of(directory / commit, METADATA_MAX + HEAD_MAX))
        return None

    def grounds(self) -> list[str]:
        """The commits that are no more, whose dumps others are stored on; sorted."""
        return [name for name in self._layout.names_in(self._layout.grounds) if is_hash(name)]

    def retire(self, commits: Iterable[str]) -> bool:
        """Make commits, on whose dumps others are stored, grounds, each in one step. False where there is no room for
        their names: then some are. The caller holds the store's lock exclusively. ``StratumError``."""
        source, target = self._layout.commits, self._layout.grounds
        doing = f"move what other trees are stored on to {target}"
        with suppress(NoSpaceError), storing(doing), ExitStack() as opened:
            with suppress(FileExistsError):
                target.mkdir(mode=0o755)
                fsync_dir(self._layout.root)
            fds = [self._layout.open_beneath(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
            for fd in fds:
                opened.callback(os.close, fd)
            for commit in commits:
                with suppress(FileNotFoundError):
                    os.rename(commit, commit, src_dir_fd=fds[0], dst_dir_fd=fds[1])
            os.fsync(fds[1])
            os.fsync(fds[0])
            return True
        return False

    def frames(self) -> Iterator[bytes]:
        """The SHA-256 of each frame that is here, in no order."""
        return self._frames.list()

    def frame_path(self, sha256: bytes) -> Path:
        """Where a frame is or would be."""
        return self._frames.path(sha256)

    def has_frame(self, sha256: bytes) -> bool:
        """Whether a frame is here, at a glance."""
        return self._frames.has(sha256)

    def frame_file(self, sha256: bytes) -> bytes:
        """A frame as it is stored. ``DamagedError`` where it is missing or no file."""
        return self._frames.file(sha256)

    def frame_file_size(self, sha256: bytes) -> int:
        """Bytes of a frame as it is stored. ``DamagedError`` where it is missing."""
        return self._frames.size(sha256)

    def frame(self, ref: FrameRef) -> bytes:
        """The lines in a frame. ``DamagedError`` where it is missing, damaged, or of another size."""
        return self._frames.lines(ref)

    def checked_frame(self, ref: FrameRef) -> bytes:
        """The same of a frame of which each byte is as it was written, for those who compare no dump with its hash."""
        return self._frames.lines(ref, checked=True)

    def pieces(self, commit: str) -> Iterator[bytes]:
        """The commit's dump in blocks of whole lines, which nobody has compared with its hash. Raises as ``chain``."""
        return self.read(self.chain(commit))

    def read(self, chain: Chain) -> Iterator[bytes]:
        """The same of a chain. ``DamagedError``."""
        whole = chain[-1][1]
        if len(chain) == 1:
            return whole_lines(map(self.frame, whole.frames) if whole.frames else [whole.lines])
        return whole_lines(self._made(script_of(chain), whole))

    def _made(self, script: Script, whole: TreeRecord) -> Iterator[bytes]:
        """What the script makes of a whole dump, piece by piece; no frame is read that it has nothing of."""
        ends = list(accumulate(frame.size for frame in whole.frames)) or [len(whole.lines)]
        starts = [0, *ends[:-1]]
        wanted = list(_touched(script, starts, ends))
        texts = (self.frame(whole.frames[number]) for number in wanted) if whole.frames else iter([whole.lines])
        numbers = iter(wanted)
        begin, end, text = 0, 0, b""
        for piece in script.pieces():
            if not isinstance(piece, Span):
                yield bytes(piece)
                continue
            at = piece.start
            while at < piece.end:
                while at >= end:
                    number = next(numbers, None)
                    if number is None:
                        raise DamagedError("it has less of its ground than the ground has")
                    begin, end, text = starts[number], ends[number], next(texts)
                stop = min(piece.end, end)
                yield text[at - begin : stop - begin]
                at = stop

    def layers(self, commit: str) -> Iterator[Layer]:
        """The tree layers of the commit, cut as every artifact's are. Of the dump no more is read than has to be cut
        anew, and it is not compared with its hash. Raises as ``chain``."""
        from stratum.tree.cutting import kept_pieces, split_dump
        from stratum.tree.script import after, whole

        chain = self.chain(commit)
        record = chain[-1][1]
        frames = record.frames
        script = script_of(chain) if len(chain) > 1 else whole(record.size)
        known = kept_pieces(script.steps, [frame.size for frame in frames])
        size, at = script.size, 0
        while at < size:
            if at in known:
                at, number = known[at]
                yield Layer(frames[number], b"")
                continue
            for piece in split_dump(whole_lines(self._made(after(script, at), record))):
                yield Layer(None, piece)
                at += len(piece)
                if at in known:
                    break


def script_of(chain: Chain) -> Script:
    """What makes the dump of a chain's first commit, which is stored on others, of its last one's. ``DamagedError``."""
    from stratum.tree.script import check_steps, compose

    for (_, above), (_, record) in pairwise(chain):
        check_steps(above.steps, len(above.lines), record.size)
    script = chain[0][1].script
    for _, record in chain[1:-1]:
        script = compose(script, record.script)
    return script


def _touched(script: Script, starts: list[int], ends: list[int]) -> Iterator[int]:
    """Which of the stretches the script has something of, ascending."""
    number = 0
    last = -1
    for step in script.steps:
        if isinstance(step, int):
            continue
        while number < len(ends) and ends[number] <= step.start:
            number += 1
        while number < len(ends) and starts[number] < step.end:
            if number != last:
                yield number
            last = number
            if ends[number] > step.end:
                break
            number += 1
