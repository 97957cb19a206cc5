"""``version`` and ``info``, and machines where nothing is yet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum import __version__
from tests.cli.trees import make_tree
from tests.support.command import Command

pytestmark = pytest.mark.root


def test_version(cli: Command) -> None:
    assert cli.ok("version") == cli.ok("--version") == f"stratum {__version__}"
    assert cli.json("version") == {"version": __version__}


def test_info_counts_what_is_there(cli: Command, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "src", {"a": "1"})
    cli.ok("import", source, "app:v1")
    (source / "a").write_text("2")
    cli.ok("import", source, "app:v2")
    cli.ok("worktree", "add", "app+dev", "app:v1")
    cli.ok("mount", "app+dev", tmp_path / "mnt")
    found = cli.json("info")
    store = found["store"]
    cli.ok("unmount", tmp_path / "mnt")
    assert found["version"] == __version__
    assert found["kernel"] == os.uname().release
    assert [store[key] for key in ("strata", "tags", "worktrees", "commits", "mounts")] == [1, 2, 1, 2, 1]
    assert (store["path"], store["format"], store["problem"]) == (str(cli.store), 2, None)
    assert 0 < store["disk_free"] <= store["disk_size"]
    assert {each["name"]: each["available"] for each in found["features"]} | {"overlay": True, "erofs": True} == {
        each["name"]: each["available"] for each in found["features"]
    }
    text = cli.ok("info")
    assert "1 strata, 2 tags, 1 worktrees, 2 commits" in text
    assert str(cli.store) in text


def test_info_without_a_store(cli: Command) -> None:
    found = cli.json("info")["store"]
    assert found["format"] is None
    assert found["problem"] == f"there is no store at {cli.store}"
    assert found["problem"] in cli.ok("info")


def test_an_empty_directory_holds_no_strata(cli: Command) -> None:
    """As where a package has made the directory, and nobody has put anything in it."""
    cli.store.mkdir()
    for verb in ("list", "status"):
        done = cli(verb)
        assert (done.code, done.stdout) == (0, "")
        assert "'stratum init NAME MOUNTPOINT'" in done.stderr
        assert cli.json(verb) == []
    assert cli("list", "app").code == 3
    assert not list(cli.store.iterdir())
    (cli.store / "something").touch()
    assert cli("list").code == 3
