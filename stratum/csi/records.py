"""What the driver keeps about the volumes and snapshots that it made, and about what it pulled (``store.records``).

The key of a record follows from the name that the orchestrator gives a thing, so a call that comes again finds what an
earlier one began: that of a volume is the name of its worktree, that of a snapshot its tag. A record is written before
the worktree or tag that it describes is made, and removed after it: a volume or snapshot exists when both are there,
and a lone record is the trace of a call that was cut short. Records of one thing are written under its lock
(``driver.Driver.locked``).
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, field
from typing import TypeVar

from stratum.refs import is_name
from stratum.store.records import Records

_log = logging.getLogger(__name__)

_PLAIN_KEY_MAX = 63


def key_for(name: str, prefix: str) -> str:
    """The key of what the orchestrator calls ``name``: the name itself where it can be a worktree or tag."""
    if is_name(name) and len(name) <= _PLAIN_KEY_MAX:
        return name
    return f"{prefix}-{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def inline_key(volume_id: str) -> str:
    """The key of an inline volume."""
    return f"inline-{hashlib.sha256(volume_id.encode()).hexdigest()[:40]}"


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume: worktree ``key`` of ``stratum`` over ``commit``.

    ``name`` is the orchestrator's name, ``id`` the volume ID, ``capacity`` what was asked for in bytes, ``created``
    nanoseconds since the epoch. ``origin`` is what it was made from and ``attributes`` what governs it later.
    """

    key: str
    name: str
    id: str
    stratum: str
    commit: str
    capacity: int
    origin: str
    inline: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    created: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot: tag ``key`` of ``stratum`` at ``commit``.

    ``target`` is the registry reference it is pushed to, or empty; ``pushed`` whether it is there. ``group`` is the ID
    of the group that it is of, or empty. ``size`` is in bytes, ``created`` in nanoseconds since the epoch.
    """

    key: str
    name: str
    id: str
    source_volume: str
    stratum: str
    commit: str
    size: int
    target: str = ""
    pushed: bool = False
    group: str = ""
    created: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """Snapshots of several volumes of one moment: ``volumes`` has the ID of each and its commit then.

    ``registry`` is the place that they are pushed to, or empty. Written once, when all of them are committed.
    """

    key: str
    name: str
    id: str
    volumes: dict[str, str]
    registry: str = ""
    created: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True)
class AfterRecord:
    """What has to run in ``container`` (the runtime's ID) of the pod ``pod`` (its UID) once a commit is over.

    ``command`` is a JSON array of strings, ``seconds`` how long it may take, ``name`` what people call the pod.
    """

    key: str
    pod: str
    name: str
    container: str
    command: str
    seconds: int
    created: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True)
class PullRecord:
    """What ``name``, a reference in a registry, was when it was last pulled for ``owner``.

    ``commit`` has the tag ``tag`` of ``stratum``, and is empty during the first pull. ``used`` is when a volume last
    began with it, in nanoseconds since the epoch.
    """

    key: str
    name: str
    owner: str
    stratum: str
    tag: str
    commit: str = ""
    used: int = field(default_factory=time.time_ns)
    created: int = field(default_factory=time.time_ns)


R = TypeVar("R", VolumeRecord, SnapshotRecord, PullRecord)


def readable(records: Records[R]) -> list[R]:
    """The records that can be read, oldest first; the log is told of the others, which 'stratum fsck' names too."""
    found, damaged = records.scan()
    for error in damaged:
        _log.warning("%s", error.message)
    return found
