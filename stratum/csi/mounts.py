"""Mounts of volumes below the kubelet's directory.

A volume is mounted once, at its staging path, and that mount is on record (``mount.state``) with the volume's ID as its
holder. Publishing makes bind mounts of it, which are not on record: every copy of a mount names the record in its
source. So nothing has to be remembered, and nothing runs behind a mount: a driver that was killed, or started anew,
reads from the kernel what there is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from stratum.api.mounting import mount
from stratum.csi.driver import Driver
from stratum.csi.errors import CallError, Code, already_exists, precondition
from stratum.csi.paths import Place
from stratum.errors import BusyError, StratumError, os_error_text
from stratum.mount import build, host
from stratum.mount.record import Record
from stratum.store.holders import KubernetesVolume
from stratum.sys import mountapi, mountinfo
from stratum.sys.mountapi import MOUNT_ATTR_RDONLY
from stratum.sys.mountinfo import MountEntry

_SOURCE = re.compile(r"stratum-[0-9a-z]{16}:(.+)", re.DOTALL)


def ref_of(entry: MountEntry | None) -> str | None:
    """The ref that a mount shows (NAME+WORKTREE, NAME:TAG or a commit); None where Stratum did not make it."""
    match = _SOURCE.fullmatch(entry.source) if entry is not None and entry.fstype == "overlay" else None
    return match[1] if match else None


def record_of(driver: Driver, entry: MountEntry | None) -> Record | None:
    """The record of the mount that ``entry`` is or is a copy of."""
    record = driver.session.state.find_source(entry.source) if entry is not None else None
    return record if record is not None and record.is_mount(entry) else None


def shown_at(driver: Driver, path: Path, volume_id: str) -> MountEntry | None:
    """The mount at ``path`` where the volume is what it shows, or None where nothing is mounted there.

    FAILED_PRECONDITION where it shows anything else. A mount whose record was lost counts as the volume's.
    """
    entry = mountinfo.topmost(path)
    if entry is None:
        return None
    record = record_of(driver, entry)
    if ref_of(entry) is None or (record is not None and record.holder != KubernetesVolume(volume_id)):
        raise precondition(f"{path} shows {entry.source} ({entry.fstype}) and not volume {volume_id}")
    return entry


def stage(driver: Driver, volume_id: str, ref: str, at: Place, options: Callable[[], Mapping[str, str]]) -> MountEntry:
    """Have ``ref`` mounted at ``at`` for the volume; does nothing where it is. The volume's lock is held.

    ``options`` gives those of a gate (``csi.gates``).

    FAILED_PRECONDITION where somebody else has the worktree, RESOURCE_EXHAUSTED where the node has as many volumes as
    it may.
    """
    entry = shown_at(driver, at.path, volume_id)
    if entry is not None:
        if record_of(driver, entry) is None and not ref.endswith(str(ref_of(entry))):
            raise precondition(f"{at.path} shows {entry.source} and not {ref}")
        return entry
    _check_count(driver)
    made = at.make()
    try:
        mount(driver.session, ref, str(at.path), holder=KubernetesVolume(volume_id), options=options())
    except BusyError as exc:
        _unmake(at, made)
        raise precondition(exc.message, hint=exc.hint) from None
    except StratumError:
        _unmake(at, made)
        raise
    entry = mountinfo.topmost(at.path)
    assert entry is not None
    return entry


def _check_count(driver: Driver) -> None:
    """The scheduler counts volumes of claims, and not those of pods; nor those that are about to go."""
    most = driver.options.max_volumes
    if not most:
        return
    records = driver.session.state.of_store(driver.session.store.root)
    if sum(isinstance(record.holder, KubernetesVolume) for record in records) >= most:
        raise CallError(
            Code.RESOURCE_EXHAUSTED,
            f"{driver.options.node_id} has {most} volumes mounted, and may have no more (--max-volumes)",
            hint="this is tried again by itself",
        )


def _unmake(at: Place, made: bool) -> None:
    if made:
        at.remove()


def bind(staged: Place, target: Place, attributes: int) -> None:
    """Attach a copy of the mount at ``staged`` at ``target`` with ``MOUNT_ATTR_*`` added."""
    made = target.make()
    try:
        with staged.opened() as source, target.opened() as directory:
            copy = mountapi.open_tree_clone(source)
            try:
                if attributes:
                    mountapi.mount_setattr(copy, attributes=attributes)
                mountapi.move_mount(copy, directory)
            finally:
                os.close(copy)
    except OSError as exc:
        _unmake(target, made)
        raise StratumError(f"cannot mount {staged.path} at {target.path}: {os_error_text(exc)}") from None


def check_access(entry: MountEntry, attributes: int, path: Path) -> None:
    """ALREADY_EXISTS where the mount at ``path`` is read-only and a writable one is wanted, or the other way round."""
    wanted = bool(attributes & MOUNT_ATTR_RDONLY)
    if wanted != ("ro" in entry.options.split(",")):
        raise already_exists(f"{path} is published {'writable' if wanted else 'read-only'} already")


def release(driver: Driver, at: Place, volume_id: str) -> None:
    """Unmount what the volume shows at ``at``, every layer of it; nothing there is no error.

    FAILED_PRECONDITION where it is in use, or where something else is mounted there.
    """
    while (entry := shown_at(driver, at.path, volume_id)) is not None:
        record = record_of(driver, entry)
        try:
            if record is not None and record.mountpoint == str(at.path):
                host.unmount(driver.session.state, record)
            else:
                build.unmount(at.path)
        except BusyError as exc:
            raise precondition(exc.message, hint=exc.hint) from None


def published(driver: Driver, volume_id: str) -> list[MountEntry]:
    """The copies of the volume's mount below the kubelet's directory, beside the staged one."""
    records = records_of(driver, volume_id)
    below = f"{driver.options.kubelet_dir}/"
    return [
        entry
        for entry in mountinfo.read()
        for record in records
        if record.is_mount(entry)
        and entry.root == "/"  # no subpath of a pod's
        and entry.mountpoint != record.mountpoint
        and entry.mountpoint.startswith(below)  # the same directory may be seen at other places, too
    ]


def targets(driver: Driver, volume_id: str) -> list[str]:
    """Where the volume is published."""
    return [entry.mountpoint for entry in published(driver, volume_id)]


def records_of(driver: Driver, volume_id: str) -> list[Record]:
    """The recorded mounts of a volume."""
    return driver.session.state.of_holder(KubernetesVolume(volume_id))
