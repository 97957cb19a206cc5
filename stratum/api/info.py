"""What there is to know of this installation: versions, the store and what is in it, what the kernel can do."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from stratum import __version__
from stratum.api.session import Session
from stratum.errors import StratumError
from stratum.frozen import frozen
from stratum.sys.userns import in_initial_namespace, is_privileged

_FILE_SYSTEMS = Path("/proc/filesystems")


@frozen
class Counts:
    """How many there are in the store; ``mounts`` are those on record, of the host and of containers."""

    strata: int
    tags: int
    worktrees: int
    commits: int
    mounts: int


@frozen
class StoreInfo:
    """The store. ``format`` and ``counts`` are None where there is none yet or it cannot be read: ``problem`` says why.
    ``size`` and ``free`` are bytes of its file system, None where that cannot be asked."""

    path: str
    format: int | None
    counts: Counts | None
    size: int | None
    free: int | None
    problem: str | None


@frozen
class Feature:
    """Something that the kernel has to bring: ``problem`` says why it is not there, or None."""

    name: str
    what: str
    problem: str | None


@frozen
class Info:
    """All of it."""

    version: str
    python: str
    kernel: str
    architecture: str
    root: bool
    store: StoreInfo
    runtime_dir: str
    registry: str | None
    layers: str
    features: tuple[Feature, ...]


def info(session: Session) -> Info:
    """Look at everything. What cannot be had is said in its place, and raises nothing."""
    from stratum.mount.plan import method_for

    system = os.uname()
    config = session.config
    return Info(
        version=__version__,
        python=platform.python_version(),
        kernel=system.release,
        architecture=system.machine,
        root=is_privileged(),
        store=_store(session),
        runtime_dir=str(config.runtime_dir),
        registry=config.registry,
        layers=method_for(system.release).syntax.name.lower(),
        features=tuple(_features(session)),
    )


def _store(session: Session) -> StoreInfo:
    from stratum.store.layout import FORMAT

    path = session.config.store
    size = free = None
    try:
        disk = os.statvfs(path)
        size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    except OSError:
        pass
    try:
        return StoreInfo(str(path), FORMAT, _counts(session), size, free, None)
    except StratumError as exc:
        return StoreInfo(str(path), None, None, size, free, exc.message)


def _counts(session: Session) -> Counts:
    store = session.store
    names = store.names()
    return Counts(
        strata=len(names),
        tags=sum(len(store.tags.names(name)) for name in names),
        worktrees=sum(len(store.worktrees.names(name)) for name in names),
        commits=len(store.commits.list()),
        mounts=len(session.state.records()),
    )


def _features(session: Session) -> list[Feature]:
    """What mounts, lazy pulls and histories need."""
    from stratum.history.events import probe
    from stratum.mount.plan import check_lazy

    release = os.uname().release
    known = _FILE_SYSTEMS.read_text("ascii", "replace").split() if _FILE_SYSTEMS.exists() else []
    loadable = Path("/lib/modules", release)
    found = [
        Feature(name, f"mounts: the {name} file system", _missing(name, known, loadable))
        for name in ("overlay", "erofs" if is_privileged() else "fuse")
    ]
    if not in_initial_namespace():
        found.append(_user_mounts(session))
    try:
        check_lazy(release)
        lazy = None if os.access("/dev/fuse", os.R_OK | os.W_OK) else _no_device()
    except StratumError as exc:
        lazy = exc.message
    found.append(Feature("lazy", "files that are fetched when they are first read", lazy))
    events = "the setting history_events is 'scan'" if session.config.history_events == "scan" else probe()
    found.append(Feature("events", "histories by what the kernel tells", events))
    return found


def _no_device() -> str:
    there = os.path.exists("/dev/fuse")
    return "/dev/fuse is not to be opened by this user" if there else "there is no /dev/fuse"


def _user_mounts(session: Session) -> Feature:
    """How who is not root mounts in this user namespace."""
    try:
        method = session.mount_method
    except StratumError as exc:
        return Feature("users", "", exc.message)
    return Feature("users", f"names from {method.lower.value}" if method is not None else "", None)


def _missing(name: str, known: list[str], modules: Path) -> str | None:
    """Why a file system cannot be mounted; None where the kernel has it, or a module of it."""
    if name in known or any(modules.glob(f"kernel/fs/{name}*/*.ko*")):
        return None
    return f"the kernel has no {name}"
