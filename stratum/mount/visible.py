"""Mounts that all programs of an ordinary user see, read-only: outside of the session namespace, by fusermount3.

There the kernel lets nobody but root mount an overlay, but a FUSE filesystem it does, which shows a commit, contents
and all. A process beside it, its attendant (``mount.attendant``), has it served, and unmounts it when it is told to:
from inside the session namespace too. It is on record as any other mount; ``Record.attended`` tells them apart.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from stratum.errors import BusyError, StratumError, UnsupportedError
from stratum.mount import build
from stratum.mount.plan import MountPlan
from stratum.mount.record import Record, find_mount
from stratum.sys import fusermount, proc, userns
from stratum.sys.asking import Daemon
from stratum.sys.proc import Process
from stratum.sys.syscalls import statx_mount_id

ATTENDANT = "stratum.mount.attendant"


def socket_name(record_id: str) -> str:
    """The name of the socket of a mount's attendant, in the runtime directory."""
    return f"visible-{record_id}.sock"


def mount(record: Record, plan: MountPlan, runtime_dir: Path) -> tuple[int, Process]:
    """Mount the image of ``plan``, of which nothing else counts but ``data``, as ``record`` says: (mount ID, the
    attendant). Owners are as the user sees them: 0 is the user, others are the subordinate IDs.

    Raises ``UnsupportedError`` without fusermount3 or inside of a user namespace, ``StratumError``.
    """
    from stratum.sys.spawn import spawn

    if not userns.in_initial_namespace():
        raise UnsupportedError(
            "from inside of the session namespace nothing can be mounted outside of it",
            hint="leave 'stratum shell' (or 'podman unshare') first",
        )
    fusermount.program()
    settings = {
        "runtime_dir": str(runtime_dir),
        "id": record.id,
        "mountpoint": record.mountpoint,
        "source": record.source,
        "layers": len(plan.data),
        "uids": _ranges("subuid", os.geteuid()),
        "gids": _ranges("subgid", os.getegid()),
    }
    with ExitStack() as opened:
        files = [opened.enter_context(build.opened_layer(plan.image, os.O_RDONLY))]
        files += [opened.enter_context(build.opened_layer(layer)) for layer in plan.data]
        start = lambda: spawn(ATTENDANT, settings, passing=files)  # noqa: E731
        (answer,) = _attendant(record, runtime_dir).ask({"op": "mount"}, start=start, tries=1)
    pid = int(answer["pid"])
    process = proc.process_of(pid, proc.start_time(pid) or 0)
    try:
        return statx_mount_id(Path(record.mountpoint)), process
    except OSError as exc:
        raise build.explained(exc, f"cannot mount on {record.mountpoint}") from None


def _ranges(kind: str, user: int) -> list[tuple[int, int, int]]:
    """The IDs of a session namespace as they are outside: (inside, outside, how many)."""
    found, inside = [(0, user, 1)], 1
    for first, count in userns.subordinate_ids(kind, os.geteuid()):
        found.append((inside, first, count))
        inside += count
    return found


def unmount(record: Record, runtime_dir: Path, *, lazy: bool = False) -> None:
    """Unmount it, from inside of the session namespace or outside. Raises ``BusyError`` naming who uses it,
    ``ConflictError`` where something else was mounted over it, ``StratumError``."""
    if _attendant(record, runtime_dir).ask({"op": "unmount", "lazy": lazy}) or find_mount(record) is None:
        return
    if not userns.in_initial_namespace():
        raise StratumError(
            f"what served {record.mountpoint} was killed, so it cannot be unmounted from inside the session namespace",
            hint=f"leave 'stratum shell' first, or run outside: fusermount3 -u {record.mountpoint}",
        )
    try:
        fusermount.unmount(record.mountpoint, lazy=lazy)
    except BusyError:
        raise build.busy(Path(record.mountpoint)) from None
    (runtime_dir / socket_name(record.id)).unlink(missing_ok=True)


def _attendant(record: Record, runtime_dir: Path) -> Daemon:
    what = f"what serves {record.mountpoint}"
    return Daemon(runtime_dir, socket_name(record.id), what, f"unmount it: fusermount3 -u {record.mountpoint}")
