"""S3 over TLS: whose certificate counts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stratum.errors import UntrustedError, UsageError
from stratum.oci.access import Access
from stratum.oci.bucket import BucketStore, open_bucket
from stratum.oci.target import parse_target
from tests.support.s3server import S3Server, s3_running

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    named = ("-subj", "/CN=ours", "-addext", "basicConstraints=critical,CA:TRUE")
    openssl("req", "-x509", *_KEY, "-days", "2", *named, "-keyout", path.with_suffix(".key"), "-out", path)
    return path


@pytest.fixture(scope="module")
def server(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    directory = tmp_path_factory.mktemp("tls")
    key, request, certificate = (directory / name for name in ("key", "request", "certificate"))
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl("req", "-new", *_KEY, "-subj", "/CN=x", "-keyout", key, "-out", request)
    signed = ("-CA", authority, "-CAkey", authority.with_suffix(".key"), "-CAcreateserial", "-extfile")
    openssl("x509", "-req", "-in", request, "-days", "2", "-out", certificate, *signed, directory / "names")
    with s3_running(directory / "server", certificate=(certificate, key)) as running:
        yield running


def opened(server: S3Server, access: Access) -> BucketStore:
    bucket = parse_target(server.reference("data")).bucket
    assert bucket is not None
    return open_bucket(bucket, access)


def test_an_authority_that_nobody_knows(server: S3Server) -> None:
    with opened(server, Access(environment=server.environment)) as bucket:
        for ask in (lambda: bucket.put("x", b""), lambda: bucket.get("x", 1), lambda: list(bucket.list(""))):
            with pytest.raises(UntrustedError, match="signed by nobody who is trusted") as caught:
                ask()
            assert "--ca-file" in caught.value.hint


def test_authorities_that_are_named(server: S3Server, authority: Path) -> None:
    access = Access(environment=server.environment)
    for known in (replace(access, ca_file=authority), replace(access, authorities=(authority,))):
        with opened(server, known) as bucket:
            bucket.put("x", b"over TLS")
            assert bucket.get("x", 100)[0] == b"over TLS"


def test_files_that_are_no_authorities(server: S3Server, authority: Path) -> None:
    access = Access(environment=server.environment)
    for path, words in (
        (authority.with_suffix(".key"), "no certificates in it"),
        (Path("/nothing"), "no certificate file"),
    ):
        with pytest.raises(UsageError, match=words):
            opened(server, replace(access, ca_file=path))
