"""A mounted worktree with history, hands that change it at random, and the proof that its history tells what happened.

What a replay of the log gives is compared with a full walk of the mounted view (``tests.integration.overlay_ops``):
names, contents, modes, owners, times in nanoseconds, extended attributes, and which names are one inode.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stratum.composefs.verity import verity_digest
from stratum.history import wire
from stratum.store import Store
from stratum.tree.escape import escape
from stratum.tree.model import INLINE_MAX, Directory, File, content_unknown, walk
from stratum.tree.oplog import Record, inode_of
from stratum.tree.replay import Operation, Replay
from tests.integration.overlay_ops import lines, make_source, walk_view
from tests.support import watching
from tests.support.command import Command

HANDS = Path(__file__).with_name("historyhands.py")
PATIENCE = 120.0
"""Seconds in which a flush is done, however busy the machine is."""


class Farm:
    """The worktree ``name+worktree``, mounted at ``view``."""

    def __init__(self, cli: Command, place: Path, name: str = "app", worktree: str = "dev") -> None:
        self.cli = cli
        self.place = place
        self.name = name
        self.worktree = worktree
        self.view = place / f"view-{name}-{worktree}"
        self.view.mkdir(parents=True, exist_ok=True)
        self.store = Store.open(cli.store)

    @property
    def ref(self) -> str:
        return f"{self.name}+{self.worktree}"

    @property
    def upper(self) -> Path:
        """Its upperdir, as it is now."""
        return self.store.worktrees.get(self.name, self.worktree).upperdir

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount it for the block."""
        self.cli.ok("mount", self.ref, self.view)
        try:
            yield self.view
        finally:
            if self.view.is_mount():
                self.cli.ok("unmount", self.view)

    # What is recorded

    def flush(self) -> int:
        """Have all that was closed by now in the log; the number of the last record."""
        last = wire.flush(self.cli.runtime_dir, self.store.root, self.name, self.worktree, timeout=PATIENCE)
        assert last is not None, "nobody watches"
        return last

    def records(self) -> list[Record]:
        """The log, oldest first."""
        return list(self.store.histories.records(self.name, self.worktree))

    def replayed(self, change: int | None = None) -> Directory:
        """The tree that the log gives up to ``change``."""
        epoch = iter(self.store.histories.epoch(self.name, self.worktree, change))
        base = next(epoch)
        assert base.op == "base"
        assert base.commit is not None
        replay = Replay(self.store.commits.tree(base.commit))
        for record in epoch:
            replay.apply(_operation(record))
        return replay.root

    def walked(self) -> list[str]:
        """The dump of what the mount shows."""
        return lines(walk_view(self.view))

    def check(self, change: int | None = None, shown: list[str] | None = None, *, unknown_too: bool = False) -> None:
        """What the log gives up to ``change`` is what was ``shown`` then (now, where neither is said); ``unknown_too``:
        but for files whose content it does not know."""
        replayed = self.replayed(change)
        unknown = without_content(replayed)
        assert unknown_too or not unknown
        wanted = self.walked() if shown is None else shown
        found = lines(replayed)
        if unknown:
            found, wanted = [[line for line in every if line.split(" ")[0] not in unknown] for every in (found, wanted)]
        if found != wanted:
            raise AssertionError(
                f"the history of {self.ref} up to {change} shows something else:\n" + differences(found, wanted)
            )

    def check_whole(self) -> None:
        """What the log names is there, and nothing is wrong with it."""
        assert self.store.histories.problems(self.name, self.worktree) == []
        numbers = [record.n for record in self.records()]
        assert numbers == sorted(set(numbers))
        checked: set[bytes] = set()
        for record in self.records():
            inode = inode_of(record.entry) if record.entry is not None else None
            if isinstance(inode, File) and inode.digest is not None and inode.digest not in checked:
                assert self.store.objects.verify(inode.digest) == inode.size, record
                checked.add(inode.digest)

    def versions(self, path: bytes) -> list[bytes]:
        """The contents that the log has of a path, in its order: inline ones, or digests."""
        records = self.store.histories.find(self.name, self.worktree, path)
        inodes = [inode_of(record.entry) for record in records if record.entry is not None]
        return [inode.digest or inode.content or b"" for inode in inodes if isinstance(inode, File)]


def _operation(record: Record) -> Operation:
    assert record.path is not None or record.op in ("base", "gap")
    inode = inode_of(record.entry) if record.entry is not None else None
    return Operation(record.op, record.path or b"/", inode, record.link, record.was)


