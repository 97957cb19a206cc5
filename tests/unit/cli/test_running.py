"""The command line of ``stratum run``, and what it says of Podman's errors."""

from __future__ import annotations

import pytest

from stratum.cli.running import split_command
from stratum.podman.containers import own_words
from stratum.volumes.runline import separated


@pytest.mark.parametrize(
    ("words", "command", "volumes"),
    [
        (["ls", "-v", "app:/data"], ["ls"], ["app:/data"]),
        (["-v", "app+dev:/data:ro", "ls"], ["ls"], ["app+dev:/data:ro"]),
        (["ls", "--volume", "app:v1:/data"], ["ls"], ["app:v1:/data"]),
        (["--", "ls", "-v", "app:/data"], ["ls", "-v", "app:/data"], []),
        (["git", "checkout", "--", "-v", "app:/x"], ["git", "checkout", "--", "-v", "app:/x"], []),
        (["grep", "-v", "word", "-e", "x"], ["grep", "-v", "word", "-e", "x"], []),
        (["ls", "-v"], ["ls", "-v"], []),
        (["podman", "run", "-v", "/host:/data"], ["podman", "run", "-v", "/host:/data"], []),
    ],
)
def test_volumes_may_follow_the_command(words: list[str], command: list[str], volumes: list[str]) -> None:
    assert split_command(words) == (command, volumes)


def test_options_of_a_volume_reach_every_podman() -> None:
    assert separated("db+a:/d,e:create,uid=1;ro,tag=x") == "db+a:/d,e:create;uid=1;ro;tag=x"
    assert separated("db:/data") == "db:/data"
    assert separated("db,x") == "db,x"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Error: unknown flag: --foo\nSee 'podman create --help'\n", "unknown flag: --foo See 'podman create --help'"),
        ("Trying to pull localhost/none:1...\nError: initializing source\n", "initializing source"),
        ("killed", "killed"),
        ("", ""),
    ],
)
def test_podmans_error_without_its_progress(said: str, words: str) -> None:
    assert own_words(said) == words
