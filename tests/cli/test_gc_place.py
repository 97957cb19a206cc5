"""``gc --place`` and the removal of tags in object stores, as users run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.trees import BIG, make_tree
from tests.support.command import Command
from tests.support.schemas import problems

pytestmark = pytest.mark.root


@pytest.fixture
def place(cli: Command, tmp_path: Path) -> str:
    """An object store with the tags v1 and v2 of two commits that share a file."""
    for tag in ("v1", "v2"):
        cli.ok("import", "--bare", make_tree(tmp_path / "src", {"big": BIG, tag: tag + BIG}), f"app:{tag}")
        cli.ok("push", f"app:{tag}", f"file://{tmp_path}/place:{tag}")
    return f"file://{tmp_path}/place"


def blobs(place: str) -> list[Path]:
    return sorted(Path(place.removeprefix("file://"), "blobs/sha256").iterdir())


def test_a_tag_is_removed_and_then_what_it_named(cli: Command, place: str, tmp_path: Path) -> None:
    there = blobs(place)
    assert cli.json("gc", "--place", place)["manifests_read"] == 2
    would = cli.json("remove", "-n", f"{place}:v1")
    assert (would["removed"], would["dry_run"]) == ([f"{place}:v1"], True)
    assert [tag["tag"] for tag in cli.json("list", "--remote", place)] == ["v1", "v2"]
    assert problems("remove", cli.json("remove", f"{place}:v1")) == []
    assert [tag["tag"] for tag in cli.json("list", "--remote", place)] == ["v2"]
    code, _, err = cli("remove", f"{place}:v1")
    assert (code, "no tag" in err) == (3, True)
    assert blobs(place) == there
    first = cli.json("gc", "--place", place)
    assert problems("gc", first) == []
    assert (first["older_than"], first["removed"]["manifests"]["objects"]) == (86400, 0)
    assert first["waiting"]["manifests"]["objects"] == 1
    assert first["due"] is not None
    assert "may go from" in cli.ok("gc", "--place", place)
    assert blobs(place) == there
    out = cli.ok("gc", "-n", "--older-than", "0", "--place", place)
    assert "would remove 1 manifests" in out
    assert blobs(place) == there
    done = cli.json("gc", "--older-than", "1s", "--wait", "--place", place)
    assert done["removed"]["manifests"]["objects"] == 1
    assert (done["tags"], done["missing"], done["others"]["objects"]) == (1, 0, 0)
    assert len(blobs(place)) < len(there)
    cli.ok("pull", f"{place}:v2", "again")
    assert cli.ok("cat", "again:v2", "/v2") == "v2" + BIG
    cli.ok("push", "app:v1", f"{place}:v1")
    cli.ok("pull", f"{place}:v1", "anew")


def test_where_it_is_not_possible(cli: Command, place: str) -> None:
    for args, code, words in [
        (("gc", "--place", "example.org/team/app"), 6, "collects its own garbage"),
        (("gc", "--place", "oci:/nowhere"), 6, "no object store"),
        (("gc", "--place", f"{place}:v1"), 2, "names a tag"),
        (("gc", "--place", f"{place}-other"), 3, "neither tags nor blobs"),
        (("gc", "--place", place, "--keep-last", "1"), 2, "not for --place"),
        (("gc", "--place", place, "--older-than", "soon"), 2, "not a duration"),
        (("gc", "--older-than", "1h"), 2, "for --place"),
        (("remove", place), 2, "names no tag"),
        (("remove", "oci:/nowhere:v1"), 6, "no object store"),
        (("remove", f"{place}:v9"), 3, "no tag"),
    ]:
        found, _, err = cli(*args)
        assert (found, words in err) == (code, True), (args, err)


def test_a_damaged_manifest_is_named_and_nothing_goes(cli: Command, place: str) -> None:
    manifest = cli.json("remove", f"{place}:v1")["manifest"]
    cli.ok("push", "app:v1", f"{place}:v1")
    path = Path(place.removeprefix("file://"), "blobs/sha256", manifest.partition(":")[2])
    path.write_bytes(path.read_bytes()[:-1])
    there = blobs(place)
    code, _, err = cli("gc", "--older-than", "0", "--place", place)
    assert (code, manifest in err) == (5, True)
    assert blobs(place) == there
