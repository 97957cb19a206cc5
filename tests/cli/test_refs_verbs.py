"""Tags, lists, logs, removal, restore: the verbs that need no mount and no root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stratum.cli.refs import NAMED
from stratum.store import Store
from tests.cli.trees import BIG, make_tree, shown
from tests.support.command import Command


@pytest.fixture
def commits(cli: Command, tmp_path: Path) -> list[str]:
    """``app:v1`` and ``app:v2`` (= latest): their commits."""
    source = make_tree(tmp_path / "src", {"a": "1", "d/b": BIG})
    first = cli.ok("import", source, "app:v1")
    make_tree(source, {"a": "2", "new": "n"})
    second = cli.ok("import", source, "app:v2", "-m", "the second\nwith two lines")
    cli.ok("tag", "app:v2", "latest")
    return [first, second]


def test_the_commit_id_is_the_dumps_hash(cli: Command, commits: list[str]) -> None:
    for commit in commits:
        dump = b"".join(Store.open(cli.store).trees.pieces(commit))
        hashed = subprocess.run(["b3sum", "--no-names"], input=dump, check=True, capture_output=True).stdout
        assert hashed.decode().strip() == commit


def test_an_import_under_another_tag_is_stored_on_what_the_stratum_had(cli: Command, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "many", {f"{number:04}": str(number) for number in range(2000)})
    first = cli.ok("import", source, "many:v1")
    (source / "0700").write_text("changed")
    second = cli.ok("import", source, "many:v2")
    trees = Store.open(cli.store).trees
    assert (trees.record(second).level, trees.record(second).ground) == (1, first)


def test_importing_the_same_again_changes_nothing(cli: Command, commits: list[str], tmp_path: Path) -> None:
    done = cli.json("import", tmp_path / "src", "app:v2")
    assert done["commit"] == commits[1]
    assert not done["changed"]
    assert sorted(path.name for path in (cli.store / "commits").iterdir()) == sorted(commits)


def test_tag_by_tag_by_hash_and_by_bare_hash(cli: Command, commits: list[str]) -> None:
    cli.ok("tag", "app:v1", "by-tag")
    cli.ok("tag", f"app:{commits[0][:9]}", "by-prefix")
    cli.ok("tag", commits[0], "by-hash")
    cli.ok("tag", commits[0], "other:by-name")
    tags = {tag["tag"]: tag["commit"] for tag in cli.json("list", "app")["tags"]}
    assert tags["by-tag"] == tags["by-prefix"] == tags["by-hash"] == commits[0]
    assert cli.json("list", "other")["tags"][0]["commit"] == commits[0]
    assert cli("tag", commits[0], "whose").code == 2


def test_a_tag_that_exists_needs_force(cli: Command, commits: list[str]) -> None:
    assert cli("tag", "app:v1", "v2").code == 4
    assert cli.json("show", "app:v2")["commit"]["metadata_hash"] == commits[1]
    cli.ok("tag", "app:v1", "v2", "--force")
    assert cli.json("show", "app:v2")["commit"]["metadata_hash"] == commits[0]


def test_move_renames(cli: Command, commits: list[str]) -> None:
    cli.ok("tag", "app:v1", "old", "--move")
    assert {tag["tag"] for tag in cli.json("list", "app")["tags"]} == {"old", "v2", "latest"}
    assert cli("tag", commits[0], "app:x", "--move").code == 2


def test_show_log_and_diff(cli: Command, commits: list[str], tmp_path: Path) -> None:
    shown_commit = cli.json("show", "app:v2")
    assert shown_commit["commit"]["message"] == "the second\nwith two lines"
    assert shown_commit["files"] == {"count": 3, "total_size": 202}
    assert shown_commit["tags"] == ["app:latest", "app:v2"]
    make_tree(tmp_path / "src", {"third": "3"})
    third = cli.ok("import", tmp_path / "src", "app:v2", "--force")
    assert [meta["commit"]["metadata_hash"] for meta in cli.json("log", "app:v2")] == [third, commits[1]]
    changes = {change["path"]: change["kind"] for change in cli.json("diff", "app:v1", "app:latest")}
    assert changes == {"/a": "modified", "/new": "added"}
    assert cli.ok("diff", "app:latest", "app:v1", "--name-only").split() == ["/a", "/new"]
    assert cli.ok("diff", "app:v1", "app:v1") == ""
    assert "1 added" in cli.ok("diff", "app:v1", "app:latest", "--stat")
    moves = cli.json("log", "app", "--reflog")
    assert (moves[0]["ref"], moves[0]["old"], moves[0]["new"]) == ("app:v2", commits[1], third)


def test_remove_a_tag_a_worktree_and_a_stratum(cli: Command, commits: list[str]) -> None:
    cli.ok("worktree", "add", "app+w", "app:v1", "--description", "for a test")
    assert cli.json("worktree", "list", "app")[0]["description"] == "for a test"
    cli.ok("remove", "app:v1", "-n")
    assert "app:v1" in cli.ok("list", "app")
    cli.ok("remove", "app:v1")
    assert "app:v1" not in cli.ok("list", "app")
    cli.ok("remove", "app+w")
    assert cli.json("worktree", "list", "app") == []
    assert cli("remove", "app").code == 2  # nobody to ask
    assert cli.json("remove", "app", "-n")["removed"] == ["app:latest", "app:v2", "app"]
    cli.ok("remove", "app", "--yes")
    assert cli.json("list") == []
    assert cli.json("show", commits[0])["commit"]["metadata_hash"] == commits[0]


def test_worktree_add_in_both_orders(cli: Command, commits: list[str]) -> None:
    cli.ok("worktree", "add", "app+one", "app:v1")
    cli.ok("worktree", "add", "app:v2", "two")
    cli.ok("worktree", "add", "app+three")
    cli.ok("worktree", "add", "app+four", commits[0][:12])
    cli.ok("worktree", "add", "app+five", "app+one")
    bases = {tree["worktree"]: tree["base"] for tree in cli.json("worktree", "list", "app")}
    assert bases == {
        "app+one": commits[0],
        "app+two": commits[1],
        "app+three": commits[1],
        "app+four": commits[0],
        "app+five": commits[0],
    }
    assert cli("worktree", "add", "app+one", "app:v2").code == 4


def test_restore_files_and_trees(cli: Command, commits: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("restore", "app:v1", "a", "--to", out).code == 3
    out.mkdir()
    cli.ok("restore", "app:v1", "a", "d", "--to", out)
    assert shown(out) == {"a": "1", "d": None, "d/b": BIG}
    assert cli("restore", "app:v2", "a", "--to", out).code == 4
    assert (out / "a").read_text() == "1"
    cli.ok("restore", "app:v2", "a", "--to", out, "--force")
    assert (out / "a").read_text() == "2"
    whole = tmp_path / "whole"
    whole.mkdir()
    cli.ok("restore", "app:v2", "/", "--to", whole)
    assert shown(whole) == {"a": "2", "d": None, "d/b": BIG, "new": "n"}
    assert cli.ok("import", whole, "again") == commits[1]


def test_patch_imports(cli: Command, commits: list[str], tmp_path: Path) -> None:
    patch = make_tree(tmp_path / "patchtree", {".wh.a": "", "d/.wh..wh..opq": "", "d/c": "3", "e": "5"})
    for order in (["app:v1", "app:x", str(patch)], [str(patch), "app:v1", "app:x"]):
        cli.ok("import", "--bare", "--patch", *order)
        changes = {c["path"]: c["kind"] for c in cli.json("diff", "app:v1", "app:x")}
        assert changes.items() >= {"/a": "deleted", "/d/b": "deleted", "/d/c": "added", "/e": "added"}.items()
        cli.ok("remove", "app:x")
    cli.ok("import", "--patch", patch, "app:v2", "--force")
    assert [meta["commit"]["metadata_hash"] for meta in cli.json("log", "app:v2")][1:] == [commits[1]]


PATCHSET = """
[patchset]
base = "app:v1"
patches = ["app:one", "app:two"]
"""


def test_patchsets(cli: Command, commits: list[str], tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "one", {"a": "one", "only-one": "1"}), "app:one")
    cli.ok("import", "--bare", make_tree(tmp_path / "two", {"a": "two", ".wh.d": "", "x/y": "2"}), "app:two")
    file = tmp_path / "t.patchset.toml"
    file.write_text(PATCHSET)
    before = sorted((cli.store / "commits").iterdir())
    layers = cli.json("patchset", "show", file)
    assert [layer["ref"] for layer in layers] == ["app:v1", "app:one", "app:two"]
    overrides = [(o["path"], o["ref"]) for o in layers[2]["overrides"]]
    assert overrides == [("/a", "app:one")]
    assert [(o["path"], o["ref"]) for o in layers[2]["deletes"]] == [("/d/b", "app:v1")]
    assert "   /d/b  deletes that of app:v1\n" in cli.ok("patchset", "show", file) + "\n"
    conflicts = cli.json("patchset", "show", "--conflicts", file)
    assert conflicts == [{"path": "/a", "refs": ["app:one", "app:two"], "wins": "app:two"}]
    assert cli.ok("patchset", "show", "--conflicts", file) == "/a  app:two wins over app:one"
    stat = cli.ok("patchset", "show", "--stat", file).splitlines()[2].split("\t")
    assert [stat[0], *stat[2:]] == ["app:two", "1", "1", "1", "1", "4 B"]
    assert sorted((cli.store / "commits").iterdir()) == before
    built = cli.ok("patchset", "build", file, "app:merged")
    assert len(list((cli.store / "commits").iterdir())) == len(before) + 1
    origin = cli.json("show", "app:merged")["origin"]
    assert [layer["ref"] for layer in origin["layers"]] == ["app:v1", "app:one", "app:two"]
    assert cli.ok("patchset", "build", file, "app:merged") == built
    out = tmp_path / "out"
    out.mkdir()
    cli.ok("restore", built, "/", "--to", out)
    assert shown(out) == {"a": "two", "only-one": "1", "x": None, "x/y": "2"}
    file.write_text(PATCHSET.replace("base", "bsae"))
    assert "bsae" in cli("patchset", "build", file, "app:merged").stderr
    file.write_text(PATCHSET.replace('base = "app:v1"', "").replace('"app:two"', f'"{commits[0]}"'))
    assert cli("patchset", "build", file, "app:merged").code == 4
    cli.ok("patchset", "build", file, "app:merged", "--force")


def test_import_of_a_directory_that_has_the_stratums_name(cli: Command, tmp_path: Path) -> None:
    make_tree(tmp_path / "app", {"a": "1"})
    assert cli("import", "--bare", "app", "app", cwd=tmp_path).code == 0
    make_tree(tmp_path / "other", {"a": "1"})
    assert cli("import", "--bare", "app", "other", cwd=tmp_path).code == 2


def test_paths_of_any_bytes(cli: Command, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"di\xffr\nx")
    source = make_tree(place, {"a": "1"})
    commit = cli.ok("import", "--bare", source, "app")
    archive = tmp_path / os.fsdecode(b"ex\xff\nport.tar")
    assert cli.ok("export", "app", archive).endswith("ex\\xff\\nport.tar")
    assert cli.ok("import", archive, "copy") == commit


def test_the_list_of_all_strata_names_the_first_of_many_tags(cli: Command, commits: list[str]) -> None:
    store = Store.open(cli.store)
    for number in range(NAMED):
        store.tags.set("app", f"t{number:02}", commits[0])
    named = cli.ok("list").split("\t")[1]
    assert named.startswith("latest, t00, t01, ")
    assert named.endswith(f"t{NAMED - 2:02} and 3 more")
    assert len(cli.json("list")[0]["tags"]) == NAMED + 3
