"""Hosts that may know one another: each a store with its command, and a server of its own."""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stratum.peers.link import Link
from stratum.peers.tls import client_context
from stratum.store.peerbook import finder
from tests.support.command import SCRIPT, Command


class Host(Command):
    """A host with a store below ``directory``, which calls itself by the name of that."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "store", directory / "run")
        self.directory = directory
        self.name = directory.name
        directory.mkdir()
        (directory / "run").mkdir(mode=0o700)
        self.card = self.ok("peer", "id", "--name", self.name)
        self.process: subprocess.Popen[bytes] | None = None

    def knows(self, other: Host, address: str | None = None) -> None:
        """Add the other one, and where it listens."""
        self.ok("peer", "add", other.name, other.card, *([address] if address else []))

    def link(self, name: str) -> Link:
        """What is needed to speak to a peer."""
        return finder(self.store)(name)

    @contextmanager
    def serving(self, port: int = 0) -> Iterator[str]:
        """Serve peers for the block; HOST:PORT."""
        log = self.directory / "serve.log"
        with log.open("wb") as output:
            command = [SCRIPT, "serve", "--peers", f"127.0.0.1:{port}"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        try:
            yield self._address(log)
        finally:
            if self.process.poll() is None:
                os.kill(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=60)

    def kill(self) -> None:
        """End the server at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _address(self, log: Path) -> str:
        assert self.process is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in log.read_text("utf-8").splitlines():
                if line.startswith("listening for peers at "):
                    return line.rpartition(" ")[2]
            assert self.process.poll() is None, log.read_text("utf-8")
            time.sleep(0.02)
        raise AssertionError(f"it does not listen: {log.read_text('utf-8')}")


@contextmanager
def connected(link: Link, context: ssl.SSLContext | None = None) -> Iterator[http.client.HTTPSConnection]:
    """A connection to a peer, as the host of ``link`` makes it, for requests by hand."""
    context = context or client_context(link.key_file, link.certificate)
    with closing(http.client.HTTPSConnection(link.reachable(), timeout=60, context=context)) as connection:
        yield connection


def ask(
    connection: http.client.HTTPSConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    """(status, body) of the answer."""
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()
