"""``volume-plugin``: the server for ``podman volume create --driver stratum``."""

from __future__ import annotations

from pathlib import Path

import click

from stratum.cli.app import App, verb


@verb("volume-plugin")
@click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help="Where to listen.")
def volume_plugin(app: App, socket: Path | None) -> None:
    """Serve strata as named volumes to Podman until stopped; a volume is committed after its last use.

    The default socket is volume-plugin.sock in the runtime directory. Podman finds it by containers.conf:
    [engine.volume_plugins] stratum = "/run/stratum/volume-plugin.sock".
    """
    from stratum.plugin.server import PluginServer

    config = app.session.config
    app.session.store  # noqa: B018 - there must be one
    server = PluginServer(socket or config.runtime_dir / "volume-plugin.sock", config, app.out.warn)
    app.out.note(f"listening at {server.path}")
    server.serve()
