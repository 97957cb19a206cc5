"""Pausing a container for a moment, so that nothing in it writes: all its processes are frozen, none is told."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError
from stratum.podman.service import Connection, api_error_text, connect, without_host

if TYPE_CHECKING:
    from podman.domain.containers import Container

_ANSWER = 60.0
_WAITS = (0.1, 0.2, 0.4, 0.8)
"""Seconds before each further try to pause a container."""
_WATCHDOG = 'read -r _ || exec "$@"'


@contextlib.contextmanager
def paused(container: str, runtime_dir: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Keep ``container`` (its ID) paused for the block.

    One that is paused already stays so, and one that has ended is none to pause. A pause that fails is tried again, as
    runtimes do not always manage to freeze a busy container at once. However the block or this process ends, the
    container goes on: a shell that waits for the end of its input unpauses it if this process could not.
    ``StratumError`` where neither could.

    Raises ``UnsupportedError`` where there is no Podman to ask, ``StratumError`` where it does not pause the container.
    """
    with ExitStack() as held:
        podman = held.enter_context(connect(runtime_dir, environment, timeout=_ANSWER))
        _pause(podman, container, environment, held)
        yield


def _pause(podman: Connection, container: str, environment: Mapping[str, str], held: ExitStack) -> None:
    """Pause the container, if it runs, until ``held`` ends."""
    for wait in (*_WAITS, None):
        failure = _try_pause(podman, container, environment, held)
        if failure is None:
            return
        # Where Podman did not answer, it may be waiting for the end of this very container, whose hook waits for us.
        if wait is None or getattr(failure, "response", None) is None:
            raise StratumError(api_error_text(failure))
        time.sleep(wait)


def _try_pause(
    podman: Connection, container: str, environment: Mapping[str, str], held: ExitStack
) -> OSError | ValueError | None:
    """Why the container could not be paused; None where it is, or needs not be."""
    try:
        found = podman.client.containers.get(container)
        if found.status == "running":
            pause = _Pause(found, [*podman.command, "unpause", container], environment)
            held.callback(pause.end)
    except (OSError, ValueError) as exc:
        return exc
    return None


class _Pause:
    """A container that is paused from the making of this object to its ``end``."""

    def __init__(self, container: Container, unpause: list[str], environment: Mapping[str, str]) -> None:
        self._container = container
        nowhere = subprocess.DEVNULL
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", *unpause],
            env=without_host(environment),
            stdin=subprocess.PIPE,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,
        )
        try:
            container.pause()
        except BaseException:
            # Perhaps it is paused all the same.
            self._watchdog.communicate()
            raise

    def end(self) -> None:
        try:
            self._container.unpause()
        except OSError as exc:
            self._watchdog.communicate()
            if self._watchdog.returncode != 0:
                name = str(self._container.id)[:12]
                raise StratumError(
                    f"container {name} could not be unpaused: {api_error_text(exc)}", hint=f"run: podman unpause {name}"
                ) from None
        except BaseException:
            self._watchdog.communicate()
            raise
        else:
            self._watchdog.communicate(b"\n")
