"""Switching what a live mountpoint shows, in one step for whoever reads there.

The new mount is attached **beneath** the old one (move_mount with MOVE_MOUNT_BENEATH, Linux >= 6.5), which changes
nothing that anybody sees; then the old one is detached, and the same path shows the new. Open files and working
directories stay with the old mount until they are closed.

Where the kernel refuses to go beneath, the new mount goes on top: that is one step as well, but the old one stays
mounted below it until both are unmounted.

Nothing written to the old mount may be lost, so it is made read-only first, which the kernel refuses while a file there
is open for writing: no write can slip in between the check and the switch.

Its copies are switched too: bind mounts, also in other mount namespaces, of all of it or of what is below a directory,
as pods have them. What is written through one of them until then is in what was shown before.

A mount in a container is reached by a thread that joins the container's mount namespace. The mount that is switched is
always addressed by an fd of its root, never by path, so nobody who can rename directories there (the container's
processes) can have another mount taken away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from stratum.errors import BusyError, NotFoundError, StratumError, os_error_text
from stratum.frozen import frozen, replace
from stratum.mount.build import build_detached, closing, explained, named_uses, open_mountpoint
from stratum.mount.container import ContainerProcess, context_of
from stratum.mount.plan import MountPlan
from stratum.mount.record import Record
from stratum.sys import mountapi, mountinfo, proc
from stratum.sys.mountapi import MOUNT_ATTR_RDONLY
from stratum.sys.mountinfo import MountEntry
from stratum.sys.namespaces import enter_mount_namespace, in_own_thread
from stratum.sys.syscalls import mountinfo_id, open_in_root, statx_mount_id

_NO_BENEATH = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_PAUSES = (0.001, 0.01, 0.05, 0.2, None)
"""Seconds after which a mount that somebody writes to, but no process does, is asked again to refuse writes."""

T = TypeVar("T")


@frozen
class LiveMount:
    """A recorded mount that is shown now: ``root`` is an fd of its root, ``process`` the container's, if any."""

    record: Record
    root: int
    process: ContainerProcess | None
    entry: MountEntry
    pid: int | str

    @property
    def refuses_writes(self) -> bool:
        """Whether the mount is read-only, whatever its filesystem is."""
        return "ro" in self.entry.options.split(",")

    def take_writes(self) -> None:
        """Let the mount take writes again."""
        self.run(lambda: mountapi.mount_setattr(self.root, clear=MOUNT_ATTR_RDONLY))

    def run(self, work: Callable[[], T]) -> T:
        """Call ``work`` in the mount's namespace, in a thread with a working directory of its own."""

        def entered() -> T:
            if self.process is not None:
                enter_mount_namespace(self.process.mount_namespace)
            return work()

        return in_own_thread(entered)

    def has_copies(self) -> bool:
        """Whether anything else shows the mount's filesystem."""
        mine = 0
        for pid, entry in mountinfo.everywhere(self.record.id):
            if entry.device == self.entry.device and self.record.is_copy(pid, entry):
                mine += 1
                if mine > 1:
                    return True
        return False

    def show(self, plan: MountPlan, *, beneath: bool = True, problems: list[str] | None = None) -> int:
        """Let the mountpoint show the mount of ``plan`` instead, as the holder is to see it: in a container with its
        users' IDs and its SELinux label. The mount ID, to be given to ``State.confirm`` then.

        The source of ``plan`` is to be that of a record, this one or a claim that replaces it, so that the state stays
        true if this process dies halfway. ``beneath=False`` takes the way of old kernels. With ``problems`` the copies
        of the mount show the new one too; the list gets what could not be switched, in words. Raises what
        ``build_detached`` raises.
        """
        plan = replace(plan, extra=plan.extra | attributes_of(self.entry.options) & ~MOUNT_ATTR_RDONLY, shared=True)
        if self.process is None:
            built = build_detached(plan)
        else:
            built = self.process.build(replace(plan, context=context_of(self.entry.super_options)))
        with closing(built):
            try:
                mount_id = self.run(lambda: _switch(built, self.root, beneath))
            except OSError as exc:
                raise explained(exc, f"cannot switch {self.record.mountpoint}") from None
            if problems is not None:
                self._switch_copies(built, problems)
            return mount_id

    def _switch_copies(self, built: int, problems: list[str]) -> None:
        """Let all that still shows what the mount showed show the mount ``built``: also what a switch left that was
        killed, while the mount itself shows something newer. Where that is below the new one it is not to be seen."""
        new = os.fstat(built).st_dev
        shown = f"{os.major(new)}:{os.minor(new)}"
        for pid, entry in list(mountinfo.everywhere(self.record.id)):
            if entry.device == shown or entry.id == self.entry.id or not self.record.is_copy(pid, entry):
                continue
            try:
                self._switch_copy(built, pid, entry)
            except (OSError, StratumError) as exc:
                why = os_error_text(exc) if isinstance(exc, OSError) else exc.message
                problems.append(f"{entry.mountpoint} of process {pid} still shows the old mount: {why}")

    def _switch_copy(self, built: int, pid: int, entry: MountEntry) -> None:
        if mountinfo.below(entry, pid):
            raise BusyError("other filesystems are mounted on it")
        with contextlib.ExitStack() as opened:
            namespace = opened.enter_context(closing(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)))
            root = opened.enter_context(closing(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)))
            old = opened.enter_context(closing(open_in_root(root, os.fsencode(entry.mountpoint), os.O_PATH)))
            if mountinfo_id(directory=old) != entry.id:
                raise BusyError("something else is mounted over it")
            shown = built
            if entry.root != "/":
                shown = opened.enter_context(closing(open_in_root(built, os.fsencode(entry.root), os.O_PATH)))
            # A mount can be cloned in the namespace that it is attached in.
            copy = opened.enter_context(closing(self.run(lambda: mountapi.open_tree_clone(shown))))
            mountapi.mount_setattr(copy, attributes=attributes_of(entry.options))

            def switch() -> None:
                enter_mount_namespace(namespace)
                _switch(copy, old, True)

            in_own_thread(switch)


