"""What makes a function a verb, and the options that several verbs take."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import click

from stratum.cli.context import App
from stratum.cli.output import JSON, TEXT
from stratum.cli.reftype import NOTE


def verb(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of ``function(app, ...)``, with ``--format`` and ``--quiet`` accepted after the verb too."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def callback(*args: Any, output_format: str | None, quiet: bool, **kwargs: Any) -> Any:
            app: App = click.get_current_context().obj
            app.override(output_format, quiet=quiet)
            return function(app, *args, **kwargs)

        command = click.Command(name, callback=callback, **attributes)
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


def message_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``-m/--message``: kept in the commit's metadata."""
    return click.option("-m", "--message", type=NOTE, help="Message kept with the commit.")(function)


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
