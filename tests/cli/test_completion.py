"""Completion in a real bash, which takes the ':' of a ref for the end of a word."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from stratum.cli.verbs import LISTED, TOPICS
from tests.cli.trees import make_tree
from tests.support.command import SCRIPT, Command


@pytest.fixture
def store(cli: Command, tmp_path: Path) -> None:
    """A stratum with two tags and a worktree."""
    files = {"a": "1", "etc/app.conf": "1", "etc/my file": "2", "etc/d/deep": "3", "line\nbreak": "4"}
    cli.ok("import", "--bare", make_tree(tmp_path / "src", files), "app:v1")
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
    return list(filter(None, done.stdout.splitlines()))


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


@pytest.mark.usefixtures("store")
def test_paths_in_a_commit(cli: Command) -> None:
    colon = ["stratum", "cat", "app", ":"]
    v1 = [*colon, "v1", ":"]
    assert completed(cli, "stratum cat app:v1:/", [*v1, "/"]) == ["/a", "/etc/"]  # and no name with a line break
    assert completed(cli, "stratum cat app:v1:/e", [*v1, "/e"]) == ["/etc/"]
    assert completed(cli, "stratum cat app:v1:/etc/", [*v1, "/etc/"]) == [
        "/etc/app.conf",
        "/etc/d/",
        "/etc/my\\ file",
    ]
    assert completed(cli, "stratum cat app:v1:/etc/d", [*v1, "/etc/d"]) == ["/etc/d/"]
    assert completed(cli, "stratum cat app:v1 /etc/m", [*colon, "v1", "/etc/m"]) == ["/etc/my\\ file"]
    cli.ok("tag", "app:v1", "latest")
    assert completed(cli, "stratum cat app:/a", [*colon, "/a"]) == ["/a"]
    assert completed(cli, "stratum cat nope:v1:/", ["stratum", "cat", "nope", ":", "v1", ":", "/"]) == []


def test_what_has_a_comma_is_whole_in_fish(cli: Command) -> None:
    assert 'string split --max 1 ","' in cli.ok("completion", "fish")


def test_what_help_tells_of(cli: Command) -> None:
    assert completed(cli, "stratum help re", ["stratum", "help", "re"]) == [
        word for word in [*LISTED, *TOPICS] if word.startswith("re")
    ]
    assert completed(cli, "stratum help worktree s", ["stratum", "help", "worktree", "s"]) == ["switch"]
    assert completed(cli, "stratum help exit", ["stratum", "help", "exit"]) == ["exit-codes"]


@pytest.mark.usefixtures("store")
def test_volumes_and_choices(cli: Command) -> None:
    assert completed(cli, "stratum run -v app:", ["stratum", "run", "-v", "app", ":"]) == ["v1", "v2"]
    assert completed(cli, "stratum gc --stratum a", ["stratum", "gc", "--stratum", "a"]) == ["app"]
    assert completed(cli, "stratum history --op de", ["stratum", "history", "--op", "de"]) == ["delete"]
    assert completed(cli, "stratum push --as i", ["stratum", "push", "--as", "i"]) == ["image"]
    assert completed(cli, "stratum pull --prefetch p", ["stratum", "pull", "--prefetch", "p"]) == ["profile"]
    assert completed(cli, "stratum worktree ", ["stratum", "worktree", ""]) == ["add", "list", "remove", "switch"]
