"""``stratum serve`` as a process of its own, and requests to it, one by one."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.command import SCRIPT


@dataclass
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of the error."""
        (error,) = self.json["errors"]
        return str(error["code"])


@dataclass
class Asking:
    """Requests to a server at ``host``, HOST:PORT, each on a connection of its own."""

    host: str
    context: ssl.SSLContext | None = None

    def __call__(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        *,
        user: tuple[str, str] | None = None,
        **headers: str,
    ) -> Answer:
        """``headers`` have underscores for hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if user is not None:
            sent["Authorization"] = "Basic " + b64encode(":".join(user).encode()).decode()
        made = http.client.HTTPConnection(self.host, timeout=60)
        if self.context is not None:
            made = http.client.HTTPSConnection(self.host, timeout=60, context=self.context)
        with closing(made) as connection:
            connection.request(
                method, path, body, sent, encode_chunked=body is not None and not isinstance(body, bytes)
            )
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())


@dataclass
class Served(Asking):
    """A running server."""

    process: subprocess.Popen[bytes] = field(kw_only=True, repr=False)
    log: Path = field(kw_only=True)

    def memory(self) -> int:
        """The most that the server has had in memory so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024

    def told(self) -> list[str]:
        """What it said so far."""
        return self.log.read_text("utf-8").splitlines()


class Stratum(Protocol):
    """The command with a store."""

    environment: dict[str, str]


@contextmanager
def served(
    cli: Stratum, directory: Path, *options: str | Path, context: ssl.SSLContext | None = None
) -> Iterator[Served]:
    """Serve the store of ``cli`` for the block, from a free port of 127.0.0.1; its log is in ``directory``."""
    log = directory / f"serve-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        command = [SCRIPT, "serve", "--listen", "127.0.0.1:0", *options]
        process = subprocess.Popen(command, env=os.environ | cli.environment, stdout=output, stderr=output)
    try:
        yield Served(_address(process, log), context, process=process, log=log)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text("utf-8").splitlines():
            if line.startswith("listening at "):
                return line.rpartition("//")[2]
        assert process.poll() is None, log.read_text("utf-8")
        time.sleep(0.02)
    raise AssertionError(f"it does not listen: {log.read_text('utf-8')}")


def write_users(path: Path, **users: str) -> Path:
    """A file of users and their passwords, at a cost that tests can pay."""
    import bcrypt

    lines = [f"{user}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for user, word in users.items()]
    path.write_text("".join(lines))
    return path
