"""The command line of ``podman run``, read as Podman reads it (by pflag), to tell the options from the image.

Which options there are, and which take a value, is learned from the ``--help`` of the Podman that is there. Pure.

::

    --name VALUE | --name=VALUE | --flag | --flag=BOOL | -nVALUE | -n VALUE | -n=VALUE | -fgn VALUE
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stratum.errors import UsageError, quoted

_MAX_HELP = 1 << 20
_HELP_LINE = re.compile(
    r"^ {2,6}(?:-([A-Za-z0-9]), )?--([A-Za-z0-9][A-Za-z0-9-]*)(?: ([^ \n]+))?(?: {2,}|$)", re.MULTILINE
)
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


@dataclass(frozen=True, slots=True)
class Grammar:
    """Long name of an option -> whether it takes a value; letter of a short one -> its long name."""

    takes_value: Mapping[str, bool]
    long_of: Mapping[str, str] = field(default_factory=dict)

    def with_valued(self, name: str) -> Grammar:
        """This grammar with one option more, which takes a value."""
        return Grammar({**self.takes_value, name: True}, self.long_of)


@dataclass(frozen=True, slots=True)
class Option:
    """An option that was given. ``name`` is the long one where that is known; ``value`` is None for a bare flag."""

    name: str
    value: str | None = None

    @property
    def word(self) -> str:
        """The option as one word of a command line."""
        if len(self.name) == 1:
            return f"-{self.name}" if self.value is None else f"-{self.name}={self.value}"
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"

    @property
    def on(self) -> bool:
        """The value of a flag. Raises ``UsageError``."""
        if self.value is None or self.value in _TRUE:
            return True
        if self.value in _FALSE:
            return False
        raise UsageError(f"--{self.name} is true or false, not {quoted(self.value)}")


@dataclass(frozen=True, slots=True)
class Line:
    """A command line: its options in their order, and the image with all that follows it (nothing: there is none)."""

    options: Sequence[Option]
    rest: Sequence[str]


def read_grammar(help_text: str) -> Grammar:
    """The grammar in what ``podman run --help`` prints. Raises ``ValueError`` for what has no options in it."""
    takes_value: dict[str, bool] = {}
    long_of: dict[str, str] = {}
    for letter, name, kind in _HELP_LINE.findall(help_text[:_MAX_HELP]):
        takes_value[name] = bool(kind) and "[=" not in kind
        if letter:
            long_of[letter] = name
    if not takes_value:
        raise ValueError("no options in it")
    return Grammar(takes_value, long_of)


def parse_line(words: Sequence[str], grammar: Grammar, ask: Callable[[str], bool]) -> Line:
    """Read what follows ``podman run``. Raises ``UsageError`` for a value that is missing, and what ``ask`` raises.

    ``ask`` says of an option that the grammar has not, written with its dashes, whether it takes a value. One with
    ``=`` does.
    """
    options: list[Option] = []
    left = list(words)
    while left:
        word = left[0]
        if word == "--":
            return Line(options, left[1:])
        if not word.startswith("-") or word == "-":
            break
        del left[0]
        if word.startswith("--"):
            options.append(_long(word[2:], left, grammar, ask))
        else:
            options += _short(word[1:], left, grammar, ask)
    return Line(options, left)


def _long(text: str, left: list[str], grammar: Grammar, ask: Callable[[str], bool]) -> Option:
    name, equals, value = text.partition("=")
    if equals:
        return Option(name, value)
    takes = grammar.takes_value.get(name)
    if takes is None:
        takes = ask(f"--{name}")
    return Option(name, _value(f"--{name}", left) if takes else None)


def _short(letters: str, left: list[str], grammar: Grammar, ask: Callable[[str], bool]) -> list[Option]:
    found = []
    while letters:
        letter, letters = letters[0], letters[1:]
        name = grammar.long_of.get(letter, letter)
        if len(letters) > 1 and letters[0] == "=":
            found.append(Option(name, letters[1:]))
            break
        takes = grammar.takes_value.get(name)
        if takes is None:
            takes = ask(f"-{letter}")
        if takes:
            found.append(Option(name, letters or _value(f"-{letter}", left)))
            break
        found.append(Option(name))
    return found


def _value(option: str, left: list[str]) -> str:
    if not left:
        raise UsageError(f"option {quoted(option)[1:-1]} needs a value", hint="see 'podman run --help'")
    return left.pop(0)
