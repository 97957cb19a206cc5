"""The watcher of a store: it hears what is written in all worktrees that have a history, and has it recorded.

All of it is done by one thread, which listens also in the middle of long work (``breathe``): versions are to be taken
as soon as they are closed. Only what waits for disks and locks is done by another one (``history.publishing``). Names
are read before closes, as they tell whose file it was that was closed; where they do not, the path by which ``/proc``
knows the open file does, if that file is there.

What a worktree cannot do, whoever writes to it, is to keep the others from being recorded: whatever fails is that one's
trouble, which is told once, and tried again.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stratum.errors import NotFoundError, StratumError, foreseen
from stratum.history.adopting import adopt
from stratum.history.capture import Capturer
from stratum.history.dirt import NewDirectory
from stratum.history.epoch import Common, Epoch, Place, is_same_place
from stratum.history.events import CLOSES_AT_ONCE, probe
from stratum.history.largefiles import LargeFiles
from stratum.history.newdirs import Arrival, Arrivals, welcome
from stratum.history.owners import Owners
from stratum.history.publishing import Batch, Publisher
from stratum.history.reserve import Space
from stratum.history.scanning import Pace
from stratum.history.strict import Strictness, StrictVersion
from stratum.history.versions import Closed, Taken
from stratum.history.watched import Watched
from stratum.store.histories import MAX_FILE
from stratum.sys.fanotify import FAN_CREATE, FAN_ONDIR, FAN_RENAME
from stratum.sys.handles import handle_of

if TYPE_CHECKING:
    from stratum.history.dirt import AnyDirectory
    from stratum.history.events import Groups
    from stratum.store import Store
    from stratum.sys.actors import Actor
    from stratum.sys.fanotify import CloseEvent, NameEvent

LISTEN_AT_ONCE = 0.25
"""Seconds for which events are read before what is due is done."""
BREATH = 0.002
"""Seconds of work after which it is listened again."""
LOOK = 60.0
"""Seconds after which settings and worktrees are looked at though nobody said that they changed."""
NAMES_REST = 0.002
"""Seconds for which names are let gather after some were read, where nothing else happens."""
CLOSES_IN_TURN = 8
"""So many times closes are read between two readings of names, which bring more at a time."""
DRAIN = 20.0
"""Seconds for which a flush reads events that were there, at most,"""
DRAIN_BATCH = 0.5
"""and those for which any other batch does: what was closed before it is to be recorded before what it finds."""
FLUSH = 60.0
_UNRESOLVED_MAX = 256


class Watcher:
    """Watches the worktrees of ``store`` whose history is on; the caller is ``Histories.writing``.

    ``groups`` are closed with it; None: upperdirs are looked through (``history.scanning``). ``kept`` are the worktrees
    (``NAME+WORKTREE``) of which ``groups`` have told since the last record. ``tell`` gets lines for people. All methods
    but ``wake`` are to be called by one thread. Raises ``StratumError``.
    """

    def __init__(
        self,
        store: Store,
        groups: Groups | None,
        *,
        kept: Collection[str] = (),
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._store = store
        self._kept = set(kept)
        self._tell = tell
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._publisher = Publisher(store, self.wake)
        self._space = Space(store.layout, self._space_changed)
        capturer = Capturer(
            self._publisher.staging, max_file=lambda: MAX_FILE, has_space=self._space, dialect=store.dialect
        )
        self._strict = Strictness(self._publisher.staging, str(store.root), tell)
        large, strict = LargeFiles(capturer, self.wake), self._strict
        self._common = Common(store, groups, capturer, self._publisher, large, strict, self._breathe, self._hear_out)
        self._watched: dict[str, Watched] = {}
        self._owners = Owners(self._common, self._watched)
        self._paces: dict[str, Pace] = {}
        self._troubles: dict[str, str] = {}
        self._jobs: dict[int, Watched] = {}
        self._stems: dict[bytes, str] = {}
        self._unresolved: list[Closed] = []
        self._arrivals = Arrivals()
        self._listened = self._named_at = 0.0
        self._listening = False
        self._heard = (0, 0)  # closes, names
        # What waits in kept groups is of directories that are known only once they were looked at.
        self._deaf = bool(kept)
        self._next_look = 0.0
        self._since = time.time()

    # Which worktrees

    def watching(self) -> list[str]:
        """The worktrees that are watched: ``NAME+WORKTREE``, sorted."""
        return sorted(self._watched)

    def look(self) -> None:
        """Look which worktrees there are, and how their histories are to be kept."""
        self._next_look = time.monotonic() + LOOK
        wanted = {f"{name}+{worktree}": (name, worktree) for name, worktree in self._store.histories.watched()}
        for ref in [ref for ref in self._watched if ref not in wanted]:
            self._drop(ref)
        self._mark_stems({name for name, _ in wanted.values()})
        for ref, (name, worktree) in wanted.items():
            self._look_at(ref, name, worktree)
        if self._publisher.left:
            adopt(self._store, self._publisher, self._watched, self._kept.__contains__)
        self._kept.clear()
        self._use_strict()
        self._common.trees.keep({watched.base for watched in self._watched.values() if watched.base is not None})

    def _look_at(self, ref: str, name: str, worktree: str) -> None:
        try:
            self._watch(ref, name, worktree)
            self._troubles.pop(ref, None)
        except Exception as exc:  # whatever it is, the others are watched
            self._trouble(ref, foreseen(exc).told)

    def _watch(self, ref: str, name: str, worktree: str) -> None:
        settings = self._store.histories.settings(name, worktree)
        watched = self._watched.get(ref)
        if settings is None or watched is not None:
            if settings is not None and watched is not None:
                watched.use(settings)
            return
        watched = Watched(self._common, name, worktree, settings)
        try:
            watched.begin(kept=ref in self._kept)
        except BaseException:
            watched.close()
            raise
        self._watched[ref] = watched
        self._paces[ref] = Pace()

    def _use_strict(self) -> None:
        """Have those histories strict that are to be."""
        strict = {ref: watched for ref, watched in self._watched.items() if watched.settings.strict}
        if self._common.groups is None:
            return
        anew = self._strict.use(strict)
        for watched in self._watched.values():
            watched.be_strict(self._strict.alive and watched.settings.strict, anew=anew)
        self._strict.limit(max((watched.settings.max_file for watched in strict.values()), default=0), self._space())

    def _drop(self, ref: str) -> None:
        self._paces.pop(ref, None)
        watched = self._watched.pop(ref)
        while any(other is watched for other in self._jobs.values()):
            self._wait_for_publisher()
        watched.close(unmark=True)

    def _mark_stems(self, names: Collection[str]) -> None:
        """Have the kernel tell which worktrees of these strata come and go."""
        groups = self._common.groups
        if groups is None:
            return
        layout = self._store.layout
        for name in names:
            with suppress(OSError, StratumError):  # what is wrong with it, its worktrees tell
                fd = layout.open_beneath(layout.worktrees(name), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    groups.mark_names_only(fd)
                    self._stems[handle_of(fd)] = name
                finally:
                    os.close(fd)

    def _trouble(self, ref: str, words: str) -> None:
        if self._troubles.get(ref) != words:
            self._troubles[ref] = words
            self._tell(f"{ref}: {words}")

    def _space_changed(self, enough: bool) -> None:
        if enough:
            self._tell("there is room again: contents of what is written are kept")
        else:
            self._tell("the disk is nearly full: what is written is recorded without its content")

    # The loop

    def wake(self) -> None:
        """Have ``run_once`` return soon. For any thread."""
        os.eventfd_write(self._wake, 1)

    def run_once(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for something to do, and do it."""
        if time.monotonic() >= self._next_look:
            self.look()
        elif self._strict.next_start is not None and self._strict.next_start <= time.monotonic():
            self._use_strict()
        if self._deaf:
            self._begin_to_hear()
        self._wait(timeout)
        self.listen()
        self._finish()
        self._make_batches()

    def _begin_to_hear(self) -> None:
        """Look at all worktrees, and only then listen to what is told of them."""
        for watched in self._watched.values():
            watched.get_acquainted()
        self._deaf = False
        self._drain(DRAIN)

    def _wait(self, timeout: float) -> None:
        until = self._next_time(timeout)
        closes, names = self._common.groups.fds if self._common.groups is not None else (-1, -1)
        poll = select.poll()
        for fd in (self._wake, self._strict.fd, closes):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        # Who writes on and on to open files is not to wake this process each time.
        resting = min(self._named_at + NAMES_REST, until) - time.monotonic()
        if names < 0 or resting <= 0 or not poll.poll(resting * 1000):
            if names >= 0:
                poll.register(names, select.POLLIN)
            poll.poll(max(0.0, until - time.monotonic()) * 1000)
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _next_time(self, timeout: float) -> float:
        """When something is to be done though nobody tells of anything."""
        times = [time.monotonic() + timeout, self._next_look]
        times += [due for due in (self._strict.next_start, self._arrivals.next_due) if due is not None]
        if not self._publisher.busy:
            for watched in self._watched.values():
                if (due := watched.due()) is not None:
                    times.append(due if watched.is_full else max(due, self._publisher.rest_until))
            if self._common.groups is None:
                times += [pace.next for pace in self._paces.values()]
        return min(times)

    def flush(self, name: str, worktree: str) -> int:
        """Have everything that was closed by now in the log of a worktree; its last CHANGE then.

        ``NotFoundError`` where it is not watched; ``StratumError`` where it cannot be done now.
        """
        deadline = time.monotonic() + FLUSH
        if self._deaf:
            self._begin_to_hear()
        self._drain_all()
        ref = f"{name}+{worktree}"
        while self._publisher.busy:
            self._check_time(deadline, ref)
            self._wait_for_publisher()
        watched = self._watched.get(ref)
        if watched is None and ref in self._troubles:
            raise StratumError(f"the history of {ref} is not kept: {self._troubles[ref]}")
        if watched is None:
            raise NotFoundError(f"the history of {ref} is not kept", hint=f"stratum history on {ref}")
        while self._common.large.pending(watched):
            self._check_time(deadline, ref)
            self._wait_for_publisher()
        batch = self._prepare(ref, watched, everything=True)
        if batch is None:
            return watched.last
        self._start([(watched, batch)])
        while self._publisher.busy:
            self._check_time(deadline, ref)
            self._wait_for_publisher()
        if batch.error is not None:
            raise batch.error
        return watched.last

    def _check_time(self, deadline: float, ref: str) -> None:
        if time.monotonic() > deadline:
            raise StratumError(
                f"what was written in {ref} did not get into its history within {FLUSH:.0f} seconds",
                hint="another command has the store, or the disk is slow; it is recorded later",
            )

    def _wait_for_publisher(self) -> None:
        """Go on listening for a while, or until a job is done."""
        self._wait(0.5)
        self.listen()
        self._finish()

    def close(self) -> None:
        """Bring what is known into the logs, and watch no more."""
        with suppress(StratumError):
            self._drain_all()
            while self._publisher.busy:
                self._wait_for_publisher()
            self._resolve(last=True)
            self._common.large.close()
            self._listening = True  # no more: what comes now waits for the next watcher, and is not to be lost here
            self._make_batches(everything=True)
            while self._publisher.busy:
                self._wait_for_publisher()
        for watched in self._watched.values():
            watched.close()
        self._watched.clear()
        self._common.large.close()
        self._strict.close()
        self._publisher.close()
        if self._common.groups is not None:
            self._common.groups.close()
        os.close(self._wake)

    # Listening

    def _breathe(self) -> None:
        if time.monotonic() - self._listened > BREATH:
            self.listen(BREATH)

    def _drain(self, seconds: float) -> None:
        """Read what the kernel has to tell until now, for so long at most."""
        groups, deadline = self._common.groups, time.monotonic() + seconds
        closes, names = groups.pending() if groups is not None else (0, 0)
        if self._deaf or self._listening:
            return
        while groups is not None and (closes > 0 or names > 0) and time.monotonic() < deadline:
            before = self._heard
            self.listen()
            if not any(groups.pending()):
                break
            closes, names = closes - self._heard[0] + before[0], names - self._heard[1] + before[1]

    def _hear_out(self) -> None:
        """Hear what was told by now, as a batch is about to tell what it found."""
        groups = self._common.groups
        if groups is not None and groups.pending()[0]:
            self._drain(DRAIN_BATCH)
        if self._strict.alive and not self._listening:
            for version in self._strict.read(sync=True):
                self._guarded(self._take, version)

    def _drain_all(self) -> None:
        """The same, with what another process takes."""
        self._drain(DRAIN)
        for version in self._strict.read(sync=True):
            self._guarded(self._take, version)
        self.listen()

    def listen(self, seconds: float = LISTEN_AT_ONCE) -> None:
        """Read what the kernel has to tell, for about that long."""
        groups = self._common.groups
        if groups is None or self._listening or self._deaf:
            return
        self._listening = True
        try:
            deadline = time.monotonic() + seconds
            while self._hear(groups) and time.monotonic() < deadline:
                pass
            if groups.overflowed or groups.lost:
                self._lose(groups.take_losses() or "events were lost")
        finally:
            self._listening = False
            self._listened = time.monotonic()

    def _hear(self, groups: Groups) -> bool:
        """Read some names, and about as many closes; whether there was anything."""
        names, count = groups.read_names(), 0
        if names:
            self._named_at = time.monotonic()
        for name in names:
            self._guarded(self._name, name)
        for arrival in self._arrivals.due():
            self._guarded(self._welcome_now, arrival)
        self._resolve(last=not names)
        for _ in range(CLOSES_IN_TURN if groups.pending()[0] else 0):
            self._publisher.pending.reading(True)
            closes = groups.read_closes()
            count += len(closes)
            for close in closes:
                self._guarded(self._close, close)
            if len(closes) < CLOSES_AT_ONCE:
                break
        for version in self._strict.read():
            self._guarded(self._take, version)
        self._common.large.deliver()
        self._publisher.pending.reading(bool(self._unresolved) or self._common.large.is_busy)
        self._heard = (self._heard[0] + count, self._heard[1] + len(names))
        return bool(names or count or self._unresolved)

    def _guarded(self, what: Callable[[Any], None], event: object) -> None:
        """Whatever one event brings, the next one is listened to; what this one told is found by looking."""
        try:
            what(event)
        except Exception as exc:  # what writers bring about, even by a defect, must not end the watcher
            self._lose(f"an event could not be understood: {foreseen(exc).told}")

    def _lose(self, why: str) -> None:
        self._tell(why)
        for watched in self._watched.values():
            watched.lose(why)

    def _name(self, event: NameEvent) -> None:
        common, actor = self._common, None
        if event.directory in self._stems or event.new_directory in self._stems:
            self._next_look = 0.0
            for watched in self._watched.values():
                watched.check()
            return
        old = common.directories.get(event.directory or b"")
        new = common.directories.get(event.new_directory or b"")
        if old is not None or new is not None or event.child in common.linked:
            actor = common.actors.of(event.pid)
        for found, name in ((old, event.name), (new, event.new_name)):
            if found is not None:
                found[0].note(found[1], name, event.mask, actor)
        if old is not None and new is not None and old[0] is new[0]:
            new[0].dirt.add_move((old[1], event.name), (new[1], event.new_name))
        if event.child is None:
            return
        if event.mask & FAN_ONDIR:
            # One that was renamed, and has no new place, went to where nobody listens yet.
            renamed = bool(event.mask & FAN_RENAME)
            if renamed or event.mask & FAN_CREATE:
                self._welcome(new if renamed else old, event.new_name if renamed else event.name, event.child)
            return
        if (linked := common.linked.get(event.child)) is not None:
            linked.note_linked(event.child)
        if event.mask & FAN_RENAME and new is not None:
            self._renamed(event.child, *new, event.new_name)
        elif old is not None and event.name not in (b"", b"."):
            self._named(event.child, (*old, event.name), event.mask, actor)

    def _renamed(self, handle: bytes, epoch: Epoch, directory: AnyDirectory, name: bytes) -> None:
        self._common.put(handle, epoch, directory, name)
        if handle in (pending := self._publisher.pending).handles:
            pending.renamed(handle, directory.path().rstrip(b"/") + b"/" + name)

    def _named(self, handle: bytes, place: Place, mask: int, actor: Actor | None) -> None:
        """Something was told of a file under a name: the one that the kernel looked it up by first, which it need not
        have any more. The one that was remembered of it is looked at too. One that got a further name is marked itself,
        as nothing may be told of it once the first one is gone, and its directory."""
        known = self._common.place(handle)
        if known is None or is_same_place(known, place) or mask & FAN_CREATE:
            self._common.put(handle, *place)
        if known is None or is_same_place(known, place):
            return
        known[0].note(known[1], known[2], mask, actor)
        if mask & FAN_CREATE:
            place[0].mark_linked(handle, place[1], place[2])

    def _welcome(self, place: tuple[Epoch, AnyDirectory] | None, name: bytes, handle: bytes) -> None:
        """A directory is new: listen to it from now on. One that was heard of is somewhere else now."""
        if place is None or name in (b"", b"."):
            return
        epoch, directory = place
        known = self._common.directories.get(handle)
        if known is not None:
            if isinstance(known[1], NewDirectory):
                known[1].move(directory, name)
            return
        arrival = Arrival(epoch, directory, name, handle)
        if epoch.strict or not self._arrivals.wait(arrival):
            self._welcome_now(arrival)

    def _welcome_now(self, arrival: Arrival) -> None:
        watched = self._owners.with_epoch(arrival.epoch)
        if watched is not None:
            welcome(self._common, watched, arrival)

    def _close(self, event: CloseEvent) -> None:
        keep = False
        try:
            info = os.fstat(event.fd)
            if stat.S_ISREG(info.st_mode):
                closed = Closed(event.fd, info, handle_of(event.fd), b"", None, self._common.actors.of(event.pid))
                keep = self._take_or_wait(closed)
        finally:
            if not keep:
                os.close(event.fd)

    def _take_or_wait(self, closed: Closed) -> bool:
        """Take what was closed; whether its descriptor is kept."""
        owner = self._owners.of(closed)
        if owner is not None:
            return owner.closed(closed)
        # Its name has not been read yet: that is in the other group.
        self._unresolved.append(closed)
        if len(self._unresolved) > _UNRESOLVED_MAX:
            self._resolve(last=True)
        return True

    def _resolve(self, *, last: bool) -> None:
        """Take what was closed before its name was told; at ``last`` also what nobody tells the name of."""
        unresolved, self._unresolved = self._unresolved, []
        for closed in unresolved:
            owner = self._owners.of(closed) or (self._owners.by_path(closed) if last else None)
            if owner is None and not last:
                self._unresolved.append(closed)
            elif owner is None or not owner.closed(closed):
                os.close(closed.fd)

    def _take(self, version: StrictVersion) -> None:
        """Keep a version that was captured before anybody could open the file again."""
        captured, when, handle, path, mode, pid = version
        place = self._common.place(handle)
        owner = self._owners.with_epoch(place[0]) if place is not None else self._owners.having(path, captured.key)
        if owner is None:
            strict = [watched for watched in self._watched.values() if watched.settings.strict]
            owner = strict[0] if len(strict) == 1 else None
        if owner is not None:
            owner.take(Taken(captured, when, handle, path, mode, self._common.actors.of(pid)))

    # Batches

    def _make_batches(self, *, everything: bool = False) -> None:
        if self._publisher.busy:
            return
        now, found = time.monotonic(), []
        if not everything and any(self._is_due(ref, now) for ref in self._watched):
            self._drain(DRAIN_BATCH)
        for ref, watched in list(self._watched.items()):
            if not everything and not self._is_due(ref, now):
                continue
            with suppress(StratumError):
                batch = self._prepare(ref, watched, everything=everything)
                if batch is not None:
                    found.append((watched, batch))
        if found:
            self._start(found)

    def _is_due(self, ref: str, now: float) -> bool:
        if self._common.groups is None:
            return self._paces[ref].next <= now
        watched = self._watched[ref]
        due = watched.due()
        return due is not None and due <= now and (watched.is_full or now >= self._publisher.rest_until)

    def _prepare(self, ref: str, watched: Watched, *, everything: bool) -> Batch | None:
        started = time.monotonic()
        if self._common.groups is None:
            watched.look_again()
        try:
            batch = watched.prepare(everything=everything)
        except NotFoundError:
            self._drop(ref)
            raise
        except StratumError as exc:
            self._trouble(ref, exc.told)
            raise
        finally:
            if ref in self._paces:
                self._paces[ref].took(time.monotonic() - started)
        self._troubles.pop(ref, None)
        return batch

    def _start(self, batches: list[tuple[Watched, Batch]]) -> None:
        self._jobs = {id(batch): watched for watched, batch in batches}
        self._publisher.start([batch for _, batch in batches])

    def _finish(self) -> None:
        for batch in self._publisher.take():
            watched = self._jobs.pop(id(batch))
            watched.done(batch)
            if batch.error is not None:
                self._trouble(str(watched), batch.error.told)

    # For people

    def status(self) -> dict[str, Any]:
        """What is watched, and how far: for ``stratum status`` and ``stratum watch``."""
        groups = self._common.groups
        closes, names = groups.pending() if groups is not None else (0, 0)
        return {
            "since": self._since,
            "events": groups is not None,
            "descriptors": groups is not None and groups.has_descriptors,
            "why_no_events": probe() if groups is None else None,
            "queued": closes + names,
            "space": self._space(),
            "publishing": self._publisher.busy,
            "staging": self._publisher.staging.directory,
            "worktrees": {ref: watched.status() for ref, watched in sorted(self._watched.items())},
            "troubles": dict(self._troubles),
        }
