"""Tags move only when that is asked for: what import and pull do with a tag that names another commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.trees import BIG, make_tree
from tests.support.command import Command

FILES = {"a": "1", "big": BIG}


def state(cli: Command) -> dict[str, str]:
    """All that a store holds but its caches: path -> link target or size."""
    found = {}
    for directory, names, files in os.walk(cli.store):
        names[:] = [name for name in names if Path(directory, name) != cli.store / "cache"]
        for name in [*names, *files]:
            path = Path(directory, name)
            size = path.stat().st_size if path.is_file() else 0
            found[str(path.relative_to(cli.store))] = os.readlink(path) if path.is_symlink() else str(size)
    return found


def refused(cli: Command, *args: str | Path, names: str) -> None:
    """``stratum ARGS`` ends with exit code 4, tells of the tag and of --force, and leaves nothing behind."""
    before = state(cli)
    code, out, err = cli(*args)
    assert (code, out) == (4, ""), err
    assert f"the tag {names} exists already" in err
    assert "--force" in err
    assert state(cli) == before


def commit_of(cli: Command, ref: str) -> str:
    commit: str = cli.json("show", ref)["commit"]["metadata_hash"]
    return commit


def parent_of(cli: Command, ref: str) -> str | None:
    parent: str | None = cli.json("show", ref)["commit"].get("parent_commit")
    return parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source", FILES)


@pytest.fixture
def there(tmp_path: Path) -> Command:
    """Another machine's store."""
    return Command(tmp_path / "store-there", tmp_path / "run-there")


@pytest.fixture
def generations(there: Command, source: Path) -> list[str]:
    """Three commits of another machine, each made on top of the one before: ``db:gen1`` to ``db:gen3``."""
    made = []
    for number in (1, 2, 3):
        (source / "a").write_text(f"generation {number}" + BIG)
        made.append(there.ok("import", source, "db"))
        there.ok("tag", "db:latest", f"gen{number}")
    return made


def test_a_directory_is_imported_again_and_again(cli: Command, source: Path) -> None:
    first = cli.ok("import", source, "app")
    (source / "a").write_text("2")
    second = cli.ok("import", source, "app")
    assert (commit_of(cli, "app"), parent_of(cli, "app")) == (second, first)
    third = cli.ok("import", as_in_the_epoch(source), "app:latest")
    assert cli.ok("import", source, "app") == third == commit_of(cli, "app:latest")
    (source / "a").write_text("4")
    fourth = cli.ok("import", source, "app")
    assert parent_of(cli, "app") == third
    assert cli.ok("import", as_in_the_epoch(source), "app") == third  # a commit that was there, with another parent
    assert (commit_of(cli, "app"), parent_of(cli, "app")) == (third, second)
    assert fourth != third


def as_in_the_epoch(source: Path) -> Path:
    """The directory with the same content and times whenever this is called."""
    (source / "a").write_text("1")
    for entry in ("a", "."):
        os.utime(source / entry, ns=(0, 0))
    return source


def test_an_import_moves_no_other_tag(cli: Command, source: Path) -> None:
    first = cli.ok("import", source, "app:v1")
    assert cli.ok("import", source, "app:v1") == first
    (source / "new").write_text(BIG + "new")
    refused(cli, "import", source, "app:v1", names="app:v1")
    second = cli.ok("import", source, "app:v1", "--force")
    assert (commit_of(cli, "app:v1"), parent_of(cli, "app:v1")) == (second, first)


def test_a_patch_moves_latest_on_top_of_it_only(cli: Command, source: Path, tmp_path: Path) -> None:
    first = cli.ok("import", source, "app")
    cli.ok("tag", "app:latest", "v1")
    patch = make_tree(tmp_path / "patch", {"patched": BIG + "patched"})
    refused(cli, "import", "--patch", patch, "app:v1", names="app:v1")
    for arguments in (["app"], ["app:latest", "app:latest"]):
        cli.ok("import", "--patch", *arguments, patch)
        assert commit_of(cli, "app") != first
    second = commit_of(cli, "app")
    other = make_tree(tmp_path / "other", {"other": BIG + "other"})
    refused(cli, "import", "--patch", "app:v1", "app", other, names="app:latest")
    third = cli.ok("import", "--patch", "app:v1", "app", other, "--force")
    assert (commit_of(cli, "app"), parent_of(cli, "app")) == (third, first)
    assert cli.ok("import", "--patch", "app:v1", "app:third", other) == third
    assert cli.ok("import", "--patch", "app:v1", "app:third", other) == third  # the same commit is no move
    assert second != third


