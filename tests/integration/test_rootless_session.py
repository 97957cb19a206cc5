"""The session namespace: one for all commands of a user, Podman's where there is Podman; what is seen in there."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command import SCRIPT, Command
from tests.support.rootless import User

pytestmark = pytest.mark.root

WITHOUT_PODMAN = {"PATH": "/nowhere"}
NAMESPACES = ("/usr/bin/readlink", "/proc/self/ns/user", "/proc/self/ns/mnt")


def namespaces(user: User, **kwargs: object) -> str:
    """Those that a command of the user runs in."""
    return user.run(SCRIPT, "unshare", "--", *NAMESPACES, **kwargs).stdout


def keeper(user: User) -> int:
    return int((user.runtime / "stratum/session").read_text("ascii").split()[0])


def test_all_commands_of_a_user_are_in_podmans_namespace(user: User, other_user: User) -> None:
    own = "".join(f"{os.readlink(path)}\n" for path in NAMESPACES[1:])
    found = namespaces(user)
    assert found == namespaces(user) == user.run("podman", "unshare", *NAMESPACES).stdout != own
    assert user.inside("sh", "-c", "podman unshare readlink /proc/self/ns/mnt").stdout in found
    user.run("mkdir", "-m", "700", "run")  # as a cron job has another one than a login, or none
    for runtime in (str(user.home / "run"), None):
        assert (
            namespaces(user, env={"XDG_RUNTIME_DIR": runtime, "STRATUM_RUNTIME_DIR": str(user.home / "run")}) == found
        )
    pause = user.runtime / "libpod/tmp/pause.pid"
    theirs = namespaces(other_user)
    assert theirs not in (found, own)
    os.kill(int(pause.read_text("ascii")), signal.SIGKILL)
    pause.write_text((other_user.runtime / "libpod/tmp/pause.pid").read_text("ascii"))  # its number is another's by now
    assert namespaces(user) not in (found, theirs, own)


def test_without_podman_one_process_keeps_a_namespace_for_all(user: User) -> None:
    line = [SCRIPT, "unshare", "--", *NAMESPACES]
    started = [user.start(*line, stdout=subprocess.PIPE, env=WITHOUT_PODMAN) for _ in range(4)]
    found = {process.communicate(timeout=40)[0] for process in started}
    assert len(found) == 1
    assert list(user.processes()) == [keeper(user)]
    assert os.listdir(f"/proc/{keeper(user)}/fd") == ["0", "1", "2"]
    assert namespaces(user) in found  # Podman or not: where the mounts are
    ranges = user.inside("cat", "/proc/self/uid_map", "/proc/self/gid_map").stdout.split()
    assert ranges == [*("0", str(user.uid), "1"), *("1", str(user.subids), "65536")] * 2
    os.kill(keeper(user), signal.SIGKILL)
    assert namespaces(user, env=WITHOUT_PODMAN) not in found


def test_a_user_without_subordinate_ids_has_one(single_user: User) -> None:
    done = single_user.stratum("hook", "doctor", env=WITHOUT_PODMAN)  # which may be a user's first command
    assert "a user namespace with one ID" in done.stdout
    assert "no ranges in /etc/subuid" in done.stderr
    done = single_user.inside("/usr/bin/cat", "/proc/self/uid_map", env=WITHOUT_PODMAN)
    assert done.stdout.split() == ["0", str(single_user.uid), "1"]
    assert done.stderr == ""  # once


def test_why_there_can_be_none_is_said_and_what_needs_none_goes_on(user: User) -> None:
    user.run("mkdir", "tree")
    bound = ["setpriv", "--no-new-privs", SCRIPT]
    done = user.run(*bound, "import", "tree", "app")
    assert "owners are recorded by the IDs that they have on this machine" in done.stderr
    done = user.run(*bound, "mount", "app:latest", "at", check=False)
    assert done.returncode == 6
    assert "newgidmap" in done.stderr
    assert "no_new_privs" in done.stderr
    assert "stratum restore" in done.stderr
    assert done.stderr.count("error") == 1
    inside = user.ok("import", "tree", "app")  # needs IDs alone, and leaves no process behind
    assert inside in user.ok("show", "app", "--format", "json")
    assert not user.processes()


def test_a_command_is_as_it_would_be_without(user: User) -> None:
    script = 'printf "%s %s %s\n" "$(pwd)" "$(umask)" "$(id -u)"; cat; kill -$0 $$; exit 7'
    user.run("mkdir", "some where")
    at = user.home / "some where"

    def run(number: str) -> tuple[int, str]:
        line = [SCRIPT, "unshare", "--", "sh", "-c", script, number]
        done = user.run(*line, cwd=at, umask=0o027, input="typed", check=False)
        return done.returncode, done.stdout

    said = f"{at} 0027 0\ntyped"
    assert [run("0"), run("TERM"), run("PIPE")] == [(7, said), (-signal.SIGTERM, said), (-signal.SIGPIPE, said)]
    assert user.inside("nothing-of-that-name", check=False).returncode == 127
    assert user.inside("/etc/passwd", check=False).returncode == 126


def test_what_is_mounted_later_is_not_mistaken_for_what_is_below(user: User) -> None:
    user.run("mkdir", "-p", "late/below", "tree")
    user.ok("import", "tree", "app")
    user.inside("true")
    late = user.home / "late"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "late", late], check=True)
    try:
        (late / "file").write_text("late")
        for cwd, args in ((user.home, ("late/app",)), (late, ("app",))):
            done = user.stratum("mount", "app", *args, cwd=cwd)
            assert done.returncode == 6
            assert f"is not to be seen in the session namespace: {late} was mounted later" in done.stderr
        user.ok("import", late, "other")  # what needs no mount of the session sees all that there is
        user.run("mkdir", late / "copy")
        user.ok("restore", "other", "/", "--to", "copy", cwd=late)
        assert (late / "copy/file").read_text() == user.ok("cat", "other", "file", cwd=late) == "late"
    finally:
        subprocess.run(["umount", late], check=True)
    mounted = Path(user.ok("mount", "app+main", late))
    gone = user.run("sh", "-c", f"mkdir gone; cd gone; rmdir ../gone; {SCRIPT} list; {SCRIPT} import . x", check=False)
    assert (gone.returncode, gone.stdout.split()[:2]) == (1, ["app", "latest"])
    closed = user.home / "closed"
    closed.mkdir(mode=0o700)  # as /root is, for whom root's sudo makes one
    (closed / "x").touch()
    line = f"cd {closed}; exec setpriv --reuid={user.uid} --regid={user.uid} --clear-groups {SCRIPT} "
    for verb, code in (("list", 0), ("import x y", 3), ("status --short", 0), ("import . y", 3)):
        done = subprocess.run(
            ["sh", "-c", line + verb], env=user.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done
    for place in (mounted, user.home):  # a mount of the session is meant to be seen, where the host has a directory
        here = user.ok("status", "--short", cwd=place)
        assert here.startswith("app+main") == (place == mounted)


def test_a_shell_is_in_the_first_ref_and_unmounts_what_it_mounted(user: User, cli: Command) -> None:
    user.run("mkdir", "tree")
    for name in ("app", "db"):
        user.ok("import", "tree", name)
    stays = user.ok("mount", "db+main", "stays")
    done = user.stratum("shell", "app", "db", input=f"pwd; echo x > new; ls {stays}; exit 3", env={"SHELL": "/bin/sh"})
    assert done.returncode == 3
    assert f"db is at {stays}" in done.stderr
    at = Path(done.stdout.strip())
    assert f"app is at {at}" in done.stderr
    assert user.json("status", "app")[0]["worktrees"][0]["mounts"] == []
    assert user.inside("findmnt", "-n", stays).stdout
    assert user.stratum("shell", "app", "nothing", input="").returncode == 3  # not found: and nothing is left mounted
    assert user.json("status", "app")[0]["worktrees"][0]["mounts"] == []
    user.end()
    for line in (["cat", "app+main", "/new"], ["diff", "-p", "app+main"], ["status", "app"]):
        assert {"cat": "x", "diff": "+x", "status": "1 added"}[line[0]] in user.ok(*line)  # without a session, too
    assert not user.processes()
    done = user.stratum("shell", "app", input="cat new; kill -9 $$", env={"SHELL": "/bin/sh"})
    assert (done.returncode, done.stdout) == (137, "x\n")
    assert cli("unshare", "").stderr.startswith("error: cannot run '': that is no name of a program\n")
    done = cli("unshare", "--", *NAMESPACES)  # root of the machine needs none
    assert done.stdout.split() == [os.readlink(path) for path in NAMESPACES[1:]]


def test_an_import_records_who_has_no_id_as_0_and_leaves_them_out_of_access_lists(user: User, cli: Command) -> None:
    nobody = user.subids + 65534 - 1
    owners = {
        "system": ((0, 0), (0, 0)),
        "own": ((user.uid, user.uid), (0, 0)),
        "of a system group": ((user.uid, 7), (0, 0)),
        "of another": ((7, user.uid), (0, 0)),
        "of a container's nobody": ((nobody, nobody), (65534, 65534)),
        "of a container's user and nobody's group": ((user.subids + 6, nobody), (7, 65534)),
    }
    seen, meant = user.home / "seen", user.home / "meant"
    seen.mkdir(mode=0o755)
    for name in owners:
        (seen / name).write_text(name)
    (seen / "link").symlink_to("system")
    subprocess.run(["setfacl", "-m", "u:0:r,u:7:rwx,g::r", seen / "own"], check=True)
    subprocess.run(["setfacl", "-m", "d:u:7:rwx", seen], check=True)
    subprocess.run(["cp", "-a", seen, meant], check=True)
    subprocess.run(["setfacl", "-n", "-x", "u:7", meant / "own"], check=True)
    subprocess.run(["setfacl", "-n", "-x", "d:u:7", meant], check=True)
    for name, (shown, recorded) in owners.items():
        os.chown(seen / name, *shown)
        os.chown(meant / name, *recorded)
    for name in ("own", "of another"):  # who made the latter is root's equal in the commit
        for place in (seen, meant):
            (place / name).chmod(0o4755)
    subprocess.run(["setfacl", "-n", "-x", "u:0", "-m", f"u:{user.uid}:r", seen / "own"], check=True)
    done = user.stratum("import", seen, "app", check=True)
    assert "recorded as those of user 0; 1 of them are set-user-ID" in done.stderr
    assert f"the access list of {seen}" in done.stderr
    assert " and 1 more " in done.stderr
    assert done.stdout.strip() == cli.ok("import", meant, "app")
