"""How full a disk may get, and what goes first, by numbers alone."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest

from stratum.csi.errors import CallError, Code
from stratum.csi.relief import Candidate, enough
from stratum.csi.room import Disk, Lack, Marks, Room

GIB = 1 << 30
HALF = Disk(100 * GIB, 50 * GIB, 1000, 500)


def test_shares_are_the_kubelets() -> None:
    reserved = Disk(100 * GIB, 10 * GIB, 0, 0)
    assert (reserved.percent, reserved.inodes_used) == (90, 0), "a file system without a number of inodes lacks none"
    assert reserved.lack(85) == Lack(5 * GIB, 0)
    assert reserved.lack(90) == Lack()
    assert reserved.lack(90, GIB) == Lack(GIB, 0)
    assert Disk(100 * GIB, 90 * GIB, 1000, 40).lack(84) == Lack(0, 120)
    assert Disk(100 * GIB, 90 * GIB, 1000, 40).percent == 96
    assert Disk(100 * GIB, 90 * GIB, 1000, 40).room(84) == 0
    assert HALF.room(84) == 34 * GIB
    for nothing in (Lack(), Disk(0, 0).lack(50), HALF.lack(100), HALF.lack(100, 50 * GIB)):
        assert not nothing
    assert HALF.lack(100, 51 * GIB) == Lack(GIB), "nothing is pulled that does not fit at all"


class Fixed(Room):
    """One of a disk that is as it is."""

    now = HALF

    def disk(self) -> Disk:
        return self.now


def test_pulls_that_are_under_way_count() -> None:
    room = Fixed(Path("/"), Marks(80, 75, 84))
    with room.held("a") as take, room.held("b") as other:
        take(30 * GIB)
        said = r"b is not pulled: the node's disk is 50% full, and it takes 5.0 GiB while it comes; 4.0 GiB more"
        with pytest.raises(CallError, match=said) as caught:
            other(5 * GIB)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        other(4 * GIB)
        other(0)
    with room.held("b") as other:
        other(34 * GIB)
    assert room.refused == 1
    assert not room.needed(), "there is room for what was refused by now"
    room.now = Disk(100 * GIB, 24 * GIB)
    assert not room.needed(), "above the low mark, and nobody asks"
    with room.held("c") as take, pytest.raises(CallError):
        take(10 * GIB)
    assert room.needed() == Lack(2 * GIB), "for the mark, and for what was refused"
    with room.held("d") as take, pytest.raises(CallError):
        take(85 * GIB)
    assert room.needed() == Lack(2 * GIB), "no room is made for what can never fit"
    assert not room.tried(), "it is below the high mark"
    assert not room.needed()
    room.now = Disk(100 * GIB, 15 * GIB)
    assert room.trouble() is None, "nobody has tried yet"
    assert room.tried() == Lack(10 * GIB)
    assert room.trouble() is not None
    room.now = Disk(100 * GIB, 18 * GIB)
    assert room.short == Lack(7 * GIB)
    assert room.trouble() is None, "pulls go on"
    room.now = HALF
    assert room.trouble() is None
    assert not room.short


def test_what_was_unused_longest_goes_first_and_no_more_than_is_needed() -> None:
    candidates = [Candidate(str(days), timedelta(days=days), 10, 1) for days in range(1, 9)]
    random.Random(1).shuffle(candidates)
    assert [each.key for each in enough(candidates, Lack(25))] == ["8", "7", "6"]
    assert [each.key for each in enough(candidates, Lack(10, 2))] == ["8", "7"]
    assert len(enough(candidates, Lack(1000))) == 8
    assert not enough(candidates, Lack())
    assert not enough([], Lack(5))
