"""Debian's docker-registry (the distribution registry) on a loopback port, with its data in a temporary directory."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.token_server import ISSUER, SERVICE, TokenServer

PROGRAM = "docker-registry"


@dataclass
class RegistryServer:
    """A running registry. ``host`` is HOST:PORT; ``requests`` counts what it was asked so far."""

    host: str
    directory: Path
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def manifest(self, repository: str, reference: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://{self.host}/v2/{repository}/manifests/{reference}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            value: dict[str, Any] = json.load(response)
            return value

    def blob(self, repository: str, digest: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.host}/v2/{repository}/blobs/{digest}", timeout=10) as response:
            data: bytes = response.read()
            return data

    def requests(self) -> list[str]:
        """Every request so far, as ``METHOD /path``."""
        return re.findall(r'"((?:GET|HEAD|POST|PUT|PATCH|DELETE) [^ "]+)', self.log.read_text("utf-8", "replace"))


@contextlib.contextmanager
def registry_server(
    directory: Path,
    *,
    htpasswd: Path | None = None,
    certificate: tuple[Path, Path] | None = None,
    tokens: TokenServer | None = None,
) -> Iterator[RegistryServer]:
    """Run a registry until the block ends. ``certificate`` is (certificate, key) for TLS; ``tokens`` gives out those
    that it wants."""
    directory.mkdir()
    port = _free_port()
    log = directory / "log"
    environment = {
        "PATH": "/usr/bin:/bin",
        "REGISTRY_HTTP_ADDR": f"127.0.0.1:{port}",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(directory / "data"),
        "OTEL_TRACES_EXPORTER": "none",
    }
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if htpasswd is not None:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    if tokens is not None:
        bundle = str(tokens.certificate)
        config["auth"] = {
            "token": {"realm": tokens.url, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}
        }
    if certificate is not None:
        config["http"] = {**config["http"], "tls": {"certificate": str(certificate[0]), "key": str(certificate[1])}}
    config_file = directory / "config.yml"
    config_file.write_text(json.dumps(config))  # JSON is YAML
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PROGRAM, "serve", str(config_file)], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        _wait_until_listening(port, process, log)
        yield RegistryServer(f"127.0.0.1:{port}", directory, log, process)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{PROGRAM} ended at once:\n{log.read_text('utf-8', 'replace')}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"{PROGRAM} does not listen:\n{log.read_text('utf-8', 'replace')}")
