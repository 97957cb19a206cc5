"""Symbolic links in an OCI image layout lead nowhere, for reading and for writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.command import Command


@pytest.fixture
def layout(cli: Command, tmp_path: Path) -> Path:
    """A layout with ``v1`` in it, pushed as ``app:latest``."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"content" * 100)
    cli.ok("import", "--bare", source, "app")
    cli.ok("push", "app:latest", f"oci:{tmp_path}/layout:v1")
    (source / "file").write_bytes(b"changed" * 100)
    cli.ok("import", "--bare", source, "app:next")
    return tmp_path / "layout"


@pytest.mark.parametrize("link", ["blobs", "blobs/sha256", "index.json", "index.json.lock"])
def test_links_in_a_layout(cli: Command, layout: Path, tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (layout / link).rename(elsewhere)
    (layout / link).symlink_to(elsewhere)
    before = sorted(os.walk(elsewhere))
    for args in (
        ("push", "app:next", f"oci:{layout}:v2"),
        ("pull", f"oci:{layout}:v1", "copy"),
        ("import", layout, "x"),
    ):
        code, out, err = cli(*args)
        if args[0] != "push" and link == "index.json.lock":
            assert code == 0  # readers take no lock
            continue
        assert (code, out) == (1, "")
        assert err.count("error: ") == 1
        assert "symbolic link" in err
    assert sorted(os.walk(elsewhere)) == before


def test_a_blob_that_is_a_link(cli: Command, layout: Path, tmp_path: Path) -> None:
    for blob in list((layout / "blobs/sha256").iterdir()):
        blob.rename(tmp_path / blob.name)
        blob.symlink_to(tmp_path / blob.name)
    code, _, err = cli("pull", f"oci:{layout}:v1", "copy")
    assert code == 1
    assert "symbolic link" in err


def test_an_empty_directory_with_a_planted_link(cli: Command, layout: Path, tmp_path: Path) -> None:
    victim, empty = tmp_path / "victim", tmp_path / "empty"
    victim.mkdir()
    empty.mkdir()
    (empty / "blobs").symlink_to(victim)
    code, _, err = cli("push", "app:latest", f"oci:{empty}:v1")
    assert code == 1
    assert "symbolic link" in err
    assert os.listdir(victim) == []
    assert os.listdir(empty) == ["blobs"]


def test_the_way_to_the_layout_may_have_links(cli: Command, layout: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(layout)
    cli.ok("push", "app:next", f"oci:{tmp_path}/way:v2")
    cli.ok("pull", f"oci:{tmp_path}/way:v2", "copy")
    assert cli.ok("show", "copy:v2", "--format", "json")
