"""Operations in worktrees of a user, carried out in the user's namespace: ``python -m tests.integration.rootless_hands
PLACE SOURCE WAY`` reads a list of steps a line, and answers each with a line: what went wrong, as a JSON string."""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from stratum.mount.plan import Lower, user_method
from stratum.tree.model import Directory
from stratum.tree.overlay import Dialect
from tests.integration.overlay_ops import Lab, Operations, Worktree, lines


def servers() -> list[int]:
    """The processes of this user that have FUSE open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(link) == "/dev/fuse" for link in (entry / "fd").iterdir()):
                found.append(int(entry.name))
    return found


def example(lab: Lab, base: Directory, steps: list[tuple[str, int, int, int]]) -> None:
    """Carry out ``steps`` in a worktree of ``base``; ``AssertionError`` where its upperdir tells anything else than it
    shows."""
    with lab.worktree(base) as tree:
        operations = Operations(tree.view)
        for step in steps:
            if step[0] == "remount":
                tree.remount()
            elif step[0] == "look":
                _check(tree)
            elif step[0] == "kill":
                _kill(tree, operations, step)
            elif step[0] == "fast_forward":
                tree.remount()
                tree.fast_forward()
            else:
                operations.run(step)
        merged = _check(tree)
        tree.fast_forward()
        assert tree.read() is tree.base
        _same(lines(tree.base), lines(merged))
    deadline = time.monotonic() + 10
    while left := servers():
        assert time.monotonic() < deadline, f"servers without a mount: {left}"
        time.sleep(0.01)


def _check(tree: Worktree) -> Directory:
    """As ``Worktree.check``, of a view that is fresh: where overlayfs may keep no handles of lower files, it shows two
    numbers for an inode of two names until it has forgotten both. The error tells what differs: pytest is not here."""
    read = tree.read()
    tree.remount()
    _same(lines(read), lines(tree.walk()))
    return read


def _same(read: list[str], walked: list[str]) -> None:
    if read != walked:
        raise AssertionError("\n".join(difflib.unified_diff(read, walked, "read", "walked", n=0)))


def _kill(tree: Worktree, operations: Operations, step: tuple[str, int, int, int]) -> None:
    """Kill what serves the worktree, go on as if it were there, and mount it again: it shows what it did before, and
    what was written since."""
    before = lines(_check(tree))
    for pid in servers():
        os.kill(pid, signal.SIGKILL)
    _same(lines(tree.read()), before)
    for kind in ("create", "unlink", "append"):
        with _server_may_be_dead():
            operations.run((kind, *step[1:]))
    tree.remount()
    _check(tree)


@contextlib.contextmanager
def _server_may_be_dead() -> Iterator[None]:
    """Where the kernel has not kept what is asked for, it answers ENOTCONN then."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            raise


def main(place: str, source: str, way: str) -> None:
    """Do what the standard input says until it ends."""
    lab = Lab(Path(place), Dialect.USER, user_method(os.uname().release, Lower[way]))
    base = lab.commit_directory(Path(source))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            example(lab, base, json.loads(line))
            answer = ""
        except BaseException:  # told, whatever it is
            answer = traceback.format_exc()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
