"""Verbs of ordinary users: each does with their worktrees what it does with root's, and makes the same commits; where
upperdirs cannot be read, nothing of them is lost."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import SCRIPT, Command
from tests.support.rootless import User

pytestmark = pytest.mark.root

WRITE = """
echo one > one; seq 1000 > big; mkdir -p d/e; seq 500 > d/e/x; ln -s one l; ln big big2; mkfifo pipe
setfattr -n user.note -v 1 d; chown -h 33:44 d/e big l; chmod 2750 d/e; chmod 4755 big
"""
CHANGE = """
rm one; rm -r d; mkdir d; echo new > d/new; chmod 600 big; chown 0:55 d/new; setfattr -n user.overlay.own -v x d/new
ln d/new d/again; setcap cap_net_raw+ep d/new; setfacl -m u:7:r d/new
"""
SETTLE = "; find . -depth -exec touch -hd @1700000000 {} +"
"""Times are part of a commit."""


class Story:
    """The same things done by anybody: ``ok`` runs ``stratum``, ``shell`` a script where the mounts are."""

    def __init__(self, home: Path, ok: Callable[..., str], shell: Callable[[str], object]) -> None:
        self.home = home
        self.ok = ok
        self.shell = shell
        self.told: list[str] = []

    def note(self, *words: str | Path) -> None:
        """Run a command, and keep what it prints: IDs and changes, without where and when."""
        text = self.ok(*words).replace(str(self.home), "~")
        self.told.append(f"{words[0]}: " + re.sub(r"\d{4}-\d\d-\d\dT[0-9:]+Z|today [0-9:]+", "TIME", text))

    def write(self, where: str, script: str) -> None:
        """Run ``script`` in a directory below the home."""
        self.shell(f"set -e; cd {self.home}/{where}; {script.strip()}{SETTLE}")

    def tell(self) -> list[str]:
        """All of it."""
        home, note = self.home, self.note
        self.shell(f"cd {home}; mkdir app dev old out; seq 900 > old/file; touch -d @1000000000 app old old/file")
        self.ok("init", "app", home / "app", "--no-persist")
        self.write("app", WRITE)
        note("diff", "app+main")
        note("commit", "app", "v1")
        self.ok("worktree", "add", "app+dev", "app:v1")
        self.ok("mount", "app+dev", home / "dev")
        self.write("dev", CHANGE)
        note("diff", "app+dev")
        note("commit", home / "dev", "v2")
        self.write("app", "echo two > two; mv d/e/x y")
        note("commit", "app", "v3")
        note("rebase", home / "dev", "app:v3", "--theirs")
        note("diff", "app:v3", "app+dev")
        self.ok("worktree", "add", "app+more", "app:v1")
        self.ok("worktree", "switch", "app+more", home / "dev")
        self.write("dev", "echo more > more")
        note("reset", "app+more", "app:v2")
        note("restore", "app:v3", "/two", "--to", "app+dev")
        note("commit", "app+dev", "v4")
        self.ok("worktree", "switch", "app+dev", home / "dev")
        note("restore", "app:v1", "/d", "--to", home / "dev")
        note("diff", "app+dev")
        self.ok("unmount", home / "dev")
        (home / "ps.toml").write_text('[patchset]\nbase = "app:v1"\npatches = ["app:v2", "app:v3"]\n')
        note("patchset", "build", home / "ps.toml", "app:ps")
        note("init", "old", home / "old", "--migrate", "--no-persist")
        self.write("old", "echo x >> file")
        note("commit", "old")
        note("restore", "app:v4", "/", "--to", home / "out")
        note("import", home / "out", "again")
        note("worktree", "remove", "app+more")
        note("fsck")
        for place in ("app", "old"):
            self.ok("unmount", home / place)
        note("remove", "app", "--yes")
        note("gc", "--reflog-age", "0s")
        return self.told


def test_verbs_do_for_users_what_they_do_for_root(user: User, cli: Command, tmp_path: Path) -> None:
    (user.home / "ps.toml").touch()
    os.chown(user.home / "ps.toml", user.uid, user.uid)
    users = Story(user.home, user.ok, lambda script: user.inside("sh", "-c", script)).tell()
    roots = Story(
        tmp_path / "home", cli.ok, lambda script: subprocess.run(["sh", "-c", f"umask 022; {script}"], check=True)
    )
    roots.home.mkdir()
    assert users == roots.tell()
    left = user.inside("find", user.store / "tmp", user.store / "refs", "-mindepth", "1", "-maxdepth", "1").stdout
    assert {Path(line).name for line in left.splitlines()} == {"lock", "again", "again.lock", "old", "old.lock"}


OUTSIDE = """
import sys
from stratum.api import maintenance, rebasing, switching, worktrees
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import StratumError
from stratum.store.retention import Retention

