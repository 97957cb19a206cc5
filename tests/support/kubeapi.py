"""As much of an API server as the populator uses: objects by their paths, versions that are held to, finalizers, merge
patches and watches. A real one takes a quarter of an hour to build; what that does besides is seen in a cluster
(``k8s/e2e/README.md``)."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
CLAIMS = "/api/v1/persistentvolumeclaims"


def merged(old: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class KubeApi:
    """``with KubeApi() as api``; ``api.kubeconfig(DIR)`` leads to it."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.asked: list[str] = []
        self.changed = threading.Condition()
        self.meddle: Callable[[str, str, bool], None] = lambda _method, _path, _after: None
        """Called before and after each request that changes anything but events: method, path, whether it is after."""
        self._version = 1
        self._log: list[tuple[int, str, str, Object]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    def __enter__(self) -> KubeApi:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, directory: Path) -> Path:
        """A kubeconfig for this server."""
        path = directory / "kubeconfig"
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        path.write_text(
            json.dumps(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": server}}],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )
        return path

    def put(self, path: str, found: Mapping[str, Any]) -> Object:
        """Have an object at a path, as if somebody had made or replaced it."""
        with self.changed:
            old = self.objects.get(path)
            meta = {"name": path.rpartition("/")[2], "uid": old["metadata"]["uid"] if old else str(uuid.uuid4())}
            if "/namespaces/" in path:
                meta["namespace"] = path.partition("/namespaces/")[2].partition("/")[0]
            return self._store(path, {**found, "metadata": {**found.get("metadata", {}), **meta}})

    def delete(self, path: str) -> None:
        """Delete an object, or have it wait for its finalizers."""
        with self.changed:
            found = self.objects[path]
            self._store(path, merged(found, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))

    def below(self, part: str) -> list[Object]:
        """The objects with a part in their path."""
        with self.changed:
            return [found for path, found in self.objects.items() if part in path]

    def wait(self, true: Callable[[], Any], seconds: float = 60.0) -> None:
        """Wait until something is so."""
        ends = time.monotonic() + seconds
        with self.changed:
            while not true():
                assert time.monotonic() < ends, json.dumps(self.objects, indent=1)
                self.changed.wait(0.05)  # what is waited for may be no object

    def _store(self, path: str, found: Object) -> Object:
        self._version += 1
        found = merged(found, {"metadata": {"resourceVersion": str(self._version)}})
        meta, kind = found["metadata"], "MODIFIED" if path in self.objects else "ADDED"
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            kind = "DELETED"
            self.objects.pop(path, None)
        else:
            self.objects[path] = found
        self._log.append((self._version, kind, path, found))
        self.changed.notify_all()
        return found

    def answer(self, method: str, path: str, body: Object) -> tuple[int, Object]:
        """What a request that is no watch is answered with."""
        with self.changed:
            if method == "POST":
                path = f"{path}/{body['metadata']['name']}"
                if path in self.objects:
                    return 409, {"reason": "AlreadyExists"}
                return 201, self.put(path, body)
            if method == "GET" and path == CLAIMS:
                items = [found for each, found in self.objects.items() if "/persistentvolumeclaims/" in each]
                return 200, {"metadata": {"resourceVersion": str(self._version)}, "items": items}
            if path not in self.objects:
                return 404, {"reason": "NotFound"}
            found = self.objects[path]
            if method == "PATCH":
                given = body.get("metadata", {})
                if any(
                    given.get(key, found["metadata"][key]) != found["metadata"][key]
                    for key in ("uid", "resourceVersion")
                ):
                    return 409, {"reason": "Conflict"}
                return 200, self._store(path, merged(found, body))
            return 200, found

    def events(self, since: int, seconds: float) -> list[tuple[int, str, Object]]:
        """What happened to claims after a version; waits for something."""

        def found() -> list[tuple[int, str, Object]]:
            return [
                (v, kind, it) for v, kind, path, it in self._log if v > since and "/persistentvolumeclaims/" in path
            ]

        with self.changed:
            self.changed.wait_for(found, seconds)
            return found()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = parse_qs(parts.query)
                if "watch" in query:
                    self._watch(int(query["resourceVersion"][0]))
                else:
                    self._answer(parts.path)

            def do_POST(self) -> None:
                self._answer(urlsplit(self.path).path)

            def do_PATCH(self) -> None:
                self._answer(urlsplit(self.path).path)

            def _answer(self, path: str) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
                api.asked.append(f"{self.command} {self.path}")
                counts = self.command != "GET" and "/events" not in path
                if counts:
                    api.meddle(self.command, path, False)
                status, found = api.answer(self.command, path, body)
                if counts:
                    api.meddle(self.command, path, True)
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _watch(self, since: int) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.close_connection = True
                ends = time.monotonic() + 300
                try:
                    while time.monotonic() < ends:
                        for version, kind, found in api.events(since, 0.5):
                            since = version
                            line = json.dumps({"type": kind, "object": found}).encode() + b"\n"
                            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                except OSError:
                    return

            def log_message(self, *_args: object) -> None:
                """Nothing is told."""

        return Handler
