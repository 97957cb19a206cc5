"""Contents as objects of a bucket, by their C4 IDs: in the way of the program c4's own S3 store, or as a tree.

::

    c45Y...              a content; with ``tree``: c4/5Y/c45Y...
    counts/c45Y...       {"references": N}: how many references there are to it. Without this it is one

What is below the prefix of a bucket is one store. Of a tree that another program made, contents at other depths are
found too, and count one reference more, which goes after those that are counted here.

Counts move by conditional puts, so no reference is lost, however many put and delete at once. The content itself can
only be removed without a condition. So who takes the last reference away first writes a mark ("removing"), then removes
the content, then writes that there are none. Who puts it meanwhile waits for the end of that, and puts it again; a mark
whose writer is dead is taken over after ``LEASE`` seconds, and its writer, should it live, removes nothing after half
of that. A record of no references stays: it costs a few bytes, and without it a late remover could not be told from the
next one. Where something fails in between, a reference too many may be left, never one too few.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from stratum.c4.ids import C4Id
from stratum.content.base import ContentStore, Stream
from stratum.content.c4content import Spooled, c4_id, checked, content_words, not_there
from stratum.content.streams import open_stream
from stratum.errors import BusyError, ChangedError, DamagedError, NotFoundError
from stratum.oci.bucketstore import ABSENT, Entry, Match

if TYPE_CHECKING:
    from stratum.oci.bucketstore import BucketStore, When

COUNTS = "counts"
LEASE = 120.0
"""Seconds after which a mark that does not change is taken for that of a dead writer."""
AT_ONCE = 8
"""Contents that ``put_all`` sends side by side."""
_RECORD_MAX = 1000
_TRIES = 200
_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_LOCKS = 64
_TREE_LEVELS = 2
_OTHER_LEVELS = (1, 0, 3, 4)


class _Record(NamedTuple):
    """How many references there are; ``removing``: somebody is about to remove the content. ``when`` is the condition
    for the next one."""

    references: int
    removing: bool
    when: When


class _State(Enum):
    """Of a content that is put: it was not there, and is now; it was; it was, and was sent again all the same."""

    NEW = 1
    KNOWN = 2
    SENT = 3


class ObjectStore(ContentStore[C4Id]):
    """The contents in ``bucket``, which is closed with this. For all threads.

    ``tree``: as a tree, as ``TreeStore`` has it. ``spool`` is the directory for contents of more than a MiB while they
    wait to be sent, by default that for temporary files.
    """

    def __init__(self, bucket: BucketStore, *, tree: bool = False, spool: str | os.PathLike[str] | None = None) -> None:
        self._bucket = bucket
        self._tree = tree
        self._spool = None if spool is None else Path(spool)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._damaged: set[C4Id] = set()
        self._is_ready = False

    def __str__(self) -> str:
        return str(self._bucket.bucket)

    def close(self) -> None:
        self._bucket.close()

    # Reading

    def get(self, content_id: C4Id) -> BinaryIO:
        c4id = c4_id(content_id)
        for key in self._keys(c4id):
            pieces = self._bucket.read(key)
            try:
                first = next(pieces, b"")
            except NotFoundError:
                continue
            checking = checked(chain((first,), pieces), c4id, str(self))
            return open_stream(self._noting_damage(checking, c4id))
        raise not_there(c4id, str(self))

    def _noting_damage(self, pieces: Iterator[bytes | memoryview], c4id: C4Id) -> Iterator[bytes | memoryview]:
        try:
            yield from pieces
        except DamagedError:
            self._damaged.add(c4id)
            raise

    def size(self, content_id: C4Id) -> int | None:
        c4id = c4_id(content_id)
        found = (self._bucket.head(key) for key in self._keys(c4id))
        return next((entry.size for entry in found if entry is not None), None)

    def _key(self, c4id: C4Id) -> str:
        """Where the content is put."""
        return _tree_key(c4id, _TREE_LEVELS) if self._tree else c4id

    def _keys(self, c4id: C4Id) -> Iterator[str]:
        """Where the content may be."""
        yield self._key(c4id)
        if self._tree:
            yield from (_tree_key(c4id, levels) for levels in _OTHER_LEVELS)

    # Writing

    def put(self, stream: Stream) -> C4Id:
        with _Sent(stream, self._spool) as sent:
            self._send(sent)
            return sent.id

    def put_all(self, streams: Iterable[Stream]) -> Iterator[C4Id]:
        """As ``ContentStore.put_all``; several are sent side by side."""
        waiting = deque[Future[C4Id]]()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                for stream in streams:
                    waiting.append(pool.submit(self._send_and_close, _Sent(stream, self._spool)))
                    if len(waiting) >= 2 * AT_ONCE:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for each in waiting:
                    each.cancel()

    def _send_and_close(self, sent: _Sent) -> C4Id:
        with sent:
            self._send(sent)
        return sent.id

    def _send(self, sent: _Sent) -> None:
        self._get_ready()
        with self._lock(sent.id):
            for _ in _tries(f"put {content_words(sent.id)}"):
                state = self._upload(sent)
                record = self._record(sent.id)
                if record.removing:
                    self._wait_for_removal(sent.id, record)
                    continue
                if record.when is not ABSENT:
                    count = record.references
                    if not count and state is _State.KNOWN:  # it may have been removed since
                        sent.is_needed = True
                        continue
                elif state is not _State.NEW:
                    count = 1
                elif sent.spooled.data is not None:
                    return  # only one sender can have been the first
                else:
                    count = 0
                if self._write(sent.id, _Record(count + 1, False, record.when)):
                    return

    def _upload(self, sent: _Sent) -> _State:
        """Have the content be there, and right."""
        key, spooled = self._key(sent.id), sent.spooled
        state = _State.SENT
        if not sent.is_needed:
            if spooled.data is not None:
                try:
                    self._bucket.put(key, spooled.data, when=ABSENT)
                except ChangedError:
                    pass
                else:
                    return _State.NEW
            entry = self._bucket.head(key)
            if entry is None:
                state = _State.NEW
            elif self._is_right(entry, sent):
                return _State.KNOWN
        self._bucket.put_stream(key, map(bytes, spooled.pieces()), spooled.size)
        self._damaged.discard(sent.id)
        sent.is_needed = False
        return state

    def _is_right(self, entry: Entry, sent: _Sent) -> bool:
        """Whether what is there is the content: a small one is compared, of a large one the size."""
        if entry.size != sent.spooled.size or sent.id in self._damaged:
            return False
        if sent.spooled.data is None:
            return True
        try:
            return self._bucket.get(entry.key, len(sent.spooled.data))[0] == sent.spooled.data
        except (NotFoundError, DamagedError):
            return False

    def delete(self, content_id: C4Id) -> None:
        c4id = c4_id(content_id)
        self._get_ready()
        with self._lock(c4id):
            for _ in _tries(f"delete {content_words(c4id)}"):
                record = self._record(c4id)
                if record.removing:
                    self._wait_for_removal(c4id, record)
                    continue
                if record.references > 1:
                    if self._write(c4id, _Record(record.references - 1, False, record.when)):
                        return
                    continue
                is_there = record.references and self._bucket.head(self._key(c4id)) is not None
                if not is_there:
                    self._delete_elsewhere(c4id)
                    return
                begun = time.monotonic()
                version = self._write(c4id, _Record(0, True, record.when))
                if version:
                    self._remove(c4id, version, begun)
                    return

    def _delete_elsewhere(self, c4id: C4Id) -> None:
        """Remove what another program has put, and is counted nowhere."""
        for key in list(self._keys(c4id))[1:]:
            if self._bucket.head(key) is not None:
                self._bucket.delete([key])
                return
        raise not_there(c4id, str(self))

    def _remove(self, c4id: C4Id, version: str, begun: float) -> None:
        """Remove the content, as the mark of that version says since ``begun``."""
        if time.monotonic() - begun > LEASE / 2:
            raise BusyError(f"{content_words(c4id)} was not removed: {self} took too long", hint="delete it again")
        self._bucket.delete([self._key(c4id)])
        self._write(c4id, _Record(0, False, Match(version)))

    def _wait_for_removal(self, c4id: C4Id, seen: _Record) -> None:
        """Wait until who is removing the content has done that; where nobody is any more, do it."""
        until = time.monotonic() + LEASE
        for pause in _pauses():
            now = self._record(c4id)
            if now != seen:
                return
            if time.monotonic() >= until:
                break
            time.sleep(pause)
        begun = time.monotonic()
        version = self._write(c4id, seen)
        if version:
            self._remove(c4id, version, begun)

    # Counts

    def _record(self, c4id: C4Id) -> _Record:
        """What is known of the references. ``DamagedError``."""
        key = f"{COUNTS}/{c4id}"
        try:
            data, version = self._bucket.get(key, _RECORD_MAX)
        except NotFoundError:
            return _Record(1, False, ABSENT)
        count, removing = read_record(data, f"{content_words(c4id)} in {self}", key)
        return _Record(count, removing, Match(version))

    def _write(self, c4id: C4Id, record: _Record) -> str:
        """Write the record; its version, or nothing where it was changed meanwhile."""
        value: dict[str, int | bool] = {"references": record.references}
        if record.removing:
            value["removing"] = True
        data = json.dumps(value).encode() + b"\n"
        try:
            return self._bucket.put(f"{COUNTS}/{c4id}", data, when=record.when)
        except ChangedError:
            return ""

    def _get_ready(self) -> None:
        if not self._is_ready:
            self._bucket.ready_to_write()
            self._is_ready = True

    def _lock(self, c4id: C4Id) -> threading.Lock:
        """Threads of this process take turns at a content, instead of undoing one another's work."""
        return self._locks[hash(c4id) % _LOCKS]


