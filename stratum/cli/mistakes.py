"""What to tell somebody whose command line failed: the command that was meant.

Words and options of other tools, arguments the other way round, names that are nearly right, paths for refs. It is
loaded when something failed. What it hints at is a command line that the parser takes, with the words that were given
where they can be repeated safely.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import click

from stratum.cli.elsewhere import BELOW, OPTIONS, WORDS, Way
from stratum.cli.reftype import RefType
from stratum.cli.verbs import ALIASES, TOPICS, VERBS
from stratum.errors import StratumError, UsageError, quoted

_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./~-]+")
"""What can be repeated in a hint: it needs no quotes in a shell, and nothing in it acts on a terminal."""
_COMMAND = re.compile(r"(?:'|: |^)stratum ")
"""Where a hint names a command."""
_REF_FIRST = {
    "cat",
    "commit",
    "export",
    "history",
    "mount",
    "push",
    "rebase",
    "reset",
    "restore",
    "show",
    "tag",
    "verify",
}
_REF_FIRST |= {"worktree add", "worktree switch"}
_OBJECT_STORES = ("s3://", "gs://", "az://", "file://")
_CUTOFF = 0.75
"""How like a verb or an option has to be (of 1): 'clone' is not 'login'."""


def unknown_verb(context: click.Context, args: Sequence[str], names: Iterable[str]) -> UsageError:
    """The error for ``args``, whose first word is none of ``names``, after the words of ``context``."""
    above = context.command_path.split()[1:]
    word, rest = args[0], args[1:]
    here = " ".join(["stratum", *above])
    message = f"there is no verb {quoted(word)}" + (f" of '{here}'" if above else "")
    return UsageError(
        message, hint=_verb_hint(context, above, word, rest, list(names)) or f"'{here} --help' lists the verbs"
    )


def unknown_help(context: click.Context, words: Sequence[str]) -> UsageError:
    """The error for ``stratum help``, where the first of ``words`` is neither a verb of ``context`` nor a topic."""
    above = context.command_path.split()[1:]
    names = context.command.list_commands(context) if isinstance(context.command, click.Group) else []
    known = [*names, *([] if above else TOPICS)]
    found = _like(words[0], known)
    what = f"verb {quoted(words[0])} of '{context.command_path}'" if above else f"verb or topic {quoted(words[0])}"
    meant = f"did you mean '{_line(['help', *above, found])}'?" if found else ""
    return UsageError(f"there is no {what}", hint=meant or f"'{_line(['help', *above])}' lists what there is")


def _verb_hint(context: click.Context, above: list[str], word: str, rest: Sequence[str], names: list[str]) -> str:
    root = context.find_root().command
    assert isinstance(root, click.Group)
    if not above:
        two = WORDS.get(f"{word} {rest[0]}") if rest else None
        way = two or WORDS.get(word.lower())
        if way is not None:
            return _way_hint(root, way, rest[1:] if two else rest)
        names = [*VERBS, *ALIASES]
    found = next((name for name in names if word.lower() in BELOW.get(name, ())), None) if above else None
    found = found or _like(word, names)
    if found is None:
        return ""
    meant = [*above, found, *rest]
    return f"did you mean '{_line(meant if _repeatable(root, meant) else [*above, found, '--help'])}'?"


def unknown_option(root: click.Group, args: Sequence[str], error: click.NoSuchOption) -> tuple[str, str]:
    """The message and the hint for an option that a verb does not have."""
    context = error.ctx
    words = context.command_path.split()[1:] if context is not None else []
    verb = " ".join(ALIASES.get(word, word) for word in words)
    option = error.option_name
    message = f"'{' '.join(['stratum', *words])}' has no option {quoted(option)}"
    rest = _without_option(_after(args, words), option)
    for table in (verb, "*" if verb else ""):
        for options, (command, what) in OPTIONS.get(table, {}).items():
            if option in options.split():
                return message, _way_hint(root, (command.replace("{VERB}", verb), what), rest)
    known = [name for param in (context.command.params if context else []) for name in param.opts if name[:2] == "--"]
    close = _like(option, known) if option.startswith("--") else None
    hint = f"did you mean {close}? " if close else ""
    return message, f"{hint}see '{_line([*words, '--help'])}'"


def usage_hint(root: click.Group, args: Sequence[str], error: click.UsageError) -> str:
    """The hint for what else the parser refuses: an example of the verb, and its help."""
    context = error.ctx
    if context is None:
        return f"see '{_line([*_verb_of(root, args), '--help'])}'"
    see = f"see '{context.command_path} --help'"
    examples = [line for _, line in getattr(context.command, "examples", ()) if "'" not in line]
    whole = [line for line in examples if line.startswith("stratum ")]
    if isinstance(error, click.MissingParameter) and whole:
        return f"for example '{re.split(' [<>|]', whole[0])[0]}'; {see}"
    return see


def better_hint(root: click.Group, args: Sequence[str], error: StratumError) -> str:
    """The hint of an error that a verb raised, or a better one where the arguments tell it."""
    if error.exit_code not in (2, 3):
        return error.hint
    context = _parsed(root, args)
    if context is None:
        return error.hint
    try:
        hint = _by_arguments(root, args, context, error)
    except Exception:  # there is no store, or a defect: no hint may hide the error that there is
        hint = ""
    if hint or _COMMAND.search(error.hint):
        return hint or error.hint
    see = f"see '{'stratum help refs' if _wrong_ref(context) else f'{context.command_path} --help'}'"
    if error.exit_code == 2:
        return f"{error.hint}; {see}" if error.hint else see
    return error.hint or see


def _by_arguments(root: click.Group, args: Sequence[str], context: click.Context, error: StratumError) -> str:
    """The command that was meant, by what its arguments are; empty where they do not tell."""
    from stratum.api.meant import like_stratum, means_something, meant_ref, names_something
    from stratum.cli.reftype import NAME, session_of

    session = session_of(context)
    verb = " ".join(ALIASES.get(word, word) for word in context.command_path.split()[1:])
    given = _positionals(context)
    if given and given[0][0] == "help" and not names_something(session, "help"):
        return f"did you mean '{context.command_path} --help'?"
    if isinstance(context.command, click.Group) and given and not names_something(session, given[0][0]):
        found = _like(given[0][0], context.command.commands)
        if found is not None:
            return _meant(root, _replaced(args, {given[0][0]: found}), "did you mean")
    if len(given) == 2:
        (first, _), (second, _) = given
        there = names_something(session, first), names_something(session, second)
        if not like_stratum(session, first) and _swapped(verb, first, second, there, error):
            return _meant(root, _replaced(args, {first: second, second: first}), "the other way round")
    for text, type_ in given:
        if not isinstance(type_, RefType):
            continue
        if text.startswith(_OBJECT_STORES):
            if verb == "list":
                return _meant(root, ["list", "--remote", text], "did you mean")
            return _meant(root, ["pull", "--lazy", text], "a place is pulled first")
        if type_ is NAME and names_something(session, text):
            name = re.split("[:+@]", text)[0]
            return _meant(root, _replaced(args, {text: name}), "did you mean") if name != text else ""
        if means_something(session, text):
            continue
        ref = meant_ref(session, text)
        return _meant(root, _replaced(args, {text: ref}), "did you mean") if ref is not None and ref != text else ""
    return ""


def _wrong_ref(context: click.Context) -> bool:
    """Whether an argument that is to be a ref is not written as one."""
    from stratum.refs import parse_ref

    for text, type_ in _positionals(context):
        if isinstance(type_, RefType) and "/" not in text and text not in (".", ".."):
            try:
                parse_ref(text)
            except UsageError:
                return True
    return False


def _swapped(verb: str, first: str, second: str, there: tuple[bool, bool], error: StratumError) -> bool:
    """Whether two arguments are the other way round. ``there``: of which the stratum is there."""
    if verb in _REF_FIRST and there == (False, True):
        return True
    if verb in ("reset", "rebase", "worktree switch") and error.exit_code == 2:
        return all(there) and "+" in second and "+" not in first
    if verb == "pull":
        return "/" in second and "/" not in first
    if verb == "init":
        return "/" in first and "/" not in second
    return verb == "patchset build" and os.path.isfile(second) and not os.path.exists(first)


def _meant(root: click.Group, args: Sequence[str], how: str) -> str:
    """A hint at a whole command line, where it can be repeated."""
    if not _repeatable(root, args):
        return ""
    return f"{how}: '{_line(args)}'" if how != "did you mean" else f"did you mean '{_line(args)}'?"


def _way_hint(root: click.Group, way: Way, rest: Sequence[str]) -> str:
    """A hint at what stands for words of another tool, with ``rest`` where that fits."""
    command, what = way
    start, brace, more = command.partition("{")
    slot, _, end = more.partition("}")
    line = [*start.split(), *rest, *end.split()]
    if not brace or not rest or not _repeatable(root, line):
        line = f"{start}{slot}{end}".split()
    return f"'{_line(line)}' {what}"


def _line(args: Sequence[str]) -> str:
    return shlex.join(["stratum", *args])


def _repeatable(root: click.Group, args: Sequence[str]) -> bool:
    """Whether a command line can be shown as a whole, and the parser takes it."""
    return all(_SAFE.fullmatch(word) for word in args) and _parsed(root, args) is not None


def context_of(root: click.Group, args: Sequence[str]) -> click.Context:
    """The context in which the command of ``args`` would be called. Raises what click, or the type of an argument,
    raises where it is refused, and click's ``Exit`` where it is for help."""
    command: click.Command = root
    context = root.make_context("stratum", list(args))
    while isinstance(command, click.Group):
        words = [*context._protected_args, *context.args]
        if not words:
            break
        name, found, rest = command.resolve_command(context, words)
        assert found is not None
        context = found.make_context(name, rest, parent=context)
        command = found
    return context


