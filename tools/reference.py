"""The reference in docs/reference from what the code says of itself: ``python -m tools.reference`` writes its pages.

``make docs`` calls it. The pages are checked in, so that they can be read where the sources can, and
``tests/unit/test_reference.py`` holds that they are those that this would write.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from stratum.cli.main import cli
from stratum.cli.topics import FORMS, NAMES
from stratum.cli.verbs import GROUPS
from stratum.config import FILES, SETTINGS, VARIABLES
from stratum.errors import EXIT_CODES, StratumError
from tools import api
from tools.manpages import Words, commands

CHECKOUT = Path(__file__).parents[1]
REFERENCE = CHECKOUT / "docs/reference"
SCHEMAS = CHECKOUT / "docs/schemas"
_OF_ALL = {"--format", "--quiet", "--help"}
_MADE = "<!-- Made by tools/reference.py: 'make docs' writes it anew. -->\n\n"


def plain(text: str) -> str:
    """``text`` as Markdown that shows it as it stands; what docstrings have between double backticks is code."""
    pieces = " ".join(text.split()).split("``")
    return "".join(
        code(piece) if number % 2 else re.sub(r"([\\`*_<>|$\[\]])", r"\\\1", piece)
        for number, piece in enumerate(pieces)
    )


def code(text: str) -> str:
    """``text`` as code, in a cell of a table too."""
    return f"`{text}`".replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def prose(text: str) -> str:
    """A command's help: its paragraphs, and what is set in as it stands."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):  # click's own mark
            parts.append(textwrap.indent(textwrap.dedent(paragraph[2:]), "    ").rstrip())
        else:
            parts.append(paragraph.rstrip() if paragraph.startswith("    ") else plain(paragraph))
    return "\n\n".join(parts)


def section(names: Words, command: click.Command) -> str:
    """What there is to know of one command."""
    context: click.Context | None = None
    for name in names:
        context = click.Context(command if name == names[-1] else cli, info_name=name, parent=context)
    assert context is not None
    line = f"    {' '.join(names)} {' '.join(command.collect_usage_pieces(context))}".rstrip()
    parts = [f"{'#' * min(len(names) + 1, 4)} {' '.join(names)}", line, prose(command.help or "")]
    shown = [p for p in command.get_params(context) if _OF_ALL.isdisjoint(p.opts)]
    records = [record for p in shown if (record := p.get_help_record(context)) is not None]
    options = [(words, text) for words, text in records if text]  # an argument without a text is in the synopsis
    if options:
        rows = [(code(words), plain(text)) for words, text in options]
        parts.append(table(("Option", "What it does"), rows).rstrip())
    examples = [f"    # {text}\n    {line}" for text, line in getattr(command, "examples", ())]
    parts += ["\n".join(examples)] if examples else []
    schema = SCHEMAS / f"{'-'.join(names[1:])}.json"
    if schema.exists():
        parts.append(f"`--format json`: [{schema.name}](../schemas/{schema.name})")
    return "\n\n".join(part for part in parts if part) + "\n"


def verbs() -> str:
    """The page of all commands."""
    (_, root), *others = commands(cli)
    context = click.Context(root, info_name="stratum", **root.context_settings)
    options = [record for p in root.get_params(context) if (record := p.get_help_record(context)) is not None]
    head = [
        "# Verbs",
        prose(root.help or ""),
        "These options stand before the verb; `--format`, `--quiet` and `--help` also after it:",
        table(("Option", "What it does"), [(code(words), plain(text)) for words, text in options]).rstrip(),
        "What a verb prints with `--format json` has a [schema](../schemas/README.md); how it ends says its"
        " [exit code](exit-codes.md).",
    ]
    parts = []
    for title, group in GROUPS.items():
        told = [section(names, command) for names, command in others if names[1] in group and title]
        parts += [f"## {title}", *told] if told else []
    return "\n\n".join(part.rstrip() for part in [*head, *parts]) + "\n"


def config() -> str:
    """The page of the settings."""
    head = """# Settings

Settings are read from `/etc/stratum/config.toml`, a TOML table of the keys below; for anyone but root also from
`$XDG_CONFIG_HOME/stratum/config.toml`, which wins. An environment variable wins over the files, and an option of the
command line over that. A key that is not known is refused, and so is a file that others than root and the caller can
write.

    # /etc/stratum/config.toml
    registry = "registry.example.com/team"
    pull = "lazy"
    cache_max = "200G"

"""
    rows = [(code(s.key), code(s.env), plain(s.form), plain(s.default), plain(s.help)) for s in SETTINGS]
    return head + table(("Key", "Environment", "Value", "Default", "What it is"), rows)


