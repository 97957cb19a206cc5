"""Objects of an artifact by their digests: in which pack each is, which bytes of it bring the object, and bringing it.

Nothing that arrives is believed: a file is an object when it has the digest of its name, and nobody is told of it
before. Nothing here knows commits, so that any object can be had without the rest of its commit.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

from stratum.errors import BusyError
from stratum.frozen import frozen
from stratum.oci.descriptor import Descriptor
from stratum.oci.remote import Source
from stratum.sys.atomic import write_all
from stratum.transfer.artifact import Pack, PackLayers
from stratum.transfer.packs import Member, read_index
from stratum.transfer.packwork import Span
from stratum.transfer.resume import PackFiles
from stratum.transfer.running import Running

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.transaction import Transaction

WORKERS = 4
"""Blobs fetched and unpacked at the same time; each needs a pack's worth of temporary disk and a frame of memory."""

RANGES_MAX = 8
"""A pack of which more pieces than this are needed is fetched whole."""

RANGE_BYTES_MAX = 32 << 20
"""So is a pack of which more compressed bytes than this are needed, or more than half."""

STORE_WAIT = 300.0
"""Seconds to wait for the store at the end: there is more to lose than for a verb that only begins."""

_PUBLISH_SECONDS = 10.0
"""What was verified is given its place in the store at least this often, so that a power cut costs little."""

Arrived = Callable[[Member], object]
"""Told of an object that was verified and is complete."""


def read_packs(
    layers: Iterable[PackLayers], fetch: Callable[[Descriptor], bytes], where: str, pool: Executor
) -> list[Pack]:
    """The packs ``layers`` of an artifact in ``where`` with their indexes, which ``fetch`` brings. ``DamagedError``."""

    one = Lock()  # what is read takes many times the memory of what comes of it

    def read(pack: PackLayers) -> Pack:
        data = fetch(pack.index)
        with one:
            return Pack(pack, read_index(data, pack.pack.size, f"index {pack.index.digest} of {where}"))

    return list(pool.map(read, layers))


@frozen
class Part:
    """What is wanted of a pack: positions in its index, ascending."""

    pack: Pack
    wanted: Sequence[int]

    @property
    def size(self) -> int:
        """Bytes of the wanted objects."""
        return sum(self.pack.index.members[position].size for position in self.wanted)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The runs [first, last) of consecutive frames that hold what is wanted."""
        runs: list[tuple[int, int]] = []
        for position in self.wanted:
            first, last = self.pack.index.frames_of(position)
            if runs and first <= runs[-1][1]:
                runs[-1] = (runs[-1][0], last)
            else:
                runs.append((first, last))
        return runs


def find_parts(packs: Iterable[Pack], wanted: Mapping[bytes, int]) -> list[Part]:
    """Where the objects ``wanted`` (digest -> size in bytes) are, as far as they are in ``packs``; each once."""
    left, parts = dict(wanted), []
    for pack in packs:
        found = array("I")
        for position, member in enumerate(pack.index.members):
            if left.get(member.digest) == member.size:
                del left[member.digest]
                found.append(position)
        if found:
            parts.append(Part(pack, found))
    return parts


class ObjectFetch:
    """Fetches objects from packs in ``remote`` into the directory ``staging``, laid out as ``store.objects.Staging``
    says. Threads may share it.

    ``files`` holds packs that are fetched whole, as they arrive.
    """

    def __init__(self, remote: Source, staging: Path, files: PackFiles, running: Running) -> None:
        self._remote = remote
        self._staging = str(staging)
        self._where = str(remote.target)
        self.files = files
        self.running = running

    def fetch(self, part: Part, arrived: Arrived) -> None:
        """Have what is wanted of a pack in the directory; ``arrived`` is told of each object.

        Raises ``DamagedError`` for a pack or an object that is not what its name says, and ``StratumError`` in the
        words of the other side, and where the disk is full or the transfer is to end.
        """
        starts, blob = part.pack.index.frame_starts[0], part.pack.layers.pack
        found = self._remote.blob_file(blob)
        if found is not None:
            with found[0] as file:
                for first, last in part.runs:
                    self._take_apart(part, (first, last), file, found[1] + starts[first], arrived)
                    self.running.move(starts[last] - starts[first])
        elif not self._fetch_ranges(part, arrived):
            with self.files.whole(self._remote, blob, self.running.move) as file:
                self._take_apart(part, (0, len(part.pack.index.frames)), file, 0, arrived)
            self.files.taken_apart(blob)

    def _fetch_ranges(self, part: Part, arrived: Arrived) -> bool:
        """Fetch just the frames that hold what is wanted; False where that does not pay or the place cannot."""
        starts, blob, runs = part.pack.index.frame_starts[0], part.pack.layers.pack, part.runs
        needed = sum(starts[last] - starts[first] for first, last in runs)
        if len(runs) > RANGES_MAX or needed > min(blob.size // 2, RANGE_BYTES_MAX):
            return False
        for first, last in runs:
            data = self._remote.read_range(blob, starts[first], starts[last] - starts[first])
            if data is None:
                return False
            self.running.move(len(data))
            with open(os.memfd_create("pack"), "w+b", buffering=0) as file:
                write_all(file.fileno(), data)
                self._take_apart(part, (first, last), file, 0, arrived)
        return True

    def _take_apart(self, part: Part, frames: tuple[int, int], file: BinaryIO, position: int, arrived: Arrived) -> None:
        """Unpack and verify what is wanted in the frames, which begin at ``position``."""

        def report(size: int, member: Member | None) -> None:
            if member is not None:
                arrived(member)
            self.running.advance(size)

        what = f"pack {part.pack.layers.pack.digest} of {self._where}"
        span = Span(part.pack.index, frames, position, part.wanted, self._staging, what)
        self.running.workers.take_apart(span, file.fileno(), report)


def fetch_objects(store: Store, tx: Transaction, fetch: ObjectFetch, parts: Iterable[Part]) -> None:
    """Fetch all ``parts`` into the transaction, and publish objects as they come, also where something fails."""
    parts, verified = list(parts), deque[Member]()
    if not parts:
        return

    def publish(*, complete: bool, timeout: float) -> None:
        """Give what was verified its place in the store; ``complete``: nothing is written any more."""
        with store.locks.store(timeout=timeout), fetch.files.done_with():
            while verified:
                member = verified.popleft()
                tx.stage(member.digest, member.size)
            tx.publish_objects(complete=complete, forget=True)

    fetch.running.start(sum(part.size for part in parts))
    pool = ThreadPoolExecutor(WORKERS)
    try:
        jobs = [pool.submit(fetch.fetch, part, verified.append) for part in parts]
        published = time.monotonic()
        for job in as_completed(jobs):
            job.result()
            if time.monotonic() - published >= _PUBLISH_SECONDS:
                with suppress(BusyError):  # then later
                    publish(complete=False, timeout=0)
                published = time.monotonic()
    except BaseException:
        fetch.running.stop()
        pool.shutdown(cancel_futures=True)
        with suppress(BusyError):
            publish(complete=True, timeout=STORE_WAIT)
        raise
    pool.shutdown()
    publish(complete=True, timeout=STORE_WAIT)
