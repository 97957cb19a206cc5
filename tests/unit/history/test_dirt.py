"""Directories that are new, as far as it was heard of where they are."""

from __future__ import annotations

from typing import cast

from stratum.history.dirt import NewDirectory
from stratum.ingest.upperstate import UpperDirectory


class Top:
    """The directory that all others are in."""

    def path(self) -> bytes:
        return b"/"


def test_a_directory_is_never_in_itself() -> None:
    """Whatever is heard of first."""
    top = cast("UpperDirectory", Top())
    outer = NewDirectory(top, b"outer")
    inner = NewDirectory(outer, b"inner")
    assert inner.path() == b"/outer/inner"
    outer.move(inner, b"moved")
    assert outer.path() == b"/outer"
    inner.move(top, b"inner")
    outer.move(inner, b"moved")
    assert outer.path() == b"/inner/moved"
    outer.move(outer, b"itself")
    assert outer.path() == b"/inner/moved"
