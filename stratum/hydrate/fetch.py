"""Fetching the objects of one commit for whoever reads them.

Who opens a file asks a content store (``hydrate.content``): what is near first, and then what sources have. What is
asked for and is not here is a want (``hydrate.wants``) or, of a large object, a part (``hydrate.ranges``). Lanes
(``hydrate.lanes``) do first what is waited for, then what is likely to be next (``hydrate.readahead``), then what was
to be fetched before anybody asks (``hydrate.prefetch``). Where no source has an object the reader gets EIO, and
``status`` says why.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stratum.content.cached import CachedStore
from stratum.errors import DamagedError, StratumError, foreseen
from stratum.hydrate.account import Account
from stratum.hydrate.content import FarObjects, NearObjects
from stratum.hydrate.kept import kept_objects
from stratum.hydrate.lanes import BACKGROUND, Lanes
from stratum.hydrate.parts import CHUNK
from stratum.hydrate.prefetch import Prefetch, Progress
from stratum.hydrate.profile import Entry, Recording, merged, read_profile, write_profile
from stratum.hydrate.ranges import LargeObject
from stratum.hydrate.supply import Place, Supplies
from stratum.hydrate.wants import RETRY_SECONDS, Done, Wants
from stratum.store.clock import rfc3339, utc_now
from stratum.transfer.packs import LARGE_OBJECT

if TYPE_CHECKING:
    from stratum.content.base import Done as DoneFetching
    from stratum.hydrate.landing import Landing
    from stratum.hydrate.lanes import Job
    from stratum.hydrate.supply import Place
    from stratum.hydrate.unpacker import Unpacker
    from stratum.oci.access import Access
    from stratum.store.sources import CommitSource
    from stratum.sys.actors import Actor

TOGETHER = 4
"""Frames that are fetched together, at most, where nobody waits for them."""
CLOSE_SECONDS = 2.0
"""How long an end waits for what is being fetched, and for the store's lock."""
_ERRORS_KEPT = 20

HERE, LANDED, UNREAL = "here", "landed", "unreal"


