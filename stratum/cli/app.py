"""What every verb shares: the session it works in, the output it prints to, and the options that all verbs take."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import click

from stratum.cli.output import JSON, TEXT, Output
from stratum.cli.reftype import NOTE
from stratum.cli.work import Work


class App(Work):
    """A run that click has parsed."""

    @property
    def words(self) -> str:
        context, words = click.get_current_context(), list[str]()
        while context.parent is not None:
            words.append(context.info_name or "")
            context = context.parent
        return " ".join(reversed(words))


Examples = Sequence[tuple[str, str]]
"""What each does, and the command line."""


class Helping(click.Command):
    """A command with ``--help``, for whose text no translations are looked for, which takes longer than to parse all
    that was given."""

    _help: click.Option | None = None

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The option, always the same one, as options are told apart by that."""
        names = self.get_help_option_names(ctx)
        if self._help is None and names:
            self._help = eager_option(*names, call=click.Context.get_help, text="Show this message and exit.")
        return self._help if names else None


def eager_option(*names: str, call: Callable[[click.Context], str], text: str) -> click.Option:
    """An option that prints what ``call`` says, instead of whatever else was asked for."""

    def show(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(call(ctx))
            ctx.exit()

    return click.Option(names, is_flag=True, expose_value=False, is_eager=True, help=text, callback=show)


class _Helped(Helping):
    """A command whose help ends with examples."""

    examples: Examples = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, and what click puts there."""
        if self.examples:
            lines = [f"# {text}\n  {line}\n" for text, line in self.examples]
            formatter.write("\nExamples:\n  " + "\n  ".join(lines))
        super().format_epilog(ctx, formatter)


class Verb(_Helped):
    """A verb, or a verb of one."""


def verb(name: str, *, examples: Examples = (), **attributes: Any) -> Callable[[Callable[..., Any]], Verb]:
    """Make a command of ``function(app, ...)``, with ``--format`` and ``--quiet`` accepted after the verb too.

    ``examples`` are shown in its help and its man page: one to five. What a verb of the first level does in a few words
    is in the table of ``cli/verbs.py``; another gives it as ``short_help``.
    """

    def decorate(function: Callable[..., Any]) -> Verb:
        @functools.wraps(function)
        def callback(*args: Any, output_format: str | None, quiet: bool, **kwargs: Any) -> Any:
            app: App = click.get_current_context().obj
            app.out = Output(output_format or app.out.format, quiet=quiet or app.out.quiet)
            return function(app, *args, **kwargs)

        command = Verb(name, callback=callback, **attributes)
        command.examples = examples
        command.help = inspect.cleandoc(function.__doc__ or "")
        command.params += reversed(getattr(function, "__click_params__", []))
        command.params += [
            click.Option(
                ["--format", "output_format"],
                type=click.Choice([TEXT, JSON]),
                help="Output for people or for programs.",
            ),
            click.Option(["-q", "--quiet"], is_flag=True, help="No progress and no notes."),
        ]
        return command

    return decorate


class VerbsBelow(Helping, click.Group):
    """A word with verbs of its own, one of which has to follow it. 'help' may, as 'help' before it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] == "help" and "help" not in self.commands:
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
            args = [args[1], "--help"]
        if args and args[0] not in self.commands:
            from stratum.cli.mistakes import unknown_verb

            raise unknown_verb(ctx, args, self.commands)
        return super().resolve_command(ctx, args)


class VerbGroup(_Helped, click.Group):
    """A verb that has words of its own besides its arguments: what ``command`` does, or where the first word is one of
    the group's commands, that."""

    allow_interspersed_args = True

    def __init__(self, command: Verb) -> None:
        def callback(**given: Any) -> Any:
            assert command.callback is not None
            return command.callback(**given) if given else None

        super().__init__(
            command.name,
            callback=callback,
            params=command.params,
            help=command.help,
            short_help=command.short_help,
            invoke_without_command=True,
        )
        self.examples = command.examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:
            ctx.allow_interspersed_args = False
        else:
            ctx.allow_extra_args = False
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        if ctx.command is self and ctx.allow_interspersed_args:
            return params
        return [param for param in params if param not in self.params]  # as its commands have none of them

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return click.Command.collect_usage_pieces(self, ctx)


def message_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``-m/--message``: kept in the commit's metadata."""
    return click.option("-m", "--message", type=NOTE, help="Message kept with the commit.")(function)


def root_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--uid``, ``--gid`` and ``--mode`` of a new root directory: together the parameter ``root``."""

    @functools.wraps(function)
    def with_root(*args: Any, uid: str | None, gid: str | None, mode: str | None, **kwargs: Any) -> Any:
        from stratum.tree.rootchange import RootChange, parse_id, parse_mode

        root = RootChange(
            None if uid is None else parse_id(uid, "--uid"),
            None if gid is None else parse_id(gid, "--gid"),
            None if mode is None else parse_mode(mode, "--mode"),
        )
        return function(*args, root=root, **kwargs)

    with_root = click.option("--mode", metavar="OCTAL", help="Permissions of the new root directory, such as 0770.")(
        with_root
    )
    with_root = click.option("--gid", metavar="NUMBER", help="Group that the new root directory belongs to.")(with_root)
    return click.option("--uid", metavar="NUMBER", help="User that the new root directory belongs to.")(with_root)


unsafe_option = click.option(
    "--unsafe-concurrent",
    is_flag=True,
    help="Write also to an object store that heeds no conditions: of two who do at once, one may lose what it wrote.",
)


def image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--as image`` and ``--compression``: together the parameter ``image``, None for an artifact."""

    @functools.wraps(function)
    def with_image(*args: Any, sent_as: str, compression: str | None, **kwargs: Any) -> Any:
        if compression is not None and sent_as != "image":
            raise click.UsageError("--compression is for '--as image'; artifacts are always compressed with zstd")
        return function(*args, image=(compression or "gzip") if sent_as == "image" else None, **kwargs)

    with_image = click.option(
        "--compression", type=click.Choice(["gzip", "zstd"]), help="Of an image's layers; gzip where not given."
    )(with_image)
    return click.option(
        "--as",
        "sent_as",
        type=click.Choice(["artifact", "image"]),
        default="artifact",
        show_default=True,
        help="As a commit, or as an ordinary container image.",
    )(with_image)
