"""What patterns exclude, and the trees that a log with them tells of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.history.excluding import Excluding
from stratum.tree.model import Directory, File, lookup


def file(content: bytes) -> File:
    return File(0o100644, 0, 0, 1, size=len(content), content=content or None)


def directory(**children: Directory | File) -> Directory:
    return Directory(0o40755, 0, 0, 1, children={name.encode(): child for name, child in children.items()})


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("*.swp", b"/a/.x.swp", True),
        ("*/node_modules", b"/app/node_modules/left/pad.js", True),
        ("*/node_modules", b"/app/node_modules2/left", False),
        ("/app/cache", b"/app/cache", True),
        ("/app/cache", b"/app/cache/deep/in/it", True),
        ("/app/cache", b"/app/cached", False),
        ("/app/cache", b"/app", False),
        ("*", b"/", True),
        ("/\udcff*", b"/\xffx", True),
    ],
)
def test_a_pattern_covers_what_it_names_and_all_below(pattern: str, path: bytes, covered: bool) -> None:
    assert Excluding((pattern,)).covers(path) is covered


def test_without_patterns_nothing_is_excluded() -> None:
    excluding = Excluding(())
    shown = directory(a=file(b"1"))
    assert not excluding
    assert not excluding.covers(b"/a")
    assert excluding.applied(shown, directory()) is shown


def test_what_is_excluded_stays_as_the_log_has_it() -> None:
    excluding = Excluding(("*/skip",))
    recorded = directory(d=directory(skip=file(b"old"), kept=file(b"1")), skip=directory(x=file(b"x")))
    shown = directory(d=directory(skip=file(b"new"), kept=file(b"2")), other=directory(skip=file(b"s"), a=file(b"a")))
    tree = excluding.applied(shown, recorded)
    assert lookup(tree, b"/d/skip") is lookup(recorded, b"/d/skip")
    assert lookup(tree, b"/d/kept") is lookup(shown, b"/d/kept")
    assert lookup(tree, b"/skip") is lookup(recorded, b"/skip")
    assert lookup(tree, b"/other/skip") is None
    assert lookup(tree, b"/other/a") is lookup(shown, b"/other/a")


def test_what_did_not_change_is_not_looked_at_again() -> None:
    excluding = Excluding(("*/skip",))
    same = directory(x=directory(skip=file(b"1")))
    first = excluding.applied(directory(same=same), directory())
    again = excluding.applied(directory(same=same, new=file(b"2")), first)
    assert lookup(again, b"/same") is lookup(first, b"/same")
    assert lookup(again, b"/same/x/skip") is None


@given(st.lists(st.text(max_size=8), max_size=4), st.lists(st.binary(min_size=1, max_size=6), max_size=5))
def test_any_pattern_and_any_path_are_survived(patterns: list[str], names: list[bytes]) -> None:
    path = b"/" + b"/".join(name.replace(b"/", b"_").replace(b"\0", b"_") for name in names)
    Excluding(tuple(patterns)).covers(path)
