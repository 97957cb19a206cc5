"""The record of the garbage collection of an object store (``oci.sweeprecord``) as the one who collects has it.

There is one collection at a time: whoever writes the record, by a put that depends on its version, has it until the
record says ``free``, or until it was not written for too long. What is safe about it is in ``oci.guard``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex

from stratum.errors import BusyError, ChangedError, ConflictError, NotFoundError, StratumError
from stratum.oci.bucketstore import ABSENT, BucketStore, Match
from stratum.oci.guard import LateError, Machine, understood_sweep
from stratum.oci.sweeprecord import (
    FREE,
    LOOKING,
    MARKING,
    SWEEP_KEY,
    SWEEP_MAX,
    SWEEPING,
    SweepRecord,
)


class SweepLease:
    """The right to collect in an object store; used in a ``with`` block. ``time`` is what the server's clock said when
    the record was last written, ``record`` what was written.

    Entering it raises ``BusyError``, which says who has it.
    """

    def __init__(self, store: BucketStore, machine: Machine) -> None:
        self._store = store
        self._limits = machine.limits
        self._now = machine.now
        self._sleep = machine.sleep
        self._gone = machine.gone
        self._who = machine.who()
        self._version: str | None = None
        self._written_at = 0.0
        self._is_unsure = False
        self._is_late = False
        self.time = 0.0
        self.taken_over = False
        self.record = SweepRecord(token_hex(16), self._who, FREE, token_hex(16))

    def __enter__(self) -> SweepLease:
        try:
            data, self._version = self._store.get(SWEEP_KEY, SWEEP_MAX)
        except NotFoundError:
            pass
        else:
            before = understood_sweep(data)
            if before.state != FREE:
                self._take_over(before)
            self.record = replace(before, run=self.record.run, who=self._who, state=FREE, keys=())
        try:
            self._write(MARKING)
        except ConflictError:
            raise BusyError(
                "another garbage collection of this place began just now", hint="one is enough; see what it says"
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        # Where a deletion was interrupted, its request may be on its way: nobody is told that it is over.
        if not self._is_unsure and (kind is None or issubclass(kind, (StratumError, KeyboardInterrupt))):
            try:
                self._write(FREE)
            except StratumError:
                if kind is None:
                    raise

    def _take_over(self, before: SweepRecord) -> None:
        """Say whether a collection that is not over is dead. ``BusyError`` where that is not certain."""
        entry = self._store.head(SWEEP_KEY)
        idle = self._store.server_time() - entry.modified if entry is not None else 0.0
        gone = self._gone(before.who)
        if idle > self._limits.stale or (gone and idle > self._limits.grace):
            self.taken_over = True
            return
        name = f"process {before.who.pid} on {before.who.host}"
        if gone:
            raise BusyError(
                f"a garbage collection of this place was ended by force {idle:.0f} s ago ({name})",
                hint=f"try again in {self._limits.grace:.0f} s, when its last request must have arrived",
            )
        raise BusyError(
            f"a garbage collection of this place is running: {name}, last heard of {idle:.0f} s ago",
            hint=f"where that is dead, another one can begin when it was not heard of for {self._limits.stale:.0f} s",
        )

    def _write(self, state: str, keys: Sequence[str] = (), *, swept: str | None = None) -> None:
        record = replace(self.record, state=state, keys=tuple(keys), swept=swept or self.record.swept)
        data, at = record.to_bytes(token_hex(16)), self._now()
        when = ABSENT if self._version is None else Match(self._version)
        try:
            self._version = self._store.put(SWEEP_KEY, data, when=when)
        except ChangedError:
            self._version = self._own(data)
        before, then = self.record, self.time
        self.record, self._written_at = record, at
        entry = self._store.head(SWEEP_KEY)
        if entry is not None:
            self.time = max(self.time, entry.modified)
        if before.deletes and record.deletes and self.time - then > self._limits.stale - self._limits.skew:
            self._is_late = True

    def _own(self, data: bytes) -> str:
        """The version of the record where it is ``data``: the put was done, and its answer lost. ``ConflictError``
        where another collection has written."""
        try:
            there, version = self._store.get(SWEEP_KEY, SWEEP_MAX)
        except NotFoundError:
            there, version = b"", ""
        if there != data:
            raise ConflictError(
                "another garbage collection of this place has taken over", hint="this one deletes nothing more"
            )
        return version

    def keep(self) -> None:
        """Called again and again: others see that this one lives."""
        if self._now() - self._written_at > self._limits.renew / 2:
            self._write(self.record.state, self.record.keys)

    def marked(self, run: str | None, chunks: int) -> None:
        """Have the record say where the marks are."""
        self.record = replace(self.record, marks=run, chunks=chunks)
        self._write(MARKING)

    def look(self, keys: Sequence[str]) -> None:
        """Announce a batch: ``keys`` would be deleted."""
        self._write(LOOKING, keys, swept=token_hex(16))
        self._is_late = False

    def delete(self, keys: Sequence[str], at_once: int) -> None:
        """Delete ``keys``, which are among those that were announced.

        ``LateError`` where this one stood still since then for so long that a push may have taken it for dead: what it
        found out about the batch counts no more.
        """
        self._write(SWEEPING, keys)
        for start in range(0, len(keys), at_once):
            self.keep()
            if self._is_late:
                raise LateError("this collection stood still, and pushes may have taken it for dead", hint="try again")
            self._delete(keys[start : start + at_once])

    def swept(self) -> None:
        """Have the record say that nothing more is deleted."""
        self._write(MARKING)

    def _delete(self, keys: Sequence[str]) -> None:
        began, self._is_unsure = self._now(), True
        try:
            self._store.delete(keys)
        except StratumError:  # what was sent may still arrive
            self._sleep(self._limits.grace)
            self._is_unsure = False
            raise
        if self._now() - began > self._limits.slow:
            self._sleep(self._limits.grace)
        self._is_unsure = False
