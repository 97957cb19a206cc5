"""Pausing a container for a moment, so that nothing in it writes: all its processes are frozen, none is told."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from stratum.errors import StratumError
from stratum.podman.containers import Containers

_ANSWER = 60.0
_WAITS = (0.1, 0.2, 0.4, 0.8)
"""Seconds before each further try to pause a container."""
_WATCHDOG = 'read -r _; exec "$@"'


@contextmanager
def paused(container: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Keep ``container`` (its ID) paused for the block.

    One that is paused already stays so, and one that has ended is none to pause. A pause that fails is tried again, as
    runtimes do not always manage to freeze a busy container at once. However the block or this process ends, the
    container goes on: a shell that waits for the end of its input unpauses it.
    ``StratumError`` where that fails.

    Raises ``UnsupportedError`` where there is no Podman to ask, ``StratumError`` where it does not pause the container.
    """
    podman = Containers(environment)
    watchdog = _pause(podman, container)
    try:
        yield
    finally:
        if watchdog is not None:
            watchdog.communicate()
            if watchdog.returncode != 0:
                _unpause(podman, container)


def _pause(podman: Containers, container: str) -> subprocess.Popen[bytes] | None:
    """Pause the container, if it runs, until the end of the returned process's input."""
    deadline = time.monotonic() + _ANSWER
    for wait in (*_WAITS, None):
        found = podman.condition(container, timeout=_ANSWER)
        if found is None:
            raise StratumError(f"Podman has no container {container[:12]}")
        if found.state != "running":
            return None
        try:
            return _try_pause(podman, container)
        except StratumError:
            # Where Podman did not answer, it may wait for the end of this very container, whose hook waits for us.
            if wait is None or time.monotonic() > deadline:
                raise
        time.sleep(wait)
    return None


def _try_pause(podman: Containers, container: str) -> subprocess.Popen[bytes]:
    watchdog = _watchdog(podman, container)
    try:
        podman.pause(container, timeout=_ANSWER)
    except BaseException:
        watchdog.communicate()  # perhaps it is paused all the same
        raise
    return watchdog


def _watchdog(podman: Containers, container: str) -> subprocess.Popen[bytes]:
    """A process that unpauses the container at the end of its input, which comes with the end of this process too."""
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG, "sh", *podman.line, "unpause", container],
        env=podman.environment,
        stdin=subprocess.PIPE,
        stdout=nowhere,
        stderr=nowhere,
        start_new_session=True,
    )


def _unpause(podman: Containers, container: str) -> None:
    try:
        podman.unpause(container)
    except StratumError as exc:
        name = container[:12]
        raise StratumError(
            f"container {name} could not be unpaused: {exc.message}", hint=f"run: podman unpause {name}"
        ) from None