_ATTRIBUTES = {
    "ro": MOUNT_ATTR_RDONLY,
    "nosuid": mountapi.MOUNT_ATTR_NOSUID,
    "nodev": mountapi.MOUNT_ATTR_NODEV,
    "noexec": mountapi.MOUNT_ATTR_NOEXEC,
    "noatime": mountapi.MOUNT_ATTR_NOATIME,
    "nodiratime": mountapi.MOUNT_ATTR_NODIRATIME,
}


def attributes_of(options: str) -> int:
    """The ``MOUNT_ATTR_*`` that a mount has, from its options in mountinfo."""
    found = 0
    for option in options.split(","):
        found |= _ATTRIBUTES.get(option, 0)
    return found


@contextlib.contextmanager
def swapping(record: Record, *, force: bool = False) -> Iterator[LiveMount]:
    """The mount of ``record``, on the host or in a container, which is to ``show`` something else in the block.

    It takes no writes in the block. Raises ``BusyError`` naming the processes that have files open for writing
    (``force`` goes on, and what they write in the block, which is possible then, is lost), or where other filesystems
    are mounted on the mountpoint; ``NotFoundError`` where the record's mount is not shown any more.
    """
    with opened(record) as live:
        check_nothing_below(live)
        with contextlib.nullcontext() if force else _writes_held(live):
            yield live


def allow_writes(record: Record) -> None:
    """Let the mount of a worktree take writes, which a ``swap`` that was killed left refusing them.

    Does nothing where it takes them, is to be read-only, or is not shown any more. No other swap of it may be running.
    """
    if record.read_only:
        return
    with contextlib.suppress(NotFoundError), opened(record) as live:
        if live.refuses_writes:
            try:
                live.take_writes()
            except OSError as exc:
                raise explained(exc, f"cannot let {record.mountpoint} take writes again") from None


def has_lost_server(record: Record) -> bool:
    """Whether the mount of ``record`` is there, and who serves its names to a user's overlay is not."""
    with contextlib.suppress(StratumError), opened(record) as live:
        try:
            os.stat(f".stratum-{os.urandom(8).hex()}", dir_fd=live.root)  # a name that nobody has an answer for yet
        except OSError as exc:
            return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


