"""A worktree's life on the real kernel, through the command line only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.trees import BIG, make_tree, shown
from tests.support.command import Command

pytestmark = pytest.mark.root

V1 = {"a": "1", "big": BIG, "d/x": "x", "d/y": BIG + "y", "gone/z": "z"}
V2 = {"a": "2", "big": BIG, "d/x": "x", "d/y": BIG + "y", "gone/z": "z", "new": "n"}


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> dict[str, str]:
    """``app:v1`` (also latest) and ``app:v2``: tag -> commit."""
    source = make_tree(tmp_path / "src", V1)
    first = cli.ok("import", "--bare", source, "app:v1")
    make_tree(source, V2)
    second = cli.ok("import", "--bare", source, "app:v2")
    cli.ok("tag", "app:v1", "latest")
    return {"v1": first, "v2": second}


@pytest.fixture
def mnt(tmp_path: Path) -> Path:
    """An empty directory to mount at."""
    path = tmp_path / "mnt"
    path.mkdir()
    return path


_READER = """
import os, sys
seen = set()
while not os.path.exists(sys.argv[2]):
    try:
        names = tuple(sorted(os.listdir(sys.argv[1])))
    except OSError as exc:
        names = (repr(exc),)
    try:
        with open(os.path.join(sys.argv[1], "a")) as file:
            names += (file.read()[:1],)
    except OSError as exc:
        names += (repr(exc),)
    if names not in seen:
        seen.add(names)
        print(names, flush=True)
