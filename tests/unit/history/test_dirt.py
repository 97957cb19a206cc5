"""What waits to be looked at, and under which path it is told."""

from __future__ import annotations

from stratum.history import dirt
from stratum.history.dirt import Dirt, NewDirectory, Paths
from stratum.ingest.uppernodes import UpperDirectory
from stratum.sys.actors import Actor

TOP = UpperDirectory((1, 2), b"", None, b"")
INNER = UpperDirectory((1, 3), b"", TOP, b"inner")
WHO = Actor(1, 1, "vim", None)


def test_nothing_is_dirty_at_first() -> None:
    assert not Dirt()
    found = Dirt()
    found.touch()
    assert found
    assert found.first == found.last > 0


def test_names_and_the_directory_itself() -> None:
    found = Dirt()
    found.add(TOP, None)
    assert found.names == {TOP: set()}
    found.add(TOP, b"f", WHO)
    found.add(TOP, b"g")
    assert found.names == {TOP: {b"f", b"g"}}
    assert found.actors == {(TOP, b"f"): WHO}
    found.forget(TOP)
    assert found.names == {}


def test_a_directory_with_many_dirty_names_is_dirty_as_a_whole() -> None:
    found = Dirt()
    for number in range(dirt.NAMES_MAX + 2):
        found.add(TOP, b"%d" % number)
        found.add_modified(INNER, b"%d" % number)
    assert found.names == {TOP: None, INNER: None}
    assert len(found.modified.get(INNER, ())) <= 1


def test_moves_are_followed_to_where_they_began() -> None:
    found = Dirt()
    found.add_move((TOP, b"a"), (TOP, b"b"))
    found.add_move((TOP, b"b"), (INNER, b"c"))
    found.add_move((TOP, b"x"), (TOP, b"y"))
    assert found.moves == {(INNER, b"c"): (TOP, b"a"), (TOP, b"y"): (TOP, b"x")}


def test_paths_of_directories_that_are_new_gone_or_moved() -> None:
    new = NewDirectory(INNER, b"new")
    deep = NewDirectory(new, b"deep")
    gone = UpperDirectory((1, 9), b"", None, b"gone")
    paths = Paths({gone: b"/was/here"})
    assert paths.of((TOP, b"f")) == b"/f"
    assert paths.of((TOP, b".")) == b"/"
    assert paths.of((deep, b"f")) == b"/inner/new/deep/f"
    assert paths.of((gone, b"f")) == b"/was/here/f"
    new.parent, new.name = TOP, b"moved"
    assert Paths().of((deep, b"f")) == b"/moved/deep/f"


def test_directories_that_are_said_to_be_in_one_another_have_some_path() -> None:
    a = NewDirectory(TOP, b"a")
    b = NewDirectory(a, b"b")
    a.parent = b
    assert a.path().endswith(b"/a")
