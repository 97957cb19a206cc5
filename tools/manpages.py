"""Man pages from the command line's own help: ``python -m tools.manpages DIRECTORY`` writes one page a verb, man(7)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from stratum import __version__
from stratum.cli.main import cli
from stratum.errors import EXIT_CODES

Words = tuple[str, ...]


def commands(group: click.Group, names: Words = ("stratum",)) -> Iterator[tuple[Words, click.Command]]:
    """Every command of ``group`` with the words that call it, the group itself first."""
    yield names, group
    context = click.Context(group, info_name=names[-1])
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name), command


def page(names: Words, command: click.Command) -> str:
    """The man page of one command."""
    context: click.Context | None = None
    for name in names:
        context = click.Context(command if name == names[-1] else cli, info_name=name, parent=context)
    assert context is not None
    title = "-".join(names)
    lines = [f'.TH "{title.upper()}" "1" "" "stratum {__version__}" "Stratum Manual"', ".SH NAME"]
    lines.append(f"{title} \\- {escape(command.get_short_help_str(200).rstrip('.'))}")
    usage = " ".join(command.collect_usage_pieces(context))
    lines += [".SH SYNOPSIS", f"\\fB{escape(' '.join(names))}\\fP {escape(usage)}", ".SH DESCRIPTION"]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [".PP", escape(" ".join(paragraph.split()))]
    options = [record for p in command.get_params(context) if (record := p.get_help_record(context)) is not None]
    if options:
        lines.append(".SH OPTIONS")
        for names_of_option, text in options:
            lines += [".TP", f"\\fB{escape(names_of_option)}\\fP", escape(text)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            lines += [".TP", f"\\fB{title}-{escape(name)}\\fP(1)", escape(found.get_short_help_str(200))]
    examples = getattr(command, "examples", ())
    if examples:
        lines.append(".SH EXAMPLES")
        for text, line in examples:
            lines += [".PP", escape(f"{text}:"), ".PP", ".RS 4", ".nf", escape(line), ".fi", ".RE"]
    lines.append(".SH EXIT STATUS")
    for code, text in EXIT_CODES.items():
        lines += [".TP", f"\\fB{code}\\fP", escape(text)]
    if len(names) > 1:
        lines += [".SH SEE ALSO", f"\\fB{'-'.join(names[:-1])}\\fP(1)"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """``text`` so that roff shows it as it stands."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main(directory: Path) -> None:
    """Write every page to ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for names, command in commands(cli):
        (directory / f"{'-'.join(names)}.1").write_text(page(names, command), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
