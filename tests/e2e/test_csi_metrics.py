"""What the driver tells Prometheus, and what those get who only hold connections to it."""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path

import grpc
import pytest

from stratum.csi.metrics import CONNECTIONS, CONNECTIONS_EACH
from tests.support.csi import Node

pytestmark = pytest.mark.root


def test_metrics(tmp_path: Path, runtime_dir: Path) -> None:
    with Node(tmp_path / "n", "--metrics", "127.0.0.1:0") as node:
        assert "cannot serve metrics" not in node.log.read_text()
    with Node(tmp_path / "m", "--metrics", f"unix://{tmp_path}/metrics.sock") as node:
        node.create("pvc-1")
        with pytest.raises(grpc.RpcError):
            node.create("")
        text = scrape(tmp_path / "metrics.sock")
    assert 'stratum_csi_operations_total{method="CreateVolume",code="OK"} 1\n' in text
    assert 'stratum_csi_operations_total{method="CreateVolume",code="INVALID_ARGUMENT"} 1\n' in text
    assert 'stratum_csi_operation_seconds_bucket{method="CreateVolume",le="+Inf"} 2\n' in text
    assert "\nstratum_csi_worktrees 1\n" in text


def scrape(path: Path) -> str:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/metrics")
    body = connection.getresponse().read().decode()
    connection.close()
    return body


def test_connections_that_only_wait_take_nothing_from_others(tmp_path: Path, runtime_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Node(tmp_path / "n", "--metrics", f"127.0.0.1:{port}") as node, contextlib.ExitStack() as stack:
        threads, descriptors = node.threads(), node.descriptors()
        held = []
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(ConnectionError):  # it was closed already
                connection.send(b"GET /met")
            held.append(connection)
        assert "stratum_csi_worktrees" in scrape_from("127.0.0.2", port), "another address has a place"
        assert node.threads() < threads + CONNECTIONS * 2 + 4
        assert node.descriptors() < descriptors + CONNECTIONS + 8
        for connection in held:
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1000) == b"", "each is closed, the last ones by the clock"
        assert "stratum_csi_worktrees" in scrape_from("127.0.0.1", port)
        assert CONNECTIONS_EACH < CONNECTIONS


def scrape_from(address: str, port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, source_address=(address, 0), timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
