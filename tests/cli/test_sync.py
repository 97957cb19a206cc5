"""Hosts that sync over the network: ``stratum serve --peers`` and who asks it, as processes."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.command import SCRIPT
from tests.support.leftovers import unmount_below
from tests.support.peers import Host

pytestmark = pytest.mark.root

BIG = "b" * 300_000


@pytest.fixture
def hosts(tmp_path: Path) -> list[Host]:
    """Hosts that know one another; the first has the stratum ``app``, which all share."""
    made = [Host(tmp_path / name) for name in ("attic", "laptop", "phone")]
    bring(made[0], {"a": "1", "d/b": "1", "big": BIG})
    for host in made:
        for other in made:
            if other is not host:
                host.knows(other)
                host.ok("share", "app", "--with", other.name, "--write")
    return made


def bring(host: Host, tree: dict[str, str]) -> None:
    """Have ``app:latest`` be a directory, as its host has it now."""
    top = host.directory / f"tree{time.monotonic_ns()}"
    host.ok("import", "--bare", "--force", make_tree(top, tree), "app:latest")


def refs(host: Host) -> list[list[str]]:
    return [line.split("\t")[:2] for line in host.ok("list", "app").splitlines()]


def test_three_hosts_by_way_of_the_one_that_listens(hosts: list[Host]) -> None:
    attic, laptop, phone = hosts
    with attic.serving() as address:
        for host in (laptop, phone):
            host.knows(attic, address)
        assert laptop.json("sync", "app")["peers"][0]["commits_in"] == 1
        # One that leaves content where it is gives what it makes of it all the same.
        phone.ok("sync", "app", "attic", "--lazy")
        assert phone.json("list", "app")["tags"][0]["partial"]
        bring(laptop, {"a": "laptop", "d/b": "1", "big": BIG, "new": BIG + "!"})
        bring(attic, {"a": "attic", "d/b": "2", "big": BIG})
        laptop.ok("sync", "app")
        phone.ok("sync", "app")
        assert refs(attic) == refs(laptop) == refs(phone)
        # A merge that attic made of what was pushed there is had like any commit.
        phone.ok("pull", "peer://attic/app", "copy:latest")
        assert phone.ok("cat", "copy:latest", "/new") == BIG + "!"
        assert phone.ok("cat", "app:latest", "/a") == "attic"  # the later one
        assert phone.ok("cat", "app:latest", "/new") == BIG + "!"
        (conflict,) = phone.json("merge", "app")["conflicts"]
        assert (conflict["path"], conflict["shown"]["host"], conflict["other"]["host"]) == ("/a", "attic", "laptop")
        assert phone.ok("cat", f"app:{conflict['kept_by']}", "/a") == "laptop"
        laptop.ok("merge", "app:latest", "/a", "--ours")
        laptop.ok("sync", "app")
        phone.ok("sync", "app")
        assert refs(attic) == refs(laptop) == refs(phone)
        assert phone.ok("cat", "app:latest", "/a") == "laptop"
        assert phone.json("merge", "app")["conflicts"] == []
        # Who may only read gets what others do, and is told that nothing of its own goes there.
        attic.ok("share", "app", "--with", "phone")
        bring(phone, {"a": "phone", "d/b": "2", "big": BIG, "new": BIG + "!"})
        bring(attic, {"a": "laptop", "d/b": "3", "big": BIG})
        (met,) = phone.json("sync", "app")["peers"]
        assert met["error"] is None
        assert any("only read" in note for note in met["notes"])
        assert phone.ok("cat", "app:latest", "/d/b") == "3"
        assert attic.ok("cat", "app:latest", "/a") == "laptop"
        attic.kill()
        code, _, said = laptop("sync", "app")
        assert code == 1
        assert said.count("error: ") == 1
    for host in hosts:
        host.ok("fsck")


def test_a_worktree_that_is_followed(hosts: list[Host], tmp_path: Path) -> None:
    attic, laptop, _ = hosts
    mounted = tmp_path / "mnt"
    with attic.serving() as address:
        laptop.knows(attic, address)
        laptop.ok("sync", "app")
        laptop.ok("worktree", "add", "app+main", "app:latest")
        laptop.ok("mount", "app+main", mounted)
        command = [SCRIPT, "sync", "--watch", "app+main", "--rest", "1s", "--poll", "1s"]
        following = subprocess.Popen(command, env=laptop.environment)
        try:
            (mounted / "a").write_text("laptop")
            until(lambda: attic.ok("cat", "app:latest", "/a") == "laptop")
            bring(attic, {"a": "1", "d/b": "attic", "big": BIG})
            until(lambda: laptop.ok("cat", "app:latest", "/d/b") == "attic")
            (mounted / "big").rename(mounted / "renamed")
            until(lambda: attic.ok("ls", "app:latest").split() == ["a", "d/", "renamed"])
            assert (mounted / "d/b").read_text() == "1"  # it stays as it is
            assert attic.ok("cat", "app:latest", "/a") == "laptop"
            assert attic.ok("cat", "app:latest", "/d/b") == "attic"
            assert laptop.json("merge", "app")["conflicts"] == []
        finally:
            following.send_signal(signal.SIGTERM)
            code = following.wait(timeout=60)
            unmount_below(tmp_path)
    assert code == 0


def until(is_so: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 100
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
