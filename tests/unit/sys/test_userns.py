"""Which IDs a process has, and what follows: who is root of the machine, who only of a namespace of their own."""

from __future__ import annotations

import os
import signal

import pytest

from stratum.sys import userns
from stratum.sys.syscalls import libc_call

_USER = 1990
_PR_SET_DUMPABLE = 4


def _told(uid: int, *, ids: bool, joined: bool = False) -> list[object]:
    """What ``userns`` says to a process of user ``uid``: as it is, or in a namespace of its own with one ID."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            libc_call("prctl", _PR_SET_DUMPABLE, 1)  # as a program that is started is: its /proc is its user's
            if ids:
                _make_and_join() if joined else _make()
            told = [
                userns.in_initial_namespace(),
                userns.is_privileged(),
                userns.owns_system(),
                sorted(userns.system_owners()),
                os.geteuid(),
                userns.id_ranges("gid_map"),
            ]
            os.write(writing, repr(told).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    os.waitpid(pid, 0)
    told = eval(text)
    assert isinstance(told, list)
    return told


def _make() -> None:
    uid, gid = os.geteuid(), os.getegid()
    userns.new_namespace()
    userns.give_ids(os.getpid(), uid, gid, [], [])
    userns.id_ranges.cache_clear()


def _make_and_join() -> None:
    uid, gid = os.geteuid(), os.getegid()
    reading, writing = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        userns.new_namespace()
        os.write(writing, b"x")
        signal.pause()
    os.read(reading, 1)
    try:
        userns.give_ids(keeper, uid, gid, [], [])
        users = os.open(f"/proc/{keeper}/ns/user", os.O_RDONLY)
        assert userns.owner_of(users) == uid
        userns.join(users, os.open(f"/proc/{keeper}/ns/mnt", os.O_RDONLY))
    finally:
        os.kill(keeper, signal.SIGKILL)


@pytest.mark.root
def test_root_of_the_machine_is_told_from_who_is_0_in_a_namespace_of_their_own() -> None:
    everything = userns.ALL_IDS
    assert _told(0, ids=False) == [True, True, True, [0], 0, everything]
    assert _told(_USER, ids=False) == [True, False, False, [0], _USER, everything]
    ours = [False, False, False, [0, userns.OVERFLOW_ID], 0, ((0, _USER, 1),)]
    assert _told(_USER, ids=True) == ours
    assert _told(_USER, ids=True, joined=True) == ours
    assert _told(0, ids=True)[:3] == [False, False, True]  # / is its own: a system container


def test_ranges_of_subordinate_ids_are_those_of_the_user() -> None:
    lines = "root:1:1\n1990:100000:65536\nbroken:line\n1990:-1:3\n1990:7\nme:300000:5\n1990:4294967295:2\n1990:x:y\n"
    assert userns.ranges_of({"1990", "me"}, lines.splitlines()) == [(100000, 65536), (300000, 5)]
    assert userns.ranges_of({"1991"}, lines.splitlines()) == []
