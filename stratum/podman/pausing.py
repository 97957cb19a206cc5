"""Pausing a container for a moment, so that nothing in it writes: all its processes are frozen, none is told."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError, UnsupportedError
from stratum.podman.service import api_error_text, connect, without_host

if TYPE_CHECKING:
    from podman.domain.containers import Container

_ANSWER = 60.0
_WATCHDOG = 'read -r _ || exec "$@"'


@contextlib.contextmanager
def paused(container: str, runtime_dir: Path, environment: Mapping[str, str]) -> Iterator[str | None]:
    """Keep ``container`` (its ID) paused for the block; yields None, or why it is not paused.

    One that is paused already stays so. However the block or this process ends, the container goes on: a shell that
    waits for the end of its input unpauses it if this process could not. ``StratumError`` where neither could.
    """
    with ExitStack() as held:
        reason = None
        try:
            podman = held.enter_context(connect(runtime_dir, environment, timeout=_ANSWER))
            found = podman.client.containers.get(container)
            if found.status == "running":
                pause = _Pause(found, [*podman.command, "unpause", container], environment)
                held.callback(pause.end)
        except UnsupportedError as exc:
            reason = exc.message
        except (OSError, ValueError) as exc:
            reason = api_error_text(exc)
        yield reason


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
