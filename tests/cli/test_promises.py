"""The examples of the project's first documents, typed as they stand there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.trees import BIG, make_tree, shown
from tests.support.command import Command

pytestmark = pytest.mark.root


def test_workflow_examples(cli: Command, tmp_path: Path) -> None:
    app = make_tree(tmp_path / "app", {"file": "1", "removed_file.txt": "x", "data/big": BIG})
    patch = make_tree(tmp_path / "patchtree", {".wh.removed_file.txt": "", "new_subdir/f": "new"})
    mnt = tmp_path / "mnt"
    mnt.mkdir()

    commit = cli.ok("import", "--bare", app, "myapp")
    cli.ok("import", "--bare", "--patch", "myapp:latest", "myapp:feature-x", patch)

    cli.ok("tag", f"myapp:{commit[:8]}", "v1.0")
    cli.ok("tag", f"myapp:{commit[:8]}", "latest")
    cli.ok("tag", commit, "stable")

    cli.ok("worktree", "add", "myapp:latest", "feature-branch")
    cli.ok("worktree", "add", "myapp:v1.0", "hotfix")

    cli.ok("mount", "myapp+main", mnt / "main")
    cli.ok("mount", "myapp+feature-branch", mnt / "feature")
    assert cli("mount", "myapp", mnt / "main").code == 4
    cli.ok("unmount", mnt / "main")
    cli.ok("mount", "myapp", mnt / "main")

    cli.ok("mount", "myapp:v1.0", mnt / "readonly")
    with pytest.raises(OSError, match="Read-only"):
        (mnt / "readonly" / "x").touch()

    (mnt / "feature" / "feature").write_text("f")
    (mnt / "main" / "main").write_text("m")
    cli.ok("commit", "myapp:feature-branch", "new-feature")
    assert cli("commit", "myapp:main", "latest").code == 4
    cli.ok("commit", "myapp:main", "latest", "--force")
    cli.ok("commit", mnt / "main", "new-tag")
    assert "myapp:new-tag" in cli.ok("list", "myapp")
    for name in ("main", "feature", "readonly"):
        cli.ok("unmount", mnt / name)
    assert cli.ok("diff", "myapp:v1.0", "myapp:new-feature") == "A /feature"
    assert cli.ok("diff", "myapp:v1.0", "myapp:latest") == "A /main"


def test_a_worktree_is_mounted_once(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "app", {"f": "1"}), "myapp")
    cli.ok("worktree", "add", "myapp+profile-1", "myapp:latest")
    cli.ok("worktree", "add", "myapp+profile-2", "myapp:latest")
    cli.ok("mount", "myapp+profile-1", tmp_path / "profile-1")
    cli.ok("mount", "myapp+profile-2", tmp_path / "profile-2")
    assert cli("mount", "myapp+profile-1", tmp_path / "profile-1-duplicate").code == 4
    assert not (tmp_path / "profile-1-duplicate").exists()
    cli.ok("unmount", tmp_path / "profile-1")
    cli.ok("mount", "myapp+profile-1", tmp_path / "profile-1-duplicate")
    cli.ok("unmount", tmp_path / "profile-1-duplicate")
    cli.ok("unmount", tmp_path / "profile-2")


def test_a_mod_managers_day(cli: Command, tmp_path: Path) -> None:
    """A base, patches with conflicts, profiles side by side with saves in each, a new base, a rollback."""
    game = make_tree(tmp_path / "game", {"game.bin": BIG, "ui/menu": "vanilla", "lang/en": "hello"})
    cli.ok("import", "--bare", game, "game:stable")
    for name, files in {
        "loader": {"loader.dll": BIG + "l"},
        "ui": {"ui/menu": "better", "ui/extra": "e"},
        "lang": {"lang/de": "hallo", ".wh.intro": ""},
        "x": {"mods/x": "x", "shared": "x"},
        "y": {"mods/y": "y", "shared": "y"},
        "z": {"shared": "z", "lang/.wh.en": ""},
    }.items():
        cli.ok("import", "--bare", make_tree(tmp_path / name, files), f"game:mod-{name}")
    patchset = tmp_path / "all.patchset.toml"
    order = ["loader", "ui", "lang", "x", "y", "z"]
    patchset.write_text(
        '[patchset]\nbase = "game:stable"\npatches = [' + ", ".join(f'"game:mod-{name}"' for name in order) + "]\n"
    )
    assert {"path": "/shared", "ref": "game:mod-y"} in cli.json("patchset", "show", patchset)[-1]["overrides"]
    cli.ok("patchset", "build", patchset, "game:modded")
    places = {}
    for profile in ("one", "two", "three"):
        cli.ok("worktree", "add", f"game+{profile}", "game:modded")
        places[profile] = Path(cli.ok("mount", f"game+{profile}"))
        (places[profile] / "save").write_text(profile)
    assert shown(places["two"])["shared"] == "z"
    assert "lang/en" not in shown(places["two"])
    assert {name: shown(place)["save"] for name, place in places.items()} == {n: n for n in places}

    make_tree(game, {"game.bin": BIG + "v2", "dlc": "d"})
    cli.ok("import", "--bare", game, "game:v2")
    cli.ok("rebase", places["one"], "game:v2")
    seen = shown(places["one"])
    assert (seen["save"], seen["dlc"], "loader.dll" in seen) == ("one", "d", False)

    (places["two"] / "ui" / "menu").write_text("broken by a mod")
    cli.ok("reset", places["two"], "game:modded")
    assert (shown(places["two"])["ui/menu"], "save" in shown(places["two"])) == ("better", False)
    kept = cli.json("log", "game+two", "--reflog")[1]["new"]
    cli.ok("restore", kept, "save", "--to", "game+two")
    assert shown(places["two"])["save"] == "two"
    assert shown(places["three"])["save"] == "three"
    for profile in places:
        cli.ok("unmount", f"game+{profile}")
