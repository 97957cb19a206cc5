"""``ls``, ``find`` and ``REF:/PATH`` wherever a path in a commit is meant."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.trees import BIG, make_tree
from tests.support.command import Command

BYTES = bytes(range(256))


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> Path:
    """``app:v1``, and ``app:latest`` made on top of it; the directory that it was imported from."""
    source = make_tree(tmp_path / "src", {"etc/app.conf": "1\n", "etc/d/x.conf": BIG, "var/log/": "", "bin": BYTES})
    os.symlink("etc/app.conf", source / "link")
    for path in source.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    cli.ok("import", "--bare", source, "app:latest")
    cli.ok("tag", "app:latest", "v1")
    (source / "etc/app.conf").write_text("2\n")
    (source / "etc/d/x.conf").unlink()
    (source / "odd\nname").write_text("")
    cli.ok("import", "--bare", source, "app:latest")
    return source


def test_ls(cli: Command, app: Path) -> None:
    assert cli.ok("ls", "app:v1").splitlines() == ["bin", "etc/", "link", "var/"]
    assert cli.ok("ls", "app").splitlines() == ["bin", "etc/", "link", "odd\\nname", "var/"]
    assert cli.ok("ls", "app:v1:etc").splitlines() == ["app.conf", "d/"]
    assert cli.ok("ls", "app~1", "/etc", "-R").splitlines() == ["app.conf", "d/", "d/x.conf"]
    assert cli.ok("ls", "app:v1:/etc/app.conf") == "app.conf"
    rows = [row.split("\t") for row in cli.ok("ls", "-l", "app:v1").splitlines()]
    assert [row[0][0] for row in rows] == ["-", "d", "l", "d"]
    assert (rows[0][2], rows[2][4]) == ("256 B", "link -> etc/app.conf")
    entries = cli.json("ls", "app:v1:/etc", "-R")
    assert [(entry["path"], entry["type"]) for entry in entries] == [
        ("/etc/app.conf", "file"),
        ("/etc/d", "directory"),
        ("/etc/d/x.conf", "file"),
    ]
    assert cli.json("ls") == cli.json("list")
    assert cli("ls", "app:v1:/nothing").code == 3


def test_find(cli: Command, app: Path) -> None:
    assert cli.ok("find", "app:v1", "*.conf").splitlines() == ["/etc/app.conf", "/etc/d/x.conf"]
    assert cli.ok("find", "app:v1", "/etc/*.conf", "log/").splitlines() == ["/etc/app.conf", "/var/log"]
    assert cli.ok("find", "app:v1:/etc", "/**/x*").splitlines() == ["/etc/d/x.conf"]
    assert cli.ok("find", "app:v1", "--type", "l", "--type", "d").splitlines() == [
        *("/etc", "/etc/d", "/link", "/var", "/var/log"),
    ]
    assert cli.ok("find", "app", "odd*") == "/odd\\nname"
    assert cli.json("find", "app:v1", "bin")[0]["size"] == 256
    assert cli.ok("find", "app:v1", "nothing") == ""
    assert cli("find", "app:v1", "!x").code == 2
    assert cli("find", "app:v1:/nothing", "x").code == 3


def test_find_in_history(cli: Command, app: Path) -> None:
    first, second = (cli.json("show", ref)["commit"]["metadata_hash"] for ref in ("app:v1", "app"))
    found = cli.json("find", "--history", "app", "*.conf")
    assert [(entry["commit"], entry["change"], entry["path"]) for entry in found] == [
        (second, "modified", "/etc/app.conf"),
        (second, "deleted", "/etc/d/x.conf"),
        (first, "added", "/etc/app.conf"),
        (first, "added", "/etc/d/x.conf"),
    ]
    lines = cli.ok("find", "--history", "app:latest:/etc/d", "--type", "f").splitlines()
    assert [line.split("  ")[::2] for line in lines] == [[second[:12], "D"], [first[:12], "A"]]


def test_a_path_in_a_ref(cli: Command, app: Path, tmp_path: Path) -> None:
    assert cli.ok("cat", "app:v1:/etc/app.conf") == "1"
    assert cli.ok("show", "app~1:/etc/app.conf") == "1"
    assert cli.ok("cat", "app:latest@{now}:etc/app.conf") == "2"
    commit = cli.json("show", "app:v1")["commit"]["metadata_hash"]
    assert json.loads(cli.ok("--format", "json", "cat", f"{commit}:/bin"))["size"] == 256
    cli.ok("restore", "app:v1:/bin", "--to", tmp_path)
    assert (tmp_path / "bin").read_bytes() == BYTES
    assert cli.ok("verify", "app:v1:/bin").startswith("/bin in")
    assert cli("cat", "app:v1").code == 2
    assert cli("cat", "app:v1:/bin", "bin").code == 2
    for path, told in {"etc": "is a directory", "link": "symbolic link to etc/app.conf", "no": "has no /no"}.items():
        result = cli("cat", f"app:v1:{path}")
        assert result.code in (2, 3)
        assert told in result.stderr


def test_an_earlier_commit_for_every_verb(cli: Command, app: Path, tmp_path: Path) -> None:
    commit = cli.json("show", "app:v1")["commit"]["metadata_hash"]
    assert cli.json("tag", "app~1", "again")["commit"] == commit
    assert cli.ok("worktree", "add", "app+old", "app:latest^") == "app+old"
    assert cli.json("worktree", "list", "app")[0]["base"] == commit
    assert cli.ok("diff", "app~1", "app@{now}", "--name-only").splitlines()[0] == "/etc/app.conf"
    cli.ok("export", "app:latest~1", tmp_path / "old.stratum.tar")
    cli.ok("push", "app~1", f"oci:{tmp_path / 'layout'}:old")
    cli.ok("pull", f"oci:{tmp_path / 'layout'}:old", "pulled")
    assert cli.json("show", "pulled:old")["commit"]["metadata_hash"] == commit
    assert cli.ok("verify", "app~1").startswith(commit)
    assert cli("remove", "app:latest~1").code == 2
    assert cli("reset", "app~1").code == 2
