"""Command lines as people type them, parsed by the command line itself without anything being run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import click

from stratum.cli.main import cli
from stratum.cli.mistakes import context_of

Words = tuple[str, ...]


def leaves(group: click.Group = cli, words: Words = ()) -> Iterator[tuple[Words, click.Command]]:
    """Every command that does something, hidden ones too, with the words that call it."""
    from stratum.cli.verbs import VERBS

    context = click.Context(group, info_name="stratum")
    for name in VERBS if group is cli else group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if not isinstance(command, click.Group) or command.params:
            yield (*words, name), command
        if isinstance(command, click.Group):
            yield from leaves(command, (*words, name))


def stratum_calls(line: str) -> list[list[str]]:
    """The words after each ``stratum`` in a line for a shell, as far as they belong to it. Redirections end them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    calls: list[list[str]] = []
    inside = False
    for word in lexer:
        if word == "stratum":
            calls.append([])
            inside = True
        elif set(word) <= set("();<>|&"):
            inside = False
        elif inside:
            calls[-1].append(word)
    return calls


def parse(args: Sequence[str]) -> click.Command | None:
    """The command that would be run with ``args``; None where help would be shown. The ``UsageError`` of click or
    of Stratum where the command line would refuse them."""
    try:
        return context_of(cli, args).command
    except click.exceptions.Exit:
        return None
