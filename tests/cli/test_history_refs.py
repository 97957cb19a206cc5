"""``NAME+WORKTREE@CHANGE`` wherever a commit is meant, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stratum.refs import parse_ref
from stratum.store import Store
from tests.cli.trees import BIG, make_tree, shown
from tests.support.command import Command
from tests.support.logbook import Logbook

THEN = "app+dev@3"
FILES = {"a": "2", "d": None, "d/big": BIG, "new": BIG + "new"}


@pytest.fixture
def book(cli: Command, tmp_path: Path) -> Logbook:
    """``app+dev`` over a commit with ``a`` and ``d/big``; 2 writes ``a``, 3 makes ``new``, 4 removes it."""
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1", "d/big": BIG}), "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    book = Logbook(Store.open(cli.store))
    book.write("/a", b"2")
    book.create("/new", (BIG + "new").encode())
    book.delete("/new")
    return book


@pytest.fixture
def then(book: Logbook) -> str:
    """The commit of CHANGE 3."""
    return book.store.resolve_commit(parse_ref(THEN))


def restored(cli: Command, ref: str, to: Path) -> dict[str, str | None]:
    to.mkdir()
    cli.ok("restore", ref, "/", "--to", to)
    return shown(to)


def test_tag_and_pin(cli: Command, then: str, tmp_path: Path) -> None:
    assert cli.ok("tag", THEN, "good").strip() == "app:good"
    assert cli.ok("show", "app:good").splitlines()[0].split()[-1] == then
    assert restored(cli, "app:good", tmp_path / "out") == FILES
    assert cli.ok("tag", THEN, "--pin").strip() == f"app:{then}"
    assert cli("tag", THEN, "other", "--move").code == 2
    assert cli.ok("cat", "app:good", "new") == BIG + "new"


def test_log_show_and_verify(cli: Command, then: str) -> None:
    assert cli.ok("log", THEN).split()[0] == then[:12]
    assert f"commit      {then}" in cli.ok("show", THEN)
    assert "change: 3" in cli.ok("show", THEN)
    assert cli.ok("verify", THEN).startswith(f"{then} is whole")
    assert json.loads(cli.ok("verify", THEN, "new", "--proof"))["commit"] == then
    assert cli.ok("verify", THEN, "new").startswith("new in")


def test_a_worktree_from_it(cli: Command, then: str, tmp_path: Path) -> None:
    assert cli.ok("worktree", "add", "app+again", THEN).strip() == "app+again"
    assert cli.ok("worktree", "add", THEN, "other").strip() == "app+other"
    for ref in ("app+again", "app+other"):
        assert restored(cli, ref, tmp_path / ref) == FILES


def test_reset_and_rebase(cli: Command, then: str, tmp_path: Path) -> None:
    cli.ok("worktree", "add", "app+x", "app:latest")
    cli.ok("reset", "app+x", THEN)
    assert restored(cli, "app+x", tmp_path / "reset") == FILES
    cli.ok("worktree", "add", "app+y", "app:latest")
    cli.ok("rebase", "app+y", THEN)
    assert restored(cli, "app+y", tmp_path / "rebased") == FILES


def test_it_travels(cli: Command, then: str, tmp_path: Path) -> None:
    cli.ok("push", THEN, f"oci:{tmp_path / 'layout'}:good")
    cli.ok("pull", f"oci:{tmp_path / 'layout'}:good", "pulled:good")
    assert restored(cli, "pulled:good", tmp_path / "pulled") == FILES
    cli.ok("export", THEN, tmp_path / "good.stratum.tar")
    cli.ok("import", tmp_path / "good.stratum.tar", "imported:x")
    assert restored(cli, "imported:x", tmp_path / "imported") == FILES


def test_a_patchset_of_it(cli: Command, then: str, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "patch", {"patched": "p"}), "patch")
    (tmp_path / "set.toml").write_text(f'[patchset]\nbase = "{THEN}"\npatches = ["patch:latest"]\n')
    cli.ok("patchset", "build", tmp_path / "set.toml", "made:v1")
    assert restored(cli, "made:v1", tmp_path / "out") == {**FILES, "patched": "p"}
    cli.ok("patchset", "show", tmp_path / "set.toml")
    cli.ok("import", "--patch", THEN, "app:patched", tmp_path / "patch")
    assert restored(cli, "app:patched", tmp_path / "laid-over") == {**FILES, "patched": "p"}


def test_realize(cli: Command, then: str) -> None:
    cli.ok("realize", THEN, "--no-keep")
    assert cli("realize", f"{THEN}:/nothing").code == 3


@pytest.mark.root
def test_a_mount_of_it_is_read_only(cli: Command, then: str, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    cli.ok("mount", THEN, mnt)
    assert shown(mnt) == FILES
    with pytest.raises(OSError, match="Read-only"):
        (mnt / "a").write_text("no")
    assert cli("commit", mnt).code == 2
    cli.ok("unmount", THEN)
    assert shown(mnt) == {}
    cli.ok("mount", "--persist", THEN, mnt)
    cli.ok("unmount", mnt)
    cli.ok("mount", "--all")
    assert shown(mnt) == FILES
    assert cli.json("status", mnt)[0]["mounted_tags"][0]["ref"] == f"app:{then}"
    cli.ok("unmount", "--forget", mnt)


@pytest.mark.usefixtures("then")
def test_what_is_left_out_is_said(cli: Command, book: Logbook, tmp_path: Path) -> None:
    book.unknown("/a", "large")
    n = book.unknown("/log", "open", "create")
    for arguments in (("tag", f"app+dev@{n}", "x"), ("export", f"app+dev@{n}", tmp_path / "x.tar")):
        result = cli(*arguments)
        assert result.code == 0
        assert f"2 files are left out of app+dev@{n}, as nobody knows the content: /a, /log" in result.stderr
    assert restored(cli, "app:x", tmp_path / "out") == {"d": None, "d/big": BIG}


@pytest.mark.usefixtures("book")
@pytest.mark.parametrize(
    "arguments",
    [
        ("commit", THEN),
        ("reset", THEN, "app:latest"),
        ("rebase", THEN, "app:latest"),
        ("worktree", "remove", THEN),
        ("worktree", "add", THEN),
        ("worktree", "switch", "app+dev", THEN),
        ("worktree", "switch", THEN, "app+dev"),
        ("remove", THEN),
        ("status", THEN),
        ("tag", "app:latest", "app@3"),
        ("restore", "app:latest", "a", "--to", THEN),
        ("run", "-v", f"{THEN}:/data", "image"),
    ],
)
def test_where_a_worktree_or_a_tag_is_meant(cli: Command, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments, cwd=tmp_path)
    assert result.code in (2, 3), result.stderr
    assert "Traceback" not in result.stderr
    assert cli.ok("worktree", "list", "app").count("app+") == 1
