"""Man pages from the command line's own help: ``python -m tools.manpages DIRECTORY`` writes one page a verb, man(7)."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from stratum import __version__
from stratum.cli.main import cli
from stratum.cli.topics import FORMS, NAMES
from stratum.cli.verbs import GROUPS
from stratum.config import FILES, SETTINGS, VARIABLES
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
    lines += _prose(command.help or "")
    options = [record for p in command.get_params(context) if (record := p.get_help_record(context)) is not None]
    lines += _section("OPTIONS", options)
    if command is cli:
        lines += _root_sections()
    elif isinstance(command, click.Group):
        below = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
        pages = [(f"{title}-{name}", found.get_short_help_str(200)) for name, found in below if found is not None]
        lines.append(".SH COMMANDS")
        lines += _pages(pages)
    examples = getattr(command, "examples", ())
    if examples:
        lines.append(".SH EXAMPLES")
        for text, line in examples:
            lines += [".PP", escape(f"{text}:"), *_as_it_stands(line)]
    lines += _section("EXIT STATUS", [(str(code), text) for code, text in EXIT_CODES.items()])
    variables, files = _around(names, command)
    lines += _section("ENVIRONMENT", variables.items())
    lines += _section("FILES", files.items())
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{escape(other)}\\fP(1)" for other in _see_also(names, command))]
    return "\n".join(lines) + "\n"


def _prose(text: str) -> list[str]:
    """The paragraphs of a help text; what is set in stays as it stands."""
    lines = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            lines += _as_it_stands(textwrap.dedent(paragraph))
        else:
            lines += [".PP", escape(" ".join(paragraph.split()))]
    return lines


def _as_it_stands(text: str) -> list[str]:
    return [".PP", ".RS 4", ".nf", *map(escape, text.splitlines()), ".fi", ".RE"]


def _section(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    """A section that is a list of terms; empty where there are none."""
    lines = []
    for term, text in rows:
        lines += [".TP", f"\\fB{escape(term)}\\fP", escape(text)]
    return [f".SH {title}", *lines] if lines else []


def _pages(pages: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for name, summary in pages:
        lines += [".TP", f"\\fB{escape(name)}\\fP(1)", escape(summary)]
    return lines


def _root_sections() -> list[str]:
    """The verbs in their groups, the forms of refs, and the settings."""
    lines = [".SH COMMANDS"]
    for title, group in GROUPS.items():
        if title:
            lines += [f".SS {escape(title)}", *_pages((f"stratum-{name}", text) for name, (_, text) in group.items())]
    lines += [*_section("REFS", FORMS.items()), ".PP", escape(NAMES), ".SH SETTINGS"]
    lines += _prose("Settings are TOML in /etc/stratum/config.toml; an unknown key is refused.")
    for each in SETTINGS:
        lines += [".TP", f"\\fB{escape(each.key)}\\fP ({escape(each.form)})"]
        lines.append(escape(f"{each.help} Default: {each.default}. Environment: {each.env}."))
    return lines


def _around(names: Words, command: click.Command) -> tuple[dict[str, str], dict[str, str]]:
    """The environment and the files that matter to a command: all to stratum(1), else those of its kind."""
    variables = {each.env: each.help for each in SETTINGS} | VARIABLES
    if command is cli:
        return variables, FILES
    options = {option for param in command.params for option in param.opts}
    wanted = ["STRATUM_STORE", "STRATUM_RUNTIME_DIR"]
    if "--ca-file" in options:
        wanted += ["STRATUM_REGISTRY", "STRATUM_INSECURE_REGISTRIES", "STRATUM_TOKEN_REALMS"]
        wanted += ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"]
    in_containers = len(names) > 1 and names[1] in GROUPS["Containers"]
    kept = ("stratum/config.toml", "/var/lib/", "/run/") + (("policy", "containers/") if in_containers else ())
    files = {path: text for path, text in FILES.items() if any(part in path for part in kept)}
    return {name: variables[name] for name in wanted}, files


def _see_also(names: Words, command: click.Command) -> list[str]:
    """The pages beside, above and below a command's, and of the verbs in its group."""
    if command is cli:
        return [f"stratum-{name}" for group in list(GROUPS.values())[:2] for name in group]
    above = ["-".join(names[:end]) for end in range(1, len(names))]
    group = next((group for group in GROUPS.values() if names[1] in group), {})
    others = [f"stratum-{name}" for name in group if name != names[1]] if len(names) == 2 else []
    return [*above, *others]


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