def _parsed(root: click.Group, args: Sequence[str]) -> click.Context | None:
    """The same; None where it is refused, or is for help."""
    try:
        return context_of(root, args)
    except (click.ClickException, click.exceptions.Exit, StratumError):
        return None


def _positionals(context: click.Context) -> list[tuple[str, click.ParamType[Any]]]:
    """The arguments of a command that were given, in their order, each with its type."""
    found: list[tuple[str, click.ParamType[Any]]] = []
    for param in context.command.params:
        value = context.params.get(param.name or "") if isinstance(param, click.Argument) else None
        values = value if isinstance(value, tuple) else (value,)
        found += [(os.fspath(each), param.type) for each in values if each is not None]
    return found


def _replaced(args: Sequence[str], words: dict[str, str]) -> list[str]:
    """``args`` with ``words`` replaced, each once and from the end on, where a verb's arguments are."""
    done, left = list(args), dict(words)
    for number in range(len(done) - 1, -1, -1):
        if done[number] in left:
            done[number] = left.pop(done[number])
    return done


def _verb_of(root: click.Group, args: Sequence[str]) -> list[str]:
    """The words of ``args`` that name a verb."""
    words: list[str] = []
    command: click.Command = root
    for word in args:
        found = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if found is not None:
            words.append(word)
            command = found
    return words


def _after(args: Sequence[str], words: Sequence[str]) -> list[str]:
    """What stands behind the words of a verb."""
    rest = list(args)
    for word in words:
        rest = rest[rest.index(word) + 1 :] if word in rest else rest
    return rest


def _without_option(args: Sequence[str], option: str) -> list[str]:
    """``args`` without an option, as it may be written."""

    def is_it(word: str) -> bool:
        if option.startswith("--"):
            return word.partition("=")[0] == option
        return word[:1] == "-" and word[:2] != "--" and option[1:] in word

    return [word for word in args if not is_it(word)]


def _like(word: str, names: Iterable[str]) -> str | None:
    """That of ``names`` which is most like ``word``, or which alone begins so; None where none is."""
    from difflib import get_close_matches

    folded = word.lower()
    close = get_close_matches(folded, names := list(names), n=1, cutoff=_CUTOFF)
    begun = [name for name in names if len(folded) > 2 and name.startswith(folded)]
    return close[0] if close else begun[0] if len(begun) == 1 else None
