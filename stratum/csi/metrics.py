"""Figures about the driver in the text format of Prometheus (exposition format 0.0.4), over HTTP."""

from __future__ import annotations

import bisect
import contextlib
import logging
import os
import socket
import socketserver
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.csi.usage import upperdir_usage
from stratum.errors import StratumError, UsageError, os_error_text

if TYPE_CHECKING:
    from stratum.csi.driver import Driver

_log = logging.getLogger(__name__)

BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the durations' histogram, in seconds."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The figures of one driver; may be used by several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operations: dict[tuple[str, str], int] = defaultdict(int)
        self._buckets: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 1))
        self._seconds: dict[str, float] = defaultdict(float)
        self._pulled = self._pushed = 0
        self._collections: dict[str, int] = dict.fromkeys(("done", "busy", "failed"), 0)
        self._freed = self._collected_at = 0
        self._driver: Driver | None = None

    def watch(self, driver: Driver) -> None:
        """Report on the volumes and jobs of ``driver`` too."""
        self._driver = driver

    def operation(self, method: str, code: str, seconds: float) -> None:
        """Count a call that ended with the gRPC status ``code``."""
        with self._lock:
            self._operations[method, code] += 1
            self._buckets[method][bisect.bisect_left(BUCKETS, seconds)] += 1
            self._seconds[method] += seconds

    def pulled(self, size: int) -> None:
        """Count bytes received from registries."""
        with self._lock:
            self._pulled += size

    def pushed(self, size: int) -> None:
        """Count bytes sent to registries."""
        with self._lock:
            self._pushed += size

    def collected(self, result: str, freed: int) -> None:
        """Count a run of the garbage collection (done, busy or failed) and the bytes that it freed."""
        with self._lock:
            self._collections[result] += 1
            self._freed += freed
            if result == "done":
                self._collected_at = int(time.time())

    def text(self) -> str:
        """All figures, looked up now."""
        with self._lock:
            lines = [*self._calls(), *self._transfers(), *self._garbage()]
        if self._driver is not None:
            lines += _state(self._driver)
        return "\n".join(lines) + "\n"

    def _calls(self) -> Iterator[str]:
        yield from _head("stratum_csi_operations_total", "counter", "Calls answered, by method and gRPC status.")
        for (method, code), count in sorted(self._operations.items()):
            yield f'stratum_csi_operations_total{{method="{method}",code="{code}"}} {count}'
        yield from _head("stratum_csi_operation_seconds", "histogram", "Seconds that calls took.")
        for method, counts in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                total += count
                yield f'stratum_csi_operation_seconds_bucket{{method="{method}",le="{bound}"}} {total}'
            yield f'stratum_csi_operation_seconds_sum{{method="{method}"}} {self._seconds[method]:.6f}'
            yield f'stratum_csi_operation_seconds_count{{method="{method}"}} {total}'

    def _transfers(self) -> Iterator[str]:
        yield from _figure("stratum_csi_pulled_bytes_total", "counter", "Bytes received from registries.", self._pulled)
        yield from _figure("stratum_csi_pushed_bytes_total", "counter", "Bytes sent to registries.", self._pushed)

    def _garbage(self) -> Iterator[str]:
        yield from _head("stratum_csi_gc_runs_total", "counter", "Runs of the garbage collection, by how they ended.")
        for result, count in self._collections.items():
            yield f'stratum_csi_gc_runs_total{{result="{result}"}} {count}'
        text = "Bytes of disk that the garbage collection freed."
        yield from _figure("stratum_csi_gc_freed_bytes_total", "counter", text, self._freed)
        text = "When garbage was collected last, in seconds since 1970; 0 for not yet."
        yield from _figure("stratum_csi_gc_last_success_timestamp_seconds", "gauge", text, self._collected_at)


def _state(driver: Driver) -> Iterator[str]:
    store = driver.session.store
    worktrees = dirty = 0
    with contextlib.suppress(StratumError):  # a damaged record is for ListVolumes to tell
        for record in driver.volumes.list():
            with contextlib.suppress(StratumError):  # removed meanwhile
                dirty += upperdir_usage(store.worktrees.get(record.stratum, record.key).upperdir)[0]
                worktrees += 1
    yield from _figure("stratum_csi_worktrees", "gauge", "Worktrees of volumes that the driver made.", worktrees)
    yield from _figure("stratum_csi_dirty_bytes", "gauge", "Bytes that these hold beyond their base commits.", dirty)
    yield from _figure("stratum_csi_jobs", "gauge", "Pulls, pushes and commits under way.", driver.jobs.running)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _figure(name: str, kind: str, text: str, value: int) -> Iterator[str]:
    yield from _head(name, kind, text)
    yield f"{name} {value}"


CONNECTIONS = 8
CONNECTIONS_EACH = 3
"""Connections that are served at the same time, and those from one address among them; others are closed at once."""

PATIENCE = 10.0
"""Seconds for a whole request and its answer."""


class MetricsServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves ``Metrics`` on HOST:PORT or, for people on the node only, on a Unix socket (``unix:///PATH``).

    Whoever reaches the driver's pod can connect, so nobody gets much: see ``CONNECTIONS`` and ``PATIENCE``.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, address: str, metrics: Metrics) -> None:
        self.metrics = metrics
        self._lock = threading.Lock()
        self._served: dict[socket.socket, str] = {}
        self._path: Path | None = None
        if address.startswith("unix:"):
            self.address_family = socket.AF_UNIX
            self._path = Path(address.removeprefix("unix:").replace("//", "", 1))
            bound: str | tuple[str, int] = str(self._path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        else:
            bound = _host_and_port(address)
            self.address_family = socket.AF_INET6 if ":" in bound[0] else socket.AF_INET
        try:
            super().__init__(bound, _Handler)  # type: ignore[arg-type]  # a path, for the other address family
        except OSError as exc:
            raise StratumError(f"cannot serve metrics on {address}: {os_error_text(exc)}") from None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the connection has a place; it has one until ``shutdown_request``."""
        address = client_address[0] if client_address else ""
        with self._lock:
            beside = list(self._served.values())
            if len(beside) >= CONNECTIONS or (address and beside.count(address) >= CONNECTIONS_EACH):
                return False
            self._served[request] = address
        return True

    def shutdown_request(self, request: Any) -> None:
        """See ``socketserver.TCPServer``."""
        with self._lock:
            self._served.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("cannot serve metrics")

    def start(self) -> None:
        """Answer in the background until the process ends."""
        threading.Thread(target=self.serve_forever, daemon=True, name="metrics").start()


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"metrics address {address!r} is neither HOST:PORT nor unix:///PATH")
    return host.strip("[]"), int(port)


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = PATIENCE

    def handle(self) -> None:
        """One request. A timeout is for one read, so a clock breaks off what comes byte by byte."""
        clock = threading.Timer(PATIENCE, self._break_off)
        clock.daemon = True
        clock.start()
        try:
            super().handle()
        finally:
            clock.cancel()

    def _break_off(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        if self.path != "/metrics":
            self.send_error(404)
            return
        body = self.server.metrics.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return str(self.client_address)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Scrapes are not logged."""
