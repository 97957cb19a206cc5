"""Object stores in what people write for the CSI driver: sources, patterns, snapshot classes and handles."""

from __future__ import annotations

import pytest

from stratum.csi.attributes import parse_source, snapshot_parameters, volume_attributes
from stratum.csi.elsewhere import parse_handle
from stratum.csi.errors import CallError
from stratum.csi.patterns import parse_pattern
from stratum.csi.provisioning import snapshot_key_of
from stratum.csi.sources import registry_stratum
from stratum.errors import UsageError
from stratum.oci.target import Target, parse_target
from stratum.refs import is_name

DIGEST = "sha256:" + "a" * 64
COMMIT = "0123456789abcdef" * 2
ENDPOINT = "?endpoint=https://minio.example.com:9000/x&region=eu-1"


@pytest.mark.parametrize(
    "text",
    [
        "s3://data/models:v1",
        f"gs://data/models@{DIGEST}",
        "az://data",
        f"s3://data/models:v1{ENDPOINT}",
        "s3://data?endpoint=http://127.0.0.1:9000",
    ],
)
def test_a_source_may_be_in_an_object_store(text: str) -> None:
    source = parse_source(text)
    assert isinstance(source, Target)
    assert source == parse_target(text)
    assert volume_attributes({"source": text, "pullPolicy": "Never", "lazy": "true"}).source == source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file:///etc", "only s3://, gs://, az://"),
        ("memory://x/y", "only s3://, gs://, az://"),
        ("s3://data/models?endpoint=http://minio.example.com:9000", "leaves TLS out"),
        ("s3://AKIA:secret@data/x", "neither a bucket nor a digest"),
        ("s3n://data/x", "only a reference"),
    ],
)
def test_what_reaches_the_nodes_files_or_leaves_tls_out_is_no_source(text: str, says: str) -> None:
    with pytest.raises(CallError, match=says):
        parse_source(text)
    assert parse_handle(f"{text}:snap-{COMMIT}") is None


@pytest.mark.parametrize(
    ("pattern", "source", "allowed"),
    [
        ("*", "s3://data/models", False),
        ("**", "s3://data/models", False),
        ("*/**", "s3://data/models", False),
        ("**/data/models", "s3://data/models", False),
        ("s3://data/models", "s3://data/models:v1", True),
        ("s3://data/models", f"s3://data/models@{DIGEST}", True),
        ("s3://data/models", "gs://data/models:v1", False),
        ("s3://data/models", "s3://data/models/more", False),
        ("s3://data/models", "s3://data/models2", False),
        ("s3://data/models", "data.example.com/models", False),
        ("s3://data", "s3://data", True),
        ("s3://data", "s3://data/models", False),
        ("s3://data/**", "s3://data/a/b:v1", True),
        ("s3://data/*", "s3://data/a/b", False),
        ("s3://team-*/models", "s3://team-a/models", True),
        ("s3://team-*/models", "s3://other/team-a/models", False),
        ("s3://data/models:v*", "s3://data/models:v7", True),
        ("s3://data/models:v*", "s3://data/models", False),
        ("s3://data/models:v*", f"s3://data/models:v7@{DIGEST}", False),
        (f"s3://data/models@{DIGEST}", f"s3://data/models@{DIGEST}", True),
        ("s3://data/**", f"s3://data/models{ENDPOINT}", False),
        (f"s3://data/**{ENDPOINT}", f"s3://data/models:v1{ENDPOINT}", True),
        (f"s3://data/**{ENDPOINT}", "s3://data/models:v1", False),
        (f"s3://data/**{ENDPOINT}", "s3://data/models:v1?endpoint=https://evil.example.com", False),
        ("s3://Data/Models", "s3://data/models", False),
    ],
)
def test_patterns_of_inline_sources(pattern: str, source: str, allowed: bool) -> None:
    assert parse_pattern(pattern).allows(parse_source(source)) == allowed


@pytest.mark.parametrize(
    "bad", ["s3://", "s3:///models", "s3://data?", "s3://data?endpoint=x", "file:///x", "s3://a b"]
)
def test_patterns_that_nothing_matches_are_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        parse_pattern(bad)


def test_snapshots_are_pushed_to_a_bucket() -> None:
    assert snapshot_parameters({"registry": "s3://data/Snaps/"})[0] == "s3://data/Snaps"
    place = snapshot_parameters({"registry": f"s3://data/snaps{ENDPOINT}"})[0]
    assert place == f"s3://data/snaps{ENDPOINT}"
    for bad in (
        "s3://data:v1",
        "s3://data/x:latest",
        f"s3://data/x@{DIGEST}",
        "file:///x",
        f"s3://data:latest{ENDPOINT}",
    ):
        with pytest.raises(CallError):
            snapshot_parameters({"registry": bad})


@pytest.mark.parametrize("place", ["s3://data", "gs://data/a/b", f"s3://data/snaps{ENDPOINT}"])
def test_a_handle_says_where_a_snapshot_is(place: str) -> None:
    handle = str(parse_target(place, default_tag=f"snap-1-{COMMIT}"))
    assert snapshot_key_of(handle) == "snap-1"
    found = parse_handle(handle)
    assert found is not None
    assert (str(found.target), found.target.place, found.digits) == (handle, place, COMMIT)
    by_digest = parse_handle(f"{place}@{DIGEST}")
    assert by_digest is not None
    assert (by_digest.target.digest, by_digest.digits) == (DIGEST, None)
    assert parse_handle(place) is None, "a tag that does not say what it is"


def test_what_is_pulled_from_buckets_has_strata_of_its_own() -> None:
    places = ["s3://data", "s3://data/(models)", "gs://data", f"s3://data{ENDPOINT}", "az://data/x/" + "y" * 300]
    names = [registry_stratum(parse_target(place)) for place in places]
    assert all(map(is_name, names))
    assert len(set(names)) == len(places)
    assert names[0].startswith("data-")
