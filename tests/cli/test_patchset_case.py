"""Patchsets of mods that were packed where case is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.api.patchset import read_patchset
from tests.cli.trees import make_tree
from tests.support.capabilities import CHECKOUT
from tests.support.command import Command

pytestmark = pytest.mark.root


def test_ignoring_case(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "game", {"Data/Intro.mp4": "1", "Data/b": "2"}), "g:base")
    cli.ok("import", "--bare", make_tree(tmp_path / "mod", {"data/intro.MP4": "3", "data/c": "4"}), "g:mod")
    many = {f"data/{letter}{number}": "" for number in range(10) for letter in "xX"}
    cli.ok("import", "--bare", make_tree(tmp_path / "many", many), "g:many")
    file = tmp_path / "set.toml"
    file.write_text('[patchset]\nbase = "g:base"\npatches = ["g:mod", "g:many"]\n')
    _, out, err = cli("patchset", "show", file)
    assert "overrides" not in out
    assert "warning: g:mod: /data differs from /Data in case only" in err
    assert err.count("differs from") == 10
    assert "so do 1 more names" in err
    assert len(cli.json("patchset", "show", file)[2]["differing_in_case"]) == 10
    _, out, err = cli("patchset", "show", "--ignore-case", file)
    assert "   /Data/Intro.mp4  overrides g:base\n" in out
    assert "names are spelled as what lies below them" in err
    file.write_text(file.read_text() + "ignore_case = true\n")
    built = cli.ok("patchset", "build", file, "g:merged")
    assert cli.json("show", "g:merged")["origin"]["ignore_case"] is True
    (tmp_path / "to").mkdir()
    cli.ok("restore", built, "/", "--to", tmp_path / "to")
    names = sorted(path.name for path in (tmp_path / "to/Data").iterdir())
    assert names == sorted(["Intro.mp4", "b", "c", *(f"X{number}" for number in range(10))])
    assert (tmp_path / "to/Data/Intro.mp4").read_text() == "3"
    assert built != cli.ok("patchset", "build", "--no-ignore-case", file, "g:other")
    file.write_text(file.read_text().replace("true", '"yes"'))
    assert cli("patchset", "show", file).code == 2


def test_the_example_is_a_patchset() -> None:
    example = read_patchset(str(CHECKOUT / "docs/mods.patchset.toml"))
    assert (str(example.base), len(example.patches), example.ignore_case) == ("game:vanilla", 4, True)
