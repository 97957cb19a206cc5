"""How full the disk of the store may get: marks, and what is not pulled any more where it is that full.

A kubelet throws pods out where a file system has too little left (by default below 15 % of that of images, 10 % of its
own, 5 % of the inodes), whoever filled it. So the driver keeps below that what it has a say in: from the mark ``high``
on it makes room until ``low`` (``csi.relief``), and nothing is pulled that would go beyond ``limit``. A share is
counted as the kubelet does: what users cannot have any more of the whole, be it used or the file system's reserve.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stratum.csi.errors import CallError, Code
from stratum.csi.words import in_units
from stratum.errors import StratumError, UsageError, os_error_text
from stratum.frozen import frozen


@frozen
class Marks:
    """Percents of the disk that may be used; 100 is no mark. The defaults are below those of kubelets."""

    high: int = 80
    low: int = 75
    limit: int = 84


@frozen
class Lack:
    """Bytes and inodes that have to go; false where none have."""

    bytes: int = 0
    inodes: int = 0

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.inodes > 0


@frozen
class Disk:
    """A file system: bytes, bytes that are free, and the same of inodes, 0 where it has no fixed number of them."""

    bytes: int
    free: int
    inodes: int = 0
    inodes_free: int = 0

    @property
    def used(self) -> float:
        """The share of its bytes that is used, from 0 to 1."""
        return 1 - self.free / self.bytes if self.bytes else 0.0

    @property
    def inodes_used(self) -> float:
        """The same of inodes."""
        return 1 - self.inodes_free / self.inodes if self.inodes else 0.0

    @property
    def percent(self) -> int:
        """How full it is, whatever is scarcer."""
        return int(max(self.used, self.inodes_used) * 100)

    def lack(self, percent: int, coming: int = 0) -> Lack:
        """What has to go so that at most ``percent`` are used when ``coming`` bytes more have come."""
        if percent >= 100:
            return Lack(max(0, coming - self.free) if coming else 0)
        left = 100 - percent
        missing = self.bytes * left // 100 + coming - self.free
        return Lack(max(0, missing), max(0, self.inodes * left // 100 - self.inodes_free))

    def room(self, percent: int) -> int:
        """The bytes that may come until ``percent`` are used."""
        return 0 if self.lack(percent).inodes else max(0, self.free - self.bytes * (100 - percent) // 100)


def parse_marks(high: str, low: str, limit: str) -> Marks:
    """The marks that three texts are. ``UsageError``."""
    numbers = []
    for option, text in (("--gc-high", high), ("--gc-low", low), ("--pull-limit", limit)):
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 100):
            raise UsageError(f"{option} {text[:100]!a} is not a percentage", hint="a whole number from 1 to 100")
        numbers.append(int(text))
    marks = Marks(*numbers)
    if not marks.low <= marks.high <= marks.limit:
        raise UsageError(
            f"--gc-low {low}, --gc-high {high} and --pull-limit {limit} do not ascend",
            hint="room is made from --gc-high on until --gc-low, and nothing is pulled beyond --pull-limit",
        )
    return marks


def read_disk(path: Path) -> Disk:
    """The file system of ``path``. ``StratumError``."""
    try:
        info = os.statvfs(path)
    except OSError as exc:
        raise StratumError(f"cannot look at the file system of {path}: {os_error_text(exc)}") from None
    return Disk(info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize, info.f_files, info.f_favail)


class Room:
    """That of one store, below the directory ``root``. Several threads may use it at once."""

    def __init__(self, root: Path, marks: Marks) -> None:
        self._root = root
        self.marks = marks
        self._lock = threading.Lock()
        self._called = threading.Event()
        self._promised = 0
        self._wanted = 0
        self._refused = 0
        self._short = Lack()

    def disk(self) -> Disk:
        """The file system now. ``StratumError``."""
        return read_disk(self._root)

    @property
    def refused(self) -> int:
        """How many pulls were refused."""
        return self._refused

    @property
    def capacity(self) -> int:
        """The bytes that new volumes may count on. ``StratumError``."""
        return self.disk().room(self.marks.limit)

    # Pulls

    @contextmanager
    def held(self, what: str) -> Iterator[Callable[[int], None]]:
        """Room for a pull of ``what``, until the block ends: it is told how many bytes are about to come. Raises
        RESOURCE_EXHAUSTED where the disk is too full, or would be with them and with what others were promised."""
        mine = 0

        def take(coming: int) -> None:
            nonlocal mine
            with self._lock:
                disk = self.disk()
                if disk.lack(self.marks.limit, self._promised + coming):
                    self._refused += 1
                    if coming <= disk.bytes * self.marks.limit // 100:  # else no room can be made for it
                        self._wanted = max(self._wanted, coming)
                    self._called.set()
                    raise self._refusal(what, disk, coming)
                self._promised += coming
                mine += coming

        take(0)
        try:
            yield take
        finally:
            with self._lock:
                self._promised -= mine

    def _refusal(self, what: str, disk: Disk, coming: int) -> CallError:
        need = f", and it takes {in_units(coming)} while it comes" if coming else ""
        return CallError(
            Code.RESOURCE_EXHAUSTED,
            f"{what} is not pulled: the node's disk is {disk.percent}% full{need}; "
            f"{in_units(max(0, disk.room(self.marks.limit) - self._promised))} more are allowed (--pull-limit "
            f"{self.marks.limit})",
            hint="the driver makes room as far as nobody uses what is there; this is tried again by itself",
        )

    # Making room

    def wait(self, seconds: float) -> None:
        """Until a pull is refused, or for ``seconds``."""
        self._called.wait(seconds)
        self._called.clear()

    def needed(self) -> Lack:
        """What has to go before somebody has to make room: nothing below the mark ``high``, unless a pull was
        refused."""
        if not self._wanted and not self.disk().lack(self.marks.high):
            return Lack()
        lack = self.lack()
        if not lack:
            self._wanted = 0
        return lack

    def lack(self) -> Lack:
        """What has to go until the mark ``low``, or until there is room for the largest pull that was refused."""
        disk = self.disk()
        low, wanted = disk.lack(self.marks.low), disk.lack(self.marks.limit, self._wanted)
        return Lack(max(low.bytes, wanted.bytes), max(low.inodes, wanted.inodes))

    def tried(self) -> Lack:
        """Note that room was made as far as that is possible; what is lacking for the mark ``low``, where the disk is
        above ``high`` all the same."""
        with self._lock:
            self._wanted = 0
            self._short = self._lacking()
            return self._short

    @property
    def short(self) -> Lack:
        """What was lacking when room was made last, as far as it is lacking now. ``StratumError``."""
        now = self._lacking() if self._short else Lack()
        return Lack(min(now.bytes, self._short.bytes), min(now.inodes, self._short.inodes))

    def _lacking(self) -> Lack:
        disk = self.disk()
        return disk.lack(self.marks.low) if disk.lack(self.marks.high) else Lack()

    def trouble(self) -> str | None:
        """Why nothing is pulled, in a sentence, where no room can be made for it; else None. ``StratumError``."""
        disk = self.disk()
        if not disk.lack(self.marks.limit) or not self.short:
            return None
        return f"the node's disk is {disk.percent}% full, and nothing is left there that the driver may remove"


class RoomCollector(Collector):
    """Figures about the disk, looked up now."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def collect(self) -> Iterator[Metric]:
        """See ``prometheus_client.registry.Collector``; shares that cannot be looked up are left out."""
        used = GaugeMetricFamily(
            "stratum_csi_disk_used_ratio", "Share of the store's file system that is used, 0 to 1.", labels=["of"]
        )
        marks = GaugeMetricFamily("stratum_csi_disk_mark_ratio", "Its marks, 0 to 1.", labels=["mark"])
        short = GaugeMetricFamily(
            "stratum_csi_disk_short_bytes",
            "Bytes above the low mark that the driver could not free, where the disk is above the high one.",
        )
        try:
            disk, lacking = self._room.disk(), self._room.short
            used.add_metric(["bytes"], disk.used)
            used.add_metric(["inodes"], disk.inodes_used)
            short.add_metric([], lacking.bytes)
        except StratumError:  # the store is away, which every call says
            pass
        for name in ("high", "low", "limit"):
            marks.add_metric([name], getattr(self._room.marks, name) / 100)
        yield from (used, marks, short)
        text = "Pulls that were refused as the disk is too full."
        yield CounterMetricFamily("stratum_csi_pulls_refused", text, self._room.refused)
