"""The tree of an upperdir that is kept current is the one that the mount shows: any operations on the real kernel."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.tree.model import Directory
from tests.integration.overlay_ops import KINDS, Lab, Operations
from tests.integration.upper_watching import Watched
from tests.support.effort import examples

pytestmark = pytest.mark.root

NUMBERS = st.integers(0, 60)
STEPS = st.tuples(st.sampled_from(KINDS), NUMBERS, NUMBERS, NUMBERS)


@settings(max_examples=examples(80))
@given(
    handfuls=st.lists(st.tuples(st.lists(STEPS, max_size=6), st.booleans(), st.sampled_from([0, 1, 3])), max_size=6),
)
def test_any_sequence_of_operations(
    lab: Lab, base: Directory, handfuls: list[tuple[list[tuple[str, int, int, int]], bool, int]]
) -> None:
    with lab.worktree(base) as tree:
        watched = Watched(tree)
        with watched.state:
            operations = Operations(tree.view)
            for steps, remount, whole in handfuls:
                for step in steps:
                    operations.run(step)
                if remount:
                    tree.remount()
                watched.refresh(whole=whole)
            watched.state.scan()
            watched.check()
