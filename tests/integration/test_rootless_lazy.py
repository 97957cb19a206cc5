"""Lazy strata of ordinary users: names at once, contents when they are read, in the session namespace."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.lazily import LARGE, Far
from tests.support.rootless import User

pytestmark = [pytest.mark.root, pytest.mark.registry]


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(user: User, module: str) -> list[int]:
    """Processes of ``user`` that run ``main`` of a module of the package."""
    return [pid for pid, line in user.processes().items() if f"from stratum.{module} import" in line]


def end(user: User, *modules: str) -> None:
    """Kill those at once, so that none starts another."""
    found = [pid for module in modules for pid in running(user, module)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in found:
            os.kill(pid, number)
    until(lambda: not user.processes().keys() & set(found))


def test_contents_come_when_they_are_read_and_mounts_are_mended(user: User, far: Far) -> None:
    def sums(directory: Path, *names: str) -> list[str]:
        said = user.inside("sh", "-c", f"cd {directory} && sha256sum {' '.join(names)}", check=False).stdout
        return [line.split()[0] for line in said.splitlines()]

    def right(*names: str) -> list[str]:
        return [far.sums[name] for name in names]

    user.ok("pull", "--lazy", far.reference)
    user.ok("worktree", "add", "app+dev", "app:v1")
    user.ok("history", "on", "app+dev")
    tag, tree = user.home / "tag", user.home / "tree"
    user.ok("mount", "app:v1", tag)
    user.ok("mount", "app+dev", tree)
    far.slow.forget()
    assert user.inside("sh", "-c", f"find {tag} -type f | wc -l").stdout == f"{len(far.sums)}\n"
    assert far.slow.ranges() == [], "names are here"
    assert sums(tag, "d0/f07", LARGE) == right("d0/f07", LARGE)
    user.inside("sh", "-ec", f"cd {tree}; echo more >>d1/f05; chown 7:8 d2; mv d3/f01 moved; rm d3/f02")
    assert sums(tree, "moved", "d2/f03") == right("d3/f01", "d2/f03")

    end(user, "hydrate.worker")
    assert sums(tag, "d4/f04") == right("d4/f04"), "the next worker has it"
    end(user, "hydrate.keeper", "hydrate.worker")
    assert sums(tag, "d5/f05") == [], "nobody fetches"
    mended = user.stratum("reconcile", check=True).stderr
    assert f"app:v1 at {tag} fetches again" in mended
    assert f"app+dev at {tree} fetches again" in mended
    assert sums(tag, "d5/f05", "d7/f07") == right("d5/f05", "d7/f07")
    assert sums(tree, "d6/f06", "moved") == right("d6/f06", "d3/f01")
    user.ok("commit", "app+dev", "v2")
    changes = {change["path"] for change in user.json("diff", "app:v1", "app:v2")}
    assert {"/d1/f05", "/d2", "/d3/f01", "/d3/f02", "/moved"} <= changes
    assert {"/d1/f05", "/moved"} <= {record.get("path") for record in user.json("history", "app+dev")}

    (session,) = [pid for pid, line in user.processes().items() if "catatonit" in line]
    os.kill(session, signal.SIGKILL)
    until(lambda: str(tree) not in user.ok("status"))
    assert running(user, "history.keeper"), "what keeps histories keeps no mounts"
    user.ok("mount", "app+dev", tree)
    assert sums(tree, "d6/f01", "moved") == right("d6/f01", "d3/f01")
    far.slow.die()
    assert sums(tree, "d6/f06", "d4/f09") == right("d6/f06")
    user.ok("unmount", tree)


def test_ways_that_cannot_wait_for_contents_say_so(user: User, far: Far) -> None:
    user.ok("pull", "--lazy", far.reference)
    for way in ({"STRATUM_USER_MOUNTS": "data"}, {}):
        words = ["--host"] if not way else []
        refused = user.stratum("mount", *words, "app:v1", "shown", env=way)
        assert (refused.returncode, "stratum realize" in refused.stderr) == (6, True)
    user.ok("mount", "app:v1", "shown", env={"STRATUM_USER_MOUNTS": "directory"})
    assert user.inside("cat", "shown/tiny").stdout == (far.tree / "tiny").read_text()
    user.ok("unmount", "./shown")
    user.ok("realize", "app:v1")
    user.ok("mount", "--host", "app:v1", "shown")
    assert user.run("cat", "shown/tiny").stdout == (far.tree / "tiny").read_text()
    user.ok("unmount", "./shown")