class Fetcher:
    """Fetches objects of ``commit`` into ``landing``; for all threads. ``access`` says how a source is reached, and is
    called when one is, which may be again after a failure.

    ``wait``: readers wait for sources that are away, for as long as it takes. ``realized`` is told of each large
    object that is whole now, so that mounts that show it in parts can be refreshed. ``unpacker`` unpacks what comes,
    by default that is done here. ``DamagedError`` where it is not known which sources the commit has.
    """

    def __init__(
        self,
        landing: Landing,
        commit: str,
        access: Callable[[CommitSource], Access],
        *,
        wait: bool = False,
        realized: Callable[[bytes], None] | None = None,
        unpacker: Unpacker | None = None,
    ) -> None:
        self.commit = commit
        self.landing = landing
        self.store = landing.store
        self._wait = wait
        self._realized = realized
        self._lock = threading.Lock()
        self._account = Account()
        self._errors: deque[dict[str, str]] = deque(maxlen=_ERRORS_KEPT)
        self._closed = False
        self._large: dict[bytes, LargeObject] = {}
        self.supplies = Supplies(self.store, commit, access, landing.parts.directory)
        self._recording = Recording(sum(len(supply.catalog) for supply in self.supplies))
        makers = {"profile": self._of_profile, "kept": self._of_kept, "all": self._of_all}
        self._prefetch = Prefetch(makers, self._caught_up)
        self._lanes = Lanes(f"fetch {commit[:12]}", self._prefetch.next)
        self._wants = Wants(
            landing,
            self.supplies,
            self._lanes,
            came=self._came,
            failed=self._note,
            unpacker=unpacker,
            wait=wait,
        )
        self._far = FarObjects(self.supplies, self._fetch)
        self.content: CachedStore[bytes] = CachedStore(NearObjects(landing, self.supplies), self._far)
        """The objects of the commit by their digests: those that are here, and those that sources have."""

    # What is where

    def size(self, digest: bytes) -> int | None:
        """The object's size in bytes; None where no source of the commit lists it."""
        place = self.supplies.find(digest)
        return None if place is None else place.member.size

    def is_large(self, digest: bytes) -> bool:
        """Whether the object is read in parts (``read_range``), before all of it is here."""
        return (self.size(digest) or 0) >= LARGE_OBJECT

    def condition(self, digest: bytes) -> str:
        """ "here" in the store, "landed", or "unreal"."""
        size = self.size(digest)
        if size is None:
            return UNREAL
        if self.landing.has(digest, size):
            with suppress(StratumError):  # who looks for it there does not find it, and says so
                self.landing.show(digest)
            return LANDED
        return HERE if self.store.objects.has(digest, size) else UNREAL

    # Asking

    def pass_on(self, digest: bytes) -> bool:
        """Whether the object has landed and is no large one; then it is counted as ``want`` counts it, and what is
        next is fetched."""
        try:
            place = self.supplies.find(digest)
            if place is None or not self.landing.has(digest, place.member.size) or place.member.size >= LARGE_OBJECT:
                return False
            self.landing.show(digest)
        except StratumError:  # a catalog is damaged, or the disk full: ``want`` says so
            return False
        with self._lock:
            if self._closed:
                return False
            self._account.asks += 1
            self._account.hits += 1
            self._recording.asked(place.supply.base + place.member.number)
        with suppress(StratumError):
            self._wants.read_ahead(place)
        return True

    def want(self, digest: bytes, reader: Actor | None, done: Done) -> None:
        """Have the object brought; ``done`` is told 0 when it is in the landing or the store, ENOENT where no source
        lists it, EIO where none has it."""
        try:
            place = self.supplies.find(digest)
        except StratumError as exc:  # a catalog is damaged
            self._note(digest, exc)
            done(errno.EIO)
            return
        if place is None:
            done(errno.ENOENT)
            return

        def told(error: StratumError | None) -> None:
            done(0 if error is None else errno.EIO)

        if place.member.size >= LARGE_OBJECT:
            self.content.want(digest, told, reader)
            return
        is_here = self._wants.is_here(digest, place.member.size)
        try:
            self.landing.show(digest)
        except StratumError as exc:
            self._note(digest, exc)
            done(errno.EIO)
            return
        with self._lock:
            closed = self._closed
            self._account.asks += 1
            self._account.hits += is_here
            self._recording.asked(place.supply.base + place.member.number)
        if is_here or closed:
            done(0 if is_here else errno.EIO)
        else:
            self.content.want(digest, told, reader)
        with suppress(StratumError):
            self._wants.read_ahead(place)

    def read_range(
        self, digest: bytes, start: int, size: int, reader: Actor | None, done: Callable[[int, bytes], None]
    ) -> None:
        """``size`` bytes, fewer at its end, of a large object from ``start`` on; ``done`` is told (errno, bytes)."""
        place = self.supplies.find(digest)
        if place is None:
            done(errno.ENOENT, b"")
            return
        total = place.member.size
        size = max(0, min(size, total - start))
        with self._lock:
            self._account.asks += 1
            chunks = (start // CHUNK, -(-(start + size) // CHUNK), -(-total // CHUNK))
            self._recording.asked_range(place.supply.base + place.member.number, *chunks)
        try:
            if self.store.objects.has(digest, total):
                done(0, self._read_here(digest, start, size))
            else:
                self._large_object(place, reader).read(start, size, done)
        except (OSError, StratumError) as exc:
            self._note(digest, foreseen(exc))
            done(errno.EIO, b"")

    def prefetch(self, what: str) -> None:
        """Fetch what nobody asked for, while nobody waits: "profile", what earlier runs read, "kept", what rules of
        residence keep, or "all". ``UsageError`` for anything else."""
        self._prefetch.ask(what)
        self._lanes.stir()

    def close(self) -> None:
        """End: who waits is told EIO, what was asked for becomes part of the profile. What fails is logged."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            large, self._large = list(self._large.values()), {}
        self._far.close()
        self._lanes.close()
        self._wants.close()
        self._lanes.join(CLOSE_SECONDS)
        for each in large:
            each.close()
        self.supplies.close()
        self._save_profile()
        self._caught_up()

    def status(self) -> dict[str, Any]:
        """What was fetched for whom, and how the sources are; a value for JSON."""
        with self._lock:
            counts, errors = self._account.status(), list(self._errors)
            counts["wanted"] = len(self._wants)
        return {
            "commit": self.commit,
            **counts,
            "prefetch": self._prefetch.status(),
            "failed": errors,
            "sources": [supply.remote.condition() for supply in self.supplies],
            "problems": self.supplies.problems,
        }

    def _came(self, digest: bytes, size: int, reader: Actor | None) -> None:
        with self._lock:
            self._account.fetched(digest, size, reader)

    # Large objects

    def _fetch(self, place: Place, done: DoneFetching, who: Any) -> None:
        """Have an object brought that is not here; ``who``, a reader or None, waits for it."""
        digest = place.member.digest

        def told(code: int, _data: bytes = b"") -> None:
            done(StratumError(f"object {digest.hex()} cannot be fetched: 'stratum status' says why") if code else None)

        if place.member.size < LARGE_OBJECT:
            self._wants.wait_for(place.member, who, told)
            return
        try:
            self._large_object(place, who).fill(told)
        except (OSError, StratumError) as exc:
            self._note(digest, foreseen(exc))
            done(foreseen(exc))

    def _large_object(self, place: Place, reader: Actor | None) -> LargeObject:
        """The object of which parts are here. ``StratumError``."""
        digest, size = place.member.digest, place.member.size

        def realized() -> None:
            if self._realized is not None:
                self._realized(digest)

        with self._lock:
            if self._closed:
                raise StratumError("the mount has ended")
            known = self._large.get(digest)
            if known is not None and not known.part.is_complete:
                return known
            large = self._large[digest] = LargeObject(
                self.landing,
                self.supplies,
                self._lanes,
                digest,
                size,
                came=lambda count: self._came(digest, count, reader),
                failed=lambda error: self._note(digest, error),
                realized=realized,
                retry=RETRY_SECONDS if self._wait else None,
            )
        if known is not None:  # it was whole once, and its object was removed
            known.close()
        return large

    def _read_here(self, digest: bytes, start: int, size: int) -> bytes:
        fd = self.store.objects.open(digest)
        try:
            return os.pread(fd, size, start)
        finally:
            os.close(fd)

    # What nobody asked for

    def _of_profile(self, progress: Progress) -> Iterator[Job]:
        entries = self._profile()
        progress.total = len(entries)
        for entry in entries:
            progress.done += 1
            place = self.supplies.find(entry.digest)
            if place is None or self._wants.is_here(entry.digest, place.member.size):
                continue
            supply, member = place
            if member.size >= LARGE_OBJECT:
                yield from self._parts_of(place, entry.first, entry.first + entry.chunks)
            else:
                frames = supply.catalog.frames_of(member)
                yield from self._wants.spans(supply, *frames, frames[1] - frames[0], BACKGROUND)

    def _of_kept(self, progress: Progress) -> Iterator[Job]:
        try:
            with self.store.locks.store():
                kept = kept_objects(self.store, self.commit)
        except StratumError as exc:
            self.landing.log(exc.told)
            return
        progress.total = len(kept)
        for digest, size in kept.items():
            progress.done += 1
            place = self.supplies.find(digest)
            if place is None or self._wants.is_here(digest, size):
                continue
            if size >= LARGE_OBJECT:
                yield from self._parts_of(place, 0, -(-size // CHUNK))
            else:
                frames = place.supply.catalog.frames_of(place.member)
                yield from self._wants.spans(place.supply, *frames, frames[1] - frames[0], BACKGROUND)

    def _of_all(self, progress: Progress) -> Iterator[Job]:
        packs = [(supply, pack) for supply in self.supplies for pack in supply.catalog.packs]
        progress.total = sum(pack.frames[1] - pack.frames[0] for _, pack in packs)
        for supply, pack in packs:
            first, last = pack.frames
            member = supply.catalog.member(pack.members[0])
            if member.size >= LARGE_OBJECT:
                yield from self._parts_of(Place(supply, member), 0, -(-member.size // CHUNK))
            for start in range(first, last, TOGETHER) if member.size < LARGE_OBJECT else ():
                stop = min(start + TOGETHER, last)
                yield from self._wants.spans(supply, start, stop, TOGETHER, BACKGROUND)
                progress.done += stop - start
            if member.size >= LARGE_OBJECT:
                progress.done += last - first

    def _parts_of(self, place: Place, first: int, last: int) -> Iterator[Job]:
        """What brings the chunks [first, last) of a large object."""
        with suppress(OSError, StratumError):
            if self._wants.is_here(place.member.digest, place.member.size):
                return
            large = self._large_object(place, None)
            last = min(last, large.part.chunks)
            while (job := large.background(first, last)) is not None:
                yield job

    def _caught_up(self) -> None:
        """Take the mark of a partial commit away, where all that it needs is here now."""
        try:
            sources = self.store.sources
            if not sources.is_partial(self.commit) or not self._may_be_whole():
                return
            self.landing.publish()
            with self.store.locks.store(timeout=CLOSE_SECONDS):
                counts = self.store.residence.counts(self.commit)
                if not counts.unreal and not counts.lost:
                    sources.clear_partial(self.commit)
        except StratumError as exc:
            self.landing.log(exc.told)

    def _may_be_whole(self) -> bool:
        members = (member for supply in self.supplies for member in supply.catalog.members())
        return all(self._wants.is_here(member.digest, member.size) for member in members)

    def _profile(self) -> list[Entry]:
        """What earlier runs asked for, in their order."""
        data = self.store.profiles.read(self.commit)
        try:
            return read_profile(data) if data is not None else []
        except DamagedError:
            return []

    def _save_profile(self) -> None:
        if not len(self._recording):
            return
        old = self._profile()
        new = self._recording.entries(lambda number: self.supplies.digest_of(number)[0])
        try:
            if self.store.commits.exists(self.commit):
                self.store.profiles.write(self.commit, write_profile(merged(new, old)))
        except StratumError as exc:
            self.landing.log(exc.told)

    def _note(self, digest: bytes, error: StratumError) -> None:
        """Somebody is told EIO, and status why."""
        with self._lock:
            self._account.errors += 1
            self._errors.append({"object": digest.hex(), "error": error.message, "when": rfc3339(utc_now())})
