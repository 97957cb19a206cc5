"""What people are told who type what other tools take: one error, and a command that works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from stratum.cli.elsewhere import BELOW, OPTIONS, WORDS, Way
from stratum.cli.verbs import ALIASES, VERBS
from stratum.errors import UsageError
from stratum.store import Store
from tests.cli import mistakes
from tests.cli.trees import make_tree
from tests.support.command import Command, Result
from tests.support.commandline import leaves, parse, stratum_calls
from tests.support.inprocess import stratum
from tests.support.leftovers import unmount_below

pytestmark = pytest.mark.root

GROUPS = {name: getattr(mistakes, name) for name in ("VERBS", "OPTIONS", "ARGUMENTS", "REFS", "PLACES")}
ROWS = [tuple(map(str.strip, line.split("|"))) for rows in GROUPS.values() for line in rows.strip().splitlines()]
COMMAND = re.compile(r"'(stratum [^']*)'|: (stratum .*)$")
"""A command in a hint."""


class Here:
    """``app`` with tags and worktrees, one of them mounted, and files of many kinds around. Its commands run in this
    process, as there are many."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        source = make_tree(directory / "SRC", {"a": "1\n", "d/b": "2\n"})
        self.ok("import", source, "app:v1")
        (source / "a").write_text("3\n")
        for args in (("import", source, "app:v2"), ("tag", "app:v2", "latest")):
            self.ok(*args)
        for worktree in ("main", "dev", "other"):
            self.ok("worktree", "add", f"app+{worktree}", "app:v1")
        for name in ("MNT", "EMPTY", "FULL", "TMP"):
            (directory / name).mkdir()
        (directory / "FULL/x").write_text("x")
        (directory / "FILE").write_text("hello\n" * 100)
        (directory / "MODS").write_text('[patchset]\nbase = "app:v1"\npatches = ["app:v2"]\n')
        self.ok("mount", "app+dev", directory / "MNT")
        self.ran: set[tuple[str, ...]] = set()
        """What a hint named and was seen to work."""

    def __call__(self, *args: object) -> Result:
        """Run ``stratum ARGS``."""
        return stratum(*args)

    def ok(self, *args: object) -> None:
        """Run a command that must succeed."""
        done = self(*args)
        assert done.code == 0, (args, done)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """One for all tests, none of which relies on what it holds besides; the working directory is an empty one."""
    directory = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATUM_STORE", str(directory / "store"))
        patch.setenv("STRATUM_RUNTIME_DIR", str(directory / "run"))
        made = Here(directory)
        patch.chdir(directory / "EMPTY")
        yield made
    unmount_below(directory)
    shutil.rmtree(directory)


def placed(text: str, directory: Path) -> str:
    """``text`` with the names of the scene's files as paths."""
    return re.sub(r"\b(SRC|MNT|TMP|EMPTY|FULL|FILE|MODS)\b", lambda found: str(directory / found[1]), text)


def commands_of(hint: str) -> list[list[str]]:
    """The commands that a hint names, each without ``stratum``."""
    return [call for found in COMMAND.findall(hint) for call in stratum_calls(found[0] or found[1])]


def test_the_table_is_large() -> None:
    assert len(ROWS) == len({line for line, *_ in ROWS})
    assert len(ROWS) >= 250


@pytest.mark.parametrize("group", GROUPS)
def test_mistakes(here: Here, group: str) -> None:
    wrong = []
    for row in GROUPS[group].strip().splitlines():
        line, code, expected = map(str.strip, row.split("|"))
        problem = _problem(here, line, int(code), expected)
        if problem:
            wrong.append(f"{line}: {problem}")
    assert not wrong, "\n" + "\n".join(wrong)