"""


@contextmanager
def reader_of(mountpoint: Path, stop: Path) -> Iterator[list[str]]:
    """A process that lists ``mountpoint`` and reads ``a`` there without pause; afterwards every different view."""
    views: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", _READER, mountpoint, stop], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        views.append(process.stdout.readline())
        try:
            yield views
        finally:
            stop.touch()
            views += process.stdout.readlines()


def test_mount_without_a_mountpoint(cli: Command, app: dict[str, str]) -> None:
    place = cli.ok("mount", "app")
    assert place == str(cli.runtime_dir / "mnt" / "app+main")
    assert shown(Path(place))["a"] == "1"
    tag = cli.ok("mount", "app:v2")
    assert shown(Path(tag))["a"] == "2"
    with pytest.raises(OSError, match="Read-only"):
        (Path(tag) / "a").write_text("x")
    cli.ok("umount", "app:v2")
    cli.ok("umount", "app")
    assert not Path(place).exists()


def test_one_holder(cli: Command, app: dict[str, str], mnt: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    cli.ok("mount", "app+main", mnt)
    code, _, err = cli("mount", "app+main", other)
    assert code == 4
    assert str(mnt) in err
    cli.ok("worktree", "add", "app+second", "app:v2")
    cli.ok("mount", "app+second", other)
    assert (shown(mnt)["a"], shown(other)["a"]) == ("1", "2")
    cli.ok("unmount", mnt)
    cli.ok("unmount", other)
    cli.ok("mount", "app+main", other)
    cli.ok("unmount", "app+main")


def test_a_busy_mount_names_the_process(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app", mnt)
    with (mnt / "a").open():
        code, _, err = cli("unmount", mnt)
    assert code == 4
    assert "pytest" in err or "python" in err
    cli.ok("unmount", mnt)


def test_what_stratum_did_not_mount_it_does_not_unmount(cli: Command, app: dict[str, str], mnt: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", mnt], check=True)
    try:
        assert cli("unmount", mnt).code == 3
    finally:
        subprocess.run(["umount", mnt], check=True)


def test_commit_of_a_live_worktree(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app+main", mnt)
    with (mnt / "open").open("w") as open_file:
        open_file.write("written before")
        open_file.flush()
        (mnt / "d").rename(mnt / "e")
        (mnt / "big").chmod(0o600)
        (mnt / "gone" / "z").unlink()
        (mnt / "gone").rmdir()
        first = cli.ok("commit", "app+main", "snap", "-m", "live")
        open_file.write(", and after")
    assert cli("commit", mnt, "snap").code == 4
    second = cli.ok("commit", mnt / "e")
    assert first != second
    cli.ok("commit", ".", "snap", "--force", cwd=mnt / "e")
    assert cli.json("show", "app:snap")["commit"]["metadata_hash"] == second
    again = cli.json("commit", "app:main")
    assert (again["changed"], again["commit"]) == (False, second)
    cli.ok("unmount", mnt)
    for commit, content in ((first, "written before"), (second, "written before, and after")):
        place = Path(cli.ok("mount", commit))
        assert shown(place) == {
            "a": "1",
            "big": BIG,
            "e": None,
            "e/x": "x",
            "e/y": BIG + "y",
            "open": content,
        }
        assert (place / "big").stat().st_mode & 0o777 == 0o600
        cli.ok("unmount", place)


def test_fast_forward_when_unmounted(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app+main", mnt)
    (mnt / "more").write_text(BIG * 3)
    cli.ok("unmount", mnt)
    commit = cli.ok("commit", "app+main")
    tree = cli.json("worktree", "list", "app")[0]
    assert (tree["base"], tree["head"]) == (commit, commit)
    assert list((cli.store / "refs/app/worktrees/main/upperdir").iterdir()) == []
    cli.ok("mount", "app+main", mnt)
    assert shown(mnt)["more"] == BIG * 3
    cli.ok("unmount", mnt)


def test_status(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app", mnt)
    (mnt / "added").write_text("x")
    (mnt / "a").write_text("changed")
    (mnt / "d" / "x").unlink()
    (status,) = cli.json("status", "app")
    (tree,) = status["worktrees"]
    assert (tree["added"], tree["modified"], tree["deleted"]) == (1, 1, 1)
    assert tree["mounts"][0]["mountpoint"] == str(mnt)
    assert status["tags"] == {"latest": app["v1"], **app}
    assert cli.json("status", mnt)[0]["worktrees"] == [tree]
    subprocess.run(["umount", mnt], check=True)  # behind Stratum's back
    assert cli.json("status")[0]["worktrees"][0]["mounts"] == []
    cli.ok("mount", "app", mnt)
    cli.ok("unmount", "app")


def state(cli: Command, target: str | Path = "app+main") -> tuple[bool, dict[str, int], dict[str, int]]:
    """(clean, uncommitted, since base) of the worktree in ``status``; it agrees with ``diff`` about the first two."""
    (tree,) = cli.json("status", target)[0]["worktrees"]
    changes = cli.json("diff", target)
    assert tree["clean"] == (changes == [])
    assert sum(tree["uncommitted"].values()) == len(changes)
    assert tree["since_base"] == {key: tree[key] for key in ("added", "modified", "deleted")}
    return tree["clean"], tree["uncommitted"], tree["since_base"]


def counts(added: int = 0, modified: int = 0, deleted: int = 0) -> dict[str, int]:
    return {"added": added, "modified": modified, "deleted": deleted}


def test_what_is_committed_is_clean(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app", mnt)
    assert state(cli) == (True, counts(), counts())
    (mnt / "new").write_text(BIG)
    (mnt / "a").write_text("changed")
    assert state(cli, mnt) == (False, counts(1, 1), counts(1, 1))
    assert not cli.json("commit", "app")["warnings"]
    assert state(cli) == (True, counts(), counts(1, 1))
    assert "uncommitted  clean" in cli.ok("status", "app")
    assert cli.ok("diff", "app+main") == ""
    assert cli.ok("diff", app["v1"], "app+main").split("\n") == ["M /a", "A /new"]
    (mnt / "d" / "x").unlink()
    assert cli.ok("diff", mnt) == "D /d/x"
    assert state(cli) == (False, counts(0, 0, 1), counts(1, 1, 1))
    assert "uncommitted  0 added, 0 modified, 1 deleted" in cli.ok("status", "app")
    cli.ok("unmount", mnt)
    assert state(cli) == (False, counts(0, 0, 1), counts(1, 1, 1))
    cli.ok("commit", "app")
    assert state(cli) == (True, counts(), counts())


def test_a_commit_that_changes_something_is_told_before(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app", mnt)
    cli.ok("commit", "app")
    (mnt / "new").write_text(BIG)
    cli.ok("commit", "app")
    info = (mnt / "new").stat()

    def same_size_and_time() -> None:
        (mnt / "new").write_text(BIG[::-1] if (mnt / "new").read_text() != BIG[::-1] else "X" + BIG[1:])
        os.utime(mnt / "new", ns=(info.st_atime_ns, info.st_mtime_ns))

    def back_and_forth() -> None:
        (mnt / "d").chmod(0o700)
        (mnt / "d").chmod(0o755)

    for change, changes in {
        same_size_and_time: True,
        lambda: mnt.chmod(0o700): True,
        lambda: os.chown(mnt, 4711, 4711): True,
        lambda: os.setxattr(mnt, "user.of-the-root", b"1"): True,
        back_and_forth: False,
        (mnt / "new").touch: True,
        lambda: None: False,
    }.items():
        change()
        clean = state(cli)[0]
        assert (clean, cli.json("commit", "app")["changed"]) == (not changes, changes)
        assert state(cli)[0]


def test_an_untouched_worktree_is_known_by_its_root(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app", mnt)
    assert state(cli)[0]
    mnt.chmod(0o711)
    assert not list((cli.store / "refs/app/worktrees/main/upperdir").iterdir())
    assert state(cli) == (False, counts(0, 1), counts(0, 1))
    cli.ok("reset", mnt, "--discard")
    assert state(cli)[0]
    upperdir = cli.store / "refs/app/worktrees/main/upperdir"
    os.removexattr(upperdir, "trusted.overlay.stratum.root")  # as in a store that was copied without them
    assert state(cli)[0]
    mnt.chmod(0o711)
    assert not state(cli)[0]
    cli.ok("unmount", mnt)


def test_removal_keeps_uncommitted_work(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app", mnt)
    (mnt / "precious").write_text("work")
    assert cli("worktree", "remove", "app+main").code == 4
    assert cli("remove", "app", "--yes").code == 4
    cli.ok("unmount", mnt)
    kept = cli.json("worktree", "remove", "app+main")["kept_commit"]
    assert any(kept in move["why"] or move["new"] == kept for move in cli.json("log", "app", "--reflog"))
    assert cli.ok("diff", "app:v1", kept) == "A /precious"
    cli.ok("mount", "app", mnt)
    (mnt / "junk").write_text("junk")
    cli.ok("unmount", mnt)
    assert cli.json("worktree", "remove", "app+main", "--discard")["kept_commit"] is None


@pytest.mark.parametrize("live", [True, False])
def test_reset(cli: Command, app: dict[str, str], mnt: Path, tmp_path: Path, live: bool) -> None:
    cli.ok("mount", "app", mnt)
    (mnt / "work").write_text("w")
    if not live:
        cli.ok("unmount", mnt)
    target = mnt if live else "app+main"
    plan = cli.json("reset", target, "app:v2", "-n")
    assert (plan["base"], plan["dry_run"]) == (app["v2"], True)
    done = cli.json("reset", target, "app:v2")
    assert done["base"] == app["v2"]
    assert cli.ok("diff", "app:v1", done["kept_commit"]) == "A /work"
    if not live:
        cli.ok("mount", "app", mnt)
    assert {k: v for k, v in shown(mnt).items() if v is not None} == V2
    (mnt / "more").write_text("w")
    assert cli.json("reset", mnt, "app:v1", "--discard")["kept_commit"] is None
    assert {k: v for k, v in shown(mnt).items() if v is not None} == V1
    cli.ok("unmount", mnt)


def test_a_live_switch_is_one_step_for_readers(cli: Command, app: dict[str, str], mnt: Path, tmp_path: Path) -> None:
    cli.ok("mount", "app+main", mnt)
    cli.ok("worktree", "add", "app+other", "app:v2")
    with reader_of(mnt, tmp_path / "stop") as views:
        for _ in range(2):
            cli.ok("reset", mnt, "app:v2")
            cli.ok("reset", mnt, "app:v1")
            cli.ok("worktree", "switch", "app+other", mnt)
            cli.ok("worktree", "switch", "app+main", mnt)
            cli.ok("rebase", mnt, "app:v2")
    first, second = (repr((*names, content)) for names, content in ((NAMES_V1, "1"), (NAMES_V2, "2")))
    assert {view.strip() for view in views if view.strip()} <= {first, second, *BETWEEN}
    cli.ok("unmount", mnt)


NAMES_V1 = ("a", "big", "d", "gone")
NAMES_V2 = ("a", "big", "d", "gone", "new")
BETWEEN = {repr((*NAMES_V1, "2")), repr((*NAMES_V2, "1"))}
"""A switch may fall between the reader's two looks: names from the one tree, content from the other."""


