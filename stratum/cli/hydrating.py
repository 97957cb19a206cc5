"""``hydrate``: the process behind mounts of commits that are not here whole, for systemd and for upgrades."""

from __future__ import annotations

import os

import click

from stratum.cli.app import App, verb
from stratum.errors import BusyError, NotFoundError


@verb(
    "hydrate",
    examples=[
        ("Have new code take over", "stratum hydrate --restart-worker"),
    ],
)
@click.option(
    "--restart-worker", is_flag=True, help="Have the code that is installed now take over; readers wait a moment."
)
@click.option("--stop", is_flag=True, help="End what runs; refused while there are such mounts.")
def hydrate(app: App, restart_worker: bool, stop: bool) -> None:
    """Serve the mounts of commits that are not here whole, until stopped.

    Nobody has to run this: what mounts starts it. stratum-hydrate.service runs it, so that systemd watches it and keeps
    what it has while it is started anew. Packages run it with --restart-worker after an upgrade.
    """
    from stratum.mount.gate import KEEPER, ask_keeper

    if restart_worker and stop:
        raise click.UsageError("--restart-worker and --stop are not for the same time")
    runtime_dir = app.session.config.runtime_dir
    if restart_worker or stop:
        answers = ask_keeper(runtime_dir, {"op": "restart-worker" if restart_worker else "stop"})
        if not answers:
            raise NotFoundError(f"nothing serves mounts of {runtime_dir} now, so there is nothing to do")
        app.out.note(f"process {answers[0]['worker']} took over" if restart_worker else "it ends")
        return
    from stratum.sys.daemon import of_service_manager
    from stratum.sys.spawn import become

    app.session.state.make_runtime_dir()
    settings = of_service_manager(app.session.config.environment, os.getpid())
    if not settings and ask_keeper(runtime_dir, {"op": "list"}):
        raise BusyError(f"mounts of {runtime_dir} are served already", hint="end that first: stratum hydrate --stop")
    become(KEEPER, {"runtime_dir": str(runtime_dir), **settings})