@contextlib.contextmanager
def opened(record: Record) -> Iterator[LiveMount]:
    """The mount of ``record``, on the host or in a container. ``NotFoundError`` where it is not shown any more."""
    mountpoint = Path(record.mountpoint)
    with contextlib.ExitStack() as stack:
        process: ContainerProcess | None = None
        pid: int | str = "self"
        if record.in_container:
            pid = record.process.pid
            process, root = _open_in_container(record, stack)
        else:
            root = stack.enter_context(closing(open_mountpoint(mountpoint)))
        number = mountinfo_id(directory=root)
        entry = next((entry for entry in mountinfo.read(pid) if entry.id == number), None)
        if entry is None or not record.is_mount(entry):
            raise NotFoundError(f"{mountpoint} does not show {record.ref} any more")
        yield LiveMount(record, root, process, entry, pid)


def _open_in_container(record: Record, opened: contextlib.ExitStack) -> tuple[ContainerProcess, int]:
    """The container's first process and the mountpoint in it. The process is checked once its files are open."""
    pid, started, who = record.process.pid, record.process.start_time, record.held_by()
    process = opened.enter_context(ContainerProcess(pid, started, who=who))
    try:
        process_root = opened.enter_context(closing(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)))
        if not proc.alive(pid, started):
            raise NotFoundError(f"{who} is gone")
        path = os.fsencode(record.mountpoint)
        root = opened.enter_context(closing(open_in_root(process_root, path, os.O_PATH | os.O_DIRECTORY)))
    except OSError as exc:
        if exc.errno == errno.EPERM:
            raise explained(exc, f"cannot enter {who}") from None
        raise NotFoundError(f"{record.mountpoint} is not in {who} any more") from None
    return process, root


def check_nothing_below(live: LiveMount) -> None:
    """``BusyError`` where other filesystems are mounted on the mount."""
    nested = mountinfo.below(live.entry, live.pid)
    if nested:
        raise BusyError(
            f"other filesystems are mounted on {live.record.mountpoint}: {', '.join(e.mountpoint for e in nested[:8])}",
            hint="unmount them first: they would go away with what is shown now",
        )


@contextlib.contextmanager
def _writes_held(live: LiveMount) -> Iterator[None]:
    """Let the mount refuse writes (EROFS) for the block, so that a worktree is at rest while its next state is made.

    ``BusyError`` names the processes that have files open for writing. If this process is killed in the block, the
    mount stays read-only until ``allow_writes``.
    """
    if live.record.read_only or live.refuses_writes:
        yield
        return
    _refuse_writes(live)
    try:
        # A bind mount of it in another mount namespace is a mount of its own, and still takes writes.
        writers = _writers(live)
        if writers:
            raise _written_to(live, writers)
        yield
    finally:
        # EINVAL: it was switched and is detached.
        with contextlib.suppress(OSError):
            live.take_writes()


def _refuse_writes(live: LiveMount) -> None:
    """Have the mount refuse writes. Raises as ``_writes_held`` does."""
    for pause in _PAUSES:
        try:
            live.run(lambda: mountapi.mount_setattr(live.root, attributes=MOUNT_ATTR_RDONLY))
            return
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise explained(exc, f"cannot stop writes to {live.record.mountpoint}") from None
        # Where no process has a file open for writing, the kernel writes for one that reads: a time of access.
        writers = _writers(live)
        if writers or pause is None:
            raise _written_to(live, writers)
        time.sleep(pause)


def _writers(live: LiveMount) -> list[proc.ProcessUse]:
    return [use for use in proc.users_of_device(live.entry.device) if use.writing]


def _written_to(live: LiveMount, writers: list[proc.ProcessUse]) -> BusyError:
    return BusyError(
        f"files at {live.record.mountpoint} are open for writing: {named_uses(writers) or 'by the kernel'}",
        hint="stop these processes, or use --force: what they write from then on is lost",
    )


def _switch(new_mount: int, old: int, beneath: bool) -> int:
    """Runs in a thread of its own, perhaps in a container's mount namespace: see ``namespaces`` on imports."""
    if beneath and _attach_beneath(new_mount, old):
        os.fchdir(old)
        mountapi.umount2(".", mountapi.MNT_DETACH)
    else:
        mountapi.move_mount(new_mount, old)
    return statx_mount_id(directory=new_mount)


def _attach_beneath(new_mount: int, old: int) -> bool:
    try:
        mountapi.move_mount(new_mount, old, beneath=True)
    except OSError as exc:
        if exc.errno not in _NO_BENEATH:
            raise
        return False
    return True
