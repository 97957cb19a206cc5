"""Entry point of ``stratum``: global options, verbs loaded when they are called, errors turned into exit codes.

Exit codes: 0 done; 1 failed; 2 usage; 3 not found; 4 exists, busy or conflict; 5 damage found; 6 not possible here;
130 interrupted.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from typing import Any

import click

from stratum import __version__
from stratum.cli.app import App, Helping, eager_option
from stratum.cli.output import JSON, TEXT, print_error
from stratum.cli.reftype import PATH
from stratum.cli.verbs import ALIASES, GROUPS, LISTED, TOPICS, VERBS
from stratum.errors import StratumError, os_error_text

FAILURES = (StratumError, OSError, MemoryError, KeyboardInterrupt)
"""What a verb may raise."""
_WIDEST = max(map(len, LISTED))


class _Verbs(Helping, click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return LISTED

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        place, summary = entry
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        command.short_help = summary
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs in their groups, as in the table: no module of a verb is loaded for that."""
        for title, group in GROUPS.items():
            if title:
                with formatter.section(title):
                    formatter.write_dl([(f"{name:<{_WIDEST}}", summary) for name, (_, summary) in group.items()])
        with formatter.section("Topics of 'stratum help'"):
            formatter.write_dl([(f"{name:<{_WIDEST}}", summary) for name, summary in TOPICS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and args[0] not in ALIASES:
            from stratum.cli.mistakes import unknown_verb

            raise unknown_verb(ctx, args, LISTED)
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, subcommand_metavar="VERB [ARGS]...", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", metavar="DIR", type=PATH, help="Directory of the store (also STRATUM_STORE).")
@click.option(
    "--runtime-dir", metavar="DIR", type=PATH, help="Directory of the mount state (also STRATUM_RUNTIME_DIR)."
)
@click.option("--format", "output_format", type=click.Choice([TEXT, JSON]), help="Output for people or for programs.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
@click.pass_context
def cli(ctx: click.Context, store: str | None, runtime_dir: str | None, output_format: str | None, quiet: bool) -> None:
    """Versioned state for containers: directory trees as commits, worktrees on top of them.

    A REF is NAME:TAG, NAME:HASH, NAME+WORKTREE or HASH. NAME alone is the stratum as it is now, for every verb: its
    worktree 'main'; where a commit is wanted, the last commit of 'main', or the tag 'latest' where there is no 'main'.
    NAME+WORKTREE@CHANGE is the commit of what a worktree showed after an operation of its history.

    REF~2 is the second commit before one, REF@{yesterday} what a tag or worktree named then ('10 minutes ago', '2h', a
    date, RFC 3339), and REF:/PATH a file or directory in it.
    """
    ctx.obj = App(store=store, runtime_dir=runtime_dir, output_format=output_format, quiet=quiet)


cli.params.append(
    eager_option("-V", "--version", call=lambda _: f"stratum {__version__}", text="Show the version and exit.")
)


def run(args: list[str]) -> int:
    """Run ``args`` and return the exit code; every failure is printed."""
    try:
        result: Any = cli.main(args, prog_name="stratum", standalone_mode=False)
        sys.stdout.flush()
    except FAILURES as exc:
        return failed(args, exc)
    except (click.ClickException, click.Abort) as exc:
        return _refused(args, exc)
    return result if isinstance(result, int) else 0


def _refused(args: list[str], exc: click.ClickException | click.Abort) -> int:
    """Print why the command line was not understood; the exit code."""
    as_json = _json_wanted(args)
    if isinstance(exc, click.Abort):
        return failed(args, KeyboardInterrupt())
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        if as_json:
            print_error(exc.exit_code, "usage", "a verb is needed", "see 'stratum --help'", as_json=True)
        else:
            click.echo(exc.format_message(), err=True)
        return exc.exit_code
    message, hint = _usage(args, exc)
    print_error(exc.exit_code, "usage", message, hint, as_json=as_json)
    return exc.exit_code


def failed(args: list[str], exc: BaseException) -> int:
    """Print what one of ``FAILURES`` says that the verb in ``args`` raised; the exit code."""
    as_json = _json_wanted(args)
    if isinstance(exc, StratumError):
        print_error(exc.exit_code, exc.id, exc.message, _hint(args, exc), as_json=as_json)
        return exc.exit_code
    if isinstance(exc, BrokenPipeError):
        _silence_stdout()
    elif isinstance(exc, OSError):
        where = f"{os.fsdecode(exc.filename)}: " if isinstance(exc.filename, (str, bytes)) else ""
        print_error(1, "failed", f"{where}{os_error_text(exc)}", "", as_json=as_json)
    elif isinstance(exc, MemoryError):
        print_error(1, "failed", "out of memory", "", as_json=as_json)
    else:
        print_error(130, "interrupted", "interrupted", "", as_json=as_json)
        return 130
    return 1


def _usage(args: list[str], exc: click.ClickException) -> tuple[str, str]:
    """What to tell of arguments that the parser refused."""
    from stratum.cli.mistakes import unknown_option, usage_hint

    if isinstance(exc, click.NoSuchOption):
        return unknown_option(cli, args, exc)
    message = " ".join(exc.format_message().split())  # some of click's go over several lines
    return message, usage_hint(cli, args, exc) if isinstance(exc, click.UsageError) else ""


def _hint(args: list[str], exc: StratumError) -> str:
    """What to tell of an error that a verb raised, besides the error."""
    from stratum.cli.mistakes import better_hint

    return better_hint(cli, args, exc)


def _json_wanted(args: list[str]) -> bool:
    """Whether errors go out as JSON, known even where the options themselves do not parse."""
    return "--format=json" in args or any(pair == ("--format", JSON) for pair in itertools.pairwise(args))


def _silence_stdout() -> None:
    """The reader of stdout has gone: keep the interpreter from writing what is left at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
