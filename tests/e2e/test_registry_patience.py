"""Registries that take their time: what is slow goes on, what never ends is ended."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from tests.e2e.hostile_registry import ACCESS, Handler, HostileRegistry, make_certificate, refused
from tests.e2e.registry_artifacts import Artifact, make_artifact, make_commit
from tests.e2e.uploads import Uploads
from tests.support.pulling import pull


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


CONFIG, TREE, INDEX, PACK = range(4)


def on_blob(number: int, behave: Callable[[Handler, bytes], None]) -> Callable[[Handler], bool]:
    def behaviour(request: Handler) -> bool:
        registry = request.server.registry
        if request.path.endswith(list(registry.blobs)[number]):
            behave(request, list(registry.blobs.values())[number])
            return True
        return False

    return behaviour


def rest_of(request: Handler, data: bytes) -> bytes:
    """Announce what is asked for of ``data``; it."""
    first = int((request.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
    request.send_response(206 if first else 200)
    request.send_header("Content-Length", str(len(data) - first))
    request.end_headers()
    return data[first:]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("number", [CONFIG, PACK])
def test_a_connection_that_is_cut_after_every_byte(artifact: Artifact, store: Store, number: int) -> None:
    def cut(request: Handler, data: bytes) -> None:
        request.wfile.write(rest_of(request, data)[:1])
        request.cut()

    registry = HostileRegistry(artifact, on_blob(number, cut))
    error = refused(store, registry, replace(ACCESS, patience=60))
    assert "broke" in error.message
    assert len(registry.seen) < 20


SLOWEST = replace(ACCESS, patience=0.5)
"""What trickles is ended as soon."""


def test_a_connection_that_is_cut_after_little(artifact: Artifact, store: Store) -> None:
    """Each try brings something, and all together too little."""

    def cut(request: Handler, data: bytes) -> None:
        request.wfile.write(rest_of(request, data)[: 70 << 10])
        time.sleep(0.2)
        request.cut()

    error = refused(store, HostileRegistry(artifact, on_blob(PACK, cut)), SLOWEST)
    assert "too slowly" in error.message or "broke" in error.message


def test_a_pack_that_stops_half_way_however_often_it_is_asked_for(artifact: Artifact, store: Store) -> None:
    def stall(request: Handler, data: bytes) -> None:
        rest = rest_of(request, data)
        if len(rest) == len(data):
            request.wfile.write(rest[: len(rest) // 2])
        time.sleep(3)

    error = refused(store, HostileRegistry(artifact, on_blob(PACK, stall)), replace(ACCESS, read_timeout=0.2))
    assert "too slowly" in error.message or "stopped sending" in error.message


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("pause", [0.02, 0.0])
@pytest.mark.parametrize("number", [CONFIG, PACK])
def test_trailers_without_end(artifact: Artifact, store: Store, number: int, pause: float, status: int) -> None:
    def trail(request: Handler, data: bytes) -> None:
        request.send_response(status)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.chunk(data if status == 200 else b"gone")
        request.wfile.write(b"0\r\n")
        while True:
            request.wfile.write(b"X: y\r\n")
            time.sleep(pause)

    error = refused(store, HostileRegistry(artifact, on_blob(number, trail)), SLOWEST)
    if status == 404:
        assert isinstance(error, NotFoundError)
    else:
        assert "too slowly" in error.message or "bytes of headers" in error.message


def test_the_size_of_a_chunk_that_trickles(artifact: Artifact, store: Store) -> None:
    def trickle(request: Handler, _data: bytes) -> None:
        request.start_chunked()
        for _ in range(1000):
            request.wfile.write(b"0")
            time.sleep(0.02)

    assert "too slowly" in refused(store, HostileRegistry(artifact, on_blob(CONFIG, trickle)), SLOWEST).message


@pytest.mark.parametrize("where", ["head", "body", "trailers"])
def test_what_trickles_over_tls(artifact: Artifact, store: Store, tmp_path: Path, where: str) -> None:
    certificate = make_certificate(tmp_path)

    def trickle(request: Handler, data: bytes) -> None:
        if where != "head":
            request.start_chunked()
        if where == "trailers":
            request.chunk(data)
            request.wfile.write(b"0\r\n")
        while True:
            request.wfile.write(b"1\r\nX\r\n" if where == "body" else b"X: y\r\n" if where == "trailers" else b"H")
            time.sleep(0.02)

    access = replace(SLOWEST, ca_file=certificate[0], read_timeout=1)
    error = refused(store, HostileRegistry(artifact, on_blob(CONFIG, trickle), certificate), access)
    assert "too slowly" in error.message or "no whole answer" in error.message or "more than" in error.message


def test_heads_have_a_size(artifact: Artifact, store: Store) -> None:
    def talk(request: Handler) -> bool:
        request.send_response(401)
        for _ in range(8):
            request.send_header("WWW-Authenticate", "Bearer " + "a" * 60_000)
        request.end_headers()
        return True

    registry = HostileRegistry(artifact, talk)
    error = refused(store, registry)
    assert isinstance(error, DamagedError)
    assert "more than 65536 bytes of headers" in error.message
    assert len(registry.seen) == 1


def test_interim_answers_without_end(artifact: Artifact, store: Store) -> None:
    def interim(request: Handler) -> bool:
        while True:
            request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    assert "bytes of headers" in refused(store, HostileRegistry(artifact, interim)).message


def test_a_long_challenge_is_none(artifact: Artifact, store: Store) -> None:
    def challenge(request: Handler) -> bool:
        request.send(401, b"", {"WWW-Authenticate": "Bearer " + "a" * 60_000})
        return True

    assert "401" in refused(store, HostileRegistry(artifact, challenge)).message


def test_a_pull_that_is_slow_and_cut_goes_on(artifact: Artifact, store: Store) -> None:
    """Three times the least rate, a real cut now and then."""
    cuts = []

    def slowly(request: Handler, data: bytes) -> None:
        rest = rest_of(request, data)
        for start in range(0, len(rest), 20_000):
            request.wfile.write(rest[start : start + 20_000])
            time.sleep(0.02)
            if start and not start % 1_000_000 and len(cuts) < 3:
                cuts.append(start)
                request.cut()
                return

    with HostileRegistry(artifact, on_blob(PACK, slowly)) as registry:
        pull(store, parse_target(registry.target), replace(ACCESS, patience=2, min_rate=200_000))
    assert cuts


# Stumbling


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("number", [CONFIG, PACK])
def test_reads_are_tried_again(artifact: Artifact, store: Store, number: int, status: int) -> None:
    failures = [status]

    def stumble(request: Handler, data: bytes) -> None:
        if failures:
            request.send(failures.pop(), b"", {"Retry-After": "0"})
        else:
            request.send_blob(data)

    with HostileRegistry(artifact, on_blob(number, stumble)) as registry:
        pull(store, parse_target(registry.target), replace(ACCESS, patience=30))


def test_a_manifest_that_is_cut_is_asked_for_again(artifact: Artifact, store: Store) -> None:
    cuts = [1, 2]

    def cut(request: Handler) -> bool:
        if "/manifests/" not in request.path or not cuts:
            return False
        cuts.pop()
        request.wfile.write(rest_of(request, request.server.registry.manifest)[:100])
        request.cut()
        return True

    with HostileRegistry(artifact, cut) as registry:
        pull(store, parse_target(registry.target), ACCESS)
    assert not cuts


UNKNOWN = b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown to registry"}]}'
SMALL = {"file": random.Random(1).randbytes(100_000)}
LARGE = {"file": random.Random(2).randbytes(20 << 20)}
"""Sent in two chunks."""
CHUNKED = {"file": random.Random(3).randbytes(160_000)}
"""The same, where a chunk has ``SHORT`` bytes."""
SHORT = 1 << 17
PATIENT = replace(ACCESS, patience=60, min_rate=1000)


@pytest.mark.parametrize(
    ("method", "status"),
    [
        *(("POST", status) for status in (429, 500, 502, 503, 504)),
        *(("PATCH", status) for status in (404, 416, 429, 500, 503)),
        *(("PUT", status) for status in (404, 416, 429, 500, 503)),
        *(("MANIFEST", status) for status in (429, 500, 503)),
        *(("GET", status) for status in (404, 500)),
    ],
)
@pytest.mark.usefixtures("short_pauses")
def test_uploads_are_tried_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, method: str, status: int
) -> None:
    """Twice for each blob, before anything was taken; also where that was, and just the answer went wrong."""
    monkeypatch.setattr("stratum.oci.uploading.CHUNK", SHORT)
    commit = make_commit(store, CHUNKED if method in ("PATCH", "GET") else SMALL)
    for when in ("before", "after"):
        uploads = Uploads(method, status, when, UNKNOWN)
        with HostileRegistry(behaviour=uploads) as registry:
            push(store, commit, parse_target(registry.target), PATIENT)
            pulled = Store.create(tmp_path / f"pulled-{when}")
            assert pull(pulled, parse_target(registry.target), PATIENT).commit == commit
        assert uploads.stumbled


@pytest.mark.usefixtures("short_pauses")
def test_an_upload_that_is_lost_every_time(store: Store) -> None:
    uploads = Uploads("PUT", 404, "before", UNKNOWN, times=1000)
    commit = make_commit(store, SMALL)
    with HostileRegistry(behaviour=uploads) as registry, pytest.raises(StratumError) as caught:
        push(store, commit, parse_target(registry.target), replace(PATIENT, patience=1000))
    assert "forgotten the upload (404 Not Found: BLOB_UPLOAD_UNKNOWN" in caught.value.message
    assert caught.value.exit_code == 1


def test_a_registry_that_stores_another_blob_than_was_sent(store: Store) -> None:
    uploads = Uploads("PUT", 201, "after", b"", {"Docker-Content-Digest": "sha256:" + "0" * 64})
    commit = make_commit(store, SMALL)
    with HostileRegistry(behaviour=uploads) as registry, pytest.raises(DamagedError, match="stored something else"):
        push(store, commit, parse_target(registry.target), PATIENT)


def test_a_chunk_may_take_longer_than_connecting(tmp_path: Path, store: Store) -> None:
    """The server takes eight megabytes a second, and connecting may take a third of a second."""
    uploads = Uploads("none", 0, "before", b"", pace=8_000_000)
    commit = make_commit(store, LARGE)
    with HostileRegistry(behaviour=uploads) as registry:
        push(store, commit, parse_target(registry.target), replace(PATIENT, connect_timeout=0.3, read_timeout=30))
        assert pull(Store.create(tmp_path / "pulled"), parse_target(registry.target), PATIENT).commit == commit
