"""An object store that speaks just enough of S3, and does odd things: it heeds no conditions, is slow, cuts answers,
says what it should not. What a real one does is tested with versitygw (``s3server``)."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

BUCKET = "odd"
DATE = "Mon, 30 Nov 2026 08:00:00 GMT"


@dataclass
class Answer:
    """What is answered instead: ``pieces`` of a body, with ``pause`` seconds before each, then a cut where ``cut``."""

    status: int = 200
    pieces: tuple[bytes, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    pause: float = 0.0
    cut: bool = False

    @classmethod
    def error(cls, status: int, code: str, message: str = "", more: str = "") -> Answer:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message>{more}</Error>"
        return cls(status, (text.encode(),), {"Content-Type": "application/xml"})


@dataclass
class Asked:
    """A request: its method, key, query and headers (names in small letters)."""

    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]


@dataclass
class OddStore:
    """The running server. ``odd`` may answer a request in its own way; ``heeds`` are the conditions it heeds."""

    port: int
    heeds: tuple[str, ...] = ()
    odd: Callable[[Asked], Answer | None] | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def reference(self) -> str:
        return f"s3://{BUCKET}?endpoint={self.endpoint}"

    def answer(self, asked: Asked, body: bytes) -> Answer:
        with self.lock:
            self.asked.append(asked)
        found = self.odd(asked) if self.odd is not None else None
        if found is not None:
            return found
        with self.lock:
            return getattr(self, asked.method.lower())(asked, body)

    def get(self, asked: Asked, _body: bytes) -> Answer:
        if "list-type" in asked.query:
            return self._list(asked)
        data = self.objects.get(asked.key)
        if data is None:
            return Answer.error(404, "NoSuchKey", "The specified key does not exist.")
        if asked.headers.get("if-match", etag(data)) != etag(data):
            return Answer.error(412, "PreconditionFailed")
        headers = {"ETag": etag(data), "Last-Modified": DATE}
        span = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", asked.headers.get("range", ""))
        if span is None:
            return Answer(200, (data,), headers)
        start, end = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        if start >= len(data):
            return Answer.error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return Answer(206, (data[start : end + 1],), headers)

    head = get

    def _list(self, asked: Asked) -> Answer:
        prefix, after = asked.query.get("prefix", [""])[0], asked.query.get("start-after", [""])[0]
        keys = [key for key in sorted(self.objects) if key.startswith(prefix) and key > after]
        return Answer(200, (listing(keys).encode(),), {"Content-Type": "application/xml"})

    def put(self, asked: Asked, body: bytes) -> Answer:
        there = self.objects.get(asked.key)
        absent, match = asked.headers.get("if-none-match"), asked.headers.get("if-match")
        if absent and "absent" in self.heeds and there is not None:
            return Answer.error(412, "PreconditionFailed")
        if match and "match" in self.heeds and (there is None or etag(there) != match):
            return Answer.error(412, "PreconditionFailed")
        self.objects[asked.key] = body
        return Answer(200, (), {"ETag": etag(body)})

    def post(self, asked: Asked, body: bytes) -> Answer:
        if "delete" not in asked.query:
            return Answer.error(501, "NotImplemented", "no uploads in parts")
        keys = re.findall(r"<Key>([^<]*)</Key>", body.decode())
        for key in keys:
            self.objects.pop(key, None)
        told = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return Answer(200, (f"<?xml version='1.0'?><DeleteResult>{told}</DeleteResult>".encode(),))

    def delete(self, asked: Asked, _body: bytes) -> Answer:
        self.objects.pop(asked.key, None)
        return Answer(204)


def listing(keys: list[str], more: str = "") -> str:
    """A page of a listing."""
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-30T08:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
        "<Size>1</Size></Contents>"
        for key in keys
    )
    return f"<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated>{entries}{more}</ListBucketResult>"


def etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: OddStore

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        key = parts.path.removeprefix(f"/{BUCKET}").lstrip("/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.store.answer(Asked(self.command, key, parse_qs(parts.query, True), headers), body)
        with contextlib.suppress(OSError):
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        length = sum(map(len, answer.pieces)) if answer.length is None else answer.length
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(length), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in answer.pieces if self.command != "HEAD" else ():
            time.sleep(answer.pause)
            self.wfile.write(piece)
        if answer.cut or (answer.length is not None and self.command != "HEAD"):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do  # noqa: N815

    def log_message(self, *_args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def odd_store(heeds: tuple[str, ...] = (), odd: Callable[[Asked], Answer | None] | None = None) -> Iterator[OddStore]:
    """Run one until the block ends."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    store = OddStore(server.server_address[1], heeds, odd)
    handler.store = store  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
