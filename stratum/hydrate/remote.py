"""A source that objects are fetched from while readers wait: its connections, and what is wrong with it.

A remote is made without a word to the place, so that nothing here needs a network or a password to begin. It keeps its
connections, and makes new ones after a failure, which also asks for passwords anew: they expire.

Limits: 5 s for a connection, 30 s without a byte, 60 s for an answer; of a peer, which may be a laptop that was closed,
1 s for a connection and 10 s without a byte. After three failures in a row the place is left alone for a few seconds
(``hydrate.breaker``). A pack that it has not, or sent in a damaged state, is not asked of it for a minute; the rest is.
What went wrong last, and since when, is kept in words.

A place that can only give whole blobs is asked for each once; the blob is put down in a file without a name.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import (
    DamagedError,
    DeniedError,
    NotFoundError,
    StratumError,
    UnreachableError,
    UntrustedError,
    foreseen,
)
from stratum.hydrate.breaker import Breaker
from stratum.store.clock import rfc3339, utc_now
from stratum.store.layout import storage_error
from stratum.sys.atomic import write_all

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.oci.descriptor import Descriptor
    from stratum.oci.remote import Source
    from stratum.store.catalog import Blob
    from stratum.store.sources import CommitSource

CONNECT_SECONDS = 5.0
STALL_SECONDS = 30.0
PEER_CONNECT_SECONDS = 1.0
PEER_STALL_SECONDS = 10.0
TOTAL_SECONDS = 60.0
AVOID_SECONDS = 60.0
"""For so long a pack is not asked for of a source that has not got it, or sent it damaged."""
_MIN_RATE = 1 << 20
"""So that no answer of a few MiB earns more time than ``TOTAL_SECONDS``."""
_WHOLE_MAX = 2
"""Blobs that are kept whole, of a place without ranges."""
_OCTETS = "application/octet-stream"


class Remote:
    """``source``, reached by what ``access`` gives. For all threads.

    ``scratch`` is a directory for blobs of a place that gives whole ones only.
    """

    def __init__(self, source: CommitSource, access: Callable[[], Access], scratch: Path) -> None:
        self.source = source
        self._access = access
        self._scratch = scratch
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._breaker = Breaker()
        self._opened: Source | None = None
        self._avoided: dict[bytes, float] = {}
        self._whole: OrderedDict[bytes, int] = OrderedDict()
        self._whole_lock = threading.Lock()
        self._ranges = True
        self._trouble: tuple[str, str, str] | None = None  # kind, since when, words
        self.requests = 0
        self.received = 0
        """Bytes."""

    def close(self) -> None:
        """Let go of connections and files."""
        with self._lock:
            opened, self._opened = self._opened, None
            whole, self._whole = self._whole, OrderedDict()
        if opened is not None:
            opened.close()
        for fd in whole.values():
            os.close(fd)

    def usable(self, pack: bytes) -> bool:
        """Whether it is worth asking for the pack (its SHA-256) now."""
        now = time.monotonic()
        with self._lock:
            until = self._avoided.get(pack)
            if until is not None and until <= now:
                del self._avoided[pack]
                until = None
            return until is None and self._breaker.would_allow(now)

    @property
    def is_away(self) -> bool:
        """Whether it failed so often that nothing is asked of it for now."""
        with self._lock:
            return not self._breaker.would_allow(time.monotonic())

    def read(self, blob: Blob, start: int, size: int) -> bytes:
        """``size`` bytes of the blob from ``start`` on, not verified. ``StratumError``; nothing is given short."""
        return self._asked(blob, lambda source, descriptor: self._range(source, descriptor, start, size))

    def read_all(self, blob: Blob) -> bytes:
        """A blob of a few MiB at most, verified."""
        return self._asked(blob, lambda source, descriptor: b"".join(source.read_blob(descriptor)))

    def damaged(self, pack: bytes, words: str) -> None:
        """Note that what the pack holds is not what it should be."""
        with self._lock:
            self._avoided[pack] = time.monotonic() + AVOID_SECONDS
            self._note("damaged", words)

    @property
    def words(self) -> str:
        """What is wrong with it, or nothing."""
        trouble = self._trouble
        return f"{self.source.place}: {trouble[2]}" if trouble else ""

    def condition(self) -> dict[str, object]:
        """How it is, for people and programs: ``state`` is "ok", "away", "denied", "gone" or "damaged"."""
        kind, since, words = self._trouble or ("ok", None, None)
        return {
            "reference": self.source.reference,
            "tag": self.source.tag,
            "state": kind,
            "since": since,
            "error": words,
            "requests": self.requests,
            "bytes": self.received,
        }

    # Asking

    def _asked(self, blob: Blob, ask: Callable[[Source, Descriptor], bytes]) -> bytes:
        from stratum.oci.descriptor import Descriptor

        with self._lock:
            if not self._breaker.allows(time.monotonic()):
                raise UnreachableError(self._trouble[2] if self._trouble else f"{self.source.place} is away")
        descriptor = Descriptor(_OCTETS, f"sha256:{blob.sha256.hex()}", blob.size)
        try:
            try:
                data = ask(self._source(), descriptor)
            except DeniedError:
                self._forget_connection()  # and with it the password, which may be another by now
                data = ask(self._source(), descriptor)
        except Exception as exc:  # what libraries raise, too: a place that fails is one that is away
            error = foreseen(exc)
            self._failed(blob, error)
            raise error from None
        with self._lock:
            self._breaker.succeeded()
            if self._trouble is not None and (self._trouble[0] not in ("gone", "damaged") or not self._avoided):
                self._trouble = None
            self.requests += 1
            self.received += len(data)
        return data

    def _failed(self, blob: Blob, error: StratumError) -> None:
        with self._lock:
            self.requests += 1
            if isinstance(error, (NotFoundError, DamagedError)):
                self._avoided[blob.sha256] = time.monotonic() + AVOID_SECONDS
                kind = "gone" if isinstance(error, NotFoundError) else "damaged"
            else:
                self._breaker.failed(time.monotonic())
                kind = "denied" if isinstance(error, (DeniedError, UntrustedError)) else "away"
            self._note(kind, error.message)
        if not isinstance(error, (NotFoundError, DamagedError)):
            self._forget_connection()

    def _note(self, kind: str, words: str) -> None:
        if kind == "gone":
            words += "; the place removed what this commit needs, as a registry does with what no tag names any more"
        since = self._trouble[1] if self._trouble and self._trouble[0] == kind else rfc3339(utc_now())
        self._trouble = (kind, since, words)

    def _source(self) -> Source:
        with self._opening:
            if self._opened is None:
                from stratum.oci.places import open_source
                from stratum.transfer.catalogs import target_of

                access, at_peer = self._access(), self.source.at_peer
                access = replace(
                    access,
                    plain_http=access.plain_http or self.source.plain_http,
                    ca_file=access.ca_file or (Path(self.source.ca_file) if self.source.ca_file else None),
                    connect_timeout=min(access.connect_timeout, PEER_CONNECT_SECONDS if at_peer else CONNECT_SECONDS),
                    read_timeout=min(access.read_timeout, PEER_STALL_SECONDS if at_peer else STALL_SECONDS),
                    patience=min(access.patience, TOTAL_SECONDS),
                    min_rate=max(access.min_rate, _MIN_RATE),
                )
                self._opened = open_source(target_of(self.source), access)
            return self._opened

    def _forget_connection(self) -> None:
        # Others may be in the middle of an answer: a source that is closed under them makes new connections, so it is
        # only let go of.
        with self._opening:
            self._opened = None

    def _range(self, source: Source, blob: Descriptor, start: int, size: int) -> bytes:
        data = source.read_range(blob, start, size) if self._ranges else None
        if data is None:
            data = self._from_whole(source, blob, start, size)
        if len(data) != size:
            raise DamagedError(f"{source.target.place} sent {len(data)} of {size} bytes of blob {blob.digest}")
        return data

    def _from_whole(self, source: Source, blob: Descriptor, start: int, size: int) -> bytes:
        self._ranges = False
        key = bytes.fromhex(blob.hex)
        with self._whole_lock:
            fd = self._whole.get(key)
            if fd is None:
                fd = self._put_down(source, blob)
                self._whole[key] = fd
                while len(self._whole) > _WHOLE_MAX:
                    os.close(self._whole.popitem(last=False)[1])
            try:
                return os.pread(fd, size, start)
            except OSError as exc:
                raise storage_error(exc, f"read blob {blob.digest}") from None

    def _put_down(self, source: Source, blob: Descriptor) -> int:
        try:
            fd = os.open(self._scratch, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise storage_error(exc, f"write to {self._scratch}") from None
        try:
            for piece in source.read_blob(blob):
                write_all(fd, piece)
        except OSError as exc:
            os.close(fd)
            raise storage_error(exc, f"write blob {blob.digest}") from None
        except BaseException:
            os.close(fd)
            raise
        return fd
