"""A registry far away: what a registry server has stored, read-only, behind a delay, counted, with faults on demand.

It serves the storage directory of ``tests.e2e.registry_server`` (pushes go to that one), in a process of its own, so
that it can be killed and started again at the same address, and tests do not share a Python with it. What it does is
changed while it runs (``tell``), and what it was asked can be looked at (``asked``). A repository has as many other
names as one likes, ``alias/ANY/NAME``, so that it can be faulty for some and well for others.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PIECE = 1 << 18
"""Bytes that are read and sent at once."""
DRIP = 0.5
"""Seconds between the single bytes of an answer that drips."""

Send = Callable[[dict[str, Any]], Awaitable[None]]
Scope = dict[str, Any]


@dataclass
class Manner:
    """How requests are answered. ``delay`` is in seconds, for each; ``rate`` in bytes a second for each, 0 for any.

    ``fault`` is what goes wrong, for requests whose path holds ``where`` (all do by default), the next ``times`` of
    them (all by default):

    - ``lie``: a byte of every 512 is another
    - ``swap``: other bytes, as many, whatever was asked for
    - ``zeros``: as many zeros
    - ``cut``: the connection ends in the middle of the body
    - ``stall``: no answer, ever
    - ``drip``: a byte each half second
    - ``short``: half the bytes, said to be all
    - ``whole``: the whole blob where a range was asked for
    - a status: ``401``, ``403``, ``404``, ``429``, ``500``, ``503``

    ``faults`` are more of them, path to fault. ``login`` is the ``USER:PASSWORD`` that is asked for.
    """

    delay: float = 0.0
    rate: int = 0
    fault: str = ""
    where: str = ""
    times: int = -1
    login: str = ""
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request: ``sent`` are the bytes of the body that were sent so far."""

    method: str
    path: str
    range: str
    status: int
    sent: int

    @property
    def kind(self) -> str:
        """``manifests``, ``blobs``, ``tags``, ``referrers``, or ``v2``."""
        parts = self.path.strip("/").split("/")
        return parts[-2] if len(parts) > 2 else "v2"


@dataclass
class SlowRegistry:
    """A running one. ``host`` is HOST:PORT, which stays the same over ``die`` and ``live``."""

    host: str
    storage: Path
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    manner: Manner = field(default_factory=Manner)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def tell(self, **changes: Any) -> None:
        """Answer from now on so (fields of ``Manner``), until told otherwise."""
        with self._lock:
            self.manner = Manner(**{**asdict(self.manner), **changes})
            self._control("PUT", json.dumps(asdict(self.manner)).encode())

    def fault_at(self, where: str, fault: str | None) -> None:
        """A fault, or no longer one, for paths that hold ``where``."""
        with self._lock:
            self.manner.faults.pop(where, None)
            if fault is not None:
                self.manner.faults[where] = fault
            self._control("PUT", json.dumps(asdict(self.manner)).encode())

    def well(self) -> None:
        """No faults any more."""
        self.tell(fault="", where="", times=-1)

    def asked(self, kind: str = "") -> list[Asked]:
        """What was asked since the last ``forget``, in order; with ``kind`` only such."""
        every = [Asked(*line) for line in json.loads(self._control("GET"))]
        return [one for one in every if not kind or one.kind == kind]

    def ranges(self) -> list[Asked]:
        """The requests for parts of blobs."""
        return [one for one in self.asked("blobs") if one.range]

    def forget(self) -> None:
        """Count from here."""
        self._control("DELETE")

    def alias(self, name: str, reference: str) -> str:
        """Another reference to what ``reference`` names here; its requests have ``alias/NAME/`` in their paths."""
        return reference.replace(f"{self.host}/", f"{self.host}/alias/{name}/", 1)

    def die(self) -> None:
        """Be gone: connections are cut, new ones refused."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def live(self) -> None:
        """Be there, in the manner of before."""
        if self.process is None:
            self.process = _start(self.storage, self.host, self.log)
            self.tell()

    @contextlib.contextmanager
    def faulty(self, fault: str, where: str = "", times: int = -1) -> Iterator[None]:
        """A fault for the block."""
        self.tell(fault=fault, where=where, times=times)
        try:
            yield
        finally:
            self.well()

    def _control(self, method: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://{self.host}/-/manner", data, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: bytes = response.read()
            return answer


@contextlib.contextmanager
def slow_registry(storage: Path, log: Path, **manner: Any) -> Iterator[SlowRegistry]:
    """Serve what ``storage`` (the ``data`` directory of a registry server) has, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    registry = SlowRegistry(host, storage, log, manner=Manner(**manner))
    registry.live()
    try:
        yield registry
    finally:
        registry.die()


