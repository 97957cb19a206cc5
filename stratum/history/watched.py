"""One worktree that is watched: what is known to have changed, and batches of it.

The log has a tree (``recorded``): what its base and its records give. A batch reads what is dirty in the upperdir, and
its records are the difference between the recorded tree and the one that was read; so whatever an event said, and
however many were missed, what the log gives afterwards is what was there. Until the batch is durable the recorded tree
stays what it was, and what a batch that failed would have told is told by the next one.

An epoch is one upperdir over one base commit. When a verb gives the worktree another one, what was read of the old one
since then is nothing that anybody did to the worktree: a batch counts only if the upperdir is the worktree's after it
was read. What was closed in the old one before that are versions all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError, os_error_text
from stratum.history.contents import Contents
from stratum.history.dirt import Dirt, Paths
from stratum.history.epoch import Epoch
from stratum.history.excluding import Excluding
from stratum.history.publishing import Batch
from stratum.history.records import Mark, Telling, Version, sift
from stratum.history.versions import CLOCK_STEP, LARGE, Closed, Taken, Versions, in_order
from stratum.sys.handles import identity
from stratum.sys.proc import booted_at
from stratum.tree.limits import PATH_MAX
from stratum.tree.operations import operations
from stratum.tree.replay import Replay

if TYPE_CHECKING:
    from stratum.history.capture import Captured
    from stratum.history.dirt import AnyDirectory
    from stratum.history.epoch import Common
    from stratum.store.histories import HistorySettings
    from stratum.sys.actors import Actor
    from stratum.tree.model import Directory, File, Inode
    from stratum.tree.oplog import Record

QUIET = 0.2
"""Seconds without an event after which a batch is made,"""
LONGEST = 1.0
"""and those after which one is made though events go on."""
MUCH = 2000
"""With so many versions a batch is made at once, so that little has to be kept in memory."""
FULL = 8000
"""With so many also where the one before has just been written."""
RETRY = 5.0
"""Seconds after which a batch that failed is tried again."""
RETRY_MAX = 60.0
_TRIES = 3


@dataclass
class _Flight:
    """A batch on its way to the disk."""

    batch: Batch
    tree: Directory
    taken: list[Taken]
    marks: list[Mark]
    old: _Old


@dataclass
class _Old:
    """Versions of an upperdir that the worktree has no more."""

    taken: list[Taken] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)

    def add(self, other: _Old) -> None:
        self.taken += other.taken
        self.versions += other.versions


class Watched:
    """The worktree ``name+worktree``, from ``begin`` on."""

    def __init__(self, common: Common, name: str, worktree: str, settings: HistorySettings) -> None:
        """Raises ``StratumError`` where its log cannot be written to."""
        self.name = name
        self.worktree = worktree
        self.settings = settings
        self.versions = Versions(common.publisher, f"{name}+{worktree}")
        self.excluding = Excluding(settings.exclude)
        self._common = common
        self._contents = Contents(
            common.capturer, settings.max_file, self.excluding, self.versions, common.large, common.breathe
        )
        self._log = common.store.histories.writer(name, worktree)
        self._epoch: Epoch | None = None
        self._recorded: Directory | None = None
        self._marks: list[Mark] = []
        self._old = _Old()
        self._doubt: tuple[str, int] | None = None
        self._flight: _Flight | None = None
        self._scan = True
        self._not_before = 0.0
        self._looked_at = 0
        self._failures = 0
        self._broken = False
        self.trouble: str | None = None
        """Why the last batch could not be made, in words."""

    def __str__(self) -> str:
        return f"{self.name}+{self.worktree}"

    @property
    def last(self) -> int:
        """The last CHANGE that is durable."""
        return self._log.next_n - 1

    @property
    def is_full(self) -> bool:
        """Whether so many versions wait for a batch that none may be put off."""
        return len(self.versions.taken) > FULL

    @property
    def epoch(self) -> Epoch | None:
        """The upperdir that is watched."""
        return self._epoch

    @property
    def base(self) -> str | None:
        """The commit that its upperdir is over."""
        return self._epoch.base if self._epoch is not None else None

    # Epochs

    def begin(self, *, kept: bool) -> None:
        """Go on from what the log tells. ``kept``: the kernel told of everything since its last record, or will.

        ``NotFoundError`` where the worktree is gone, else ``StratumError``.
        """
        self._epoch = Epoch(self._common, self.name, self.worktree, self._contents)
        try:
            self._recorded = self._read_log(self._epoch.base, kept)
        except DamagedError as exc:
            self._begin_anew(f"what the log told before cannot be read: {exc.message}")
        self._scan = True
        self._epoch.dirt.touch()

    def _begin_anew(self, gap: str) -> None:
        """The log is no use to go on from: say so, and tell all that there is."""
        assert self._epoch is not None
        self._marks = [Mark("gap", gap), Mark("base", "what was there after a gap", self._epoch.base)]
        self._recorded = self._common.trees.of(self._epoch.base)
        self._doubt = None
        self._contents.trust(None, 0)

    def _read_log(self, base: str, kept: bool) -> Directory:
        """The tree that the log gives, as one over the commit ``base``."""
        try:
            records: Iterator[Record] = self._common.store.histories.epoch(self.name, self.worktree)
            first = next(records, None)
        except NotFoundError:
            first = None
        if first is None or first.commit is None:
            self._marks.append(Mark("base", "the history begins", base))
            return self._common.trees.of(base)
        last = first.when
        replay = Replay(self._common.trees.of(first.commit))
        for record in records:
            replay.apply(record)
            last = record.when
        if (first.over or first.commit) != base:
            self._marks.append(Mark("gap", f"nobody watched since {last}"))
            self._marks.append(Mark("base", "the worktree is on another commit", base))
            return self._common.trees.of(base)
        root = replay.root
        if nanoseconds(last) > booted_at():  # else what was not synced may be lost, and times would not tell
            self._contents.trust(root, nanoseconds(last))
        if not kept or nanoseconds(self.settings.since) > nanoseconds(last):
            self._doubt = (f"nobody watched since {last}", nanoseconds(last) - CLOCK_STEP)
        return root

    def _cut(self) -> None:
        """Begin a new epoch, with the upperdir that the worktree has now. ``NotFoundError``, ``StratumError``."""
        if self._epoch is not None and self._recorded is not None:
            taken = self.versions.swap()
            versions = [version for _, version in self._placed(taken, Paths(self._epoch.gone_paths))]
            lost, _ = sift(versions, self._recorded, None)
            self._old.add(_Old(taken, [versions[place] for place in lost]))
            self.versions.put_back([])
            self._epoch.close()
            self._epoch = None
        self._epoch = Epoch(self._common, self.name, self.worktree, self._contents)
        self._marks.append(Mark("base", "the worktree is on another commit", self._epoch.base))
        self._recorded = self._common.trees.of(self._epoch.base)
        self._contents.trust(None, 0)
        self._scan = True
        self._epoch.dirt.touch()

    def close(self, *, unmark: bool = False) -> None:
        """Watch it no more; what waits for a batch is given up."""
        if self._epoch is not None:
            if unmark:
                self._epoch.unmark()
            self._epoch.close()
            self._epoch = None
        self.versions.release(self._old.taken)
        self._old = _Old()
        self.versions.close()
        self._log.close()

    def use(self, settings: HistorySettings) -> None:
        """Keep the history as ``settings`` say from now on."""
        if settings == self.settings:
            return
        self.settings = settings
        self.excluding = Excluding(settings.exclude)
        self._contents.use(settings.max_file, self.excluding)
        self.look_again()

    def status(self) -> dict[str, object]:
        """What is known of it, for people."""
        dirt = self._epoch.dirt if self._epoch is not None else Dirt()
        return {
            "since": self.settings.since,
            "last": self.last,
            "base": self.base,
            "changes": sum(1 if names is None else max(1, len(names)) for names in dirt.names.values()),
            "versions": len(self.versions.taken),
            "open": [os.fsdecode(path) for path in sorted(self._find_open())],
            "unfit": [os.fsdecode(path) for path in sorted(self.excluding.unfit)],
            "trouble": self.trouble,
        }

    def _find_open(self) -> set[bytes]:
        """The paths of files that are known to be open for writing still."""
        if self._epoch is None:
            return set()
        paths = {path for key in self._contents.unsettled for path in self._epoch.state.paths_of(key)[:1]}
        return {path for path in paths if self._epoch.is_open_for_writing(path)}

    # What is told

    def lose(self, why: str) -> None:
        """Something was not told of: everything has to be looked at."""
        if not self._marks or self._marks[-1].why != why:
            self._marks.append(Mark("gap", why))
        self.look_again()

    def look_again(self) -> None:
        """Have everything looked at by the next batch."""
        self._scan = True
        if self._epoch is not None:
            self._epoch.dirt.touch()

    def be_strict(self, strict: bool, *, anew: bool) -> None:
        """Have openers held up or not; ``anew``: by another process than until now."""
        if self._epoch is not None and (strict is not self._epoch.strict or (strict and anew)):
            self._epoch.be_strict(strict)

    def check(self) -> None:
        """Have the next batch look whether the worktree has the upperdir still."""
        if self._epoch is not None:
            self._epoch.dirt.touch()

    def closed(self, closed: Closed, *, later: bool = True, aside: bool = True) -> bool:
        """A file of the worktree was closed: take its content. Whether its descriptor is kept, to do that ``later``, or
        ``aside``."""
        if self._epoch is not None:
            self._epoch.closed.add(identity(closed.info))
            if self._epoch.strict and self._common.strict.alive:
                return False
        if self.versions.knows(closed.info, closed.handle) or self.excluding.covers(closed.hint):
            return False
        if later and self.versions.defer(closed):
            return True
        if aside and closed.info.st_size > LARGE and self._common.large.put(self, closed, self.settings.max_file):
            return True
        captured = self._common.capturer.capture(closed.fd, closed.info, max_file=self.settings.max_file)
        if captured is not None:
            self.take(Taken(captured, time.time_ns(), closed.handle, closed.hint, closed.info.st_mode, closed.actor))
        return False

    def arrived(self, closed: Closed, captured: Captured | None, when: int) -> None:
        """A large file was taken aside."""
        os.close(closed.fd)
        if self._epoch is not None:
            self._epoch.closed.add(identity(closed.info))
            self.check()
        if captured is None or (captured.digest is not None and not self._common.publisher.is_staged(captured.digest)):
            return
        if self._epoch is not None:
            self.take(Taken(captured, when, closed.handle, closed.hint, closed.info.st_mode, closed.actor))
        elif captured.digest is not None:
            self._common.publisher.hold(captured.digest)
            self._common.publisher.drop([captured.digest])

    def take(self, taken: Taken) -> None:
        """Keep a version that was captured."""
        if not self.excluding.covers(taken.hint):
            self.versions.add(taken)
            self.check()

    def remember(self, handle: bytes, directory: AnyDirectory, name: bytes) -> None:
        """The file with this handle is, or was, there."""
        if self._epoch is not None:
            self._common.put(handle, self._epoch, directory, name, only_new=True)

    def _take_due(self, *, everything: bool) -> None:
        for closed in self.versions.due(everything=everything):
            kept = False
            try:
                kept = self.closed(closed, later=False, aside=not everything)
            finally:
                if not kept:
                    os.close(closed.fd)
            place = self._common.place(closed.handle)
            if place is not None and place[0] is self._epoch:
                self._epoch.dirt.add(place[1], place[2], closed.actor)

    # Batches

    def due(self) -> float | None:
        """When the next batch is due (``time.monotonic``); None where nothing is known that will be."""
        times = []
        if self._epoch is None or self._epoch.dirt:
            dirt = self._epoch.dirt if self._epoch is not None else None
            is_much = len(self.versions.taken) > MUCH
            times.append(min(dirt.last + QUIET, dirt.first + LONGEST) if dirt is not None and not is_much else 0.0)
        if (deferred := self.versions.next_due) is not None:
            times.append(deferred)
        return max(min(times), self._not_before) if times else None

    def prepare(self, *, everything: bool = False) -> Batch | None:
        """Look at what is dirty: the batch that tells of it, None where there is nothing to tell.

        There is no batch on its way. ``everything``: also what could wait. Whoever gets a batch says what became of it
        (``done``). ``NotFoundError`` where the worktree is gone; ``StratumError`` where it cannot be read now, which is
        tried again.
        """
        assert self._flight is None
        try:
            if self._broken:
                self._recover()
            self._take_due(everything=everything)
            flight = self._told(*self._look())
        except Exception as exc:  # also a defect: it is tried again, and the other worktrees are watched meanwhile
            self._failed(exc)
            if isinstance(exc, StratumError):
                raise
            raise StratumError(f"cannot read what was written in {self}: {self.trouble}") from exc
        self.trouble, self._failures = None, 0
        if flight.batch.records:
            self._flight = flight
            return flight.batch
        self._adopt(flight)
        return None

    def _failed(self, exc: Exception) -> None:
        """It is tried again, less and less often: whatever is wrong, it is the writer's own doing, or lasts."""
        self.trouble = _words(exc)
        self._not_before = time.monotonic() + min(RETRY * 2**self._failures, RETRY_MAX)
        self._failures = min(self._failures + 1, 10)
        self.look_again()

    def _look(self) -> tuple[Directory, dict[bytes, Actor], dict[bytes, bytes], Paths]:
        """What ``_read`` gives of the worktree's upperdir, which it has before and after."""
        for _ in range(_TRIES):
            if self._epoch is None or not self._epoch.is_current():
                self._cut()
            assert self._epoch is not None
            self._looked_at = time.time_ns()
            found = self._read(self._epoch)
            # What was read while a verb took the upperdir away is not what anybody did to the worktree.
            if self._epoch.is_current():
                self._common.hear_out()  # what was closed before is told before what was found
                return found
        raise StratumError(f"the worktree {self} is changed as fast as it is looked at")

    def get_acquainted(self) -> None:
        """Look at everything, so that what the kernel tells is understood; the next batch tells what is different."""
        if self._epoch is None or self._broken:
            return
        try:
            self._epoch.state.scan()
            self._scan = False
        except Exception as exc:  # as above: the next batch looks again
            self._failed(exc)

    def _read(self, epoch: Epoch) -> tuple[Directory, dict[bytes, Actor], dict[bytes, bytes], Paths]:
        """Read what is dirty: the tree, who did something to which path, old paths by new ones, paths as they are."""
        assert self._recorded is not None
        dirt, epoch.dirt = epoch.dirt, Dirt()
        closed, epoch.closed = epoch.closed | self._contents.unsettled, set()
        self._contents.unsettled.clear()
        self._contents.why.clear()
        before = Paths()
        epoch.settle_modified(dirt, before, self._contents.unsettled)
        actors = {before.of(entry): actor for entry, actor in dirt.actors.items()}
        origins = {entry: before.of(origin) for entry, origin in dirt.moves.items()}
        scan, self._scan = self._scan, True  # until it succeeds
        root, found = epoch.read(dirt, closed, scan=scan)
        after = Paths(epoch.gone_paths)
        actors.update((after.of(entry), actor) for entry, actor in dirt.actors.items())
        moved = {after.of(entry): origin for entry, origin in origins.items()} | found
        if any(self.excluding.covers(old) and not self.excluding.covers(new) for new, old in moved.items()):
            root = epoch.state.scan()  # for the contents of what is not excluded any more
        self._scan = False
        self.excluding.unfit.clear()
        return self.excluding.applied(root, self._recorded), actors, moved, after

    def _told(self, tree: Directory, actors: dict[bytes, Actor], moved: dict[bytes, bytes], paths: Paths) -> _Flight:
        """The batch that makes ``tree`` of the recorded one."""
        recorded = self._recorded
        assert recorded is not None
        moved = {new: old for new, old in moved.items() if new != old}
        changes = operations(recorded, tree, self._names_of, moved=moved)
        placed = self._placed(self.versions.taken, paths)
        lost, later = sift([version for _, version in placed], recorded, tree)
        versions = [placed[place][1] for place in lost]
        marks = list(self._marks)
        if given_up := self.versions.given_up:
            marks.insert(0, Mark("gap", f"{given_up} versions came faster than they could be kept"))
        if self._doubt is not None and (changes or versions or self._contents.newest >= self._doubt[1]):
            marks.insert(0, Mark("gap", self._doubt[0]))
        telling = Telling(self._log.next_n, time.time_ns(), recorded, tree, actors, self._why)
        for version in self._old.versions:
            telling.version(version)
        for mark in marks:
            telling.mark(mark)
        for version in versions:
            telling.version(version)
        for operation in changes:
            telling.operation(operation)
        if telling.unfit:
            self.excluding.unfit.update(telling.unfit)
            return self._told(self.excluding.applied(tree, recorded), actors, moved, paths)
        taken, old = self.versions.swap(), self._old
        if later:
            self.versions.put_back([placed[place][0] for place in later])
            kept = {id(placed[place][0]) for place in later}
            taken = [item for item in taken if id(item) not in kept]
            self.check()
        objects = {
            item.captured.digest: item.captured.size
            for item in (*old.taken, *taken)
            if item.captured.digest is not None
        }
        self._marks, self._old, self._doubt, self.versions.given_up = [], _Old(), None, 0
        return _Flight(Batch(self._log, telling.records, objects), tree, taken, marks, old)

    def _placed(self, taken: list[Taken], paths: Paths) -> list[tuple[Taken, Version]]:
        """Where versions belong, in the order in which they were: the path that the file has, or had when it was heard
        of last."""
        placed = []
        for item in in_order(taken, self._looked_at):
            place = self._common.place(item.handle)
            path = item.hint
            if place is not None and place[0] is self._epoch:
                path = paths.of(place[1:])
            elif self._epoch is not None and (known := self._epoch.state.paths_of(item.captured.key)):
                path = known[0]
            if path.rpartition(b"/")[2] == b"#%d" % item.captured.key[1]:  # O_TMPFILE: the kernel's name for none
                assert self._epoch is not None
                path = next(iter(self._epoch.state.paths_of(item.captured.key)), b"")
            # As it was heard of: no path can be that long, and none of a file is that of the top.
            if (len(path) > PATH_MAX or path == b"/") and self._epoch is not None:
                path = next(iter(self._epoch.state.paths_of(item.captured.key)), b"")
            if path.startswith(b"/") and path != b"/" and not self.excluding.covers(path):
                captured = item.captured  # of a file that is open, an earlier content is known to the tree
                since = captured.signature[4] >= self._looked_at or captured.key in self._contents.unsettled
                is_later = not item.found and since
                placed.append((item, Version(path, item.captured, item.when, item.mode, item.actor, is_later)))
        return placed

    def _names_of(self, inode: Inode) -> list[bytes]:
        assert self._epoch is not None
        names = self._epoch.state.names_of(inode)
        return [name for name in names if not self.excluding.covers(name)] if self.excluding else list(names)

    def _why(self, path: bytes, inode: File) -> str:
        return self._contents.why.get(path) or ("large" if inode.size > self.settings.max_file else "open")

    def _adopt(self, flight: _Flight) -> None:
        self._recorded = flight.tree
        self.versions.batch_is_done(flight.taken)
        self.versions.release(flight.old.taken)

    def done(self, batch: Batch) -> None:
        """A batch is durable, or not, as its ``error`` says."""
        flight, self._flight = self._flight, None
        assert flight is not None
        assert flight.batch is batch
        if batch.error is None:
            self._adopt(flight)
            return
        self._marks[:0] = flight.marks
        flight.old.add(self._old)
        self._old = flight.old
        self.versions.put_back(flight.taken)
        self.trouble = batch.error.told
        self._not_before = time.monotonic() + RETRY
        if self._epoch is not None:
            self._epoch.dirt.touch()
        self._broken = isinstance(batch.error, DamagedError)

    def _recover(self) -> None:
        """Go on after the log was changed by somebody else, or contents are gone that were not in the store yet."""
        self.versions.forget()
        self.versions.release(self._old.taken)
        self._old = _Old()
        self._log.close()
        self._log = self._common.store.histories.writer(self.name, self.worktree)
        if self._epoch is not None:
            self._epoch.close()
            self._epoch = None
        self._marks = []
        self.begin(kept=False)
        self._broken = False


def _words(exc: Exception) -> str:
    if isinstance(exc, StratumError):
        return exc.told
    return os_error_text(exc) if isinstance(exc, OSError) else f"{type(exc).__name__}: {exc}"


def nanoseconds(when: str) -> int:
    """An RFC 3339 time in UTC, as nanoseconds since the epoch; 0 for what is none."""
    try:
        time = datetime.fromisoformat(when.replace("Z", "+00:00"))
    except ValueError:
        return 0
    return int(time.timestamp() * 1000) * 1_000_000
