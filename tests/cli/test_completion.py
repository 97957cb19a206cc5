"""Completion in a real bash, which takes the ':' of a ref for the end of a word."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.command import SCRIPT, Command


@pytest.fixture
def store(cli: Command, tmp_path: Path) -> None:
    """A stratum with two tags and a worktree."""
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app:v1")
    cli.ok("tag", "app:v1", "v2")


def completed(cli: Command, line: str, words: list[str]) -> list[str]:
    """What bash offers for ``line``, which readline has split into ``words``; the last one is completed."""
    script = (
        f"{cli.ok('completion', 'bash')}\n"
        f"compopt() {{ :; }}\n"
        f"COMP_LINE={shlex.quote(line)} COMP_CWORD={len(words) - 1} COMP_WORDS=({shlex.join(words)})\n"
        f"_stratum_completion {SCRIPT}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=cli.environment, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.usefixtures("store")
def test_tags_after_the_colon(cli: Command) -> None:
    assert completed(cli, "stratum show ap", ["stratum", "show", "ap"]) == ["app", "app:v1", "app:v2"]
    assert completed(cli, "stratum show app:", ["stratum", "show", "app", ":"]) == ["v1", "v2"]
    assert completed(cli, "stratum show app:v", ["stratum", "show", "app", ":", "v"]) == ["v1", "v2"]
    assert completed(cli, "stratum show app:v2", ["stratum", "show", "app", ":", "v2"]) == ["v2"]
    both = ["stratum", "diff", "app", ":", "v1", "app", ":", "v"]
    assert completed(cli, "stratum diff app:v1 app:v", both) == ["v1", "v2"]
    assert completed(cli, "stratum diff app:v1 ", ["stratum", "diff", "app", ":", "v1", ""])[0] == "app"


@pytest.mark.usefixtures("store")
def test_options_and_verbs(cli: Command) -> None:
    assert completed(cli, "stratum wor", ["stratum", "wor"]) == ["worktree"]
    words = ["stratum", "show", "--format", "=", "j"]
    assert completed(cli, "stratum show --format=j", words) == ["json"]
