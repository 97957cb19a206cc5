"""Fifty worktrees are watched by one process, which stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.history import wire
from stratum.store.histories import HistorySettings
from tests.integration.overlay_ops import lines, walk_view
from tests.support import watching
from tests.support.command import Command
from tests.support.historyfarm import Crowd, Farm, content_key, farm, seed_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

COUNT = 50
MOST = 60 << 20


def test_fifty_worktrees_are_watched(cli: Command, tmp_path: Path) -> None:
    """They are not mounted: what they would show is their upperdir over the base, in which little was changed."""
    with farm(cli, tmp_path, files=200) as made:
        store = made.store
        commit = store.worktrees.get("app", "dev").base_commit
        others = []
        for number in range(1, COUNT):
            with store.begin("a test") as tx:
                del tx
                store.worktrees.create("app", f"w{number}", commit)
            store.histories.set_settings("app", f"w{number}", HistorySettings(since="2026-01-01T00:00:00Z"))
            others.append(Farm(cli, tmp_path, worktree=f"w{number}"))
        wire.ask(cli.runtime_dir, store.root, {"op": "look"})
        with Crowd(made.view, tmp_path, seed_of("fifty"), 1) as crowd:
            crowd.start(100)
            for other in others:
                (other.upper / "written").write_text(f"in {other.worktree}\n" * 20)
            crowd.wait()
        made.check(made.flush())
        for other in others:
            other.flush()
            # Its close may have been read before a look at it was, and then it is a version of its own; and a look may
            # have been between its making and its writing.
            assert "create" in [record.op for record in other.records() if record.path == b"/written"]
            assert other.versions(b"/written")[-1] == content_key(f"in {other.worktree}\n".encode() * 20)
        with others[-1].mounted():
            others[-1].flush()
            assert lines(others[-1].replayed()) == lines(walk_view(others[-1].view))
        assert watching.memory(cli.runtime_dir) <= MOST
