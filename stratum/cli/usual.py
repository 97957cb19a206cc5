"""The verbs of every day in their usual form, read from the command line without click.

``stratum mount REF PLACE`` takes a few milliseconds; loading click takes longer than starting the interpreter. So the
options and arguments of four verbs are listed here once more, and ``read`` understands a line of them where nothing is
out of the ordinary. Everything else is click's: help, completion, whatever is wrong, clustered or repeated options,
``--``, text beyond ASCII. A test holds the two together: what ``read`` understands, click understands the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stratum.cli.context import App
from stratum.cli.output import JSON, TEXT
from stratum.frozen import frozen

_SHARED = {"--format": "output_format", "-q": "quiet", "--quiet": "quiet"}
_GLOBAL = {"--store": "store", "--runtime-dir": "runtime_dir", **_SHARED}
_FLAGS = frozenset({"quiet", "read_only", "force", "no_pause"})


@frozen
class _Form:
    """A verb: its arguments in order, of which the first ``required`` must be given, and its options' parameters."""

    verb: str
    arguments: tuple[str, ...]
    required: int
    options: Mapping[str, str]


_COMMIT_OPTIONS = {
    "-f": "force",
    "--force": "force",
    "--no-pause": "no_pause",
    "-m": "message",
    "--message": "message",
    **_SHARED,
}
_FORMS = {
    "mount": _Form("mount", ("ref", "mountpoint"), 1, {"--read-only": "read_only", **_SHARED}),
    "unmount": _Form("unmount", ("target",), 1, _SHARED),
    "umount": _Form("unmount", ("target",), 1, _SHARED),
    "commit": _Form("commit", ("target", "tag"), 1, _COMMIT_OPTIONS),
    "status": _Form("status", ("target",), 0, _SHARED),
}


@frozen
class Call:
    """A verb (a function of ``cli.everyday``), the global options, and the verb's own parameters, by name."""

    verb: str
    options: dict[str, Any]
    parameters: dict[str, Any]

    def run(self) -> None:
        """Call the verb."""
        from stratum.cli import everyday

        parameters = dict(self.parameters)
        app = App(**self.options)
        app.override(parameters.pop("output_format"), quiet=parameters.pop("quiet"))
        getattr(everyday, self.verb)(app, **parameters)


def read(args: list[str]) -> Call | None:
    """The call that ``args`` are, or None where click is to read them."""
    if not all(word and word.isascii() for word in args):
        return None
    form: _Form | None = None
    known: Mapping[str, str] = _GLOBAL
    whole: dict[str, Any] = {}
    given: dict[str, Any] = {}
    arguments: list[str] = []
    words = iter(args)
    for word in words:
        if word.startswith("-"):
            parameter, value = _read_option(word, words, known)
            if value is None or parameter in given:
                return None
            given[parameter] = value
        elif form is not None:
            arguments.append(word)
        elif word in _FORMS:
            form = _FORMS[word]
            known, whole, given = form.options, given, {}
        else:
            return None
    if form is None or not form.required <= len(arguments) <= len(form.arguments):
        return None
    given.update(zip(form.arguments, arguments, strict=False))
    return Call(form.verb, _filled(_GLOBAL.values(), whole), _filled((*form.arguments, *form.options.values()), given))


def _read_option(word: str, words: Iterator[str], known: Mapping[str, str]) -> tuple[str, str | bool | None]:
    """(parameter, value) of the option ``word``; the value may be in ``words``. None where the option is unusual."""
    option, equals, value = word.partition("=")
    parameter = known.get(option, "")
    if not parameter or (equals and not option.startswith("--")):
        return "", None
    if parameter in _FLAGS:
        return parameter, None if equals else True
    if not equals:
        value = next(words, "")
    if not value or value.startswith("-") or (parameter == "output_format" and value not in (TEXT, JSON)):
        return "", None
    return parameter, value


def _filled(parameters: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with the parameters that were not."""
    return {name: given.get(name, False if name in _FLAGS else None) for name in parameters}