def test_a_patch_in_an_archive_is_not_fetched_for_a_tag_that_stays(
    cli: Command, there: Command, generations: list[str], source: Path, tmp_path: Path
) -> None:
    there.ok("export", "db:gen1", tmp_path / "patch.tar")
    (source / "a").unlink()
    cli.ok("import", source, "app")
    cli.ok("tag", "app", "v1")
    refused(cli, "import", "--patch", "app", "app:v1", tmp_path / "patch.tar", names="app:v1")
    cli.ok("import", "--patch", "app", tmp_path / "patch.tar")


def test_an_archive_moves_latest_to_what_descends_from_it(
    cli: Command, there: Command, generations: list[str], tmp_path: Path
) -> None:
    for tag in ("gen1", "gen2", "gen3"):
        there.ok("export", f"db:{tag}", tmp_path / tag)
    there.ok("export", "db:gen3", tmp_path / "history", "--with-history")
    assert cli.ok("import", tmp_path / "gen1", "db") == generations[0]
    assert cli.ok("import", tmp_path / "gen3", "db") == generations[2]  # it says so, though what is between is not here
    cli.ok("import", tmp_path / "gen1", "copy")
    assert cli.ok("import", tmp_path / "history", "copy") == generations[2]
    for older in ("gen1", "gen2"):
        refused(cli, "import", tmp_path / older, "db", names="db:latest")
    cli.ok("import", tmp_path / "gen1", "db:gen1")
    refused(cli, "import", tmp_path / "gen2", "db:gen1", names="db:gen1")
    assert cli.ok("import", tmp_path / "gen2", "db:gen1", "--force") == generations[1] == commit_of(cli, "db:gen1")
    assert cli.ok("import", tmp_path / "gen1", "db", "--force") == generations[0] == commit_of(cli, "db")


def test_a_pull_follows_its_tag_and_moves_no_other(
    cli: Command, there: Command, generations: list[str], source: Path, tmp_path: Path
) -> None:
    layout = f"oci:{tmp_path / 'layout'}"
    for number, commit in enumerate(generations, 1):
        there.ok("push", f"db:gen{number}", layout)
        there.ok("push", f"db:gen{number}", f"{layout}:latest")
        assert cli.ok("pull", layout, "db") == commit == commit_of(cli, "db")
    assert cli.ok("pull", layout, "db") == generations[2]
    cli.ok("pull", f"{layout}:gen1", "db")
    refused(cli, "pull", f"{layout}:gen2", "db:gen1", names="db:gen1")
    there.ok("push", "db:gen1", f"{layout}:latest")
    refused(cli, "pull", layout, "db", names="db:latest")
    assert cli.ok("pull", layout, "db", "--force") == generations[0] == commit_of(cli, "db")
    (source / "a").write_text("of another line" + BIG)
    there.ok("import", source, "line")
    there.ok("push", "line", f"{layout}:gen1")
    refused(cli, "pull", f"{layout}:gen1", "db", names="db:gen1")


def test_force_replaces_a_damaged_tag(cli: Command, source: Path) -> None:
    commit = cli.ok("import", source, "app")
    tag = cli.store / "refs/app/tags/latest"
    tag.unlink()
    tag.symlink_to("elsewhere")
    assert cli("import", source, "app").code == 5
    assert cli.ok("import", source, "app", "--force") == commit == commit_of(cli, "app")


def test_a_refused_patchset_leaves_nothing(cli: Command, source: Path, tmp_path: Path) -> None:
    cli.ok("import", source, "app:base")
    cli.ok("import", make_tree(tmp_path / "patch", {"more": BIG + "more"}), "app:patch")
    file = tmp_path / "patchset"
    file.write_text('[patchset]\nbase = "app:base"\npatches = ["app:patch"]\n')
    cli.ok("tag", "app:base", "made")
    refused(cli, "patchset", "build", file, "app:made", names="app:made")
    cli.ok("patchset", "build", file, "app:made", "--force")


@pytest.mark.root
def test_it_is_noted_that_main_stays_where_it_is(cli: Command, source: Path) -> None:
    first = cli.ok("import", source, "app")
    assert "alone is" not in cli("import", source, "app").stderr
    cli.ok("worktree", "add", "app+main")
    (source / "a").write_text("2")
    done = cli("import", source, "app")
    assert done.stderr.count(f"app alone is app+main, which stays at {first[:12]}") == 1
    assert commit_of(cli, "app") == first
    for quiet in ("--quiet", "--format=json"):
        assert "alone is" not in cli("import", source, "app", quiet).stderr
