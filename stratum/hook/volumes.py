"""A container's volumes, from parsed annotations to mounts in its namespace: all of them or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import StratumError, os_error_text
from stratum.frozen import frozen, replace
from stratum.hook.attach import Attachment, attach_all
from stratum.hook.ocistate import Bundle, ContainerState, called
from stratum.hook.scratch import SCRATCH, remove_scratch
from stratum.mount.container import ContainerProcess
from stratum.mount.plan import MountPlan
from stratum.mount.state import Record
from stratum.store.holders import Container
from stratum.store.resolve import ResolvedWorktree
from stratum.sys.proc import Process, process_of
from stratum.sys.syscalls import statx_mount_id
from stratum.volumes.fetching import ensure_fetched
from stratum.volumes.request import Volume

if TYPE_CHECKING:
    from stratum.store.transaction import Transaction
    from stratum.tree.model import Directory
    from stratum.volumes.making import Fill


@frozen
class _Mounted:
    record: Record
    attachment: Attachment
    gate: bool


class ContainerVolumes:
    """The volumes of one container that is being made. ``warnings`` are for the log: the start goes on."""

    def __init__(self, session: Session, state: ContainerState, bundle: Bundle) -> None:
        self.warnings: list[str] = []
        self._session = session
        self._state = state
        self._holder = Container(state.id)
        self._bundle = bundle
        self._about = called(bundle.lists, state.id)

    def mount(self, volumes: Sequence[Volume]) -> None:
        """Mount ``volumes`` (parents first) into the container, or raise ``StratumError`` and leave nothing held."""
        with ContainerProcess(self._state.pid) as process, ExitStack() as opened, ExitStack() as undo:
            mounted = [self._prepare(volume, process, opened, undo) for volume in volumes]
            attach_all(process, self._bundle.rootfs, [item.attachment for item in mounted])
            for item in mounted:
                mount_id = statx_mount_id(directory=item.attachment.mount)
                self._session.state.confirm(item.record, mount_id, gate=item.gate)
            undo.pop_all()

    def _prepare(self, volume: Volume, process: ContainerProcess, opened: ExitStack, undo: ExitStack) -> _Mounted:
        """Claim what ``volume`` names and build its mount. ``opened`` gets the mount's fd, ``undo`` the way back."""
        if volume.ref.worktree is not None or volume.scratch:
            process.check_writable(f"{volume.ref} at {volume.destination}")
        ensure_fetched(self._session, volume)
        if volume.ref.worktree is not None:
            from stratum.volumes.grant import grant
            from stratum.volumes.making import ensure_worktree

            fill = self._image_at(volume.destination, process) if volume.copy_up else None
            tree = ensure_worktree(self._session, volume.ref, volume.beginning, why="made for a container", fill=fill)
            first, read_only = _first(process), volume.read_only
            with grant(
                self._session,
                tree.ref,
                self._holder,
                volume.promise,
                process=first,
                read_only=read_only,
                about=self._about,
            ) as granted:
                _on_failure(undo, granted.revoke)
                held, failure = granted.held, granted.failure
                if failure is not None:
                    self.warnings.append(f"what the last holder of {held} left was not committed: {failure.message}")
                if volume.history:
                    from stratum.volumes.historic import ensure_history

                    ensure_history(self._session, held.ref)
                record = self._claim(volume, str(held), held.worktree.base_commit, process, undo)
                with held.roomy():
                    return self._build(volume, record, held.plan(options=volume.gate_options), process, opened)
        # Locked until the commit is on record as mounted, so that no garbage collection takes it away meanwhile.
        with self._session.store.locks.store():
            found = self._session.store.resolve(volume.ref)
            ref = f"{found.name}:{found.commit}" if isinstance(found, ResolvedWorktree) else str(found)
            record = self._claim(volume, ref, found.commit, process, undo)
        plan = self._session.plan(found.commit, options=volume.gate_options)
        if volume.scratch:
            upper = self._scratch(volume, found.commit, undo)
            plan = replace(plan, upperdir=upper / "upperdir", workdir=upper / "workdir")
        return self._build(volume, record, plan, process, opened)

    def _image_at(self, destination: str, process: ContainerProcess) -> Fill:
        """What brings the content of the image to a new worktree."""

        def fill(tx: Transaction) -> Directory | None:
            from stratum.hook.copyup import image_tree

            store = self._session.store
            return image_tree(store, tx, process, self._bundle.rootfs, destination, self.warnings.append)

        return fill

    def _claim(self, volume: Volume, ref: str, commit: str, process: ContainerProcess, undo: ExitStack) -> Record:
        state = self._session.state
        record = state.claim(
            store=self._session.store.root,
            ref=ref,
            commit=commit,
            mountpoint=Path(volume.destination),
            read_only=volume.read_only,
            holder=self._holder,
            process=_first(process),
        )
        _on_failure(undo, lambda: state.release(record))
        return record

    def _build(
        self, volume: Volume, record: Record, plan: MountPlan, process: ContainerProcess, opened: ExitStack
    ) -> _Mounted:
        label = self._bundle.mount_label
        mount = process.build(replace(plan, read_only=volume.read_only, source=record.source, context=label))
        opened.callback(os.close, mount)
        return _Mounted(record, Attachment(mount, volume.destination), plan.gate is not None)

    def _scratch(self, volume: Volume, commit: str, undo: ExitStack) -> Path:
        """A fresh upperdir and workdir in the bundle."""
        directory = self._state.bundle / SCRATCH / volume.id
        from stratum.store.trash import remove_tree

        _on_failure(undo, lambda: remove_scratch(self._state.bundle))
        try:
            with contextlib.suppress(FileNotFoundError):
                remove_tree(directory)
            directory.mkdir(mode=0o700, parents=True)
            for name in ("upperdir", "workdir"):
                (directory / name).mkdir(mode=0o700)
        except OSError as exc:
            raise StratumError(f"cannot make {directory}: {os_error_text(exc)}") from None
        from stratum.store.upperdirs import dress_upperdir

        root = volume.root.applied(self._session.store.commits.root(commit))
        dress_upperdir(directory / "upperdir", root, self._session.store.dialect)
        return directory


def _first(process: ContainerProcess) -> Process:
    return process_of(process.pid, process.start_time)


def _on_failure(undo: ExitStack, step: Callable[[], None]) -> None:
    """Have ``undo`` call ``step``; if that fails too, the first error is the one to tell, and records go stale."""

    def attempt() -> None:
        with contextlib.suppress(StratumError):
            step()

    undo.callback(attempt)
