"""Mounts that all programs of an ordinary user see: made and unmounted by fusermount3, in and out of the session."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import SCRIPT
from tests.support.rootless import User

pytestmark = pytest.mark.root


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def attendants(user: User) -> list[int]:
    """The processes behind such mounts, the attendant before its server."""
    return sorted(pid for pid, line in user.processes().items() if "stratum.mount.attendant" in line)


@pytest.fixture
def place(user: User) -> Path:
    """Where the stratum ``app`` is mounted: ``app:v1`` has a file of its root's and one of its user 5's."""
    script = "mkdir -p app/d; echo hello >app/a; echo deep >app/d/b; chmod 640 app/d/b; ln -s a app/l; echo 5 >app/five"
    user.run("sh", "-ec", script)
    user.inside("chown", "5:5", user.home / "app/five")
    user.ok("import", user.home / "app", "app:v1")
    return user.home / "shown"


def test_programs_outside_see_it_and_it_is_unmounted_from_anywhere(user: User, other_user: User, place: Path) -> None:
    record = user.json("mount", "--host", "app:v1", place)
    assert (record["namespace"], record["attended"], record["read_only"]) == ("host", True, True)
    look = "cat a d/b five; readlink l; stat -c '%u:%g %a' . d/b five; ! touch new 2>&1"
    shown = user.run("sh", "-ec", f"cd {place}; {look}").stdout.splitlines()
    assert shown[:4] == ["hello", "deep", "5", "a"]
    outside = user.subids + 4
    assert shown[4:7] == [f"{user.uid}:{user.uid} 755", f"{user.uid}:{user.uid} 640", f"{outside}:{outside} 644"]
    assert "Read-only" in shown[7]
    assert other_user.run("ls", place, check=False).returncode != 0
    assert f"app:v1  read-only at {place} (this host)" in user.ok("status", "app")
    assert f"app:v1  read-only at {place} (this host)" in user.inside(SCRIPT, "status", "app").stdout
    with user.start("sh", "-c", f"cd {place}; exec sleep 20") as reader:
        until(lambda: b"sleep" in Path(f"/proc/{reader.pid}/cmdline").read_bytes()[:6])
        for refused in (user.stratum("unmount", place), user.inside(SCRIPT, "unmount", "app:v1", check=False)):
            assert refused.returncode == 4
            assert f"{place} is in use: {reader.pid} (sleep" in refused.stderr
        reader.kill()
    user.inside(SCRIPT, "unmount", "app:v1")
    assert user.run("ls", place).stdout == ""
    until(lambda: not attendants(user))
    assert not list((user.runtime / "stratum").glob("*.sock"))
    inside = user.inside(SCRIPT, "mount", "--host", "app:v1", place, check=False)
    assert (inside.returncode, "leave 'stratum shell'" in inside.stderr) == (6, True)


def test_another_user_s_mount_by_the_same_name_is_in_nobody_s_way(user: User, other_user: User, place: Path) -> None:
    other_user.run("mkdir", "app")
    other_user.ok("import", "app", "app:v1")
    for each in (other_user, user):
        each.ok("worktree", "add", "app+dev", "app:v1")
        each.ok("mount", "app+dev", "shown")
    assert user.inside("cat", place / "a").stdout == "hello\n"


def test_another_user_s_filesystem_that_calls_itself_the_same_is_not_taken_for_it(
    user: User, other_user: User, place: Path
) -> None:
    record = user.json("mount", "--host", "app:v1", place)
    script = f"""import os, time
from stratum.sys import fusermount
os.mkdir("theirs")
fd = fusermount.mount(os.path.abspath("theirs"), "stratum-{record["id"]}:app:v1", "stratum")
print("there", flush=True)
time.sleep(100)"""
    with other_user.start(SCRIPT.with_name("python"), "-c", script, stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "there\n"
            user.run("fusermount3", "-u", place)
            until(lambda: not attendants(user))
            for keeper in user.processes():
                os.kill(keeper, signal.SIGKILL)  # the next session sees what is there now
            assert str(place) not in user.ok("status", "app")
        finally:
            stranger.kill()


def test_a_killed_server_is_replaced_and_a_dead_mount_is_taken_away(user: User, place: Path) -> None:
    user.ok("mount", "--host", "app:v1", place)
    first, server = attendants(user)
    os.kill(server, signal.SIGKILL)
    assert user.run("cat", place / "d/b", place / "five").stdout == "deep\n5\n"
    until(lambda: len(attendants(user)) == 2)
    assert attendants(user) != [first, server]
    with user.start("sleep", "20") as shell:  # of a login
        for pid in attendants(user):
            os.kill(pid, signal.SIGKILL)
        assert user.run("ls", place, check=False).returncode != 0
        assert str(place) in user.ok("status", "app"), "it is there, and on record"
        user.ok("reconcile")
        shell.kill()
    assert user.run("ls", place).stdout == ""
    user.ok("mount", "--host", "app:v1", place)
    os.kill(attendants(user)[0], signal.SIGKILL)
    assert user.run("cat", place / "a").stdout == "hello\n", "its server goes on"
    user.ok("unmount", place)
    user.ok("mount", "--host", "app:v1", place)
    os.kill(attendants(user)[0], signal.SIGTERM)
    until(lambda: not os.path.ismount(place))
    assert str(place) not in user.ok("status", "app")


def test_what_cannot_be_mounted_is_said_in_a_line(user: User, place: Path) -> None:
    def refused(*words: str | Path) -> tuple[int, str]:
        done = user.stratum("mount", "--host", *words)
        return done.returncode, done.stderr

    assert refused("app:v1", "/etc")[1].startswith("error: cannot mount on /etc: fusermount3 says: ")
    code, said = refused("app+main", place)
    assert (code, "only tags and commits" in said) == (2, True)
    user.ok("mount", "--host", "app:v1", place)
    assert refused("app:v1", place)[0] == 4
    user.ok("unmount", place)
    helper = Path("/usr/bin/fusermount3").resolve()
    assert helper.stat().st_mode & stat.S_ISUID
    subprocess.run(["mount", "--bind", "/dev/null", helper], check=True)
    try:
        code, said = refused("app:v1", place)
    finally:
        subprocess.run(["umount", helper], check=True)
    assert (code, "needs fusermount3" in said) == (6, True)
    assert not attendants(user)