def test_files_open_for_writing_block_a_switch(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app", mnt)
    with (mnt / "log").open("w") as log:
        code, _, err = cli("reset", mnt, "app:v2")
        assert code == 4
        assert "log" in err
        assert shown(mnt)["a"] == "1"
        log.write("still works")
        log.flush()
        assert shown(mnt)["log"] == "still works"
        cli.ok("reset", mnt, "app:v2", "--force")
    assert shown(mnt)["a"] == "2"
    cli.ok("unmount", mnt)


@pytest.mark.parametrize("live", [True, False])
def test_rebase(cli: Command, app: dict[str, str], mnt: Path, live: bool) -> None:
    cli.ok("mount", "app", mnt)
    (mnt / "d").rename(mnt / "renamed")
    (mnt / "renamed" / "x").write_text("mine")
    (mnt / "big").chmod(0o640)
    (mnt / "gone" / "z").unlink()
    (mnt / "a").write_text("mine")
    (mnt / "own").write_text(BIG)
    if not live:
        cli.ok("unmount", mnt)
    done = cli.json("rebase", mnt if live else "app+main", "app:v2", "--ours")
    assert done["conflicts"] == ["/a"]
    assert done["base"] == app["v2"]
    if not live:
        cli.ok("mount", "app", mnt)
    assert shown(mnt) == {
        "a": "mine",
        "big": BIG,
        "gone": None,
        "new": "n",
        "own": BIG,
        "renamed": None,
        "renamed/x": "mine",
        "renamed/y": BIG + "y",
    }
    assert (mnt / "big").stat().st_mode & 0o777 == 0o640
    (mnt / "after").write_text("still writable")
    commit = cli.ok("commit", mnt)
    cli.ok("unmount", mnt)
    place = Path(cli.ok("mount", commit))
    assert shown(place)["after"] == "still writable"
    cli.ok("unmount", place)


def test_switch_keeps_both_worktrees(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app+main", mnt)
    (mnt / "main-only").write_text("m")
    cli.ok("worktree", "add", "app+two", "app:v2")
    cli.ok("worktree", "switch", "app+two", mnt)
    (mnt / "two-only").write_text("t")
    assert "main-only" not in shown(mnt)
    assert cli("worktree", "switch", "app:v1", mnt).code == 2
    assert cli("worktree", "switch", "app+two", "/").code == 3
    cli.ok("worktree", "switch", "app+main", mnt)
    assert "main-only" in shown(mnt)
    assert "two-only" not in shown(mnt)
    cli.ok("unmount", mnt)


def test_restore_into_a_worktree(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("worktree", "add", "app+w", "app:v1")
    cli.ok("restore", "app:v2", "a", "new", "--to", "app+w")
    assert cli.ok("diff", "app+w", "--name-only").split() == ["/a", "/new"]
    cli.ok("mount", "app+w", mnt)
    assert (shown(mnt)["a"], shown(mnt)["new"]) == ("2", "n")
    cli.ok("restore", "app:v1", "a", cwd=mnt)
    assert shown(mnt)["a"] == "1"
    cli.ok("unmount", mnt)


def test_init(cli: Command, tmp_path: Path) -> None:
    place = tmp_path / "state"
    cli.ok("init", "fresh", place)
    (place / "f").write_text("x")
    cli.ok("unmount", place)
    assert cli("init", "fresh", place).code == 4
    full = make_tree(tmp_path / "full", {"old": "o", "d/deep": "d"})
    assert cli("init", "moved", full).code == 4
    assert cli("list", "moved").code == 3
    cli.ok("init", "moved", full, "--migrate")
    assert shown(full) == {"old": "o", "d": None, "d/deep": "d"}
    (full / "old").write_text("changed above")
    cli.ok("unmount", "moved")
    assert (full / "old").read_text() == "o"


def test_init_that_fails_leaves_nothing(cli: Command, tmp_path: Path) -> None:
    full = make_tree(tmp_path / "full", {"old": "o"})
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("no directory: the mount cannot be recorded")
    assert cli("init", "broken", full, "--migrate").code != 0
    assert shown(full) == {"old": "o"}
    assert cli.json("list") == []
    assert cli("init", "broken", tmp_path / "made").code != 0
    assert not (tmp_path / "made").exists()
    (tmp_path / "run").unlink()


def test_rebase_carries_what_was_committed_too(cli: Command, app: dict[str, str], mnt: Path) -> None:
    cli.ok("mount", "app+main", mnt)
    (mnt / "save-1").write_text("s1")
    cli.ok("unmount", mnt)
    cli.ok("commit", "app+main")  # the base is now this commit
    cli.ok("mount", "app+main", mnt)
    (mnt / "save-2").write_text("s2")
    assert cli.json("rebase", mnt, "app:v2")["conflicts"] == []
    assert {k: v for k, v in shown(mnt).items() if v is not None} == {**V2, "save-1": "s1", "save-2": "s2"}
    cli.ok("rebase", mnt, "app:v1")
    assert {k: v for k, v in shown(mnt).items() if v is not None} == {**V1, "save-1": "s1", "save-2": "s2"}
    cli.ok("unmount", mnt)


@pytest.mark.parametrize("live", [True, False])
def test_a_reset_to_its_own_last_commit_keeps_what_is_the_worktrees_own(
    cli: Command, app: dict[str, str], mnt: Path, live: bool
) -> None:
    cli.ok("mount", "app+main", mnt)
    (mnt / "save-1").write_text("s1")
    cli.ok("commit", mnt)
    (mnt / "unwanted").write_text("u")
    if not live:
        cli.ok("unmount", mnt)
    cli.ok("reset", mnt if live else "app+main", "--discard")
    assert cli.json("rebase", "app+main", "app:v2")["conflicts"] == []
    if not live:
        cli.ok("mount", "app+main", mnt)
    assert {k: v for k, v in shown(mnt).items() if v is not None} == {**V2, "save-1": "s1"}
    cli.ok("unmount", mnt)


def test_the_next_verb_lets_a_mount_take_writes_that_a_killed_switch_left_without(
    cli: Command, app: dict[str, str], mnt: Path
) -> None:
    cli.ok("mount", "app", mnt)
    (mnt / "a").write_text("mine")
    # What a live reset that is killed between its steps leaves.
    subprocess.run(["mount", "-o", "remount,bind,ro", mnt], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (mnt / "b").write_text("refused")
    cli.ok("commit", mnt)
    (mnt / "b").write_text("taken")
    cli.ok("reset", mnt)
    cli.ok("unmount", mnt)
    cli.ok("mount", "app", mnt, "--read-only")
    cli.ok("commit", mnt)
    with pytest.raises(OSError, match="Read-only"):
        (mnt / "b").write_text("refused")
    cli.ok("unmount", mnt)