def refs() -> str:
    """The page of refs."""
    head = """# Refs: how things are named

"""
    rows = [(code(form), plain(text)) for form, text in FORMS.items()]
    rest = """
## NAME alone

For every verb it is the stratum as it is now: `stratum commit db; stratum push db HOST/db` sends what was committed,
and so do `export`, `tag`, `restore`, `show`, `log`, `diff`, `verify`, `worktree add`, `reset`, `rebase` and a
patchset take it. The worktree `main` is made from `NAME:latest` when it is first needed; where there is no `main`,
the commit is that of `NAME:latest`. Where `main` has changes that are not committed, a verb that takes its last
commit says so. `stratum status` says `clean` where nothing is uncommitted, and `stratum diff NAME+WORKTREE` shows
what is.

## Where a tag is left out

A push without a tag at the place, and an export, use the tag of `NAME:TAG`, `latest` for `NAME`, the worktree's name
for `NAME+WORKTREE`, and the first 12 digits of a hash.

## When tags move

Tags move only when asked. A tag that names another commit is an error (exit code 4) for `tag`, `commit`, `import` and
`pull` unless `--force`; but `latest` follows an import that is made on top of it, and a pulled tag follows the tag of
that name in its registry where the new commit descends from the old one.

## Moments

`WHEN` in `REF@{WHEN}`, and for `--at`, `--since` and `--until`, is `2h`, `1d12h`, `10 minutes ago`, `14:05`,
`yesterday`, `yesterday 14:05`, `tuesday`, `last tuesday 18:00`, `2026-11-29`, `2026-11-29 14:05` or a time in RFC
3339. Without a zone it is local time. A day of the week is the last one of that name before today.
"""
    return head + table(("Form", "What it means"), rows) + "\n" + plain(NAMES) + "\n" + rest


def environment() -> str:
    """The page of the environment."""
    rows = [(code(s.env), f"The setting [{s.key}](config.md). {plain(s.help)}") for s in SETTINGS]
    rows += [(code(name), plain(text)) for name, text in VARIABLES.items()]
    return "# Environment\n\n" + table(("Variable", "What it is"), rows)


def files() -> str:
    """The page of files and directories."""
    rows = [(code(name), plain(text)) for name, text in FILES.items()]
    return "# Files and directories\n\n" + table(("Where", "What it is"), rows)


def exit_codes() -> str:
    """The page of exit codes and of the errors behind them."""
    head = """# Exit codes

"""
    errors = """
With `--format json` an error is one JSON object on standard error ([error.json](../schemas/error.json)), whose `id`
says more than the exit code:

"""
    rows = sorted(
        {(each.exit_code, each.id): plain((each.__doc__ or "").partition("\n\n")[0]) for each in _errors()}.items()
    )
    return (
        head
        + table(("Code", "What it means"), [(str(number), plain(text)) for number, text in EXIT_CODES.items()])
        + errors
        + table(("id", "Code", "When"), [(code(name), str(number), text) for (number, name), text in rows])
    )


def _errors() -> list[type[StratumError]]:
    import importlib
    import pkgutil

    import stratum

    for module in pkgutil.walk_packages(stratum.__path__, "stratum."):
        # What is for Kubernetes needs packages that only it has; a __main__ runs.
        if not module.name.startswith("stratum.csi") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(parent: type[StratumError]) -> list[type[StratumError]]:
        return [each for child in parent.__subclasses__() for each in [*below(child), child]]

    # Those of sys/ are caught above it; who asks may have loaded more than what was loaded here.
    others = ("stratum.sys.", "stratum.csi.")
    found = [each for each in [*below(StratumError), StratumError] if each.__module__.startswith("stratum.")]
    return [each for each in found if not each.__module__.startswith(others)]


PAGES = {
    "verbs.md": verbs,
    "refs.md": refs,
    "config.md": config,
    "environment.md": environment,
    "files.md": files,
    "exit-codes.md": exit_codes,
    "python.md": api.page,
}
"""Page in docs/reference -> what makes its text."""


def pages() -> dict[Path, str]:
    """Each page and its text."""
    return {REFERENCE / name: _MADE + make() for name, make in PAGES.items()}


def main() -> None:
    """Write every page."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