def _start(storage: Path, host: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.slowregistry", storage, host.rpartition(":")[2]],
            stdout=output,
            stderr=output,
            cwd=Path(__file__).parents[2],
        )
    deadline = time.monotonic() + 20
    name, _, port = host.rpartition(":")
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the slow registry ended at once:\n{log.read_text('utf-8', 'replace')}"
        with contextlib.suppress(OSError), socket.create_connection((name, int(port)), timeout=1):
            return process
        time.sleep(0.02)
    raise AssertionError("the slow registry does not listen")


# What follows runs in the registry's own process.

_PATH = re.compile(r"/v2/(?:alias/[^/]+/)?(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<reference>[^/]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_ANSWERS = {401: "UNAUTHORIZED", 403: "DENIED", 404: "BLOB_UNKNOWN", 429: "TOOMANYREQUESTS"}


@dataclass
class _Body:
    """Bytes ``start`` to ``end`` of what is in memory or in a file; ``whole`` is the size of it all."""

    start: int
    end: int
    whole: int
    data: bytes | None = None
    file: int = -1

    def pieces(self) -> Iterator[bytes]:
        position = self.start
        while position < self.end:
            size = min(PIECE, self.end - position)
            piece = (
                self.data[position : position + size] if self.data is not None else os.pread(self.file, size, position)
            )
            yield piece
            position += len(piece)


class Application:
    """The read half of the OCI distribution API, as an ASGI application."""

    def __init__(self, storage: Path) -> None:
        self._root = storage / "docker/registry/v2"
        self._manner = Manner()
        self._asked: list[list[Any]] = []
        self._files: dict[str, tuple[int, int]] = {}

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/-/manner":
            await self._control(scope, receive, send)
            return
        entry = [scope["method"], scope["path"], _header(scope, b"range"), 0, 0]
        self._asked.append(entry)
        await self._serve(scope, receive, send, entry)

    async def _control(self, scope: Scope, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        answer = b"{}"
        if scope["method"] == "PUT":
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            self._manner = Manner(**json.loads(body))
        elif scope["method"] == "DELETE":
            self._asked.clear()
        else:
            answer = json.dumps(self._asked).encode()
        await _start_answer(send, 200, {"content-length": str(len(answer))})
        await send({"type": "http.response.body", "body": answer})

    async def _serve(
        self, scope: Scope, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send, entry: list[Any]
    ) -> None:
        manner, fault = self._manner, self._fault(scope["path"])
        if manner.delay:
            await asyncio.sleep(manner.delay)
        if fault == "stall":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if manner.login and not _has_login(scope, manner.login):
            await self._refuse(send, entry, 401, {"www-authenticate": 'Basic realm="test"'})
        elif fault.isdecimal():
            more = {"www-authenticate": 'Basic realm="test"'} if fault == "401" else {}
            await self._refuse(send, entry, int(fault), more | ({"retry-after": "0"} if fault == "429" else {}))
        elif scope["method"] not in ("GET", "HEAD"):
            await self._refuse(send, entry, 405, {})
        elif scope["path"].rstrip("/") == "/v2":
            await self._send(scope, send, entry, 200, {}, _Body(0, 2, 2, b"{}"), "")
        else:
            await self._answer(scope, send, entry, fault)

    def _fault(self, path: str) -> str:
        manner = self._manner
        for where, fault in manner.faults.items():
            if where in path:
                return fault
        if not manner.fault or manner.where not in path or manner.times == 0:
            return ""
        manner.times -= manner.times > 0
        return manner.fault

    async def _answer(self, scope: Scope, send: Send, entry: list[Any], fault: str) -> None:
        found = _PATH.fullmatch(scope["path"])
        what = self._find(found) if found else None
        if what is None:
            await self._refuse(send, entry, 404, {})
            return
        body, headers = what
        status, wanted = 200, _RANGE.fullmatch(entry[2])
        if wanted and fault != "whole":
            body.start = int(wanted[1])
            body.end = min(body.end, int(wanted[2]) + 1 if wanted[2] else body.end)
            if body.start >= body.end:
                await self._refuse(send, entry, 416, {})
                return
            status = 206
            headers["content-range"] = f"bytes {body.start}-{body.end - 1}/{body.whole}"
        if fault == "short":
            body.end -= (body.end - body.start + 1) // 2
        await self._send(scope, send, entry, status, headers, body, fault)

    async def _send(
        self, scope: Scope, send: Send, entry: list[Any], status: int, headers: dict[str, str], body: _Body, fault: str
    ) -> None:
        entry[3] = status
        length = body.end - body.start
        await _start_answer(send, status, {"content-length": str(length), "accept-ranges": "bytes", **headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        if fault == "drip":
            for piece in body.pieces():
                for position in range(len(piece)):
                    await send(
                        {"type": "http.response.body", "body": piece[position : position + 1], "more_body": True}
                    )
                    entry[4] += 1
                    await asyncio.sleep(DRIP)
        half = length // 2 if fault == "cut" else length
        for piece in body.pieces():
            part = _spoilt(piece, fault)[: half - entry[4]]
            await send({"type": "http.response.body", "body": part, "more_body": True})
            entry[4] += len(part)
            if fault == "cut" and entry[4] >= half:
                raise ConnectionAbortedError("cut, as told")  # uvicorn closes the connection
            if self._manner.rate:
                await asyncio.sleep(len(part) / self._manner.rate)
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, send: Send, entry: list[Any], status: int, headers: dict[str, str]) -> None:
        code = _ANSWERS.get(status, "UNAVAILABLE")
        text = json.dumps({"errors": [{"code": code, "message": f"told to answer {status}"}]}).encode()
        entry[3], entry[4] = status, len(text)
        await _start_answer(
            send, status, {"content-length": str(len(text)), "content-type": "application/json"} | headers
        )
        await send({"type": "http.response.body", "body": text})

    def _find(self, found: re.Match[str]) -> tuple[_Body, dict[str, str]] | None:
        repository, kind, reference = self._root / "repositories" / found["name"], found["kind"], found["reference"]
        if kind == "tags":
            return self._tags(repository, found["name"])
        if kind == "blobs":
            here = (repository / "_layers" / reference.replace(":", "/") / "link").exists()
            body = self._blob(reference) if here else None
            return body and (body, {"content-type": "application/octet-stream", "docker-content-digest": reference})
        if kind == "manifests":
            return self._manifest(repository / "_manifests", reference)
        return None  # no referrers API, as in the server whose storage this is

    def _manifest(self, directory: Path, reference: str) -> tuple[_Body, dict[str, str]] | None:
        if ":" not in reference:
            try:
                reference = (directory / "tags" / reference / "current/link").read_text().strip()
            except OSError:
                return None
        if not (directory / "revisions" / reference.replace(":", "/") / "link").exists():
            return None
        body = self._blob(reference)
        if body is None:
            return None
        data = b"".join(body.pieces())
        media = json.loads(data).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
        return _Body(0, len(data), len(data), data), {"content-type": media, "docker-content-digest": reference}

    def _tags(self, repository: Path, name: str) -> tuple[_Body, dict[str, str]] | None:
        try:
            tags = sorted(os.listdir(repository / "_manifests/tags"))
        except OSError:
            return None
        data = json.dumps({"name": name, "tags": tags}).encode()
        return _Body(0, len(data), len(data), data), {"content-type": "application/json"}

    def _blob(self, digest: str) -> _Body | None:
        """Looked up each time, as blobs may be removed or changed meanwhile; open once."""
        name = digest.rpartition(":")[2]
        path = self._root / "blobs/sha256" / name[:2] / name / "data"
        try:
            now = path.stat()
            descriptor, inode = self._files.get(digest, (-1, 0))
            if inode != now.st_ino:
                if descriptor >= 0:
                    os.close(descriptor)
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._files[digest] = (descriptor, now.st_ino)
        except OSError:
            return None
        return _Body(0, now.st_size, now.st_size, file=descriptor)


def _spoilt(piece: bytes, fault: str) -> bytes:
    if fault == "zeros":
        return bytes(len(piece))
    if fault == "swap":
        return (b"something else, " * (len(piece) // 16 + 1))[: len(piece)]
    if fault != "lie":
        return piece
    changed = bytearray(piece)
    for position in range(0, len(changed), 512):
        changed[position] ^= 0x40
    return bytes(changed)


def _has_login(scope: Scope, login: str) -> bool:
    return _header(scope, b"authorization") == f"Basic {base64.b64encode(login.encode()).decode()}"


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode() for key, value in scope["headers"] if key == name), "")


async def _start_answer(send: Send, status: int, headers: dict[str, str]) -> None:
    lines = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})


def main() -> None:
    """``python -m tests.support.slowregistry STORAGE PORT``."""
    import uvicorn

    uvicorn.run(
        Application(Path(sys.argv[1])),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        log_level="critical",
        access_log=False,
        timeout_keep_alive=120,
        backlog=2048,
        lifespan="off",
    )


if __name__ == "__main__":
    main()
