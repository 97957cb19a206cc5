"""Commands in a running container around something that needs its programs to hold still, such as a commit.

They run by ``podman exec`` with ``/bin/sh -c``, as the container's user and with its rights only. Of what they print,
which is the container's, a few lines are kept.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO

from stratum.errors import StratumError, os_error_text, quoted
from stratum.podman.containers import Containers

TIMEOUT = 120.0
"""Seconds that each command may take. One that takes longer goes on in the container, and is waited for no more."""
_WORDS = 1000
_KEEPER = """\
trap '' PIPE
read -r _
exec "$@" </dev/null
"""
"""Waits for the end of its input, and runs a command then."""


@contextlib.contextmanager
def around(
    container: str, environment: Mapping[str, str], before: str | None, after: str | None, warn: Callable[[str], object]
) -> Iterator[None]:
    """Run ``before`` in a container (its ID), then the block, then ``after``; either may be None.

    ``after`` runs however the block, ``before`` or this process ends: a shell waits for the end of its input, and runs
    it. Where it fails ``warn`` is told.

    Raises ``UnsupportedError`` where there is no Podman, ``StratumError`` where ``before`` fails: the block is not run.
    """
    podman = Containers(environment)
    keeper = None
    if after is not None:
        line = ["/bin/sh", "-c", _KEEPER, "post-commit", *_exec(podman, container, after)]
        keeper = _Command(line, podman.environment, subprocess.PIPE)
    try:
        if before is not None:
            command = _Command(_exec(podman, container, before), podman.environment, subprocess.DEVNULL)
            failure = command.failure()
            if failure is not None:
                raise StratumError(f"the command before it, {quoted(before)} in container {container[:12]}, {failure}")
        yield
    finally:
        failure = keeper.failure() if keeper is not None else None
        if failure is not None:
            warn(f"the command after the commit, {quoted(after)} in container {container[:12]}, {failure}")


def _exec(podman: Containers, container: str, command: str) -> list[str]:
    return [*podman.line, "exec", container, "/bin/sh", "-c", command]


class _Command:
    """A command that runs, apart from the terminal's signals; of what it prints the end is kept."""

    def __init__(self, line: list[str], environment: Mapping[str, str], stdin: int) -> None:
        try:
            self._process = subprocess.Popen(
                line,
                env=environment,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as exc:
            raise StratumError(f"cannot run {line[0]}: {os_error_text(exc)}") from None
        self._said = bytearray()
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, output: IO[bytes]) -> None:
        with output:
            while data := os.read(output.fileno(), 1 << 16):
                self._said += data
                del self._said[:-_WORDS]

    def failure(self) -> str | None:
        """End its input and wait for it; how it failed, in words, or None."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            code = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"did not end within {TIMEOUT:.0f} s"
        except BaseException:
            if self._process.stdin is None:
                self._process.kill()
            raise
        self._reader.join(1.0)
        words = " ".join(bytes(self._said).decode("utf-8", "replace").split())
        return f"ended with exit code {code}{f': {words}' if words else ''}" if code != 0 else None
