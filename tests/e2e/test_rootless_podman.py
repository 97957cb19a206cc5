"""Containers of an ordinary user: the hook in Podman's user namespace, and verbs on what running containers have."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.capabilities import program
from tests.support.rootless import BUSYBOX_IMAGE, User, Users

pytestmark = [pytest.mark.root, pytest.mark.podman]

ENGINE = """\
[containers]
log_driver = "k8s-file"
netns = "none"
[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{user.home}/containers"
runroot = "{user.runtime}/containers"
"""
CGROUP2_ONLY = 'mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup\nexec "$@"'
"""Debian's crun refuses the cgroup v1/v2 hybrid that some machines have."""
LOOK = "cd /data; cat version; stat -c %u:%g . version own"


def settled(users: Users, name: str, runtime: str) -> User:
    """The user ``name`` with Podman's settings, an image, the hook, and ``app+dev`` on ``app:v1``; there is ``app:v2``.

    ``own`` in both belongs to 7:8.
    """
    user = users.user(name)
    settings = user.home / ".config/containers"
    user.run("mkdir", "-p", settings, "1", "2")
    user.run("tee", settings / "containers.conf", input=ENGINE.format(runtime=runtime))
    user.run("tee", settings / "storage.conf", input=STORAGE.format(user=user))
    user.import_image()
    user.inside("sh", "-ec", "for n in 1 2; do echo $n > $n/version; echo > $n/own; chown 7:8 $n/own; done")
    for number in ("1", "2"):
        user.ok("tag", user.ok("import", "--bare", number, "app"), f"app:v{number}")
    user.ok("worktree", "add", "app+dev", "app:v1")
    user.ok("hook", "install", "--force")
    user.ok("hook", "doctor")
    return user


@pytest.fixture(scope="module")
def user(users: Users) -> Iterator[User]:
    """A user for the tests of this module whose containers are run by runc."""
    made = settled(users, "stratum-test", "runc")
    yield made
    made.run("podman", "rm", "--all", "--force", "--time", "0", check=False)
    users.remove(made)


def volume(ref: str) -> str:
    return f"--annotation=stratum.dev/volume.{ref.translate({ord(c): '-' for c in '+:'})}={ref}:/data"


def run(user: User, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``podman run`` of a container that is to end; ``words`` are its options and, last, its script."""
    *options, script = words
    return user.run("podman", "run", "--rm", *options, BUSYBOX_IMAGE, "sh", "-ec", script, check=check)


def owners(user: User, ref: str) -> dict[str, str]:
    """The owner of each file of ``ref``."""
    return {entry["path"].rpartition("/")[2]: f"{entry['uid']}:{entry['gid']}" for entry in user.json("ls", "-R", ref)}


def whys(user: User, worktree: str) -> list[str]:
    """Why the head of a worktree moved, newest first, without names."""
    return [str(entry["why"]).partition(" ")[0] for entry in user.json("log", "--reflog", worktree)]


def servers(user: User) -> list[str]:
    return [line for line in user.processes().values() if "stratum" in line]


def until_no_servers(user: User) -> None:
    """Wait until whatever served mounts has ended, as it does when they are gone."""
    deadline = time.monotonic() + 10
    while left := servers(user):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_what_the_users_of_a_container_see_and_what_is_kept_of_it(user: User) -> None:
    dev = volume("app+dev")
    assert run(user, dev, f"{LOOK}; echo a > plain; mkdir -m 1777 t; chown 5:6 plain").stdout == "1\n0:0\n0:0\n7:8\n"
    shown = run(user, dev, "--userns=keep-id", f"{LOOK}; stat -c %u:%g plain; echo b > kept").stdout
    assert shown == f"1\n{user.uid}:{user.uid}\n{user.uid}:{user.uid}\n6:7\n4:5\n"
    assert run(user, dev, "--user=5:6", f"{LOOK}; echo c >> plain; echo c > t/user").stdout == "1\n0:0\n0:0\n7:8\n"
    kept = {"kept": "0:0", "own": "7:8", "plain": "5:6", "t": "0:0", "user": "5:6", "version": "0:0"}
    assert owners(user, "app+dev") == kept
    assert whys(user, "app+dev") == ["container", "container", "container", "worktree"]
    for options in (["--userns=keep-id"], ["--userns=auto"], ["--uidmap=0:1:100", "--gidmap=0:1:100"]):
        shown = run(user, volume("app:v2"), *options, f"{LOOK}; touch new 2>&1 || true").stdout
        root, own = (f"{user.uid}:{user.uid}", "6:7") if options == ["--userns=keep-id"] else ("0:0", "7:8")
        assert shown == f"2\n{root}\n{root}\n{own}\ntouch: new: Read-only file system\n"
    refused = run(user, dev, "--userns=auto", "echo it ran", check=False)
    assert (refused.returncode, refused.stdout) == (126, "")
    (line,) = refused.stderr.splitlines()
    assert "stratum: app+dev at /data cannot be mounted for the container's process" in line
    assert "(start it with --userns=keep-id or without --userns, or mount a tag or a commit, read-only)" in line
    assert user.json("ps") == []
    until_no_servers(user)


def test_verbs_on_what_a_running_container_has(user: User) -> None:
    user.ok("worktree", "add", "app+live", "app:v1")
    container = user.ok("run", "-d", "--name=live", "-v=app+live:/data", BUSYBOX_IMAGE, "sleep", "1000")

    def inside(script: str) -> str:
        return user.run("podman", "exec", "live", "sh", "-ec", script).stdout

    inside("echo x > /data/new; chown 9:9 /data/new")
    (held,) = user.json("ps")
    assert (held["ref"], held["mountpoint"], held["holder"]["id"], held["changes"]) == (
        "app+live",
        "/data",
        container,
        1,
    )
    refused = user.stratum("commit", "app+live")
    assert refused.returncode == 1
    assert f"container {container[:12]} cannot be paused, so nothing was committed" in refused.stderr
    assert "--no-pause" in refused.stderr
    user.ok("commit", "--no-pause", "app+live", "first")
    assert owners(user, "app:first")["new"] == "9:9"
    user.ok("rebase", "app+live", "app:v2")
    assert inside("cd /data; cat version; ls") == "2\nnew\nown\nversion\n"
    user.ok("reset", "app+live", "app:v1")
    assert inside("cd /data; cat version; ls; echo more > more") == "1\nown\nversion\n"
    user.ok("worktree", "add", "app+next", "app:first")
    user.ok("worktree", "switch", "app+next", "app+live")
    assert inside("cd /data; stat -c %u:%g new; echo y > next") == "9:9\n"
    assert user.stratum("mount", "app+next").returncode == 4
    user.run("podman", "stop", "--time=0", "live")
    user.run("podman", "rm", "live")
    assert set(owners(user, "app+next")) == {"new", "next", "own", "version"}
    assert set(owners(user, "app+live")) == {"more", "own", "version"}
    until_no_servers(user)


def test_containers_that_crun_runs(user: User) -> None:
    program("crun")
    user.ok("worktree", "add", "app+crun", "app:v1")
    start = f"podman --runtime crun run --rm {volume('app+crun')}"
    script = f"""\
        podman system migrate > /dev/null
        {start} {BUSYBOX_IMAGE} sh -ec '{LOOK}; echo a > plain'
        {start} --userns=keep-id {BUSYBOX_IMAGE} sh -ec '{LOOK}; echo b > kept'
        {start} --userns=auto {BUSYBOX_IMAGE} echo it ran || echo refused
        podman --runtime crun run --rm {volume("app:v2")} --userns=auto {BUSYBOX_IMAGE} sh -ec '{LOOK}'
        podman system migrate > /dev/null
    """
    become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.uid}", "--clear-groups", "--inh-caps=-all"]
    line = [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-ec",
        CGROUP2_ONLY,
        "sh",
        *become,
        "sh",
        "-ec",
        script,
    ]
    done = subprocess.run(
        line, cwd=user.home, env=user.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    own = f"{user.uid}:{user.uid}"
    shown = ["1", "0:0", "0:0", "7:8", "1", own, own, "6:7", "refused", "2", "0:0", "0:0", "7:8"]
    assert done.stdout.split() == shown
    assert owners(user, "app+crun") == {"kept": "0:0", "own": "7:8", "plain": "0:0", "version": "0:0"}
    assert whys(user, "app+crun") == ["container", "container", "worktree"]
    until_no_servers(user)
