"""What the driver tells Prometheus, over TLS too, and what those get who only hold connections to it."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import ssl
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stratum.csi.metrics import LIMITS
from tests.e2e.hostile_registry import make_certificate
from tests.support.csi import Node

pytestmark = pytest.mark.root


FIGURES = {
    "stratum_csi_operations": "counter",
    "stratum_csi_operation_seconds": "histogram",
    "stratum_csi_pulled_bytes": "counter",
    "stratum_csi_pushed_bytes": "counter",
    "stratum_csi_gc_runs": "counter",
    "stratum_csi_gc_freed_bytes": "counter",
    "stratum_csi_gc_last_success_timestamp_seconds": "gauge",
    "stratum_csi_worktrees": "gauge",
    "stratum_csi_dirty_bytes": "gauge",
    "stratum_csi_jobs": "gauge",
    "stratum_csi_limited_worktrees": "gauge",
    "stratum_csi_disk_used_ratio": "gauge",
    "stratum_csi_disk_mark_ratio": "gauge",
    "stratum_csi_disk_short_bytes": "gauge",
    "stratum_csi_pulls_refused": "counter",
    "stratum_csi_orphans": "gauge",
    "stratum_csi_orphans_removed": "counter",
    "stratum_csi_volume_mounted": "gauge",
    "stratum_csi_volume_real_bytes": "gauge",
    "stratum_csi_volume_unreal_bytes": "gauge",
    "stratum_csi_volume_source_up": "gauge",
    "stratum_csi_lazy_keeper_up": "gauge",
    "stratum_csi_lazy_mounts": "gauge",
    "stratum_csi_lazy_waiting": "gauge",
    "stratum_csi_lazy_waiting_seconds": "gauge",
    "stratum_csi_lazy_sources": "gauge",
    "stratum_csi_lazy_asks": "counter",
    "stratum_csi_lazy_hits": "counter",
    "stratum_csi_lazy_errors": "counter",
    "stratum_csi_lazy_fetches": "counter",
    "stratum_csi_lazy_fetched_bytes": "counter",
}


def test_metrics(tmp_path: Path, runtime_dir: Path) -> None:
    path = tmp_path / "metrics.sock"
    with Node(tmp_path / "m", "--metrics", f"unix://{path}") as node:
        assert path.stat().st_mode & 0o777 == 0o600
        node.create("pvc-1")
        with pytest.raises(grpc.RpcError):
            node.create("")
        text = scrape(path)
        assert node.kill(signal.SIGTERM) == 0
    assert not path.exists()
    families = list(text_string_to_metric_families(text))
    assert {family.name: family.type for family in families} == FIGURES
    assert all(family.documentation for family in families)
    values = {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}
    assert values["stratum_csi_operations_total", "OK", "CreateVolume"] == 1
    assert values["stratum_csi_operations_total", "INVALID_ARGUMENT", "CreateVolume"] == 1
    assert values["stratum_csi_operation_seconds_bucket", "+Inf", "CreateVolume"] == 2
    assert values["stratum_csi_gc_runs_total", "failed"] == 0
    assert values["stratum_csi_worktrees",] == 1
    assert not [name for name, *_ in values if name.endswith("_created")]


def scrape(path: Path) -> str:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/metrics")
    body = connection.getresponse().read().decode()
    connection.close()
    return body


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_metrics_over_tls_with_a_certificate_that_is_renewed(tmp_path: Path, runtime_dir: Path) -> None:
    mounted = tmp_path / "secret"
    mounted.mkdir()
    for name in ("tls.crt", "tls.key"):  # as a Secret is mounted: links that lead through one that is replaced
        (mounted / name).symlink_to(f"..data/{name}")
    shown = [renew(mounted, tmp_path / "first")]
    port = free_port()
    files = ["--metrics-tls-cert", str(mounted / "tls.crt"), "--metrics-tls-key", str(mounted / "tls.key")]
    with Node(tmp_path / "n", "--metrics", f"127.0.0.1:{port}", *files) as node:
        assert scrape_tls(port, mounted / "tls.crt") == shown[0]
        shown.append(renew(mounted, tmp_path / "second"))
        assert scrape_tls(port, mounted / "tls.crt") == shown[1] != shown[0], "who connects next sees the new one"
        (mounted / "tls.key").unlink()
        for _ in range(2):
            assert scrape_tls(port, mounted / "tls.crt") == shown[1], "what cannot be used changes nothing"
        with pytest.raises((http.client.HTTPException, OSError)):
            scrape_from("127.0.0.1", port)
        told = [line for line in node.log.read_text().splitlines() if "the one from before is still shown" in line]
    assert len(told) == 1
    assert "cannot use the certificate" in told[0]


def test_metrics_are_for_those_with_a_certificate_of_the_clients_authority(tmp_path: Path, runtime_dir: Path) -> None:
    names = ("server", "mine", "other")
    for name in names:
        (tmp_path / name).mkdir()
    (cert, key), mine, other = (make_certificate(tmp_path / name) for name in names)
    known = tmp_path / "clients.pem"
    known.write_bytes(mine[0].read_bytes())
    port = free_port()
    files = ["--metrics-tls-cert", str(cert), "--metrics-tls-key", str(key), "--metrics-client-ca", str(known)]
    with Node(tmp_path / "n", "--metrics", f"127.0.0.1:{port}", *files):
        assert scrape_tls(port, cert, mine)
        for refused in (other, None):
            with pytest.raises(OSError):
                scrape_tls(port, cert, refused)
        known.write_bytes(other[0].read_bytes() + b"\n")
        assert scrape_tls(port, cert, other), "who is let in follows the file"
        with pytest.raises(OSError):
            scrape_tls(port, cert, mine)


def renew(mounted: Path, directory: Path) -> bytes:
    """Have ``mounted`` lead to another certificate, as the kubelet does; the certificate (DER)."""
    directory.mkdir()
    certificate, key = make_certificate(directory)
    certificate.rename(directory / "tls.crt")
    key.rename(directory / "tls.key")
    (mounted / "..new").symlink_to(directory)
    (mounted / "..new").rename(mounted / "..data")
    return ssl.PEM_cert_to_DER_cert((directory / "tls.crt").read_text())


def scrape_tls(port: int, authority: Path, client: tuple[Path, Path] | None = None) -> bytes:
    """Read the metrics from who has a certificate of ``authority`` for localhost, as ``client`` (certificate and key);
    the server's certificate (DER)."""
    context = ssl.create_default_context(cafile=authority)
    if client is not None:
        context.load_cert_chain(*client)
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    connection.connect()
    shown = connection.sock.getpeercert(binary_form=True)
    connection.request("GET", "/metrics")
    assert "stratum_csi_worktrees" in connection.getresponse().read().decode()
    connection.close()
    return bytes(shown)


def test_connections_that_only_wait_take_nothing_from_others(tmp_path: Path, runtime_dir: Path) -> None:
    port = free_port()
    with Node(tmp_path / "n", "--metrics", f"127.0.0.1:{port}") as node, contextlib.ExitStack() as stack:
        threads, descriptors = node.threads(), node.descriptors()
        held = []
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(ConnectionError):  # it was closed already
                connection.send(b"GET /met")
            held.append(connection)
        assert "stratum_csi_worktrees" in scrape_from("127.0.0.2", port), "another address has a place"
        assert node.threads() < threads + LIMITS.connections * 2 + 4
        assert node.descriptors() < descriptors + LIMITS.connections + 8
        for connection in held:
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1000) == b"", "each is closed, the last ones by the clock"
        assert "stratum_csi_worktrees" in scrape_from("127.0.0.1", port)
        assert LIMITS.each < LIMITS.connections


def scrape_from(address: str, port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, source_address=(address, 0), timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