def _problem(here: Here, line: str, code: int, expected: str) -> str:
    """What is wrong with what ``line`` leads to; empty where nothing is."""
    done = here(*shlex.split(placed(line, here.directory)))
    errors = done.stderr.splitlines()
    if done.code != code:
        return f"exit code {done.code}: {done.stderr}"
    if done.stdout or len(errors) != 2 or not errors[0].startswith("error: ") or not errors[1].startswith("hint: "):
        return f"not one error and one hint: {done.stdout}{done.stderr}"
    hint, wanted = errors[1], placed(expected.removeprefix(mistakes.RUN), here.directory)
    if wanted not in hint:
        return f"{wanted} is not in {hint}"
    named = commands_of(hint)
    refused = [call for call in named if not is_command(call)]
    if refused:
        return f"{hint} names what is no command: {refused}"
    if not named and not any(word in hint for word in mistakes.OTHERWISE):
        return f"no command in {hint}"
    if expected.startswith(mistakes.RUN):
        [call] = stratum_calls(wanted.strip("'"))
        if tuple(call) not in here.ran:
            ran = here(*call)
            if ran.code:
                return f"{wanted} ends with {ran.code}: {ran.stderr}"
            here.ran.add(tuple(call))
    return ""


def is_command(call: list[str]) -> bool:
    """Whether the parser takes a command; a verb alone may also be what a sentence is about."""
    if len(call) == 1 and call[0] in VERBS:
        return True
    try:
        parse(call)
    except (click.UsageError, UsageError):
        return False
    return True


def test_programs_get_the_hint_too(here: Here) -> None:
    done = here("--format", "json", "show", "APP")
    assert done.code == 3
    assert "'stratum --format json show app'" in done.stderr


def test_what_cannot_be_repeated_is_not(here: Here) -> None:
    """What would need quotes, or act on a terminal, is not in the command of a hint."""
    for word in ("a b", "$(id)", "`id`", "x\x1b[31m", "a;b", "'", "ü"):
        for args in (
            ("comit", word),
            ("mout", "app", word),
            (word, "list"),
            ("show", f"APP:{word}"),
            ("mount", word, "app"),
        ):
            done = here(*args)
            assert done.code in (2, 3), done
            assert done.stderr.startswith("error: ")
            hint = done.stderr.rpartition("hint: ")[2]
            assert not any(word in " ".join(call) for call in commands_of(hint)), hint


def test_no_suggestion_misleads(here: Here) -> None:
    for word, never in {"clone": "login", "versions": "verify", "fetch": "watch", "create": "rebase"}.items():
        assert never not in here(word).stderr


def test_the_command_itself_says_it(cli: Command) -> None:
    assert cli("psuh").stderr == "error: there is no verb 'psuh'\nhint: did you mean 'stratum push --help'?\n"


def test_a_hint_is_looked_for_without_writing(here: Here) -> None:
    """A state of a history becomes a commit when somebody asks for it; a hint is no reason for one."""
    here.ok("worktree", "add", "app+kept", "app:v1")
    mountpoint = here.directory / "KEPT"
    here.ok("mount", "app+kept", mountpoint)
    here.ok("history", "on", "app+kept")
    (mountpoint / "new").write_text("1")
    here.ok("watch", "--once")
    newest = json.loads(here("--format", "json", "history", "app+kept").stdout)[0]["change"]
    store = Store.open(here.directory / "store")
    before = store.commits.list()
    done = here("cat", f"app+kept@{newest}", "/nope")
    assert (done.code, "has no /nope" in done.stderr) == (3, True)
    assert store.commits.list() == before
    here.ok("unmount", mountpoint)
    here.ok("history", "off", "app+kept")
    here("watch", "--stop")


def ways() -> Iterator[tuple[str, Way]]:
    """Everything that stands for something of another tool."""
    yield from WORDS.items()
    for verb, table in OPTIONS.items():
        for options, (command, what) in table.items():
            yield f"{verb} {options}", (command.replace("{VERB}", "list" if verb == "*" else verb), what)


def test_everything_that_stands_for_something_is_a_command() -> None:
    for words, (command, what) in ways():
        for line in (command.replace("{", "").replace("}", ""), *re.findall(r"'stratum ([^']*)'", what)):
            assert is_command(shlex.split(line)), f"{words}: {line}"


def test_what_is_here_needs_nothing_that_stands_for_it() -> None:
    assert not set(WORDS) & {*VERBS, *ALIASES}
    commands = {" ".join(words): command for words, command in leaves()}
    for verb, table in OPTIONS.items():
        known = {name for param in commands[verb].params for name in param.opts} if verb in commands else set()
        foreign = [option for options in table for option in options.split()]
        assert len(foreign) == len(set(foreign)), verb
        assert not known & set(foreign), f"{verb} has these itself"
    for name, foreign_words in BELOW.items():
        assert name not in foreign_words