session = Session(load_config())

def commit(name):
    with session.hold(name) as held:
        return held.commit().changed

def tell(action):
    try:
        print(action())
    except StratumError as exc:
        print(exc.exit_code, exc.told)

for action in (
    lambda: commit("app+dev"),
    lambda: rebasing.rebase(session, "app+dev", "app:v2"),
    lambda: switching.reset(session, "app+dev", discard=True),
    lambda: worktrees.remove(session, "app+dev", discard=True),
    lambda: worktrees.add(session, "app+two", "app:v1"),
    lambda: commit("app+clean"),
    lambda: worktrees.remove(session, "app+clean").kept_commit,
    lambda: maintenance.gc(session, Retention()).commits,
):
    tell(action)
"""


def test_outside_of_its_namespace_a_worktree_is_left_as_it_is(user: User, cli: Command, tmp_path: Path) -> None:
    """Where files belong to IDs that only the namespace has; what is untouched there can be done without. Nor does it
    matter that root has a worktree of the same name mounted."""
    user.run("sh", "-c", "mkdir app dev src; seq 500 > src/file")
    (tmp_path / "m").mkdir()
    cli.ok("import", user.home / "src", "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    cli.ok("mount", "app+dev", tmp_path / "m")
    user.ok("import", "./src", "app:v1")
    user.ok("import", "./dev", "app:v2")
    for name in ("dev", "clean"):
        user.ok("worktree", "add", f"app+{name}", "app:v1")
    user.ok("mount", "app+dev", user.home / "dev")
    user.inside("sh", "-ec", "cd dev; mkdir -p p/q; seq 9 > p/q/r; chown -R 33:44 p; chmod 700 p/q; rm file")
    user.ok("unmount", user.home / "dev")
    told = user.run(sys.executable, "-c", OUTSIDE).stdout.splitlines()
    assert [line[:1] for line in told] == ["6"] * 5 + ["F", "N", "{"]
    assert all("stratum unshare" in line for line in told[:5])
    assert user.ok("diff", "app+dev").splitlines() == ["D /file", "A /p", "A /p/q", "A /p/q/r"]
    user.inside("chmod", "000", user.store / "refs/app/worktrees/dev/upperdir/p/q/r")
    single = user.run("unshare", "-Ur", SCRIPT, "--store", user.store, "commit", "app+dev", check=False)
    assert single.returncode == 1
    assert "/p in the upper directory belongs to an ID that this user namespace does not have" in single.stderr
    user.ok("remove", "app", "--yes", "--discard")
    assert os.listdir(user.store / "tmp") == ["lock"]
    cli.ok("unmount", tmp_path / "m")


def test_a_store_is_its_owners_alone_and_changes_hands_by_what_is_committed(
    user: User, other_user: User, cli: Command
) -> None:
    given = user.home / "given"
    roots = Command(given, cli.runtime_dir)
    (user.home / "src").mkdir()
    (user.home / "src/file").write_text("file")
    roots.ok("import", user.home / "src", "app")
    for name in ("clean", "dev"):
        roots.ok("worktree", "add", f"app+{name}", "app:latest")
    roots.ok("restore", "app", "/file", "--to", "app+dev", "--force")
    (given / "refs/app/worktrees/dev/upperdir/file").write_text("changed")
    given.chmod(0o755)
    inside = user.inside(SCRIPT, "--store", given, "list", check=False)
    assert (inside.returncode, "belongs to root" in inside.stderr) == (6, True)
    assert user.ok("--store", given, "list").startswith("app")
    for command in (("mount", "app:latest", user.home / "src"), ("commit", "app+dev")):
        refused = user.stratum("--store", given, *command)
        assert (refused.returncode, "the owner of the store" in refused.stderr) == (6, True)
    subprocess.run(["chown", "-R", f"{user.uid}:{user.uid}", given], check=True)
    refused = cli("--store", given, "list")
    assert (refused.code, "run the command as that user" in refused.stderr) == (6, True)
    assert other_user.stratum("--store", given, "list").returncode == 6
    refused = user.stratum("--store", given, "commit", "app+dev")
    assert (refused.returncode, "a mount of root's" in refused.stderr) == (6, True)
    (user.home / "m").mkdir()
    os.chown(user.home / "m", user.uid, user.uid)
    user.ok("--store", given, "mount", "app+clean", user.home / "m")
    user.inside("touch", user.home / "m/new")
    user.ok("--store", given, "commit", "app+clean")
    subprocess.run(["chown", "-R", "0:0", given], check=True)
    refused = roots("commit", "app+clean")
    assert (refused.code, "a mount of a user's" in refused.stderr) == (6, True)
    roots.ok("worktree", "remove", "app+clean", "--discard")
    assert roots.ok("commit", "app+dev")


def test_an_init_that_cannot_mount_leaves_nothing(user: User, cli: Command, tmp_path: Path) -> None:
    """Neither what was made of root's, who only then is told, nor what is refused to others from the start."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "file").write_text("x" * 500)
    cli.ok("import", old, "app")
    (tmp_path / "file").touch()
    broken = Command(cli.store, tmp_path / "file")  # where no mount can be put on record
    for words in ((tmp_path / "m",), (old, "--migrate")):
        assert broken("init", "new", *words).code
        assert sorted(os.listdir(cli.store / "refs")) == ["app", "app.lock"]
        assert len(os.listdir(cli.store / "commits")) == 1
    for place in (user.home, user.runtime, "/usr"):
        refused = user.stratum("init", "new", place, "--migrate")
        assert (refused.returncode, "the mount would hide that" in refused.stderr) == (4, True)
    user.run("touch", "file")
    refused = user.stratum("init", "new", "m", env={"STRATUM_RUNTIME_DIR": f"{user.home}/file"})
    assert refused.returncode
    assert not user.store.exists()
    assert not (user.home / "m").exists()