class _Sent:
    """A content on its way: read to its end, in memory or a temporary file in the directory ``spool``. ``is_needed``:
    it is to be sent, whatever is there."""

    def __init__(self, stream: Stream, spool: Path | None) -> None:
        self._directory = spool
        self._file: BinaryIO | None = None
        self.is_needed = False
        try:
            self.spooled = Spooled(stream, self._new_file)
        except BaseException:
            self.__exit__()
            raise
        self.id = self.spooled.id

    def _new_file(self) -> int:
        self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  # closed at the end
        return self._file.fileno()

    def __enter__(self) -> _Sent:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def read_record(data: bytes, what: str, key: str) -> tuple[int, bool]:
    """From the object ``key``: how many references there are, and whether the content is being removed.
    ``DamagedError`` says of ``what``."""
    try:
        value = json.loads(data)
        count, removing = value["references"], value.get("removing", False)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        count = removing = None
    if type(count) is not int or count < 0 or type(removing) is not bool:
        raise DamagedError(
            f"how many references there are to {what} cannot be read",
            hint=f"remove the object {key}: then it counts as one",
        )
    return count, removing


def _tree_key(c4id: C4Id, levels: int) -> str:
    return "/".join([*(c4id[2 * level : 2 * level + 2] for level in range(levels)), c4id])


def _pauses() -> Iterator[float]:
    """Seconds to wait between tries, longer and longer, and never those of another."""
    pause = _PAUSE
    while True:
        yield pause * (0.5 + random.random())  # noqa: S311  # no secret
        pause = min(pause * 2, _LONGEST_PAUSE)


def _tries(doing: str) -> Iterator[None]:
    """So many tries, with pauses in between; then ``BusyError``."""
    for pause in islice(_pauses(), _TRIES):
        yield
        time.sleep(pause)
    raise BusyError(f"cannot {doing}: others change it all the time", hint="try again")
