"""A worktree that is unmounted while it is committed keeps what was written after it was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import stratum.ingest.worktree
from stratum.api.session import Session
from stratum.config import load_config
from tests.cli.trees import make_tree, shown
from tests.support.command import Command

pytestmark = pytest.mark.root


def test_written_and_unmounted_during_the_commit(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")
    place = Path(cli.ok("mount", "app"))
    (place / "before").write_text("b")
    read = stratum.ingest.worktree.store_upperdir

    def read_then_unmount(*args: Any, **kwargs: Any) -> object:
        tree = read(*args, **kwargs)
        (place / "after").write_text("written when the upperdir had been read")
        cli.ok("unmount", place)
        return tree

    monkeypatch.setattr(stratum.ingest.worktree, "store_upperdir", read_then_unmount)
    session = Session(load_config(cli.environment))
    with session.hold("app+main") as held:
        assert held.commit().changed
    monkeypatch.undo()
    again = Path(cli.ok("mount", "app"))
    assert set(shown(again)) == {"a", "before", "after"}
    cli.ok("unmount", again)
