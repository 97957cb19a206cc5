"""What the services share: settings, store, records, jobs, locks."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from stratum.api.session import Session
from stratum.csi.claims import ClaimsCollector, claims_of
from stratum.csi.errors import aborted
from stratum.csi.hydration import HydrationCollector, volume_of
from stratum.csi.jobs import Jobs
from stratum.csi.metrics import Metrics, Volumes
from stratum.csi.patterns import SourcePattern, parse_pattern
from stratum.csi.records import AfterRecord, GroupRecord, PullRecord, SnapshotRecord, VolumeRecord, inline_key
from stratum.csi.residing import Lazy
from stratum.csi.room import Marks, Room, RoomCollector
from stratum.csi.runtime import Runtime
from stratum.csi.usage import usage_of
from stratum.errors import BusyError, StratumError, os_error_text
from stratum.oci.target import Target
from stratum.refs import Ref
from stratum.store.records import Records
from stratum.sys.locks import locked

NAME = "csi.stratum.dev"
TOPOLOGY_KEY = "topology.csi.stratum.dev/node"

EMPTY_STRATUM = "csi-volumes"
"""The stratum of volumes that are made of nothing."""

LOCK_WAIT = 0.5
"""Seconds to wait for another call on the same volume, so that a quick one goes unnoticed."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the driver was started. Inline volumes' sources must match one of ``inline_sources``, and may be lazy where
    they match one of ``inline_lazy``, too; they may take ``inline_limit`` bytes, 0 for any number. ``ca_file`` has
    certificate authorities for registries besides the system's. With ``external_keeper`` nothing is started that stands
    behind mounts: somebody else runs it. ``marks`` say how full the disk may get; ``max_volumes`` how many volumes may
    be mounted, 0 for any number."""

    node_id: str
    kubelet_dir: Path
    controller: bool = False
    allow_inline: bool = False
    inline_sources: tuple[SourcePattern, ...] = (parse_pattern("*"),)
    inline_lazy: tuple[SourcePattern, ...] = ()
    ca_file: Path | None = None
    external_keeper: bool = False
    marks: Marks = field(default_factory=Marks)
    max_volumes: int = 0
    inline_limit: int = 0

    def allows_inline_source(self, source: Target | Ref) -> bool:
        """Whether pod authors may name ``source``."""
        return any(pattern.allows(source) for pattern in self.inline_sources)

    def trusts_inline_source(self, source: Target | Ref) -> bool:
        """Whether it is trusted to have all that it lists, so that pod authors may have it lazily."""
        return any(pattern.allows(source) for pattern in self.inline_lazy)


@dataclass(slots=True)
class Driver:
    """One running driver. Its parts may be used by several threads at once. ``runtime`` is that of the pods, where the
    driver was told of one."""

    options: Options
    session: Session
    jobs: Jobs = field(default_factory=Jobs)
    metrics: Metrics = field(default_factory=Metrics)
    volumes: Records[VolumeRecord] = field(init=False)
    snapshots: Records[SnapshotRecord] = field(init=False)
    pulls: Records[PullRecord] = field(init=False)
    groups: Records[GroupRecord] = field(init=False)
    afters: Records[AfterRecord] = field(init=False)
    room: Room = field(init=False)
    lazy: Lazy = field(init=False)
    runtime: Runtime | None = None

    def __post_init__(self) -> None:
        store = self.session.create_store()
        self.volumes = Records(store.layout, "csi/volumes", VolumeRecord)
        self.snapshots = Records(store.layout, "csi/snapshots", SnapshotRecord)
        self.pulls = Records(store.layout, "csi/pulls", PullRecord)
        self.groups = Records(store.layout, "csi/groups", GroupRecord)
        self.afters = Records(store.layout, "csi/afters", AfterRecord)
        self.room = Room(store.root, self.options.marks)
        self.lazy = Lazy(self.session)
        hydration = HydrationCollector(self.lazy.connections, self.lazy.residences, self._volume_of)
        claims = ClaimsCollector(lambda: claims_of(self.volumes, store, self.session.state))
        self.metrics.watch(self._held, hydration, RoomCollector(self.room), claims)

    @contextlib.contextmanager
    def locked(self, what: str, *names: str) -> Iterator[None]:
        """Keep other calls, also those to another driver on this node, from working on the same things.

        One lock for each of ``names`` (volume or snapshot IDs or names, of the kind ``what``), taken in one order by
        everybody. ABORTED where one is not to be had at once.
        """
        directory = self.session.config.runtime_dir / "csi"
        with ExitStack() as stack:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                for name in sorted(set(names)):
                    path = directory / f"{hashlib.sha256(f'{what} {name}'.encode()).hexdigest()[:40]}.lock"
                    stack.enter_context(locked(path, timeout=LOCK_WAIT, what=f"{what} {name}"))
                    # Volumes come and go: so do their lock files. Whoever waits for a removed one opens it again.
                    stack.callback(path.unlink, missing_ok=True)
            except BusyError:
                raise aborted(f"{what} {' and '.join(names)}: another call is at work") from None
            except OSError as exc:
                raise StratumError(f"cannot lock in {directory}: {os_error_text(exc)}") from None
            yield

    @contextlib.contextmanager
    def keeping(self, commit: str) -> Iterator[None]:
        """Keep garbage from being collected until the block has given ``commit`` a name. ABORTED where it is gone."""
        with self.session.store.locks.store():
            if not self.session.store.commits.exists(commit):
                raise aborted(f"commit {commit} was removed by a garbage collection meanwhile; call again")
            yield

    def _held(self) -> Volumes:
        worktrees = dirty = limited = 0
        with contextlib.suppress(StratumError):  # a damaged record is for ListVolumes to tell
            for record in self.volumes.scan()[0]:
                with contextlib.suppress(StratumError):  # removed meanwhile
                    tree = self.session.store.worktrees.get(record.stratum, record.key)
                    used = usage_of(self.session.store, tree)
                    dirty += used.bytes
                    limited += used.limit > 0
                    worktrees += 1
        return Volumes(worktrees, dirty, self.jobs.running, limited)

    def _volume_of(self, source: str) -> str | None:
        return volume_of(self.session, source, lambda volume_id: self.volumes.get(inline_key(volume_id)) is not None)

    def made_stratum(self, name: str) -> bool:
        """Whether the stratum is the driver's own: that of empty volumes, or one that it pulls into."""
        return name == EMPTY_STRATUM or any(record.stratum == name for record in self.pulls.list())
