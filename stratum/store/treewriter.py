"""How a new commit's dump is stored: whole, or as an edit script on that of another commit.

Candidates for the ground are the commit that the new one was made on, and what that one is stored on. Of the scripts
that leave the commit's file within one block of the disk, the one with the fewest grounds below is taken, as reading
is cheapest then. Where there is none, the deepest that is within what its level may have: so a script on a script on a
script stays small, one on a script may have some more, and one on a whole dump still more, before the dump is stored
whole again. A whole dump shares with the one at the end of the chain the frames in which nothing changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from stratum.errors import DamagedError, NotFoundError
from stratum.store.treerecord import (
    LEVEL_MAX,
    FrameRef,
    TreeRecord,
    encode,
    lines_max,
    small_whole,
)
from stratum.store.trees import script_of

if TYPE_CHECKING:
    from stratum.store.transaction import Transaction
    from stratum.store.trees import Chain, Trees
    from stratum.tree.script import Script
    from stratum.tree.splice import SplicedDump

WHOLE_SMALL = 1 << 17
"""A dump of up to this many bytes is in its commit's file, if it is stored whole."""
SMALL_MIN = 1536
BLOCK = 4096
"""A record that leaves the commit's file within ``BLOCK`` bytes is small, as is any of ``SMALL_MIN``."""
CAP_MIN = 64 << 10
CAP_PART = 32
CAP_BELOW = 8
"""A record on a whole dump is no larger than ``CAP_MIN`` or this part of the dump, one on such a one than this part of
that."""
Item = TypeVar("Item")
Made = TypeVar("Made")

_RAW = 8
"""How much smaller lines may become by being compressed."""


class Stored(NamedTuple):
    """A frame that came from elsewhere: its file, and how many bytes of the dump are in it."""

    data: bytes
    size: int


class Base(NamedTuple):
    """What a new dump is compared with: the chain of another commit, and whether the new dump's spans are of its. The
    ``parent`` may be a third one."""

    chain: Chain
    is_source: bool
    parent: str | None = None


class Candidate(NamedTuple):
    """A ground that there could be, the level on it, and what makes the new dump of its."""

    level: int
    ground: str
    script: Script

    def record(self, size: int) -> TreeRecord:
        """The record of the new dump, which has ``size`` bytes."""
        return TreeRecord(size, self.level, self.ground, self.script.steps, (), self.script.lines)


