"""versitygw, a server that speaks S3, on a loopback port, with its buckets in a temporary directory.

One runs for all tests of a process (the fixture ``s3_server``); each test has a bucket, or a prefix, of its own. It is
killed when the process that started it ends, however that happens.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.gotools import go_program

KEY, SECRET = "stratum-test", "tell-nobody-of-this-secret"
REGION = "us-east-1"
_START_TIMEOUT = 60


@dataclass
class S3Server:
    """A running server. ``host`` is HOST:PORT, ``directory`` has a directory for each bucket."""

    host: str
    directory: Path
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    scheme: str = "http"

    def kill(self) -> None:
        """End it without warning; connections to it are cut."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start it again, where it was."""
        self.process = _started(list(map(str, self.process.args)), self.log, self.directory.parent)  # type: ignore[arg-type]
        _wait(self.process, self.host, self.log)

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def environment(self) -> dict[str, str]:
        """What the AWS tools need to use it."""
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION}

    def bucket(self, name: str) -> str:
        """Make a bucket where it is not there; the reference to it, without a tag."""
        (self.directory / name).mkdir(exist_ok=True)
        return f"s3://{name}"

    def reference(self, name: str, prefix: str = "", tag: str = "") -> str:
        """A reference with the endpoint to a bucket, which is made where it is not there."""
        path = f"{self.bucket(name)}/{prefix}" if prefix else self.bucket(name)
        return f"{path}:{tag}?endpoint={self.endpoint}" if tag else f"{path}?endpoint={self.endpoint}"

    def requests(self) -> list[str]:
        """Every request so far that was answered, as ``METHOD /path``, with its query where it has one."""
        found = re.findall(
            r"\| vgw \|[^|]*\|[^|]*\|[^|]*\| ([A-Z]+) \| ([^ |]+) \|[^|]*\| ?([^\n]*)",
            self.log.read_text("utf-8", "replace"),
        )
        return [f"{method} {path}" + (f"?{query.strip()}" if query.strip() else "") for method, path, query in found]


def gateway() -> Path:
    """The program, built where it is not there yet."""
    return go_program("versitygw")


@contextlib.contextmanager
def s3_running(directory: Path, *, certificate: tuple[Path, Path] | None = None) -> Iterator[S3Server]:
    """Run a server until the block ends. ``certificate`` is (certificate, key) for TLS."""
    data, log = directory / "data", directory / "log"
    data.mkdir(parents=True)
    host = f"127.0.0.1:{_free_port()}"
    tls = ["--cert", str(certificate[0]), "--key", str(certificate[1])] if certificate is not None else []
    command = [str(gateway()), "--port", host, *tls, "posix", str(data)]
    process = _started(_dying_with_us(command), log, directory)
    server = S3Server(host, data, log, process, "https" if certificate is not None else "http")
    try:
        _wait(process, host, log)
        yield server
    finally:
        server.kill()


def _started(command: list[str], log: Path, home: Path) -> subprocess.Popen[bytes]:
    environment = {"PATH": "/usr/bin:/bin", "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET, "HOME": str(home)}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )


def _dying_with_us(command: Sequence[str]) -> list[str]:
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin")
    return [*([setpriv, "--pdeathsig", "KILL"] if setpriv else []), *command]


def _wait(process: subprocess.Popen[bytes], host: str, log: Path) -> None:
    name, _, port = host.rpartition(":")
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection((name, int(port)), 1).close()
            return
        time.sleep(0.05)
    pytest.fail(f"versitygw did not start:\n{log.read_text('utf-8', 'replace')[-2000:]}", pytrace=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server that all tests of this process share."""
    with s3_running(tmp_path_factory.mktemp("s3") / "server") as running:
        yield running
