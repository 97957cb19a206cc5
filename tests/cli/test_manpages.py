"""The man pages that are built from the help."""

from __future__ import annotations

import re
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


def test_every_page_has_every_section(tmp_path: Path) -> None:
    main(tmp_path)
    for path in tmp_path.iterdir():
        text = path.read_text("utf-8")
        found = re.findall(r"^\.SH (.+)$", text, re.MULTILINE)
        at_least = ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"]
        assert [title for title in found if title in at_least] == at_least, path
        for name in re.findall(r"\\fB([a-z\\-]+)\\fP\(1\)", text):
            assert (tmp_path / f"{name.replace(chr(92), '')}.1").exists(), (
                f"{path.name} tells of {name}, which is no page"
            )
    assert ".SH EXAMPLES" in (tmp_path / "stratum-worktree-add.1").read_text("utf-8")
    root = (tmp_path / "stratum.1").read_text("utf-8")
    for part in (".SH REFS", ".SH SETTINGS", ".SS Containers", "STRATUM_CACHE_MAX", "NO_COLOR", "policy.toml"):
        assert part in root


def test_pages_are_roff(tmp_path: Path) -> None:
    """Nothing in a page is taken for a request that it is not."""
    main(tmp_path)
    known = {"TH", "SH", "SS", "PP", "TP", "RS", "RE", "nf", "fi"}
    for path in tmp_path.iterdir():
        for line in path.read_text("utf-8").splitlines():
            assert not line.startswith("'"), (path, line)
            assert not line.startswith(".") or line[1:].split()[0] in known, (path, line)
