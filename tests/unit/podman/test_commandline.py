"""The command line of ``podman run``, read by what Podman says of its options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import UsageError
from stratum.podman.commandline import Line, parse_line, read_grammar

HELP = """\
Run a command in a new container

Examples:
  podman run --volume /var/hostdir:/var/ctrdir -i -t fedora /bin/bash

Options:
      --add-host strings                         Add a custom host-to-IP mapping (host:ip) (default [])
      --blkio-weight-device DEVICE_NAME:WEIGHT   Block IO weight (relative device weight)
      --detach-keys [a-Z]                        Override the key sequence for detaching a container
  -d, --detach                                   Run container in background and print container ID
  -e, --env stringArray                          Set environment variables in container (default [PATH=/usr/bin])
      --help                                     
      --init                                     Run an init binary inside the container
  -i, --interactive                              Keep STDIN open even if not attached
  -m, --memory <number>[<unit>]                  Memory limit
      --tls-verify string[="true"]               Require HTTPS
      --rm                                       Remove container after exit
  -t, --tty                                      Allocate a pseudo-TTY for container
  -v, --volume stringArray                       Bind mount a volume into the container
"""  # noqa: W291
GRAMMAR = read_grammar(HELP)
ASKED = {"--net": True, "--old": False, "-Q": False}


def parsed(words: list[str]) -> Line:
    return parse_line(words, GRAMMAR, lambda option: ASKED[option])


def test_grammar() -> None:
    flags = {name for name, takes_value in GRAMMAR.takes_value.items() if not takes_value}
    assert flags == {"detach", "help", "init", "interactive", "rm", "tls-verify", "tty"}
    assert len(GRAMMAR.takes_value) == 13
    assert GRAMMAR.long_of == {letter: GRAMMAR.long_of[letter] for letter in "deimtv"}
    assert GRAMMAR.long_of["m"] == "memory"


@pytest.mark.parametrize(
    ("line", "options", "rest"),
    [
        ("image", "", "image"),
        ("-it image sh -c ls", "--interactive --tty", "image sh -c ls"),
        ("-dit --init image -it", "--detach --interactive --tty --init", "image -it"),
        ("-itv a:/b image", "--interactive --tty --volume=a:/b", "image"),
        ("-va:/b -ve=f image", "--volume=a:/b --volume=e=f", "image"),
        ("-v=a:/b image", "--volume=a:/b", "image"),
        ("-e A=b --env C=d --env=E=f image", "--env=A=b --env=C=d --env=E=f", "image"),
        ("--memory 1g --memory=2g -m3g image", "--memory=1g --memory=2g --memory=3g", "image"),
        ("-m -1 image", "--memory=-1", "image"),
        ("--rm=false -i=false image", "--rm=false --interactive=false", "image"),
        ("--tls-verify image", "--tls-verify", "image"),
        ("--volume= image", "--volume=", "image"),
        ("--net host --old -Q image", "--net=host --old -Q", "image"),
        ("--never-heard=1 image", "--never-heard=1", "image"),
        ("--rm -- image -- ls", "--rm", "image -- ls"),
        ("--rm - image", "--rm", "- image"),
        ("--rm", "--rm", ""),
    ],
)
def test_line(line: str, options: str, rest: str) -> None:
    found = parsed(line.split())
    assert [option.word for option in found.options] == options.split()
    assert list(found.rest) == rest.split()


@pytest.mark.parametrize("line", ["--memory", "-m", "-it --volume", "-itv"])
def test_a_value_that_is_missing(line: str) -> None:
    with pytest.raises(UsageError, match=r"option -.* needs a value"):
        parsed(line.split())


@pytest.mark.parametrize(("word", "on"), [("--rm", True), ("--rm=T", True), ("--rm=0", False), ("-t=false", False)])
def test_flag(word: str, on: bool) -> None:
    assert parsed([word]).options[0].on == on


def test_a_flag_that_is_neither_true_nor_false() -> None:
    with pytest.raises(UsageError, match="--rm is true or false, not 'maybe'"):
        assert parsed(["--rm=maybe"]).options[0].on


def test_help_without_options() -> None:
    with pytest.raises(ValueError, match="no options"):
        read_grammar("Run a command\n  -x is not one")


@given(
    st.lists(
        st.sampled_from(["-it", "--rm", "-e", "A", "-v=a:/b", "--", "-", "--memory=1g", "img", "-im", "--help=no"])
    )
)
def test_what_was_read_is_read_again_the_same(words: list[str]) -> None:
    try:
        first = parsed(words)
    except UsageError:
        return
    again = parsed([*(option.word for option in first.options), "--", *first.rest])
    assert (again.options, list(again.rest)) == (first.options, list(first.rest))
