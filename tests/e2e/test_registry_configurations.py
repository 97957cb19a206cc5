"""The configurations in ``registry/``, run by the server that they are for."""

from __future__ import annotations

import base64
import configparser
import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from stratum.oci.access import Access
from stratum.oci.credentials import find_credentials
from stratum.oci.login import login
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from tests.e2e.hostile_registry import make_certificate
from tests.e2e.registry_artifacts import FILES, make_commit
from tests.support.pulling import pull

REGISTRY = Path(__file__).parents[2] / "registry"
HTPASSWD = "user:$2b$05$MQF1YZuZ8sz7DQ2lYV4rKOIN.3NwVIrB6IjmTaxjoxgUe86qhfJZW\n"  # secret


@contextlib.contextmanager
def listening(command: list[str | Path], port: int, environment: dict[str, str], log: Path) -> Iterator[str]:
    """Run a server until the block ends; its HOST:PORT once it takes connections."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"], **environment}
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


@contextlib.contextmanager
def distribution(configuration: str, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Debian's docker-registry with a configuration whose files are elsewhere; HOST:PORT and the certificate."""
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    port = free_port()
    environment = {
        "REGISTRY_HTTP_ADDR": f"127.0.0.1:{port}",
        "REGISTRY_HTTP_TLS_CERTIFICATE": str(certificate),
        "REGISTRY_HTTP_TLS_KEY": str(key),
        "REGISTRY_AUTH_HTPASSWD_PATH": str(tmp_path / "htpasswd"),
        "OTEL_TRACES_EXPORTER": "none",
    }
    if "filesystem:" in (REGISTRY / configuration).read_text():
        environment["REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"] = str(tmp_path / "data")
    command: list[str | Path] = ["docker-registry", "serve", REGISTRY / configuration]
    with listening(command, port, environment, tmp_path / "log") as host:
        yield host, certificate


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.registry
def test_distribution_with_a_directory(tmp_path: Path) -> None:
    first, second = Store.create(tmp_path / "first"), Store.create(tmp_path / "second")
    commit = make_commit(first, FILES)
    with distribution("distribution/config.yml", tmp_path) as (host, certificate):
        files = {"HOME": str(tmp_path)}
        access = Access(partial(find_credentials, environment=files), ca_file=certificate)
        login(host, "user", "secret", access, files)
        target = parse_target(f"{host}/team/app")
        push(first, commit, target, access)
        assert pull(second, target, access).commit == commit
    assert any((tmp_path / "data").rglob("data"))


@pytest.mark.registry
def test_distribution_with_s3(tmp_path: Path) -> None:
    """There is no bucket here, so only what does not need one: it starts, and lets nobody in without a password."""
    with distribution("distribution/config-s3.yml", tmp_path) as (host, certificate):
        context = ssl.create_default_context(cafile=certificate)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"https://{host}/v2/", context=context, timeout=10)
        secret = base64.b64encode(b"user:secret").decode()
        request = urllib.request.Request(f"https://{host}/v2/", headers={"Authorization": f"Basic {secret}"})
        with urllib.request.urlopen(request, context=context, timeout=10) as response:
            assert response.status == 200


@pytest.mark.registry
def test_the_registry_for_development(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    port = free_port()
    command: list[str | Path] = [REGISTRY / "run", tmp_path / "registry", str(port)]
    with listening(command, port, {"OTEL_TRACES_EXPORTER": "none"}, tmp_path / "log") as host:
        assert push(store, make_commit(store, FILES), parse_target(f"{host}/a/b"), Access()).blobs_sent


@pytest.mark.parametrize("name", ["config.json", "config-s3.json"])
def test_zot_asks_for_passwords_over_tls(name: str) -> None:
    http = json.loads((REGISTRY / "zot" / name).read_text())["http"]
    assert http["tls"] == {"cert": "/etc/zot/tls.crt", "key": "/etc/zot/tls.key"}
    assert http["auth"]["htpasswd"] == {"path": "/etc/zot/htpasswd"}


@pytest.mark.parametrize(
    ("unit", "configuration"),
    [("registry.container", "/etc/docker/registry/config.yml"), ("zot.container", "/etc/zot/config.json")],
)
def test_the_units_mount_what_the_configurations_name(unit: str, configuration: str) -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.read(REGISTRY / "quadlet" / unit)
    container = dict(parser["Container"])
    assert configuration in container["exec"]
    volumes = [line for line in (REGISTRY / "quadlet" / unit).read_text().splitlines() if line.startswith("Volume=")]
    folder = str(Path(configuration).parent)
    assert f"Volume={folder}:{folder}:ro" in volumes
    where = "registry/distribution/config.yml" if "docker" in configuration else "registry/zot/config.json"
    data = next(line for line in volumes if not line.endswith(":ro")).rpartition(":")[2]
    assert data in (REGISTRY.parent / where).read_text()
