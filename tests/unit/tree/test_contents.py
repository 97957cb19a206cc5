"""What single lines of a dump say: which objects are at which paths."""

from __future__ import annotations

import pytest

from stratum.tree.contents import graded_objects, has_path

A, B = b"\1" * 32, b"\2" * 32
DUMP = (
    b"/ 0 40755 3 0 0 0 0.0 - - -\n"
    b"/a 5000 100644 2 0 0 0 0.0 x/y - %b\n"
    b"/d 0 40755 2 0 0 0 0.0 - - -\n"
    b"/d/link 0 @100644 2 0 0 0 0.0 /a - -\n"
    b"/d/x\\x20y 600 100644 1 0 0 0 0.0 x/y - %b\n"
    b"/d2 600 100644 1 0 0 0 0.0 x/y - %b\n" % (A.hex().encode(), B.hex().encode(), B.hex().encode())
)


@pytest.mark.parametrize("dump", [DUMP, [line + b"\n" for line in DUMP.splitlines()]])
def test_an_object_has_the_greatest_grade_of_its_paths(dump: bytes | list[bytes]) -> None:
    """Of all names of a file, and of all files that have it."""
    grades = {b"/a": 0, b"/d/link": 2, b"/d/x\\x20y": 0, b"/d2": 1}
    assert graded_objects(dump, lambda path: grades[path]) == {A: (5000, 2), B: (600, 1)}
    grades = {b"/a": 1, b"/d/link": 0, b"/d/x\\x20y": 1, b"/d2": 0}
    assert graded_objects(dump, lambda path: grades[path]) == {A: (5000, 1), B: (600, 1)}


@pytest.mark.parametrize("dump", [DUMP, [line + b"\n" for line in DUMP.splitlines()]])
def test_whether_there_is_a_path(dump: bytes | list[bytes]) -> None:
    for path in (b"/", b"/a", b"/d", b"/d/link", b"/d/x\\x20y", b"/d2"):
        assert has_path(dump, path)
    for path in (b"/d/x", b"/b", b"/d/", b"link", b""):
        assert not has_path(dump, path)
