"""What ``--help`` says: verbs in groups, summaries that fit, examples that are command lines."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from stratum.cli.main import cli as all_verbs
from stratum.cli.topics import FORMS
from stratum.cli.verbs import ALIASES, GROUPS, LISTED, TOPICS, VERBS
from stratum.config import SETTINGS
from stratum.errors import EXIT_CODES, UsageError
from stratum.refs import parse_ref, split_ref_path
from tests.support.command import Command
from tests.support.commandline import leaves, parse, stratum_calls

SUMMARY_MAX = 60
COMMANDS = {" ".join(words): command for words, command in leaves()}


def test_help_lists_the_verbs_in_groups(cli: Command) -> None:
    lines = cli.ok("--help").splitlines()
    titles = [title for title in GROUPS if title]
    assert [line[:-1] for line in lines if line[:-1] in titles] == titles
    listed = lines[lines.index(f"{titles[0]}:") :]  # what is said before may have a verb's word first in a line
    assert [line.split()[0] for line in listed if line.startswith("  ") and line.split()[0] in LISTED] == LISTED
    for name in LISTED:
        assert any(line.split() == [name, *VERBS[name][1].split()] for line in lines), name


def test_summaries_are_short_and_whole() -> None:
    for title, group in GROUPS.items():
        context = click.Context(all_verbs)
        for name, (_, summary) in group.items():
            command = all_verbs.get_command(context, name)
            assert command is not None, (title, name)
            assert command.get_short_help_str() == summary, name
    for words, command in COMMANDS.items():
        summary = command.get_short_help_str(1000)
        assert len(summary) <= SUMMARY_MAX, words
        assert summary.endswith("."), words
        assert not summary.endswith(".."), words


def test_examples_are_command_lines() -> None:
    for words, command in COMMANDS.items():
        examples = getattr(command, "examples", ())
        assert 1 <= len(examples) <= 5, f"{words} needs one to five examples"
        for text, line in examples:
            assert (len(text) <= 72, text.endswith(".")) == (True, False), line
            calls = stratum_calls(line)
            parsed = [parse(call) for call in calls]
            assert command in parsed, f"{line!r} is no example of {words}"


def test_examples_that_are_no_command_lines_are_found() -> None:
    for line in (
        "stratum comit db",
        "stratum commit --tag v1 db",
        "stratum worktree ad db+dev",
        "stratum gc --keep-last x",
    ):
        with pytest.raises((click.UsageError, UsageError)):
            parse(stratum_calls(line)[0])


def test_help_shows_the_examples(cli: Command) -> None:
    for words in ("commit", "worktree add", "history", "history on"):
        said = cli.ok("help", *words.split())
        assert "\nExamples:\n" in said
        assert all(f"  {line}\n" in f"{said}\n" for _, line in COMMANDS[words].examples)  # type: ignore[attr-defined]


def test_help_after_a_verb_with_verbs(cli: Command) -> None:
    assert cli.ok("worktree", "help") == cli.ok("worktree", "--help") == cli.ok("help", "worktree")
    assert cli.ok("worktree", "help", "add") == cli.ok("worktree", "add", "--help")


def test_other_names_of_verbs(cli: Command) -> None:
    for alias, name in ALIASES.items():
        assert alias not in LISTED
        assert cli.ok(alias, "--help") == cli.ok(name, "--help").replace(f"stratum {name}", f"stratum {alias}", 1)


def test_the_list_of_verbs_loads_no_verb() -> None:
    program = "import sys; from stratum.cli.start import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "stratum.cli.verbs" in loaded
    assert not {place.partition(":")[0] for place, _ in VERBS.values()} & loaded


def test_topics(cli: Command) -> None:
    whole = cli.ok("help")
    for topic, summary in TOPICS.items():
        assert summary in whole
        assert cli.ok("help", topic)
    settings = cli.ok("help", "config")
    assert all(f"{setting.key} " in settings for setting in SETTINGS)
    assert all(f"{code} " in cli.ok("help", "exit-codes") for code in EXIT_CODES)


def test_every_form_of_a_ref_is_one() -> None:
    for form in FORMS:
        text = form.replace("CHANGE", "7").replace("WHEN", "yesterday").replace("~N", "~2").replace("HASH", "0123abcd")
        ref, path = split_ref_path(text)
        assert (str(parse_ref(ref)), path) == (ref, "/PATH" if "PATH" in text else None)
