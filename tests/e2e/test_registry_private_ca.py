"""Registries whose certificate an authority of one's own signed, made as everybody makes one."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from urllib3.util.ssl_ import create_urllib3_context

from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.csi import PROGRAM, Node, refused
from tests.support.pulling import pull

pytestmark = [pytest.mark.root, pytest.mark.registry]

NAME = "127.1"
"""This machine under a name that is not taken for it, as with a loopback address TLS is not used unless asked for."""


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """An authority as ``openssl req -x509`` makes it: without a key usage."""
    key, certificate = tmp_path / "ca.key", tmp_path / "ca.pem"
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Private", "-keyout", key, "-out", certificate
    )
    text = subprocess.run(["openssl", "x509", "-in", certificate, "-noout", "-text"], capture_output=True, check=True)
    assert b"Key Usage" not in text.stdout
    return certificate


@pytest.fixture
def registry(tmp_path: Path, authority: Path) -> Iterator[tuple[RegistryServer, str]]:
    """A registry with a certificate of the authority's, and HOST:PORT by name."""
    key, request, certificate = tmp_path / "key.pem", tmp_path / "csr.pem", tmp_path / "cert.pem"
    extensions = tmp_path / "extensions"
    extensions.write_text(f"subjectAltName=DNS:localhost,DNS:{NAME},IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", key, "-out", request)
    signed = ["-CA", authority, "-CAkey", authority.with_suffix(".key"), "-CAcreateserial", "-extfile", extensions]
    openssl("x509", "-req", "-in", request, "-days", "2", "-out", certificate, *signed)
    with registry_server(tmp_path / "registry", certificate=(certificate, key)) as running:
        yield running, f"{NAME}:{running.host.rpartition(':')[2]}"


def pushed(node: Node, directory: Path, registry: RegistryServer, authority: Path) -> None:
    source = directory / "source"
    source.mkdir()
    (source / "file").write_text("content")
    node.cli.ok("import", "--bare", source, "app")
    node.cli.ok("push", "app:latest", f"{registry.host}/team/app:v1", "--ca-file", authority)


def test_an_authority_without_key_usage_is_taken_on_every_python(
    registry: tuple[RegistryServer, str], authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python 3.13 on contexts are strict by default; here one is made so."""

    def strict() -> ssl.SSLContext:
        context = create_urllib3_context()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    running, _ = registry
    pushed(Node(tmp_path / "n"), tmp_path, running, authority)
    address = ("127.0.0.1", int(running.host.rpartition(":")[2]))
    refusing = strict()
    refusing.load_verify_locations(authority)
    with socket.create_connection(address) as plain, pytest.raises(ssl.SSLCertVerificationError, match="key usage"):
        refusing.wrap_socket(plain, server_hostname="localhost")
    monkeypatch.setattr("stratum.oci.tls.create_urllib3_context", strict)
    store = Store.create(tmp_path / "other")
    done = pull(store, parse_target(f"{running.host}/team/app:v1"), Access(ca_file=authority))
    assert store.commits.exists(done.commit)


def test_the_driver_takes_a_private_authority_besides_the_systems(
    registry: tuple[RegistryServer, str], authority: Path, tmp_path: Path, runtime_dir: Path
) -> None:
    running, host = registry
    source = {"source": f"{host}/team/app:v1"}
    with Node(tmp_path / "n") as node:
        node.cli.environment["NO_PROXY"] = NAME
        node.restart()
        pushed(node, tmp_path, running, authority)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "--ca-file of stratum-csi"):
            node.create("pvc-1", source)
        node.options = ("--ca-file", str(authority))
        node.restart()
        assert node.create("pvc-1", source).volume_id
        # A renewed file counts without a restart.
        authority.rename(authority.with_suffix(".away"))
        with refused(grpc.StatusCode.INTERNAL, "cannot read certificate authorities"):
            node.create("pvc-2", source)


def test_a_file_without_certificates_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("no certificate")
    options = ["--endpoint", "unix:///tmp/x", "--node-id", "n", "--store", tmp_path / "store"]
    for name in ("empty", "missing"):
        command = [PROGRAM, *options, "--ca-file", tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, "no certificates can be read" in done.stderr) == (2, True)
        assert "Traceback" not in done.stderr
