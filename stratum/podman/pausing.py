"""Pausing a container for a moment, so that nothing in it writes: all its processes are frozen, none is told."""

from __future__ import annotations

import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from stratum.errors import StratumError
from stratum.podman.containers import Containers
from stratum.sys import proc

_ANSWER = 60.0
_NAMED = 4
_WAITS = (0.1, 0.2, 0.4, 0.8)
"""Seconds before each further try to pause a container."""
_WAITS_FOR_READERS = (1.0,) * 8
"""Seconds before tries beyond these, where a process in it waits for something, as for a file that is being fetched."""
_NO_CGROUP = re.compile("container does not have a cgroup|without a cgroup")
"""Words of Podman or its runtime where there is nothing to freeze a container by, as a user's on a system with cgroup
v1: further tries are none."""
_KEEPER = """\
trap '' PIPE
"$@" pause "$0" </dev/null >/dev/null || exit
echo
read -r _
"$@" unpause "$0" </dev/null >/dev/null || exec "$@" unpause "$0" </dev/null >/dev/null
"""
"""Pauses, says so with an empty line, waits for the end of its input, and unpauses."""


@contextmanager
def paused(container: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Keep ``container`` (its ID) paused for the block.

    One that is paused already stays so, and one that has ended is none to pause. A pause that fails is tried again, as
    runtimes do not always manage to freeze a busy container at once, and cannot while a process in it waits in the
    kernel for a file that is being fetched: that is waited for, but not for long. However and whenever the block or
    this process ends, the container goes on: a shell pauses it, waits for the end of its input, and unpauses it.
    ``StratumError`` where that fails.

    Raises ``UnsupportedError`` where there is no Podman to ask, ``StratumError`` where it does not pause the container.
    """
    podman = Containers(environment)
    with tempfile.TemporaryFile() as said:  # no pipe, on which Podman would die once we are dead
        keeper = _pause(podman, container, said)
        try:
            yield
        finally:
            if keeper is not None:
                keeper.communicate()
                if keeper.returncode != 0:
                    name = container[:12]
                    raise StratumError(
                        f"container {name} could not be unpaused: {_words(said)}", hint=f"run: podman unpause {name}"
                    )


def _pause(podman: Containers, container: str, said: IO[bytes]) -> subprocess.Popen[bytes] | None:
    """Pause the container, if it runs, until the end of the returned process's input; its errors go to ``said``."""
    stuck: list[tuple[int, str]] = []
    for wait in (*_WAITS, *_WAITS_FOR_READERS, None):
        found = podman.condition(container, timeout=_ANSWER)
        if found is None:
            raise StratumError(f"Podman has no container {container[:12]}")
        if found.state != "running":
            return None
        said.seek(0)
        said.truncate()
        pipe = subprocess.PIPE
        line = ["/bin/sh", "-c", _KEEPER, container, *podman.line]
        keeper = subprocess.Popen(
            line, env=podman.environment, stdin=pipe, stdout=pipe, stderr=said, start_new_session=True
        )
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        if not select.select([keeper.stdout], [], [], _ANSWER)[0]:
            # Podman may wait for the end of this very container, whose hook waits for us: so we wait no more.
            keeper.stdin.close()
            keeper.stdout.close()
            raise StratumError(f"podman pause did not end within {_ANSWER:.0f} s")
        if keeper.stdout.read(1):
            return keeper
        keeper.communicate()
        stuck = proc.stuck_in(container) or stuck
        words = _words(said)
        if wait is None or _NO_CGROUP.search(words) or (wait in _WAITS_FOR_READERS and not stuck):
            raise StratumError(_why_not(stuck) or f"podman pause: {words}")
        time.sleep(wait)
    return None


def _why_not(stuck: list[tuple[int, str]]) -> str:
    """Who keeps a container from being frozen, in words; nothing where nobody is seen."""
    names = ", ".join(f"{pid} ({name})" for pid, name in stuck[:_NAMED])
    return f"processes in it wait in the kernel, as for a file that is being fetched: {names}" if stuck else ""


def _words(said: IO[bytes]) -> str:
    """All of it, as the runtime's own words stand before Podman's."""
    said.seek(0)
    return " ".join(said.read().decode("utf-8", "replace").split()) or "Podman does not say why"