def content_key(data: bytes) -> bytes:
    """What ``Farm.versions`` has of a content."""
    return data if len(data) <= INLINE_MAX else verity_digest(data)


def without_content(root: Directory) -> set[str]:
    """Paths of files whose content is not known, as in a dump. They get one, as there is no dump without."""
    found = {path: inode for path, inode in walk(root) if isinstance(inode, File) and content_unknown(inode)}
    for inode in found.values():
        inode.digest = bytes(32)
    return {escape(path).decode() for path in found}


def differences(found: Sequence[str], wanted: Sequence[str], limit: int = 20) -> str:
    """The first lines that only one of two dumps has."""
    ours, theirs = set(found), set(wanted)
    told = [f"log  {line}" for line in found if line not in theirs] + [
        f"view {line}" for line in wanted if line not in ours
    ]
    told.sort(key=lambda line: line[5:])
    return "\n".join(told[:limit]) + (f"\n... {len(told)} lines" if len(told) > limit else "")


@contextmanager
def farm(cli: Command, place: Path, *options: str, files: int = 150) -> Iterator[Farm]:
    """A worktree over a commit of many things, mounted and watched; at the end nobody watches it any more."""
    source = make_source(place)
    for number in range(files):
        directory = source / "many" / str(number % 7)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file-{number}").write_bytes(b"line %d\n" % number * (number % 50))
    cli.ok("import", "--bare", "--devices", source, "app")
    with worktree_of(cli, place, "dev", *options) as made:
        yield made


@contextmanager
def worktree_of(cli: Command, place: Path, worktree: str, *options: str) -> Iterator[Farm]:
    """One more worktree of the commit ``app:latest``, mounted and watched."""
    cli.ok("worktree", "add", f"app+{worktree}", "app:latest")
    made = Farm(cli, place, worktree=worktree)
    try:
        cli.ok("history", "on", made.ref, *options)
        with made.mounted():
            yield made
    finally:
        watching.stop(cli.runtime_dir)


class Crowd:
    """Processes that change a directory at random. What they do is written to files in ``place``."""

    def __init__(self, root: Path, place: Path, seed: str, count: int, mode: str = "") -> None:
        self._opened = ExitStack()
        self._hands: list[subprocess.Popen[bytes]] = []
        words = (mode or "crowd") if count > 1 else f"{mode}alone" if mode else "alone"
        for number in range(count):
            command = [
                sys.executable,
                "-I",
                "-S",
                HANDS,
                root,
                f"{seed}-{number}",
                place / f"trace-{seed}-{number}",
                words,
            ]
            hands = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._hands.append(self._opened.enter_context(hands))

    def __enter__(self) -> Crowd:
        return self

    @property
    def pids(self) -> list[int]:
        return [hands.pid for hands in self._hands]

    def __exit__(self, *_: object) -> None:
        for hands in self._hands:
            hands.kill()
        self._opened.close()

    def start(self, operations: int) -> None:
        """Have each of them do so many operations."""
        for hands in self._hands:
            assert hands.stdin is not None
            hands.stdin.write(b"%d\n" % operations)
            hands.stdin.flush()

    def wait(self) -> None:
        """Until they are done and hold nothing open."""
        for hands in self._hands:
            assert hands.stdout is not None
            assert hands.stdout.readline() == b"done\n", f"hands ended with {hands.wait()}"

    def work(self, operations: int) -> None:
        self.start(operations)
        self.wait()


def random_rounds(
    made: Farm, seed: str, *, processes: int, rounds: int, operations: int
) -> list[tuple[int, list[str]]]:
    """Have a crowd work, and compare after each round; what was shown at which record, for looking back."""
    shown = []
    with Crowd(made.view, made.place, seed, processes) as crowd:
        for _ in range(rounds):
            crowd.work(operations)
            change = made.flush()
            walked = made.walked()
            made.check(change, walked)
            shown.append((change, walked))
    for change, walked in random.sample(shown, min(len(shown), 10)):  # each is a replay of the log
        made.check(change, walked)
    made.check_whole()
    return shown


def gaps(records: Sequence[Record]) -> list[Record]:
    """The records of times when nobody watched."""
    return [record for record in records if record.op == "gap"]


def seed_of(name: str) -> str:
    """A seed for this run: the same in every run of CI."""
    return name if os.environ.get("CI") else f"{name}-{os.getpid()}"
