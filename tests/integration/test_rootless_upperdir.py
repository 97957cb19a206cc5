"""Reading the upperdir of a user's worktree gives what a full walk of it shows, whatever was done in it and whenever
what serves it was killed."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.overlay_ops import KINDS, ROOT_USER_ACL, make_source
from tests.support.capabilities import CHECKOUT
from tests.support.command import SCRIPT
from tests.support.effort import examples
from tests.support.rootless import User, Users

pytestmark = pytest.mark.root

NUMBERS = st.integers(0, 60)
STEPS = st.sampled_from([*KINDS, "remount", "look", "fast_forward", "kill"])


class Hands:
    """What carries out operations in the user's namespace."""

    def __init__(self, user: User, source: Path, way: str) -> None:
        program = [sys.executable, "-m", "tests.integration.rootless_hands", user.home / way, source, way]
        pipe = subprocess.PIPE
        self._process = user.start(
            SCRIPT, "unshare", "--", *program, env={"PYTHONPATH": str(CHECKOUT)}, stdin=pipe, stdout=pipe
        )
        assert self._answer() == "ready\n"

    def do(self, steps: list[tuple[str, int, int, int]]) -> None:
        assert self._process.stdin is not None
        print(json.dumps(steps), file=self._process.stdin, flush=True)
        wrong = json.loads(self._answer())
        assert not wrong, wrong

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def hands(users: Users) -> Iterator[dict[str, Hands]]:
    """By the way that mounts are made."""
    user = users.user("stratum-test")
    source = make_source(user.home)
    for path in (source, *source.rglob("*")):
        info = path.lstat()
        os.chown(path, _outside(user, info.st_uid), _outside(user, info.st_gid), follow_symlinks=False)
    acl = ROOT_USER_ACL.replace(struct.pack("<I", 1000), struct.pack("<I", _outside(user, 1000)))
    os.setxattr(source / "d" / "sub" / "f", "system.posix_acl_access", acl)
    os.setxattr(source / "d" / "big", "user.overlay.redirect", b"/etc/shadow")
    os.setxattr(source / "d" / "sub", "user.overlay.opaque", b"y")
    found = {way: Hands(user, source, way) for way in ("METADATA", "DATA")}
    yield found
    for each in found.values():
        each.close()
    users.remove(user)


def _outside(user: User, inside: int) -> int:
    return user.subids + inside - 1 if inside in range(1, 65536) else user.uid


@settings(max_examples=examples(20))
@given(steps=st.lists(st.tuples(STEPS, NUMBERS, NUMBERS, NUMBERS), max_size=30))
def test_any_sequence_of_operations(hands: dict[str, Hands], steps: list[tuple[str, int, int, int]]) -> None:
    hands["METADATA"].do(steps)


@settings(max_examples=examples(6))
@given(steps=st.lists(st.tuples(STEPS, NUMBERS, NUMBERS, NUMBERS), max_size=30))
def test_any_sequence_where_contents_are_served_too(
    hands: dict[str, Hands], steps: list[tuple[str, int, int, int]]
) -> None:
    hands["DATA"].do(steps)
