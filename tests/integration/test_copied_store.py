"""Copies of a store: whole ones work, and ones without extended attributes are noticed before anybody believes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stratum.sys.copymark import FILE
from stratum.sys.xattrs import list_xattrs
from tests.support.command import Command

pytestmark = pytest.mark.root

WHOLE = {
    "cp -a": 'cp -a "$1" "$2"',
    "tar with attributes": 'mkdir "$2"; tar -C "$1" --xattrs --xattrs-include="*" --acls -c . |'
    ' tar -C "$2" --xattrs --xattrs-include="*" --acls -x',
}
LOSSY = {
    "cp -r": 'cp -r "$1" "$2"',
    "tar": 'mkdir "$2"; chmod 700 "$2"; tar -C "$1" -c . | tar -C "$2" -x',
    "cp without attributes": 'cp -a --no-preserve=xattr "$1" "$2"',
}


@pytest.fixture
def edited(cli: Command, tmp_path: Path) -> Command:
    """A store with a worktree whose upperdir has every kind of attribute of overlayfs."""
    source, target = tmp_path / "source", tmp_path / "m"
    for name in ("kept/old", "renamed/inner", "big"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode() * 10_000)
    target.mkdir()
    cli.ok("import", "--bare", source, "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    cli.ok("mount", "app+dev", target)
    (target / "big").chmod(0o600)
    (target / "renamed").rename(target / "other")
    shutil.rmtree(target / "kept")
    (target / "kept").mkdir()
    cli.ok("unmount", target)
    return cli


def copied(cli: Command, script: str, tmp_path: Path) -> Command:
    copy = Command(tmp_path / "copy", tmp_path / "other-run")
    subprocess.run(["sh", "-ec", script, "sh", cli.store, copy.store], check=True)
    return copy


@pytest.mark.parametrize("script", WHOLE.values(), ids=WHOLE)
def test_a_whole_copy_works(edited: Command, tmp_path: Path, script: str) -> None:
    copy = copied(edited, script, tmp_path)
    copy.ok("fsck")
    assert copy.ok("commit", "app+dev", "v1").split()[0] == edited.ok("commit", "app+dev", "v1").split()[0]


@pytest.mark.parametrize("script", LOSSY.values(), ids=LOSSY)
def test_a_copy_without_attributes_is_named_and_not_used(edited: Command, tmp_path: Path, script: str) -> None:
    copy = copied(edited, script, tmp_path)
    code, out, err = copy("fsck")
    assert code == 5
    assert "app+dev" in out + err
    assert "copied without its extended attributes" in out + err
    assert "rsync -aHAX" in out + err
    (tmp_path / "n").mkdir()
    for verb in (("mount", "app+dev", tmp_path / "n"), ("commit", "app+dev", "v1"), ("diff", "app+dev")):
        code, _, err = copy(*verb)
        assert code == 5, verb
        assert "copied without its extended attributes" in err
        assert "cp -a" in err
    assert "copied without" in copy.ok("status")
    assert "copied without" in json.loads(copy("--format", "json", "status", "app").stdout)[0]["worktrees"][0]["failed"]
    assert copy("fsck", "--repair").code == 5
    assert (copy.store / "refs/app/worktrees/dev/upperdir").is_dir()
    copy.ok("verify", "app:latest")
    copy.ok("worktree", "add", "app+new", "app:latest")
    copy.ok("mount", "app+new", tmp_path / "n")
    copy.ok("unmount", tmp_path / "n")
    copy.ok("remove", "--yes", "--discard", "app+dev")
    copy.ok("fsck")


def test_every_way_to_a_new_upperdir_marks_it_and_no_tree_has_the_mark(edited: Command, tmp_path: Path) -> None:
    def marks() -> str:
        directory = edited.store / "refs/app/worktrees/dev"
        value = (directory / FILE).read_text()
        assert os.getxattr(directory, "trusted.stratum.mark").decode() == value
        assert not [name for name in list_xattrs(directory / "upperdir") if name.startswith(b"trusted.stratum")]
        return value

    seen = [marks()]
    edited.ok("commit", "app+dev", "v1")  # fast-forward
    seen.append(marks())
    edited.ok("reset", "app+dev", "app:latest")
    seen.append(marks())
    edited.ok("mount", "app+dev", tmp_path / "m")
    assert not [name for name in list_xattrs(tmp_path / "m") if b"stratum" in name]
    edited.ok("reset", "app+dev", "app:v1")  # what is mounted is switched
    seen.append(marks())
    edited.ok("unmount", tmp_path / "m")
    assert len(set(seen)) == len(seen)
    edited.ok("fsck")


def test_a_worktree_that_an_older_version_made_is_used_and_marked_at_the_next_write(
    edited: Command, tmp_path: Path
) -> None:
    directory = edited.store / "refs/app/worktrees/dev"
    (directory / FILE).unlink()
    os.removexattr(directory, "trusted.stratum.mark")
    edited.ok("fsck")
    edited.ok("mount", "app+dev", tmp_path / "m")
    edited.ok("commit", "app+dev", "v1")
    edited.ok("unmount", tmp_path / "m")
    assert os.getxattr(directory, "trusted.stratum.mark") == (directory / FILE).read_bytes()
