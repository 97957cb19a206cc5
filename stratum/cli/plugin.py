"""``volume-plugin``: the server for ``podman volume create --driver stratum``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stratum.cli.app import App, verb
from stratum.errors import UnsupportedError

_SOCKET = "volume-plugin.sock"


@verb(
    "volume-plugin",
    examples=[
        ("Tell Podman of it, once", "stratum volume-plugin --install"),
        ("Serve Podman until stopped", "stratum volume-plugin"),
    ],
)
@click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help="Where to listen.")
@click.option("--install", is_flag=True, help="Tell Podman where it listens, in a file in containers.conf.d, and end.")
def volume_plugin(app: App, socket: Path | None, install: bool) -> None:
    """Serve strata as named volumes to Podman until stopped; a volume is committed after its last use.

    The default socket is volume-plugin.sock in the runtime directory. Podman finds it by a file that --install writes
    to /etc/containers/containers.conf.d, or for an ordinary user to ~/.config/containers/containers.conf.d.

    An ordinary user's plugin is for that user's rootless Podman. It ends when Podman's namespaces do ('podman system
    migrate'), and is to be started again then: stratum-volume-plugin.socket does.
    """
    from stratum.serving import listen, passed, serve

    if install:
        _install(app, socket)
        return
    config = app.session.config
    app.session.store  # noqa: B018 - there must be one
    try:
        import uvicorn  # noqa: F401 - what 'serve' needs

        from stratum.plugin.server import plugin_app
        from stratum.plugin.staying import end_with_podman
    except ModuleNotFoundError as exc:
        raise UnsupportedError(
            f"the volume plugin needs the Python package {exc.name}",
            hint=f"{sys.executable} -m pip install starlette uvicorn",
        ) from None
    with passed(config.environment) or listen(socket or config.runtime_dir / _SOCKET, "volume plugin") as listener:
        app.out.note(f"listening at {listener.getsockname()}")
        end_with_podman(config.environment, app.out.note)
        serve(plugin_app(config, app.out.warn), listener)


def _install(app: App, socket: Path | None) -> None:
    from stratum.podman.volumes import install_driver

    config = app.session_outside.config
    path = install_driver(Path.cwd() / (socket or config.runtime_dir / _SOCKET), config.environment)
    app.out.note(f"{path} tells Podman of it")
