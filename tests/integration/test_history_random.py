"""Whatever several processes do to a worktree at once: a replay of its history is what the mount shows.

``STRATUM_TEST_HISTORY`` is the number of operations of the long run (100000 take six minutes; default 1500).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.overlay_ops import lines, walk_view
from tests.support.command import Command
from tests.support.historyfarm import Crowd, farm, gaps, random_rounds, seed_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(7200)]

OPERATIONS = int(os.environ.get("STRATUM_TEST_HISTORY", "1500"))


def test_what_one_process_does(cli: Command, tmp_path: Path) -> None:
    with farm(cli, tmp_path) as made:
        random_rounds(made, seed_of("one"), processes=1, rounds=5, operations=120)
        assert not gaps(made.records())


def test_what_several_do_at_once(cli: Command, tmp_path: Path) -> None:
    with farm(cli, tmp_path) as made:
        rounds = max(3, OPERATIONS // 1000)
        operations = -(-OPERATIONS // rounds // 4)
        random_rounds(made, seed_of("several"), processes=4, rounds=rounds, operations=operations)
        assert not gaps(made.records())


def test_a_state_of_the_past_is_a_tree_like_any_other(cli: Command, tmp_path: Path) -> None:
    """By the verbs that people use: what was mounted then is what a worktree of it shows."""
    with farm(cli, tmp_path, files=20) as made, Crowd(made.view, tmp_path, seed_of("past"), 2) as crowd:
        crowd.work(80)
        change, shown = made.flush(), made.walked()
        crowd.work(80)
        cli.ok("worktree", "add", "app+past", f"{made.ref}@{change}")
        view = tmp_path / "past"
        view.mkdir()
        cli.ok("mount", "app+past", view)
        try:
            assert lines(walk_view(view)) == shown
        finally:
            cli.ok("unmount", view)
        assert cli("diff", f"{made.ref}@{change}", "app+past").stdout == ""