class TreeWriter:
    """Chooses how the dumps of new commits are stored."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees

    def record(
        self,
        tx: Transaction,
        commit: str,
        dump: SplicedDump,
        base: Base | None,
        room: int,
        given: Sequence[Stored],
        *,
        whole: bool = False,
    ) -> bytes:
        """The record of the new commit, in whose file it has ``room`` within one block; ``whole``: on no other. What it
        needs is there or in ``tx``. ``given`` are the frames in which the dump came, where it did. ``StratumError``."""
        if not whole and self._trees.level(commit) is not None:
            known = self._known(commit)
            if known is not None:
                return encode(known, commit)
            base = None
        small, text = max(room, SMALL_MIN), b""
        if dump.size <= WHOLE_SMALL:
            text = dump.join()
            data = encode(small_whole(text), commit)
            if len(data) <= small:
                return data
        delta = self._delta(commit, dump, base, small) if base is not None else None
        if delta is not None:
            return delta
        return encode(small_whole(text) if text else self._whole(tx, dump, base, given), commit)

    def _known(self, commit: str) -> TreeRecord | None:
        """The record of a commit that is a ground of others while it is no more itself, where it can be read. No other
        but a whole one can be taken: it might be stored on one of those."""
        from stratum.tree.digest import metadata_hash

        try:
            chain = self._trees.chain(commit)
            return chain[0][1] if metadata_hash(self._trees.read(chain)) == commit else None
        except (NotFoundError, DamagedError):
            return None

    def _delta(self, commit: str, dump: SplicedDump, base: Base, small: int) -> bytes | None:
        """The record on one of those that there could be, where one is small enough."""
        cap = max(CAP_MIN, dump.size // CAP_PART)
        caps = {LEVEL_MAX: small, 2: max(cap // CAP_BELOW, small), 1: cap}
        limit = min(lines_max(dump.size), _RAW * cap, dump.size // 2)
        found = sorted(self._candidates(dump, base, limit), key=lambda each: (each.level, len(each.script.lines)))
        made: dict[str, bytes] = {}
        for each in found:
            # What cannot be within its level's limit by far is not even compressed.
            if len(each.script.lines) <= _RAW * caps[each.level]:
                made[each.ground] = encode(each.record(dump.size), commit)
                if len(made[each.ground]) <= small:
                    return made[each.ground]
        for each in reversed(found):
            if each.ground in made and len(made[each.ground]) <= caps[each.level]:
                return made[each.ground]
        return None

    def _candidates(self, dump: SplicedDump, base: Base, limit: int) -> Iterator[Candidate]:
        """The base, the parent, and all that they are stored on, as grounds."""
        script = self._script(dump, base, limit)
        yield from self._down(script, base.chain, limit)
        if base.parent is None or base.parent in dict(base.chain):
            return
        try:
            parent = self._trees.chain(base.parent)
        except (NotFoundError, DamagedError):
            return
        # The base of a mounted worktree stays the same; what it has changed since then was in the parent already.
        moved = self._moved(script, dump, base.chain, parent) if script is not None else None
        if moved is None:
            moved = self._script(dump, Base(parent, is_source=False), limit)
        yield from self._down(moved, parent, limit)

    def _moved(self, script: Script, dump: SplicedDump, chain: Chain, other: Chain) -> Script | None:
        """What makes the dump of that of another chain, from the script on the first of a chain; None where there is
        nothing that both are stored on."""
        from stratum.tree.script import compose, relative
        from stratum.tree.splice import DumpText

        ours = [commit for commit, _ in chain]
        common = next((number for number, (commit, _) in enumerate(other) if commit in ours), 0)
        if not common:
            return None
        at = ours.index(other[common][0])
        on_common = compose(script, script_of(chain[: at + 1])) if at else script
        return relative(on_common, script_of(other[: common + 1]), DumpText(dump).between)

    def _down(self, script: Script | None, chain: Chain, limit: int) -> Iterator[Candidate]:
        """The commits of the chain, on whose first one ``script`` is, as far as little enough is new."""
        from stratum.tree.script import compose

        for ground, record in chain:
            if script is None or len(script.lines) > limit:
                return
            # Somebody may have collected it, or written it anew, since the chain was read.
            if record.level < LEVEL_MAX and self._trees.level(ground) == record.level:
                yield Candidate(record.level + 1, ground, script)
            script = compose(script, record.script) if record.level else None

    def _script(self, dump: SplicedDump, base: Base, limit: int) -> Script | None:
        """What makes the dump of the base's; None where it has more lines, or the base's cannot be read."""
        from blake3 import blake3

        from stratum.tree.script import between, of_spliced

        if base.is_source:
            return of_spliced(dump, limit)
        hasher = blake3()

        def ground() -> Iterator[bytes]:
            for block in self._trees.read(base.chain):
                hasher.update(block)
                yield block

        try:
            blocks = ground()
            script = between(dump.blocks(), blocks, limit)
            if script is not None:
                deque(blocks, maxlen=0)
        except DamagedError:
            return None
        return script if hasher.hexdigest() == base.chain[0][0] else None

    def _whole(self, tx: Transaction, dump: SplicedDump, base: Base | None, given: Sequence[Stored]) -> TreeRecord:
        """A record of the dump in frames, which are in ``tx`` or there."""
        from stratum.tree.cutting import cut
        from stratum.tree.zstdframe import compress

        if given:
            refs = [FrameRef(tx.add_frame(data), size) for data, size in given]
            return TreeRecord(dump.size, 0, None, (), tuple(refs), b"")
        frames = base.chain[-1][1].frames if base is not None else ()
        known = self._kept(dump, base) if base is not None and frames else {}

        def store(piece: bytes | int) -> tuple[bytes, FrameRef | int]:
            return (b"", frames[piece]) if isinstance(piece, int) else (compress(piece), len(piece))

        refs = []
        for data, found in in_two(store, cut(dump.blocks(), known)):
            refs.append(FrameRef(tx.add_frame(data), found) if isinstance(found, int) else found)
        return TreeRecord(dump.size, 0, None, (), tuple(refs), b"")

    def _kept(self, dump: SplicedDump, base: Base) -> dict[int, tuple[int, int]]:
        """The frames at the end of the base's chain in which nothing changed, as ``cutting.cut`` takes them."""
        from stratum.tree.cutting import kept_pieces
        from stratum.tree.script import compose

        script = self._script(dump, base, dump.size // 2)
        if script is None:
            return {}
        if len(base.chain) > 1:
            script = compose(script, script_of(base.chain))
        frames = base.chain[-1][1].frames
        kept = kept_pieces(script.steps, [frame.size for frame in frames])
        return {at: (end, number) for at, (end, number) in kept.items() if self._trees.has_frame(frames[number].sha256)}


def in_two(function: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """``map``, of which every second call is made by another thread meanwhile, one ahead of what is asked for: for what
    leaves Python alone while it works, as libzstd does. No thread is started for a single item."""
    import queue
    import threading

    rest = iter(items)
    given: queue.SimpleQueue[list[Item] | None] = queue.SimpleQueue()
    made: queue.SimpleQueue[tuple[list[Made], BaseException | None]] = queue.SimpleQueue()

    def help_out() -> None:
        while (work := given.get()) is not None:
            try:
                made.put(([function(work[0])], None))
            except BaseException as exc:  # noqa: PERF203  # raised again where the result is asked for
                made.put(([], exc))

    helper: threading.Thread | None = None
    try:
        for item in rest:
            second = list(islice(rest, 1))
            if second:
                if helper is None:
                    helper = threading.Thread(target=help_out, daemon=True)
                    helper.start()
                given.put(second)
            yield function(item)
            if second:
                results, error = made.get()
                if error is not None:
                    raise error
                yield results[0]
    finally:
        if helper is not None:
            given.put(None)
            helper.join()
