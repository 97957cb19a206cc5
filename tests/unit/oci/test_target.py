"""How object stores are named in references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import UsageError
from stratum.oci.bucketname import Bucket
from stratum.oci.target import Target, parse_target, registry_alone

DIGEST = "sha256:" + "0123456789abcdef" * 4

READ = {
    "s3://data": Target(bucket=Bucket("s3", "data")),
    "s3://data/": Target(bucket=Bucket("s3", "data")),
    "s3://data:v1": Target(tag="v1", bucket=Bucket("s3", "data")),
    "s3://data/team/models:v1": Target(tag="v1", bucket=Bucket("s3", "data", "team/models")),
    f"gs://data/models@{DIGEST}": Target(digest=DIGEST, bucket=Bucket("gs", "data", "models")),
    f"az://data/models:v1@{DIGEST}": Target(tag="v1", digest=DIGEST, bucket=Bucket("az", "data", "models")),
    "file:///srv/data/": Target(bucket=Bucket("file", "/srv/data")),
    "file:///srv//da ta:v1": Target(tag="v1", bucket=Bucket("file", "/srv/da ta")),
    "memory://": Target(bucket=Bucket("memory", "")),
    "memory://a/b:v1": Target(tag="v1", bucket=Bucket("memory", "a", "b")),
    "s3://data/p:v1?endpoint=http://127.0.0.1:9000&region=eu-west-1": Target(
        tag="v1", bucket=Bucket("s3", "data", "p", "http://127.0.0.1:9000", "eu-west-1")
    ),
    "s3://data/p?endpoint=HTTPS://S3.Example.com/": Target(bucket=Bucket("s3", "data", "p", "https://s3.example.com")),
    f"s3://data?region=auto&endpoint=http://[::1]:9000/store:v1@{DIGEST}": Target(
        tag="v1", digest=DIGEST, bucket=Bucket("s3", "data", "", "http://[::1]:9000/store", "auto")
    ),
    f"s3://data:v1@{DIGEST}?region=auto": Target(tag="v1", digest=DIGEST, bucket=Bucket("s3", "data", region="auto")),
    "s3://data?region=auto:v1": Target(tag="v1", bucket=Bucket("s3", "data", region="auto")),
    "s3://data?endpoint=http%3A%2F%2Flocalhost%3A9000": Target(
        bucket=Bucket("s3", "data", endpoint="http://localhost:9000")
    ),
}


@pytest.mark.parametrize("text", READ)
def test_what_is_read(text: str) -> None:
    assert parse_target(text) == READ[text]
    assert parse_target(text, "registry.example.com") == READ[text]
    assert registry_alone(text) is None


@given(
    st.sampled_from(
        [
            Bucket(scheme, name, prefix, endpoint, region)
            for scheme, name in (("s3", "data.x"), ("gs", "data"), ("az", "data"))
            for prefix in ("", "a/b")
            for endpoint in (
                None,
                "http://localhost",
                "https://s3.example.com:9000",
                "http://[::1]",
                "https://a.b/c/d",
            )
            for region in (None, "us-east-1")
        ]
        + [Bucket("file", "/a/b"), Bucket("memory", "", "x"), Bucket("memory", "n"), Bucket("memory", "")]
    ),
    st.sampled_from(["latest", "v1", "9000", "a.b-c_d"]),
    st.sampled_from([None, DIGEST]),
)
def test_every_form_leads_back(bucket: Bucket, tag: str, digest: str | None) -> None:
    target = Target(tag=tag, digest=digest, bucket=bucket)
    assert parse_target(str(target), default_tag=tag) == target
    assert parse_target(f"{target.place}:{tag}" + (f"@{digest}" if digest else "")) == target
    assert parse_target(target.place, default_tag=tag) == Target(tag=tag, bucket=bucket)
    noted = str(Target(tag=tag, digest=DIGEST, bucket=bucket))
    assert noted.rpartition("@")[2] == DIGEST
    assert parse_target(noted.rpartition("@")[0] + f"@{DIGEST}").bucket == bucket


WRONG = {
    "s3://": "not the name of a bucket",
    "s3:///prefix": "not the name of a bucket",
    "s3://data/../b": "cannot be the prefix",
    "s3://data/a//b": "cannot be the prefix",
    "s3://data/a b": "cannot be the prefix",
    "s3://data/" + "x" * 513: "cannot be the prefix",
    "s3://data:": "not a valid tag",
    "s3://data:a b": "not a valid tag",
    "s3://data@sha256:12": "neither a bucket nor a digest",
    "s3://data?": "an option that there is not",
    "s3://data?endpoint": "not a URL",
    "s3://data?endpoint=ftp://x": "not a URL",
    "s3://data?endpoint=http://x:0": "not a URL",
    "s3://data?endpoint=http://x:99999": "not a URL",
    "s3://data?region=a&region=b": "an option twice",
    "s3://data?region=a b": "no region's name",
    "s3://data:v1?region=a:v2": "two tags",
    "file://relative": "an absolute directory",
    "file:///a/../b": "without '..'",
    "file:///a?region=x": "has no endpoint",
    "memory://a?endpoint=http://x": "has no endpoint",
    "gcs://data": "not the scheme of a place",
    "abfs://data": "not the scheme of a place",
    "http://s3://data": "not the scheme of a place",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=WRONG[text]):
        parse_target(text)


def test_the_scheme_that_was_meant_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        parse_target("gcs://data/x")
    assert "gs://" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA:SECRET@data/x",
        "s3://data/x@SECRET",
        "s3://data?endpoint=https://me:SECRET@host",
        "s3://data?endpoint=https://host/?X-Amz-Signature=SECRET",
        "s3://data?secret_access_key=SECRET",
        "s3://data?SECRET=1",
        "s3n://AKIA:SECRET@data",
        "https://ftp://me:SECRET@host/x",
    ],
)
def test_no_secret_is_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert "SECRET" not in caught.value.told


@pytest.mark.parametrize(
    ("default", "text", "place"),
    [
        ("s3://data", "app:v2", "s3://data/app"),
        ("s3://data/team/", "app:v2", "s3://data/team/app"),
        (
            "s3://data/team?endpoint=http://localhost:9000&region=x",
            "a/app:v2",
            "s3://data/team/a/app?endpoint=http://localhost:9000&region=x",
        ),
        ("file:///srv/strata", "app:v2", "file:///srv/strata/app"),
        ("registry.example.com/team/", "app:v2", "registry.example.com/team/app"),
    ],
)
def test_a_bare_repository_is_in_the_place_of_the_settings(default: str, text: str, place: str) -> None:
    for digest in (None, DIGEST):
        target = parse_target(f"{text}@{digest}" if digest else text, default)
        assert (target.place, target.tag, target.digest) == (place, "v2", digest)
    assert parse_target("app", default, default_tag="dev").tag == "dev"


@pytest.mark.parametrize(
    ("text", "name"),
    [("s3://data/a/models", "models"), ("s3://data", "data"), ("file:///srv/data", "data"), ("memory://", "")],
)
def test_the_name_that_a_stratum_gets(text: str, name: str) -> None:
    bucket = parse_target(text).bucket
    assert bucket is not None
    assert bucket.last == name
