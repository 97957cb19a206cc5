"""The command line as click knows it: global options, and verbs that are loaded when they are called."""

from __future__ import annotations

import importlib
from typing import Any

import click

from stratum import __version__
from stratum.cli.context import App
from stratum.cli.output import JSON, TEXT, print_error

VERBS = {
    "import": "stratum.cli.importing:import_",
    "init": "stratum.cli.importing:init",
    "commit": "stratum.cli.mounting:commit",
    "mount": "stratum.cli.mounting:mount",
    "unmount": "stratum.cli.mounting:unmount",
    "umount": "stratum.cli.mounting:unmount",
    "status": "stratum.cli.mounting:status",
    "worktree": "stratum.cli.worktree:worktree",
    "tag": "stratum.cli.refs:tag",
    "list": "stratum.cli.refs:list_",
    "remove": "stratum.cli.refs:remove",
    "show": "stratum.cli.history:show",
    "log": "stratum.cli.history:log",
    "diff": "stratum.cli.history:diff",
    "verify": "stratum.cli.history:verify",
    "push": "stratum.cli.transfer:push",
    "pull": "stratum.cli.transfer:pull",
    "login": "stratum.cli.registries:login",
    "logout": "stratum.cli.registries:logout",
    "export": "stratum.cli.exporting:export",
    "hook": "stratum.cli.hook:hook",
    "fsck": "stratum.cli.maintenance:fsck",
    "gc": "stratum.cli.maintenance:gc",
    "run": "stratum.cli.running:run",
    "ps": "stratum.cli.running:ps",
    "volume-plugin": "stratum.cli.plugin:volume_plugin",
    "reconcile": "stratum.cli.reconciling:reconcile",
    "reset": "stratum.cli.switching:reset",
    "rebase": "stratum.cli.switching:rebase",
    "patchset": "stratum.cli.patchset:patchset",
    "help": "stratum.cli.helping:help_",
    "completion": "stratum.cli.helping:completion",
    "restore": "stratum.cli.restoring:restore",
}
"""Verb -> where its command lives, so that one verb loads one module."""

HIDDEN = {"umount"}


class _Verbs(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(verb for verb in VERBS if verb not in HIDDEN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = VERBS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS:
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"there is no verb {args[0]!a}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", metavar="DIR", help="Directory of the store (also STRATUM_STORE).")
@click.option("--runtime-dir", metavar="DIR", help="Directory of the mount state (also STRATUM_RUNTIME_DIR).")
@click.option("--format", "output_format", type=click.Choice([TEXT, JSON]), help="Output for people or for programs.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
@click.version_option(__version__, "-V", "--version", message="stratum %(version)s")
@click.pass_context
def cli(ctx: click.Context, store: str | None, runtime_dir: str | None, output_format: str | None, quiet: bool) -> None:
    """Versioned state for containers: directory trees as commits, worktrees on top of them."""
    ctx.obj = App(store=store, runtime_dir=runtime_dir, output_format=output_format, quiet=quiet)


def invoke(args: list[str], *, as_json: bool) -> Any:
    """Run the verb that ``args`` name; what it returns. What is wrong with them is printed: 2 then."""
    try:
        return cli.main(args, prog_name="stratum", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        if as_json:
            print_error(exc.exit_code, "usage", "a verb is needed", "see 'stratum --help'", as_json=True)
        else:
            click.echo(exc.format_message(), err=True)
        return exc.exit_code
    except click.ClickException as exc:
        hint = f"see '{exc.ctx.command_path} --help'" if isinstance(exc, click.UsageError) and exc.ctx else ""
        print_error(exc.exit_code, "usage", exc.format_message(), hint, as_json=as_json)
        return exc.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
