"""The Docker Volume Plugin API over HTTP on a Unix socket, as Podman speaks it to the plugins of containers.conf.

Every call is a POST of a JSON object; the answer is a JSON object with ``Err``, which is empty where all went well and
comes with status 500 otherwise. https://docs.docker.com/engine/extend/plugins_volume/

Whoever can connect can mount strata, so the socket belongs to root alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import stat
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import FrameType
from typing import Any

from stratum.config import Config
from stratum.errors import BusyError, StratumError, UsageError, os_error_text
from stratum.plugin.volumes import PluginVolumes

MAX_BODY = 1 << 20
CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"
_PATIENCE = 60.0

Answer = dict[str, Any]


class PluginServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A server at the socket ``path``, which it makes and, when closed, removes."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, path: Path, config: Config, log: Callable[[str], None]) -> None:
        """Raises ``BusyError`` where another server listens there, ``StratumError`` where no socket can be made."""
        self.path = path
        self.log = log
        self.volumes = PluginVolumes(config)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _clear(path)
            before = os.umask(0o177)
            try:
                super().__init__(str(path), _Handler)
            finally:
                os.umask(before)
        except OSError as exc:
            raise StratumError(f"cannot listen at {path}: {os_error_text(exc)}") from None

    def server_close(self) -> None:
        super().server_close()
        self.path.unlink(missing_ok=True)

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish what is being done. What is mounted stays mounted."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            threading.Thread(target=self.shutdown).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        with self:
            self.serve_forever(poll_interval=0.1)

    def answer(self, path: str, body: Answer) -> Answer:
        """The answer to one call; raises ``StratumError``."""
        name = body.get("Name", "")
        volumes = self.volumes
        if path == "/Plugin.Activate":
            return {"Implements": ["VolumeDriver"]}
        if path == "/VolumeDriver.Capabilities":
            return {"Capabilities": {"Scope": "local"}}
        if path == "/VolumeDriver.Create":
            volumes.create(name, _options(body.get("Opts")))
            return {}
        if path == "/VolumeDriver.Remove":
            volumes.remove(name)
            return {}
        if path == "/VolumeDriver.Mount":
            return {"Mountpoint": volumes.mount(name, str(body.get("ID", "")))}
        if path == "/VolumeDriver.Unmount":
            failure = volumes.unmount(name, str(body.get("ID", "")))
            if failure is not None:
                self.log(f"volume {name} was not committed: {failure}")
            return {}
        if path == "/VolumeDriver.Path":
            return {"Mountpoint": volumes.get(name)[1]}
        if path == "/VolumeDriver.Get":
            return {"Volume": self._described(name)}
        if path == "/VolumeDriver.List":
            return {"Volumes": [self._described(one) for one in volumes.names()]}
        raise UsageError(f"there is no call {ascii(path)[:80]}")

    def _described(self, name: str) -> Answer:
        record, mountpoint = self.volumes.get(name)
        return {"Name": name, "Mountpoint": mountpoint, "CreatedAt": record.created, "Status": record.options}

    def handle_error(self, request: object, client_address: object) -> None:
        """Somebody hung up, or a defect: one line in the log, and the server goes on."""
        self.log(f"a connection ended early: {sys.exc_info()[1]}")


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: PluginServer

    def do_POST(self) -> None:
        try:
            answer, status = {**self.server.answer(self.path, self._body()), "Err": ""}, 200
        except StratumError as exc:
            text = f"stratum: {exc.message}" + (f" ({exc.hint})" if exc.hint else "")
            self.server.log(text)
            answer, status = {"Err": text}, 500
        data = json.dumps(answer).encode("ascii")
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> Answer:
        text = self.headers.get("Content-Length", "0")
        if not text.isdecimal() or int(text) > MAX_BODY:
            self.close_connection = True
            raise UsageError(f"a body of {text[:20]} bytes is not accepted")
        data = self.rfile.read(int(text))
        try:
            body = json.loads(data) if data.strip() else {}
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"the body is not JSON: {exc}") from None
        if not isinstance(body, dict):
            raise UsageError("the body is not a JSON object")
        return body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has that name
        pass


def _options(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise UsageError("'Opts' is not an object of strings")
    return {str(key): item for key, item in value.items()}


def _clear(path: Path) -> None:
    """Remove the socket of a server that is gone."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StratumError(f"{path} is no socket", hint="name another place with --socket")
    except FileNotFoundError:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise BusyError(f"another volume plugin listens at {path}", hint="stop it, or name another place with --socket")
