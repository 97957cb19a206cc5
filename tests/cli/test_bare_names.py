"""NAME alone is one thing, whatever verb reads it: the last commit of ``main``, or ``latest`` without a ``main``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import click
import pytest

from stratum.api.session import Session
from stratum.cli.main import cli as all_verbs
from stratum.cli.reftype import RefType
from stratum.cli.verbs import VERBS
from stratum.config import load_config
from stratum.refs import Ref
from stratum.volumes.making import ensure_worktree
from stratum.volumes.request import Beginning
from tests.cli.trees import make_tree
from tests.support.command import Command

pytestmark = pytest.mark.root


class Verbs:
    """Every verb that takes a commit by a ref, as a function that tells which commit it took for ``db``."""

    def __init__(self, cli: Command, place: Path) -> None:
        self.cli = cli
        self.place = place
        self.numbers = count()

    def new(self, what: str) -> str:
        return f"{what}-{self.place.name}-{next(self.numbers)}"

    def all(self) -> dict[str, Callable[[], str]]:
        return {
            name.removeprefix("by_").replace("_", " "): getattr(self, name) for name in dir(self) if name[:3] == "by_"
        }

    def _commit_of(self, ref: str) -> str:
        commit: str = self.cli.json("show", ref)["commit"]["metadata_hash"]
        return commit

    def by_show(self) -> str:
        return self._commit_of("db")

    def by_cat(self) -> str:
        shown = self.cli("cat", "db", "f")[:2]
        assert self.cli("show", "db", "f")[:2] == shown
        return self._same_as(lambda ref: self.cli("cat", ref, "f")[:2] == shown)

    def by_ls(self) -> str:
        shown = self.cli.json("ls", "-R", "db")
        return self._same_as(lambda ref: self.cli.json("ls", "-R", ref) == shown)

    def by_find(self) -> str:
        shown = self.cli.json("find", "db", "*")
        return self._same_as(lambda ref: self.cli.json("find", ref, "*") == shown)

    def by_log(self) -> str:
        commit: str = self.cli.json("log", "db")[0]["commit"]["metadata_hash"]
        return commit

    def by_verify(self) -> str:
        commit: str = self.cli.json("verify", "db")["commit"]
        return commit

    def by_diff(self) -> str:
        parent = self.cli.json("show", "db")["commit"].get("parent_commit")
        assert self.cli.json("diff", "db", "db") == []
        if parent is not None:
            assert self.cli.json("diff", "db") == self.cli.json("diff", parent, "db")
        return self._same_as(lambda ref: not self.cli.json("diff", ref, "db"))

    def by_tag(self) -> str:
        return self._commit_of(self.cli.ok("tag", "db", self.new("tag")))

    def by_push(self) -> str:
        done = self.cli.json("push", "db", f"oci:{self.place / 'layout'}")
        assert done["target"].endswith("/layout:latest")
        commit: str = done["commit"]
        return commit

    def by_export(self) -> str:
        tags = self.cli.json("export", "db", self.place / self.new("file"))["tags"]
        assert list(tags) == ["latest"]
        commit: str = tags["latest"]
        return commit

    def by_c4_id(self) -> str:
        found = self._c4_id("db")
        return self._same_as(lambda ref: self._c4_id(ref) == found)

    def by_c4_export(self) -> str:
        text = self.cli.ok("c4", "export", "db", "-")
        return self._same_as(lambda ref: self.cli.ok("c4", "export", ref, "-") == text)

    def by_c4_diff(self) -> str:
        return self._same_as(lambda ref: not self.cli.json("c4", "diff", ref, "db")["patch"])

    def by_c4_verify(self) -> str:
        def same(ref: str) -> bool:
            file = self.place / self.new("c4m")
            self.cli.ok("c4", "export", ref, file)
            return self.cli("c4", "verify", file, "db").code == 0

        return self._same_as(same)

    def _c4_id(self, ref: str) -> str:
        return self.cli.ok("c4", "id", ref).split()[0]

    def by_restore(self) -> str:
        place = self.place / self.new("restored")
        place.mkdir()
        self.cli.ok("restore", "db", "/", "--to", place)
        return self.cli.ok("import", "--bare", place, self.new("from-restored"))

    def by_realize(self) -> str:
        commit: str = self.cli.json("realize", "--no-keep", "db")["commit"]
        return commit

    def by_unrealize(self) -> str:
        commit: str = self.cli.json("unrealize", "db")["commit"]
        self.cli.ok("unrealize", "--auto", "db")
        return commit

    def by_worktree_add(self) -> str:
        first, second, third = (self.new("w") for _ in range(3))
        self.cli.ok("worktree", "add", f"db+{first}")
        self.cli.ok("worktree", "add", f"db+{second}", "db")
        self.cli.ok("worktree", "add", "db", third)
        trees = {tree["worktree"]: tree["base"] for tree in self.cli.json("worktree", "list", "db")}
        (base,) = {trees[f"db+{made}"] for made in (first, second, third)}
        commit: str = base
        return commit

    def by_reset(self) -> str:
        commit: str = self.cli.json("reset", self._elsewhere(), "db")["base"]
        return commit

    def by_rebase(self) -> str:
        commit: str = self.cli.json("rebase", self._elsewhere(), "db")["base"]
        return commit

    def by_import(self) -> str:
        patch = make_tree(self.place / self.new("patch"), {"more": "more"})
        made = self.cli.ok("import", "--patch", "db", f"db:{self.new('patched')}", patch)
        parent: str = self.cli.json("show", made)["commit"]["parent_commit"]
        return parent

    def by_patchset(self) -> str:
        file = self.place / self.new("patchset")
        file.write_text('[patchset]\nbase = "db"\npatches = ["db", "other"]\n')
        base, first, _ = self.cli.json("patchset", "build", file, f"made:{self.new('v')}")["layers"]
        assert base["commit"] == first["commit"] == self.cli.json("patchset", "show", file)[0]["commit"]
        commit: str = base["commit"]
        return commit

    def by_run(self) -> str:
        """An annotation's or ``run -v``'s create=NAME."""
        session = Session(load_config(store=str(self.cli.store), runtime_dir=str(self.cli.runtime_dir)))
        made = ensure_worktree(session, Ref("db", worktree=self.new("c")), Beginning(base=Ref("db")), why="a test")
        return made.base_commit

    def _elsewhere(self) -> str:
        """A worktree on another commit."""
        name = f"db+{self.new('e')}"
        self.cli.ok("worktree", "add", name, "other:latest")
        return name

    def _same_as(self, same: Callable[[str], bool]) -> str:
        (found,) = [ref for ref in ("db:first", "db:second") if same(ref)]
        return self._commit_of(found)


NAMESPACES_AND_WORKTREES = {
    *("list", "remove", "status", "worktree list", "du"),
    *("mount", "unmount", "umount", "shell", "commit", "worktree remove", "worktree switch"),
    *("history", "history on", "history off"),
    *("share", "sync", "merge", "peer add", "peer remove"),
}
"""Verbs to which NAME is the stratum as such, its worktree ``main``, or a peer."""


def verbs_with_refs() -> Iterator[str]:
    context = click.Context(all_verbs)
    for verb in VERBS:
        command = all_verbs.get_command(context, verb)
        assert command is not None
        commands = dict(command.commands) if isinstance(command, click.Group) else {}
        for word, inner in {"": command, **commands}.items():
            if any(isinstance(parameter.type, RefType) for parameter in inner.params):
                yield f"{verb} {word}".strip()


def test_every_verb_that_takes_a_ref_is_looked_at(cli: Command, tmp_path: Path) -> None:
    looked_at = set(Verbs(cli, tmp_path).all()) | {"patchset build"}
    assert set(verbs_with_refs()) <= looked_at | NAMESPACES_AND_WORKTREES


@pytest.fixture
def strata(cli: Command, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """``db``, mounted and committed live: ``db:first`` (latest, empty) and ``db:second`` (its main). ``other``."""
    cli.ok("import", make_tree(tmp_path / "other", {"other": "1"}), "other")
    first = cli.ok("init", "db", tmp_path / "mnt")
    (tmp_path / "mnt" / "f").write_text("written")
    second = cli.ok("commit", "db")
    cli.ok("tag", "db:latest", "first")
    cli.ok("tag", "db+main", "second")
    assert first != second
    yield first, second
    cli("unmount", "db")


def agreed(cli: Command, place: Path) -> str:
    """The commit that all verbs take for ``db``."""
    place.mkdir()
    taken = {name: take() for name, take in Verbs(cli, place).all().items()}
    assert len(set(taken.values())) == 1, taken
    return taken["show"]


def test_all_verbs_agree(cli: Command, strata: tuple[str, str], tmp_path: Path) -> None:
    first, second = strata
    assert agreed(cli, tmp_path / "committed") == second
    cli.ok("unmount", "db")
    cli.ok("remove", "db+main")
    assert agreed(cli, tmp_path / "without-main") == first
    cli.ok("worktree", "add", "db+main", "db:second")
    assert agreed(cli, tmp_path / "without-a-commit-of-its-own") == second


def test_what_was_committed_is_what_arrives(cli: Command, strata: tuple[str, str], tmp_path: Path) -> None:
    cli.ok("push", "db", f"oci:{tmp_path / 'layout'}")
    there = Command(tmp_path / "store-there", tmp_path / "run-there")
    there.ok("pull", f"oci:{tmp_path / 'layout'}", "db")
    there.ok("mount", "db", tmp_path / "mnt-there")
    try:
        assert (tmp_path / "mnt-there" / "f").read_text() == "written"
    finally:
        there.ok("unmount", "db")


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "not mounted"])
def test_uncommitted_changes_are_noted_once(
    cli: Command, strata: tuple[str, str], tmp_path: Path, mounted: bool
) -> None:
    layout = f"oci:{tmp_path / 'layout'}"
    assert "uncommitted" not in cli("push", "db", layout).stderr
    (tmp_path / "mnt" / "g").write_text("not committed")
    if not mounted:
        cli.ok("unmount", "db")
    patchset = tmp_path / "patchset"
    patchset.write_text('[patchset]\nbase = "db"\npatches = ["db", "other"]\n')
    cli.ok("worktree", "add", "db+w", "db:first")
    for args in (
        ["push", "db", layout],
        ["export", "db", tmp_path / "file"],
        ["tag", "db", "a-tag"],
        ["restore", "db", "f", "--to", tmp_path],
        ["log", "db"],
        ["show", "db"],
        ["diff", "db"],
        ["diff", "db:first", "db"],
        ["verify", "db"],
        ["worktree", "add", "db+n"],
        ["worktree", "add", "db", "m"],
        ["reset", "db+w", "db"],
        ["rebase", "db+w", "db"],
        ["import", "--patch", "db", "db:patched", tmp_path / "other"],
        ["patchset", "build", patchset, "made"],
        ["patchset", "show", patchset],
    ):
        done = cli(*args)
        assert done.code == 0, done.stderr
        assert done.stderr.count("db+main has uncommitted changes") == 1, args
    for quiet in ("--quiet", "--format=json"):
        assert "uncommitted" not in cli("show", "db", quiet).stderr
    for named in ("db+main", "db:second"):
        assert "uncommitted" not in cli("show", named).stderr


def test_a_worktree_that_cannot_be_read_keeps_no_verb_from_its_work(
    cli: Command, strata: tuple[str, str], tmp_path: Path
) -> None:
    cli.ok("unmount", "db")
    stray = cli.store / "refs/db/worktrees/main/upperdir/stray"
    stray.write_bytes(b"")
    os.setxattr(stray, "trusted.overlay.metacopy", b"")
    assert cli("status", "db").code == 5
    done = cli("push", "db", f"oci:{tmp_path / 'layout'}")
    assert (done.code, "uncommitted" in done.stderr) == (0, False)


def test_unmounting_a_name_unmounts_what_it_is(cli: Command, strata: tuple[str, str], tmp_path: Path) -> None:
    cli.ok("mount", "db:latest", tmp_path / "tagged")
    cli.ok("unmount", "db")
    assert cli("unmount", "db").code == 3  # another ref of the same stratum is not what was named
    cli.ok("remove", "db+main")
    cli.ok("unmount", "db")


def test_what_a_place_is_given_as_tag(cli: Command, strata: tuple[str, str], tmp_path: Path) -> None:
    second = strata[1]
    layout = f"oci:{tmp_path / 'layout'}"
    for ref, tag in {
        "db": "latest",
        "db:second": "second",
        "db+main": "main",
        second: second[:12],
        f"db:{second[:20]}": second[:12],
    }.items():
        assert cli.json("push", ref, layout)["target"] == f"{layout}:{tag}"
        assert cli.json("push", ref, f"{layout}:given", "-n")["target"] == f"{layout}:given"
        assert cli.json("export", ref, tmp_path / "file")["tags"] == {tag: second}


def test_an_archive_has_no_two_commits_of_one_tag(cli: Command, strata: tuple[str, str], tmp_path: Path) -> None:
    done = cli("export", "db", tmp_path / "file", "--tag", "latest")
    assert done.code == 2
    assert "db:latest" in done.stderr
    assert not (tmp_path / "file").exists()
    assert set(cli.json("export", "db", tmp_path / "file", "--tag", "second")["tags"]) == {"latest", "second"}


def test_only_a_tag_is_renamed(cli: Command, strata: tuple[str, str]) -> None:
    done = cli("tag", "db", "new", "--move")
    assert done.code == 2
    assert "db+main" in done.stderr
    assert "db:latest" in cli.ok("list", "db")
