"""The plugin's verbs: what the Docker Volume Plugin API calls Create, Remove, Mount, Unmount, Get and List.

A volume is mounted on the host at its first use and unmounted after its last; then the worktree is committed, as after
the stop of a container with an annotation, and by the same lease: what a power cut or a killed plugin leaves is made up
for by ``stratum reconcile`` or the next mount.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from stratum.api.mounting import mount, unmount
from stratum.api.session import Session
from stratum.config import Config
from stratum.errors import BusyError, ExistsError, NotFoundError, StratumError, UsageError
from stratum.plugin.records import Mountpoints, VolumeRecord, check_volume_name
from stratum.plugin.staying import check_place
from stratum.store.clock import rfc3339, utc_now
from stratum.store.holders import NamedVolume
from stratum.store.records import Records
from stratum.volumes.fetching import ensure_fetched
from stratum.volumes.grant import grant, reconcile
from stratum.volumes.historic import ensure_history
from stratum.volumes.making import ensure_worktree
from stratum.volumes.policy import PODMAN, Caller, load_policy
from stratum.volumes.request import Volume, parse_volume

OPTIONS = ("ref", "ro", "rw", "create", "commit", "tag", "uid", "gid", "mode", "lazy", "prefetch", "history")
_FLAGS = ("ro", "rw", "lazy", "history")


class PluginVolumes:
    """The named volumes of the store in ``config``; ``log`` gets a line for what goes wrong and stops nobody. Calls may
    come from several threads at a time."""

    def __init__(self, config: Config, log: Callable[[str], None]) -> None:
        self._config = config
        self._log = log
        self._records = Records(Session(config).store.layout, "volumes", VolumeRecord)
        self._mountpoints = Mountpoints(config.runtime_dir)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def create(self, name: str, options: Mapping[str, str]) -> None:
        """Make a volume. The same again is no error; ``ExistsError`` where the name has other options."""
        record = VolumeRecord(check_volume_name(name), dict(options), rfc3339(utc_now()))
        volume = _allowed(record)
        with self._locks[name]:
            before = self._records.get(name)
            if before is not None:
                if before.options != record.options:
                    raise ExistsError(f"there is a volume {name} with other options")
                return
            session = self._session()
            ensure_fetched(session, volume)
            if volume.ref.worktree is None:
                session.store.resolve(volume.ref)
            else:
                ensure_worktree(session, volume.ref, volume.beginning, why="made for a volume")
            self._records.put(record)

    def remove(self, name: str) -> None:
        """Forget a volume; its worktree stays. ``BusyError`` while it is mounted."""
        with self._locks[check_volume_name(name)]:
            self._get(name)
            if self._is_mounted(self._session(), name):
                raise BusyError(f"volume {name} is mounted", hint="stop the containers that use it")
            self._mountpoints.remove_mountpoint(name)
            self._records.remove(name)

    def get(self, name: str) -> tuple[VolumeRecord, str]:
        """The volume and its mountpoint, empty where it is not mounted."""
        record = self._get(name)
        mounted = self._is_mounted(self._session(), name)
        return record, str(self._mountpoints.mountpoint(name)) if mounted else ""

    def names(self) -> tuple[list[str], list[StratumError]]:
        """(the names of all volumes, what is wrong with records that are none)."""
        found, damaged = self._records.scan()
        return [record.key for record in found], damaged

    def _get(self, name: str) -> VolumeRecord:
        record = self._records.get(check_volume_name(name))
        if record is None:
            raise NotFoundError(f"there is no volume {name}", hint="'podman volume ls' lists them")
        return record

    def mount(self, name: str, user: str) -> str:
        """Mount a volume for ``user``, where it is not yet; the mountpoint."""
        check_place(self._config.environment)
        with self._locks[check_volume_name(name)]:
            volume = _allowed(self._get(name))
            session = self._session()
            mounted = self._is_mounted(session, name)
            users = self._mountpoints.users(name) if mounted else []
            place = self._mountpoints.make_mountpoint(name)
            if not mounted:
                self._attach(session, volume, NamedVolume(name), str(place))
            self._mountpoints.set_users(name, sorted({*users, user}))
            return str(place)

    def unmount(self, name: str, user: str) -> StratumError | None:
        """``user`` needs the volume no more; after the last, unmount and commit.

        A failure to commit is returned, as the volume is unmounted all the same; it also shows in ``status``.
        """
        with self._locks[check_volume_name(name)]:
            self._get(name)
            session = self._session()
            left = [other for other in self._mountpoints.users(name) if other != user]
            if self._is_mounted(session, name):
                if left:
                    self._mountpoints.set_users(name, left)
                    return None
                unmount(session, str(self._mountpoints.mountpoint(name)))
            self._mountpoints.remove_mountpoint(name)
            # It may have another worktree by now than it was made for ('worktree switch').
            done = reconcile(session, ended=NamedVolume(name), missed=False)
            return next((released.error for released in done if released.error is not None), None)

    def _attach(self, session: Session, volume: Volume, holder: NamedVolume, place: str) -> None:
        ensure_fetched(session, volume)  # it may have been removed since the volume was made
        options = volume.gate_options
        if volume.ref.worktree is None:
            mount(session, str(volume.ref), place, holder=holder, options=options)
            return
        tree = ensure_worktree(session, volume.ref, volume.beginning, why="made for a volume")
        with grant(session, tree.ref, holder, volume.promise, read_only=volume.read_only) as granted:
            if volume.history:
                ensure_history(session, granted.held.ref)
            granted.held.mount(Path(place), read_only=volume.read_only, holder=holder, options=options)

    def _session(self) -> Session:
        session = Session(self._config)
        session.tell = self._log
        return session

    def _is_mounted(self, session: Session, name: str) -> bool:
        return session.state.find_mountpoint(self._mountpoints.mountpoint(name)) is not None


def _allowed(record: VolumeRecord) -> Volume:
    """The volume of a record, by the rules of annotations and the policy. Raises ``UsageError``, ``ForbiddenError``."""
    volume = _parsed(record)
    load_policy().check(Caller(PODMAN), volume)
    return volume


def _parsed(record: VolumeRecord) -> Volume:
    for key, value in record.options.items():
        if key == "copy-up":
            raise UsageError(
                "copy-up is for annotations: Podman does not tell a volume plugin which image it is for",
                hint="podman run --annotation 'stratum.dev/volume.ID=REF:/PATH:create;copy-up'",
            )
        if key not in OPTIONS:
            raise UsageError(f"unknown option {ascii(key)[:80]}", hint=f"options: {', '.join(OPTIONS)}")
        if "," in value or ";" in value:
            raise UsageError(f"option {key}: {ascii(value)[:80]} has a separator in it")
    ref = record.options.get("ref")
    if not ref:
        raise UsageError("a volume needs a ref", hint="podman volume create --driver stratum --opt ref=NAME+WORKTREE")
    words = [
        key if key in _FLAGS or (key == "create" and not value) else f"{key}={value}"
        for key, value in record.options.items()
        if key != "ref" and value != "false"
    ]
    # As a container would write it; the name stands for the destination, which only the container knows.
    value = f"{ref}:/volumes/{record.key}" + (f":{';'.join(words)}" if words else "")
    try:
        return parse_volume(record.key[:63], value, holder=NamedVolume)
    except StratumError as exc:
        raise UsageError(f"volume {record.key}: {exc.message}", hint=exc.hint) from None
