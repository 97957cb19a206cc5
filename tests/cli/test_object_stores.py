"""Object stores in the verbs, by directories (file://) that are used like buckets: what is typed and said needs no
server. ``e2e/test_object_stores.py`` has a real one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.command import Command

FILES = {"a": "a" * 5000, "in/b": "b" * 7000, "small": "s"}


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"file://{tmp_path}/places/team/app"


@pytest.fixture
def other(tmp_path: Path) -> Command:
    """Another machine."""
    return Command(tmp_path / "other", tmp_path / "other-run")


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> str:
    return cli.ok("import", "--bare", make_tree(tmp_path / "src", FILES), "app:v1")


def test_push_list_and_pull(cli: Command, other: Command, app: str, place: str, tmp_path: Path) -> None:
    would = cli.json("push", "app:v1", place, "--dry-run")
    assert would["target"] == f"{place}:v1"
    assert not (tmp_path / "places").exists() or not list((tmp_path / "places").rglob("*.json"))
    sent = cli.json("push", "app:v1", place)
    assert (sent["commit"], sent["blobs_sent"]) == (app, would["blobs_sent"])
    again = cli.json("push", "app:v1", place)
    assert (again["bytes_sent"], again["blobs_sent"]) == (0, 0)
    (tag,) = cli.json("list", "--remote", place)
    assert (tag["tag"], tag["commit"], tag["manifest"]) == ("v1", app, sent["manifest"])
    assert cli.json("list", "--remote", f"file://{tmp_path}/places/") == [{"repository": place}]
    assert other.json("pull", f"{place}:v1")["ref"] == "app:v1", "the stratum has the last part of the name"
    assert other.ok("pull", f"{place}@{sent['manifest']}", "fixed") == app
    assert other("pull", f"{place}:v9").code == 3
    assert other("pull", f"{place}/none:v1").code == 3


def test_other_places_are_listed_by_their_names_alone(cli: Command, app: str, tmp_path: Path) -> None:
    cli.ok("push", "app:v1", f"oci:{tmp_path}/layout:v1")
    assert [tag["commit"] for tag in cli.json("list", "--remote", f"oci:{tmp_path}/layout")] == [app]


def test_the_settings_name_a_place(cli: Command, other: Command, app: str, tmp_path: Path) -> None:
    default = {"STRATUM_REGISTRY": f"file://{tmp_path}/places"}
    assert cli.json("push", "app:v1", env=default)["target"] == f"file://{tmp_path}/places/app:v1"
    assert other.ok("pull", "app:v1", env=default) == app
    assert [tag["tag"] for tag in other.json("list", "--remote", "app", env=default)] == ["v1"]


def test_an_export_goes_to_a_place_and_comes_back(
    cli: Command, other: Command, app: str, place: str, tmp_path: Path
) -> None:
    (tmp_path / "src/a").write_text("c" * 9000)
    newer = cli.ok("import", "--bare", tmp_path / "src", "app:v1", "--force")
    cli.ok("tag", "app:v1", "v2")
    done = cli.json("export", "app:v1", place, "--tag", "v2", "--with-history")
    assert (done["tags"], done["history"]) == ({"v1": newer, "v2": newer}, [app])
    assert {tag["tag"]: tag["commit"] for tag in cli.json("list", "--remote", place)} == {
        "v1": newer,
        "v2": newer,
        app: app,
    }
    several = other("import", place, "mine")
    assert (several.code, "several tags" in several.stderr) == (2, True)
    assert other.json("import", place, "mine", "--tag", "v2")["commit"] == newer
    assert other.json("import", f"{place}:{app}", "old")["commit"] == app
    assert cli("export", "app:v1", f"{place}:v3").code == 2


def test_an_archive_may_be_named_by_url(cli: Command, other: Command, app: str, tmp_path: Path) -> None:
    file = tmp_path / "app.stratum.tar"
    cli.ok("export", "app:v1", f"file://{file}")
    assert file.is_file()
    assert other.json("import", f"file://{file}", "mine")["commit"] == app


def test_what_is_lost_here_comes_back_from_a_place(cli: Command, app: str, place: str) -> None:
    cli.ok("push", "app:v1", place)
    shutil.rmtree(cli.store / "objects")
    (cli.store / "objects").mkdir(mode=0o755)
    assert cli("fsck").code == 5
    cli.ok("fsck", "--repair", "--from", f"{place}:v1")
    assert cli("fsck").code == 0
    cli.ok("fsck", "--remote")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["login", "s3://data", "-u", "me"], 2, "AWS_ACCESS_KEY_ID"),
        (["logout", "gs://data"], 2, "has no login"),
        (["push", "app:v1", "s3n://data/app"], 2, "not the scheme of a place"),
        (["push", "app:v1", "s3://KEY:HIDDEN@data/app"], 2, "passwords are never a part of it"),
        (["pull", "memory://nothing/app"], 3, ""),
        (["list", "--remote", "file:///nowhere/at/all"], 3, ""),
        (["import", "file:///nowhere/at/all", "x"], 3, ""),
    ],
)
def test_mistakes_are_one_line_and_a_hint(cli: Command, app: str, words: list[str], code: int, says: str) -> None:
    result = cli(*words)
    assert result.code == code, result.stderr
    assert says in result.stderr
    assert "HIDDEN" not in result.stderr
    assert "Traceback" not in result.stderr
