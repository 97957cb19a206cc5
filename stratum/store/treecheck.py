"""The part of a check that looks at how trees are stored: records, what they are stored on, and frames.

Each file is read once, and compared with what it says of itself: a record with its check, a frame with its name. So
each is as it was written. That what was written is the tree of its commit is proven by the hash of the whole dump
alone. With ``read_data`` that is made for each commit: of those on one ground, whose dump is in memory meanwhile, and
what else the dump proves from that ground's and what is different. Without, it is made of whole dumps.

What is wrong with a file is told once, with all refs that cannot be read for it.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, NotFoundError, StratumError, os_error_text
from stratum.store.coverage import Coverage, lines_in
from stratum.store.facts import Facts, facts_of
from stratum.store.findings import Finding, Kind
from stratum.store.treerecord import RECORD_MAX, FrameRef, decode, split_file
from stratum.store.trees import script_of
from stratum.tree.blocks import Span
from stratum.tree.digest import HASH_SIZE, leaf_hashes, level_above, summary_above
from stratum.tree.merkle import BLOCK_LEVEL

if TYPE_CHECKING:
    from stratum.store.store import Store
    from stratum.tree.blocks import Dump
    from stratum.tree.script import Script

BATCH = 256
"""So many commits are told apart at a time, a bit of a number for each."""
_FILE = re.compile(rb"^[^ \n]+ ([0-9]+) (@?)10[0-7]{4} ", re.MULTILINE)
"""Of a line of a dump: a regular file, or another name of one."""
_END = re.compile(rb"\n")
_NODES_MAX = 1 << 14
_KEPT_MAX = 64 << 20
"""A dump of more bytes is read again rather than kept beside its tree."""


class _Stored(NamedTuple):
    """What is kept of a record: ``end`` is how much of its ground's dump it needs."""

    path: str
    size: int
    level: int
    ground: str | None
    end: int
    frames: tuple[FrameRef, ...]


