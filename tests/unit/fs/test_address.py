"""Which commit a path is in, and where in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import UsageError
from stratum.fs.address import Address, clean, split_path
from tests.support.effort import examples

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("path", "ref", "inner"),
    [
        ("models", "models", ""),
        ("models:v3/x.parquet", "models:v3", "x.parquet"),
        ("/models:v3//a/./b/", "models:v3", "a/b"),
        ("models:v3:/a/b", "models:v3", "a/b"),
        ("models:v3:a/b", "models:v3", "a/b"),
        ("models:/a:b/c", "models", "a:b/c"),
        ("models+dev/a", "models+dev", "a"),
        ("models~2/a", "models~2", "a"),
        ("models@{2 days ago}/a:b", "models@{2 days ago}", "a:b"),
        ("models@{2026-01-02 10:00}:/a", "models@{2026-01-02 10:00}", "a"),
        ("models/a:b/c", "models", "a:b/c"),
        ("models.v1/a/b", "models.v1", "a/b"),
        ("models:2026/a/b", "models:2026", "a/b"),
        ("models:2026:/data/x:y", "models:2026", "data/x:y"),
        ("oci:latest/a", "oci:latest", "a"),
        ("f" * 64 + "/a", "f" * 64, "a"),
    ],
)
def test_refs(path: str, ref: str, inner: str) -> None:
    assert split_path(path) == (Address(ref, False), inner)


@pytest.mark.parametrize(
    ("path", "reference", "inner"),
    [
        ("ghcr.io/team/app:v1/a/b", "ghcr.io/team/app:v1", "a/b"),
        ("ghcr.io/team/app:v1", "ghcr.io/team/app:v1", ""),
        ("localhost:5000/app:v1/a:b", "localhost:5000/app:v1", "a:b"),
        ("localhost/app:v1/a", "localhost/app:v1", "a"),
        ("models:2026/data/x:y", "models:2026/data/x:y", ""),
        (f"reg.example/app@{DIGEST}/a", f"reg.example/app@{DIGEST}", "a"),
        (f"reg.example/app:v1@{DIGEST}/a", f"reg.example/app:v1@{DIGEST}", "a"),
        ("reg.example/app:/a/b:c", "reg.example/app:latest", "a/b:c"),
        ("reg.example/app:v2:/a/b:c", "reg.example/app:v2", "a/b:c"),
        ("http://reg:5000/app:v1/a", "http://reg:5000/app:v1", "a"),
        ("s3://bucket:v1/a", "s3://bucket:v1", "a"),
        ("s3://bucket/some/prefix:v1/a/b", "s3://bucket/some/prefix:v1", "a/b"),
        ("s3://bucket/some/prefix:/a", "s3://bucket/some/prefix:latest", "a"),
        (f"gs://bucket/p@{DIGEST}/a", f"gs://bucket/p@{DIGEST}", "a"),
        ("file:///srv/models:v1/a", "file:///srv/models:v1", "a"),
        ("oci:/srv/layout:v1/a", "oci:/srv/layout:v1", "a"),
        ("oci:./layout:v1/a", "oci:./layout:v1", "a"),
        ("oci-archive:/srv/x.tar:v1/a", "oci-archive:/srv/x.tar:v1", "a"),
    ],
)
def test_places(path: str, reference: str, inner: str) -> None:
    assert split_path(path) == (Address(reference, True), inner)


def test_the_root_is_above_all_commits() -> None:
    assert split_path("") == split_path("//") == (None, "")


@pytest.mark.parametrize("path", ["s3://bucket/prefix/a", "oci:/srv/layout/a", "https://reg.example/app/a"])
def test_a_place_needs_a_tag(path: str) -> None:
    with pytest.raises(UsageError, match="nothing says where its reference ends"):
        split_path(path)


def test_where_a_store_is_is_no_part_of_a_path() -> None:
    with pytest.raises(UsageError, match="is no part of a path"):
        split_path("s3://bucket/prefix:v1?endpoint=http://127.0.0.1:7070/a")
    assert split_path("s3://bucket/prefix:v1/a?.csv")[1] == "a?.csv"


REFS = st.sampled_from(["models", "models:v1", "models:2026", "reg.example", "localhost", "a+b", "s3://b/p:v1"])
INNER = st.text("ab:./@", max_size=12).map(clean)


@settings(max_examples=examples(200))
@given(REFS, INNER)
def test_names_in_a_commit_lead_back_to_it(ref: str, inner: str) -> None:
    """What a list names is found under that name."""
    address = Address(ref, "://" in ref)
    assert split_path(address.path(inner)) == (address, inner)
