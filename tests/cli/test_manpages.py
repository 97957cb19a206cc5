"""The man pages that are built from the help."""

from __future__ import annotations

from pathlib import Path

from tools.manpages import main


def test_every_verb_has_a_page(tmp_path: Path) -> None:
    from stratum.cli.verbs import LISTED

    main(tmp_path)
    pages = {path.name for path in tmp_path.iterdir()}
    assert {f"stratum-{verb}.1" for verb in LISTED} <= pages
    assert {"stratum.1", "stratum-worktree-add.1"} <= pages
    text = (tmp_path / "stratum-commit.1").read_text()
    assert ".SH SYNOPSIS" in text
    assert "\\-\\-force" in text