class _Ground:
    """A whole dump, and what it says of those that differ little from it."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._ends = array("Q", (found.end() for found in _END.finditer(text)))
        self._leaves = memoryview(leaf_hashes(text))
        self._nodes: dict[bytes, bytes] = {}  # of a block of leaves
        self._names, self._size = tally(text)

    def facts(self, commit: str, script: Script) -> Facts:
        """What the dump proves that ``script`` makes, which is that of ``commit``."""
        parts: list[bytes | memoryview] = []
        names, size = tally(script.lines)
        last = 0
        for piece in (*script.pieces(), Span(len(self.text), len(self.text))):
            if isinstance(piece, Span):
                first, end = bisect_left(self._ends, piece.start + 1), bisect_left(self._ends, piece.end + 1)
                parts.append(self._leaves[first * HASH_SIZE : end * HASH_SIZE])
                left = tally(self.text[last : piece.start])
                names, size, last = names - left[0], size - left[1], piece.end
            else:
                parts.append(leaf_hashes(bytes(piece)))
        leaves = b"".join(parts)
        summary = summary_above(b"".join(map(self._node, _blocks(leaves))), len(leaves) // HASH_SIZE)
        counts = self._names + names, self._size + size
        return Facts(commit, summary.root, *counts, summary.leaf_count, summary.tree_depth)

    def _node(self, block: bytes) -> bytes:
        node = self._nodes.get(block)
        if node is None:
            if len(self._nodes) >= _NODES_MAX:
                self._nodes.clear()
            node = block
            for _ in range(BLOCK_LEVEL):
                node = level_above(node)
            self._nodes[block] = node
        return node


def _blocks(leaves: bytes) -> Iterator[bytes]:
    size = HASH_SIZE << BLOCK_LEVEL
    return (leaves[at : at + size] for at in range(0, len(leaves), size))


def tally(lines: bytes) -> tuple[int, int]:
    """Of some lines of a dump: names of regular files, and the bytes of their inodes."""
    found = _FILE.findall(lines)
    return len(found), sum(int(size) for size, again in found if not again)


class TreeCheck:
    """Of one check, whose ``findings`` get what is found; ``users`` says what names a commit."""

    def __init__(
        self, store: Store, findings: list[Finding], users: Mapping[str, list[str]], *, read_data: bool
    ) -> None:
        self._store = store
        self._findings = findings
        self._users = users
        self._read_data = read_data
        self._stored: dict[str, _Stored] = {}
        self._problems: dict[str, Finding] = {}  # by path
        self._broken: dict[str, Finding | None] = {}  # commit or ground -> why it cannot be read
        self.facts: dict[str, Facts] = {}
        """What dumps prove, as far as it was looked at."""

    def run(self) -> list[str]:
        """Check all; the commits that can be read."""
        commits, grounds = self._store.commits.list(), self._store.trees.grounds()
        for ground in grounds:
            self._record(f"grounds/{ground}", ground, "ground")
        for commit in commits:
            self._record(f"commits/{commit}", commit, "dump")
        for name in list(self._stored):
            self._link(name)
        bad_frames = self._frames()
        for name in (*grounds, *commits):
            self._chain(name, bad_frames)
        readable = [commit for commit in commits if commit in self._stored and self._broken.get(commit) is None]
        self._dumps(readable)
        for commit in commits:
            if (finding := self._broken.get(commit)) is not None:
                users = self._users.get(commit, [commit])
                finding.hurts += [user for user in users if user not in finding.hurts]
                finding.needed_by.append(commit)
        self._findings += self._problems.values()
        return [commit for commit in readable if self._broken.get(commit) is None]

    def _tell(self, kind: Kind, path: str, problem: str, commit: str | None = None) -> Finding:
        return self._problems.setdefault(path, Finding(kind, path, problem, commit=commit))

    def _record(self, path: str, commit: str, kind: Kind) -> None:
        """Read a record; one of a commit counts, and not that of a ground of the same name."""
        self._broken.pop(commit, None)
        try:
            data = self._store.layout.read_beneath(self._store.root / path, RECORD_MAX)
            record = decode(split_file(data, "it")[1], commit, "it")
        except FileNotFoundError:  # collected at this moment
            return
        except (StratumError, OSError) as exc:
            problem = exc.message if isinstance(exc, StratumError) else os_error_text(exc)
            self._broken[commit] = self._tell(kind, path, problem, commit)
            self._stored.pop(commit, None)
            return
        end = max((step.end for step in record.steps if isinstance(step, Span)), default=0)
        self._stored[commit] = _Stored(path, record.size, record.level, record.ground, end, record.frames)

    def _link(self, name: str) -> None:
        """Compare a record with that of its ground."""
        stored = self._stored[name]
        if stored.ground is None:
            return
        ground = self._stored.get(stored.ground)
        kind: Kind = "dump" if stored.path.startswith("commits/") else "ground"
        if ground is None:
            if stored.ground not in self._broken:
                missing = self._tell("ground", f"grounds/{stored.ground}", "it is missing", stored.ground)
                self._broken[stored.ground] = missing
        elif ground.level >= stored.level:
            problem = f"it is stored on the tree of {stored.ground}, which is of no lower level"
            self._broken[name] = self._tell(kind, stored.path, problem, name)
        elif stored.end > ground.size:
            problem = f"it needs more of the tree of {stored.ground} than there is"
            self._broken[name] = self._tell(kind, stored.path, problem, name)

    def _frames(self) -> dict[bytes, Finding]:
        """Check every frame that a record names, or that is here; those that are damaged or missing."""
        sizes: dict[bytes, set[int]] = {sha256: set() for sha256 in self._store.trees.frames()}
        for stored in self._stored.values():
            for ref in stored.frames:
                sizes.setdefault(ref.sha256, set()).add(ref.size)
        bad: dict[bytes, Finding] = {}
        for sha256, expected in sorted(sizes.items()):
            problem = self._wrong(sha256, expected)
            if problem is not None:
                text = sha256.hex()
                bad[sha256] = self._tell("frame", f"frames/{text[:2]}/{text[2:]}", problem)
        return bad

    def _wrong(self, sha256: bytes, sizes: Iterable[int]) -> str | None:
        """What is wrong with a frame that should hold as many bytes as its records say."""
        trees = self._store.trees
        try:
            if hashlib.sha256(trees.frame_file(sha256)).digest() != sha256:
                return "its content does not match its name"
            for size in sizes:
                if not trees.frame(FrameRef(sha256, size)).endswith(b"\n"):
                    return "it does not hold whole lines"
        except StratumError as exc:
            if not trees.has_frame(sha256):  # where nobody needs it, it was collected at this moment
                return "it is missing" if sizes else None
            return exc.message
        return None

    def _chain(self, name: str, bad_frames: Mapping[bytes, Finding]) -> Finding | None:
        """Why the dump of a commit or ground cannot be read, if it cannot; noted in ``_broken``."""
        if name in self._broken or name not in self._stored:
            return self._broken.get(name)
        stored = self._stored[name]
        if stored.ground is not None:
            found = self._chain(stored.ground, bad_frames)
        else:
            found = next((bad_frames[ref.sha256] for ref in stored.frames if ref.sha256 in bad_frames), None)
        if found is not None and stored.ground is not None and found.kind == "frame":
            with suppress(StratumError):  # it may be none of those that it needs
                self._store.commits.dump(name)
                found = None
        self._broken[name] = found
        return found

    # Dumps

    def _dumps(self, readable: Iterable[str]) -> None:
        """Compare dumps with their hashes, and note what they prove."""
        groups: dict[str, list[str]] = {}
        for commit in readable:
            base = self._base(commit)
            groups.setdefault(base, []).append(commit)
        for base, commits in groups.items():
            wanted = [commit for commit in commits if self._read_data or commit == base]
            if wanted:
                self._group(base, wanted)

    def _base(self, commit: str) -> str:
        """What is whole at the end of a commit's chain."""
        while (ground := self._stored[commit].ground) is not None:
            commit = ground
        return commit

    def _group(self, base: str, commits: Sequence[str]) -> None:
        """Those of ``commits`` that are stored on ``base``, or are it."""
        from stratum.tree.blocks import Dump

        dump = None
        with suppress(NotFoundError, DamagedError):  # a frame of it, which is told; some on it do without
            dump = Dump(lambda: self._store.trees.pieces(base), kept_max=_KEPT_MAX)
        others = [commit for commit in commits if commit != base]
        if base in commits:
            self._whole(base, dump)
        ground = _Ground(dump.text or b"".join(dump)) if dump is not None and others else None
        for commit in others:
            if ground is None:
                self._whole(commit)
            else:
                with suppress(NotFoundError):
                    self._spliced(commit, ground)

    def _whole(self, commit: str, dump: Dump | None = None) -> None:
        """A dump by itself, which may be at hand."""
        from stratum.tree.digest import metadata_hash

        try:
            dump = dump or self._store.commits.dump(commit)
            if self._compare(commit, metadata_hash(dump)) and self._read_data:
                self.facts[commit] = facts_of(dump)
        except NotFoundError:
            return
        except DamagedError as exc:
            self._broken[commit] = self._tell("dump", f"commits/{commit}", exc.message, commit)

    def _spliced(self, commit: str, ground: _Ground) -> None:
        """A dump that differs little from that of its ground."""
        from stratum.tree.digest import metadata_hash

        script, view = script_of(self._store.trees.chain(commit)), memoryview(ground.text)
        pieces = (view[piece.start : piece.end] if isinstance(piece, Span) else piece for piece in script.pieces())
        if self._compare(commit, metadata_hash(pieces)):
            self.facts[commit] = ground.facts(commit, script)

    def _compare(self, commit: str, found: str) -> bool:
        if found != commit:
            problem = f"its tree is that of {found}"
            self._broken[commit] = self._tell("dump", f"commits/{commit}", problem, commit)
        return found == commit


def lines_of_all(store: Store, commits: Sequence[str]) -> Iterator[tuple[bytes, int]]:
    """The lines of all ``commits``, each line once, some at a time, with those of the commits that have them: a bit
    for each, the first one's is the lowest."""
    coverage = Coverage(store.trees.record)
    for number, commit in enumerate(commits):
        part = coverage.add(commit, 1 << number)
        yield from lines_in(part, part.data)
    for part in coverage.parts():
        yield from lines_in(part, part.data if part.frame is None else store.trees.checked_frame(part.frame))


def batches(commits: Sequence[str]) -> Iterator[Sequence[str]]:
    """``commits`` in parts of ``BATCH``."""
    for start in range(0, len(commits), BATCH):
        yield commits[start : start + BATCH]


def chosen(commits: Sequence[str], bits: int) -> list[str]:
    """Those of a batch whose bits are set."""
    return [commit for number, commit in enumerate(commits) if bits >> number & 1]
