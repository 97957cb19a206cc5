"""``volume-plugin``: the server for ``podman volume create --driver stratum``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stratum.cli.app import App, verb
from stratum.errors import UnsupportedError


@verb(
    "volume-plugin",
    examples=[
        ("Serve Podman until stopped", "stratum volume-plugin"),
    ],
)
@click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help="Where to listen.")
def volume_plugin(app: App, socket: Path | None) -> None:
    """Serve strata as named volumes to Podman until stopped; a volume is committed after its last use.

    The default socket is volume-plugin.sock in the runtime directory. Podman finds it by containers.conf:
    [engine.volume_plugins] stratum = "/run/stratum/volume-plugin.sock".
    """
    from stratum.serving import listen, serve

    config = app.session.config
    app.session.store  # noqa: B018 - there must be one
    try:
        import uvicorn  # noqa: F401 - what 'serve' needs

        from stratum.plugin.server import plugin_app
    except ModuleNotFoundError as exc:
        raise UnsupportedError(
            f"the volume plugin needs the Python package {exc.name}",
            hint=f"{sys.executable} -m pip install starlette uvicorn",
        ) from None
    with listen(socket or config.runtime_dir / "volume-plugin.sock", "volume plugin") as listener:
        app.out.note(f"listening at {listener.getsockname()}")
        serve(plugin_app(config, app.out.warn), listener)
