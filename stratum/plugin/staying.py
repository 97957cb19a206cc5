"""Being where Podman's containers are: what a plugin of an ordinary user mounts elsewhere, Podman does not see.

Podman has its namespaces kept by a process that it ends now and then (``podman system migrate``), and makes new ones
then. A process cannot go from one to the other, so the plugin ends with them, and its service starts it anew.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from stratum.errors import UnsupportedError
from stratum.rootless.podmans import pause_processes
from stratum.sys import userns
from stratum.sys.namespaces import is_own_mount_namespace


def check_place(environment: Mapping[str, str]) -> None:
    """``UnsupportedError`` where what is mounted here is not what a container would get."""
    if userns.owns_system():
        return
    if _keeper(environment) is None:
        raise UnsupportedError(
            "the volume plugin is not in the namespaces in which Podman starts containers now",
            hint="start it anew: systemctl --user restart stratum-volume-plugin",
        )


def end_with_podman(environment: Mapping[str, str], log: Callable[[str], None]) -> None:
    """Have this process get a SIGTERM when Podman's namespaces, in which it is, are not used any more."""
    pid = None if userns.owns_system() else _keeper(environment)
    if pid is None:
        return
    with suppress(OSError):
        keeper = os.pidfd_open(pid)
        threading.Thread(target=_wait, args=(keeper, log), daemon=True, name="podman").start()


def _keeper(environment: Mapping[str, str]) -> int | None:
    """The process that keeps Podman's namespaces, where this one is in them."""
    return next(filter(is_own_mount_namespace, pause_processes(environment)), None)


def _wait(keeper: int, log: Callable[[str], None]) -> None:
    poll = select.poll()
    poll.register(keeper, select.POLLIN)
    poll.poll()
    log("Podman's namespaces have ended, and so does the volume plugin in them")
    os.kill(os.getpid(), signal.SIGTERM)
