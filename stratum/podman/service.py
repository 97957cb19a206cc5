"""A connection to the Podman service (podman-py), and the service itself where none is running.

Asked in this order: the URL in ``CONTAINER_HOST`` (podman(1)); the socket that Podman's systemd unit listens on; a
private ``podman system service``, which ends with the connection, or with this process if that is killed. A
``CONTAINER_HOST`` that is set to nothing means a private one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError, UnsupportedError, os_error_text

if TYPE_CHECKING:
    from podman import PodmanClient

SYSTEM_SOCKET = Path("/run/podman/podman.sock")

_PATIENCE = 30.0
_REAPER = 'read -r _; kill -- "-$1"; rm -rf -- "$2"'


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection. ``command`` is the command line, up to the verb, that reaches the same containers without
    it; ``url`` where the service listens."""

    client: PodmanClient
    url: str
    command: list[str]


@contextlib.contextmanager
def connect(runtime_dir: Path, environment: Mapping[str, str], *, timeout: float | None = None) -> Iterator[Connection]:
    """A connection for the block; a private service keeps its socket below ``runtime_dir``.

    ``timeout`` is how many seconds each answer may take.

    Raises ``UnsupportedError`` where there is no Podman, or none that answers.
    """
    with ExitStack() as opened:
        url = environment.get("CONTAINER_HOST")
        if url is None and _is_socket(SYSTEM_SOCKET):
            url = f"unix://{SYSTEM_SOCKET}"
        if url:
            command = ["podman", "--url", url]
        else:
            url = opened.enter_context(_private_service(runtime_dir, environment))
            command = ["podman"]
        from podman import PodmanClient

        try:
            client = opened.enter_context(PodmanClient(base_url=url, timeout=timeout))
            client.ping()
        except (OSError, ValueError) as exc:
            raise UnsupportedError(
                f"the Podman service at {url} does not answer: {api_error_text(exc)}",
                hint="start it (systemctl start podman.socket), or correct CONTAINER_HOST",
            ) from None
        yield Connection(client, url, command)


def without_host(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a Podman command that is told on its command line which service to use, or none."""
    return {key: value for key, value in environment.items() if key != "CONTAINER_HOST"}


def api_error_text(exc: OSError | ValueError) -> str:
    """Podman's own words in an error of its API, in one line."""
    explanation = getattr(exc, "explanation", None)
    return str(explanation or exc).strip().replace("\n", " ")


@contextlib.contextmanager
def _private_service(runtime_dir: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The URL of a Podman service that runs for the block.

    A shell waits for the end of its input, which comes with the end of the block or of this process, however that
    ends; it stops the service, with its whole process group, as Podman without root starts itself a second time, and
    removes the socket's directory.
    """
    program = shutil.which("podman", path=environment.get("PATH"))
    if program is None:
        raise UnsupportedError("Podman is not installed", hint="install it: apt install podman")
    runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="podman.", dir=runtime_dir))
    log, url = directory / "log", f"unix://{directory}/socket"
    with open(log, "wb") as said:
        service = subprocess.Popen(
            [program, "system", "service", "--time=0", url],
            env=without_host(environment),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    reaper = subprocess.Popen(
        ["/bin/sh", "-c", _REAPER, "sh", str(service.pid), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for_socket(service, directory / "socket", log)
        yield url
    finally:
        reaper.communicate()
        service.wait()


def _wait_for_socket(service: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not _is_socket(path):
        if service.poll() is not None or time.monotonic() > deadline:
            said = log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
            raise UnsupportedError(f"'podman system service' does not start: {said or 'it says nothing'}")
        time.sleep(0.01)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise StratumError(f"cannot look at {path}: {os_error_text(exc)}") from None
