"""Who has a worktree: how it is said, how it is written down, and what was promised for the time after.

Each kind of holder is a record type here. Leases in the store and the records of mounts in the runtime directory write
a holder as its ``kind`` and its ``id``; the history, errors and ``status`` say ``words()``.

A lease (lease.toml of a worktree) is there while somebody has the worktree and until what was promised is done::

    [lease]   since, commit (on release), tag_template?, move_tag?, last_error?, pre_commit?, post_commit?
    [holder]  kind, id, about?, pid?, start_time?, pid_namespace?, boot?    the last four: a container's first process

The first form, which is read too, has no table [holder]: in [lease] there are the process and ``container``, which is
an ID, "volume/NAME" or "kubernetes/ID", and its templates call all of these {container}.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stratum.errors import DamagedError, StratumError
from stratum.frozen import as_dict, frozen
from stratum.sys.proc import Process

ERROR_MAX = 500
"""Of an error that is noted for ``status``, so many characters are kept."""


class Holder(ABC):
    """Who has a worktree. ``ended`` says, after ``words()``, what ends that; ``field`` is the field of tag templates
    that the ID fills (``volumes.tagtemplate``), empty for none."""

    __slots__ = ()
    kind: ClassVar[str]
    ended: ClassVar[str]
    field: ClassVar[str] = ""
    id: str

    @abstractmethod
    def words(self) -> str:
        """Who it is, in words for people."""

    @abstractmethod
    def how_to_release(self, mountpoint: str) -> str:
        """What to do to have it give back what it has at ``mountpoint``."""


@frozen
class Host(Holder):
    """Whoever works on this machine, by a mount of their own."""

    id: str = ""
    kind = "host"
    ended = "was unmounted"

    def words(self) -> str:
        return "this host"

    def how_to_release(self, mountpoint: str) -> str:
        return f"unmount it first: stratum unmount {mountpoint}"


@frozen
class Container(Holder):
    """A container, by its ID. Its mounts are in a mount namespace of its own."""

    id: str
    kind = "container"
    ended = "stopped"
    field = "container"

    def words(self) -> str:
        return f"container {self.id[:12]}"

    def how_to_release(self, mountpoint: str) -> str:
        return f"stop the container: podman stop {self.id[:12]}"


@frozen
class NamedVolume(Holder):
    """A named volume of the volume plugin, by its name."""

    id: str
    kind = "volume"
    ended = "was unmounted"
    field = "volume"

    def words(self) -> str:
        return f"volume {self.id}"

    def how_to_release(self, mountpoint: str) -> str:
        return "stop the containers that use the volume"


@frozen
class KubernetesVolume(Holder):
    """A volume of the CSI driver, by its volume ID."""

    id: str
    kind = "csi"
    ended = "was unpublished"
    field = "volume"

    def words(self) -> str:
        return f"Kubernetes volume {self.id}"

    def how_to_release(self, mountpoint: str) -> str:
        return "delete the pod that uses the volume"


KINDS: dict[str, Callable[[str], Holder]] = {
    holder.kind: holder for holder in (Host, Container, NamedVolume, KubernetesVolume)
}
HOST = Host()


def written(holder: Holder) -> dict[str, str]:
    """How every file writes a holder down."""
    return {"kind": holder.kind, "id": holder.id}


def holder_of(kind: str, holder_id: str) -> Holder:
    """The holder that is written so. ``ValueError`` for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"unknown holder kind {kind!r}")
    return KINDS[kind](holder_id)


@frozen
class Promise:
    """What is to be done when a holder gives a worktree back: commit it, and point the tag of ``tag`` (a template) at
    that commit. ``move_tag`` says whether a tag that exists may be moved.

    ``pre_commit`` and ``post_commit`` are commands for the time in between: run in the container around a commit.
    """

    commit: bool = True
    tag: str | None = None
    move_tag: bool = True
    pre_commit: str | None = None
    post_commit: str | None = None


@frozen
class Lease:
    """Who holds a worktree, since when, and what is promised. ``last_error`` is what keeping the promise failed with.

    ``process`` is a container's first process: while it runs, the worktree is in use, whatever else is known.
    ``about`` is what people call the holder: a container's name and its image's, for the reflog.
    """

    holder: Holder
    since: str
    promise: Promise
    last_error: str | None = None
    process: Process | None = None
    about: str | None = None

    def to_toml(self) -> bytes:
        """The content of lease.toml."""
        from stratum.store.tables import write_tables

        table: dict[str, str | bool] = {"since": self.since, "commit": self.promise.commit}
        if self.promise.tag is not None:
            table |= {"tag_template": self.promise.tag, "move_tag": self.promise.move_tag}
        words = {
            "last_error": self.last_error,
            "pre_commit": self.promise.pre_commit,
            "post_commit": self.promise.post_commit,
        }
        table |= {key: value for key, value in words.items() if value is not None}
        process = as_dict(self.process) if self.process is not None else {}
        holder = written(self.holder) | {key: value for key, value in process.items() if value is not None}
        holder |= {"about": self.about} if self.about is not None else {}
        return write_tables({"lease": table, "holder": holder}, "the lease of a worktree")


def lease_from(tables: Mapping[str, Any], where: str) -> Lease:
    """The lease in the tables of the lease.toml at ``where``. ``DamagedError``."""
    from stratum.store.tables import Tables

    fields = Tables(tables, where)
    tag, move = fields.maybe_text("lease", "tag_template"), True
    if fields.has("lease", "container"):
        table, (kind, holder_id) = "lease", _first_form(fields.text("lease", "container"))
        tag = tag.replace("{container}", "{volume}") if tag is not None and kind != Container.kind else tag
    else:
        table, kind, holder_id = "holder", fields.text("holder", "kind"), fields.text("holder", "id")
        move = not fields.has("lease", "move_tag") or fields.flag("lease", "move_tag")
    try:
        holder = holder_of(kind, holder_id)
    except ValueError as exc:
        raise DamagedError(f"{where}: {exc}") from None
    process = None
    if fields.has(table, "pid"):
        process = Process(
            fields.count(table, "pid"),
            fields.count(table, "start_time"),
            fields.maybe_text(table, "pid_namespace"),
            fields.maybe_text(table, "boot"),
        )
    commands = (fields.maybe_text("lease", "pre_commit"), fields.maybe_text("lease", "post_commit"))
    promise = Promise(fields.flag("lease", "commit"), tag, move, *commands)
    last_error, about = fields.maybe_text("lease", "last_error"), fields.maybe_text(table, "about")
    return Lease(holder, fields.text("lease", "since"), promise, last_error, process, about)


def _first_form(container: str) -> tuple[str, str]:
    """(kind, ID) of a holder in a lease of the first form."""
    kind, slash, rest = container.partition("/")
    return ({"kubernetes": KubernetesVolume.kind}.get(kind, kind), rest) if slash else (Container.kind, container)


def short_error(error: StratumError) -> str:
    """As much of what went wrong as is noted."""
    return error.message[:ERROR_MAX]
