"""Texts line by line: as the standard library does it, but for what takes too long."""

from __future__ import annotations

from difflib import unified_diff

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.tree.linediff import TooMuchError, unified
from tests.support.effort import examples

TEXTS = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n", "d"]), max_size=30)


@settings(max_examples=examples(200))
@given(TEXTS, TEXTS)
def test_it_is_the_unified_format(old: list[str], new: list[str]) -> None:
    assert list(unified(old, new, "a/x", "b/x")) == list(unified_diff(old, new, "a/x", "b/x"))


def test_what_takes_too_long_is_given_up() -> None:
    old = [f"{number % 100}\n" for number in range(10_000)]
    with pytest.raises(TooMuchError):
        list(unified(old, old[::-1], "a", "b", effort=3_000_000))
    assert list(unified(old, [*old, "more\n"], "a", "b"))
