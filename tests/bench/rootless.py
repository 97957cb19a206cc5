"""An ordinary user's mount beside root's of the same commit, and beside the directory itself."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.measure import Entrant, Job
from tests.support.command import SCRIPT
from tests.support.rootless import NAMES, User, Users

if TYPE_CHECKING:
    from tests.bench.jobs import Bench

LOOK = "find . -printf '%s %m %U %T@\\n'"
READ = "find . -type f -exec cat {} +"


def without_root(bench: Bench) -> Iterator[Job]:
    """Mounts of a user: made, looked at for the first time and again, and read.

    What is done in a mount is a shell's, which 'stratum unshare' starts for all of them.
    """
    with bench.mounted():
        pass
    reachable = Path(tempfile.gettempdir())  # by all users, on the file system of the work
    tree = reachable / "tree"
    tree.mkdir()
    subprocess.run(["mount", "--bind", bench.tree, tree], check=True)
    bench.opened.callback(subprocess.run, ["umount", tree], check=True)
    users = Users(reachable)
    users.make()
    bench.opened.callback(users.close)
    user = users.user(NAMES[0])
    bench.opened.callback(users.remove, user)
    user.ok("import", tree, "app")
    place, root = user.home / "mnt", bench.mountpoint

    def entrants(script: str, before: Callable[[Entrant], None] = lambda entrant: None) -> list[Entrant]:
        """Who does ``script`` in the tree, newly mounted, and after ``before``."""
        ours = _of(user, "unshare", "--", "sh", "-c", script, cwd=place)
        ours.prepare = lambda: _void(user.ok("mount", "app:latest", place), before(ours))
        ours.cleanup = lambda: _void(user.ok("unmount", place))
        theirs = bench.ours.verb("unshare", "--", "sh", "-c", script)
        theirs.name, theirs.cwd = "root's mount", root
        theirs.prepare = lambda: _void(bench.ours.run("mount", "app:latest", root), before(theirs))
        theirs.cleanup = lambda: _void(bench.ours.run("unmount", root))
        directory = bench.ours.verb("unshare", "--", "sh", "-c", script)
        directory.name, directory.cwd = "directory", tree
        return [ours, theirs, directory]

    mount = _of(user, "mount", "app:latest", place)
    mount.cleanup = lambda: _void(user.ok("unmount", place))
    roots = bench.ours.verb("mount", "app:latest", root)
    roots.name, roots.cleanup = "root's mount", lambda: _void(bench.ours.run("unmount", root))
    yield Job("user's mount", [mount, roots])
    yield Job("user's first look", entrants(LOOK))
    yield Job("user's next look", entrants(LOOK, _done))
    yield Job("user's reading", entrants(READ, _done))


def _void(*done: object) -> None:
    """Have a lambda that returns nothing."""


def _of(user: User, *words: str | Path, cwd: Path | None = None) -> Entrant:
    """``stratum WORDS`` by a user."""
    ids = [f"--reuid={user.uid}", f"--regid={user.uid}", "--clear-groups"]
    return Entrant("stratum", ["setpriv", *ids, SCRIPT, "--quiet", *words], user.environment, cwd=cwd)


def _done(entrant: Entrant) -> None:
    """Have all of the names looked at, unmeasured."""
    command = [*entrant.command[:-1], LOOK]
    environment = {"PATH": "/usr/bin:/bin", **entrant.environment}
    subprocess.run(command, cwd=entrant.cwd, env=environment, stdout=subprocess.DEVNULL, check=True)