def test_a_user_moves_a_directory_into_the_store(user: User) -> None:
    """What others may write to is taken, too; what a container left is read by the namespace, and taken."""
    script = (
        "mkdir d; cd d; seq 900 > mine; seq 901 > shared; chmod 664 shared; seq 902 > of-a-container; seq 903 > writes"
    )
    user.run("sh", "-c", script)
    for name in ("d", "d/of-a-container"):
        user.inside("chown", "7:7", user.home / name)
    user.inside("chmod", "2777", user.home / "d")
    expected = user.ok("import", "d", "copied")
    taken = {(user.home / "d" / name).stat().st_ino for name in ("mine", "shared", "of-a-container", "writes")}
    user.ok("remove", "--yes", "copied")
    user.ok("gc", "--reflog-age", "0")
    with user.start("sh", "-c", "exec >> d/writes; echo >&2; exec sleep 1000", stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        refused = user.stratum("import", "--move", "d", "app")
        assert (refused.returncode, "writes is open for writing" in refused.stderr) == (4, True)
        process.kill()
    assert sorted(os.listdir(user.home / "d")) == ["mine", "of-a-container", "shared", "writes"]
    assert stat.S_IMODE((user.home / "d/shared").stat().st_mode) == 0o664
    assert (user.home / "d/of-a-container").stat().st_uid == user.subids + 6
    assert user.ok("import", "--move", "d", "app") == expected
    assert not (user.home / "d").exists()
    objects = list((user.store / "objects").glob("*/*"))
    assert {path.stat().st_ino for path in objects} == taken
    assert {(path.stat().st_mode, path.stat().st_uid) for path in objects} == {(stat.S_IFREG | 0o444, user.uid)}
    user.ok("fsck")
