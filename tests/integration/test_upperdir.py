"""Reading an upperdir gives what a full walk of the mounted worktree shows: operation sequences on the real kernel."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.ingest.worktree import compare_upperdir
from stratum.tree.diff import diff_trees
from stratum.tree.model import Directory
from tests.integration.overlay_ops import KINDS, Lab, Operations, lines
from tests.support.effort import examples

pytestmark = pytest.mark.root


NUMBERS = st.integers(0, 60)
STEPS = st.sampled_from([*KINDS, "remount", "look", "fast_forward"])


@settings(max_examples=examples(80))
@given(steps=st.lists(st.tuples(STEPS, NUMBERS, NUMBERS, NUMBERS), max_size=30))
def test_any_sequence_of_operations(lab: Lab, base: Directory, steps: list[tuple[str, int, int, int]]) -> None:
    with lab.worktree(base) as tree:
        operations = Operations(tree.view)
        for step in steps:
            if step[0] == "remount":
                tree.remount()
            elif step[0] == "look":
                tree.check()
            elif step[0] == "fast_forward":
                tree.fast_forward()
            else:
                operations.run(step)
        tree.check()
        tree.remount()
        merged = tree.check()
        tree.fast_forward()
        assert tree.read() is tree.base
        assert lines(tree.base) == lines(merged)


@settings(max_examples=examples(60))
@given(
    before=st.lists(st.tuples(st.sampled_from(KINDS), NUMBERS, NUMBERS, NUMBERS), max_size=15),
    after=st.lists(st.tuples(st.sampled_from(KINDS), NUMBERS, NUMBERS, NUMBERS), max_size=4),
)
def test_nothing_is_uncommitted_just_where_the_trees_are_equal(
    lab: Lab, base: Directory, before: list[tuple[str, int, int, int]], after: list[tuple[str, int, int, int]]
) -> None:
    with lab.worktree(base) as tree:
        operations = Operations(tree.view)
        for step in before:
            operations.run(step)
        committed = tree.check()
        for step in after:
            operations.run(step)
        shown = tree.check()
        for other in (committed, base):
            seen = compare_upperdir(lab.store.objects, base, tree.upper, [committed, base])
            assert (not list(diff_trees(other, seen))) == (lines(other) == lines(shown))
