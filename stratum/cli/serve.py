"""``serve``: the store for others, over HTTP."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stratum.cli.app import App, verb
from stratum.errors import UnsupportedError, UsageError
from stratum.serving import parse_address

_FILE = click.Path(path_type=Path)


def _limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What clients, and serving them, may take: together the parameter ``limits``, as ``Wanted`` has them."""

    @functools.wraps(function)
    def with_limits(
        *args: Any,
        blob_max: str,
        cache: str | None,
        connections: int,
        connections_each: int,
        requests: int,
        **kwargs: Any,
    ) -> Any:
        from stratum.config import parse_bytes

        limits = {
            "blob_max": parse_bytes(blob_max, "--blob-max"),
            "cache": parse_bytes(cache, "--cache") if cache is not None else None,
            "connections": connections,
            "connections_each": connections_each,
            "requests": requests,
        }
        return function(*args, limits=limits, **kwargs)

    with_limits = click.option(
        "--requests",
        type=click.IntRange(1, 1_000_000),
        default=1000,
        show_default=True,
        help="Most requests of one address in a second, over some seconds.",
    )(with_limits)
    with_limits = click.option(
        "--connections-each",
        type=click.IntRange(1, 100_000),
        default=500,
        show_default=True,
        help="Most connections at a time of one address.",
    )(with_limits)
    with_limits = click.option(
        "--connections",
        type=click.IntRange(1, 100_000),
        default=1000,
        show_default=True,
        help="Most connections at a time.",
    )(with_limits)
    with_limits = click.option(
        "--cache",
        metavar="SIZE",
        help="Most disk space for packs that several clients ask for, as they are made; 0: none. Default: 2 GiB, or a"
        " twentieth of the store's file system, if that is less.",
    )(with_limits)
    return click.option(
        "--blob-max", metavar="SIZE", default="1T", show_default=True, help="Largest blob that is taken."
    )(with_limits)


@verb(
    "serve",
    examples=[
        ("Let programs of this machine pull, from 127.0.0.1:5000", "stratum serve"),
        (
            "Let users of a file pull and push from elsewhere",
            "stratum serve --listen 0.0.0.0:5000 --tls-cert cert.pem --tls-key key.pem --htpasswd users --write",
        ),
        ("Let peers have what is shared with them", "stratum serve --peers :5443"),
        (
            "Let everybody pull, and nobody push",
            "stratum serve --listen :5000 --tls-cert cert.pem --tls-key key.pem --anonymous-read",
        ),
        ("Look at the store with a browser, at http://127.0.0.1:5000/", "stratum serve --web"),
    ],
)
@click.option(
    "--listen",
    "address",
    metavar="ADDRESS",
    help="Where to listen: HOST:PORT (HOST empty: everywhere), or unix:///PATH. Default: 127.0.0.1:5000; nowhere with"
    " --peers.",
)
@click.option("--peers", metavar="HOST:PORT", help="Where to listen for peers (stratum peer), and for nobody else.")
@click.option("--tls-cert", metavar="FILE", type=_FILE, help="Certificate for TLS, PEM, with those that signed it.")
@click.option("--tls-key", metavar="FILE", type=_FILE, help="Its key, PEM.")
@click.option("--htpasswd", metavar="FILE", type=_FILE, help="Users and their passwords, as 'htpasswd -B' writes it.")
@click.option("--anonymous-read", is_flag=True, help="Let everybody read, also without a password.")
@click.option("--write", is_flag=True, help="Let users push, and move tags.")
@click.option("--delete", is_flag=True, help="Let users delete tags, manifests and blobs.")
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    help="A name by which clients call the server; needed where some need no password and it is not localhost.",
)
@_limit_options
@click.option("--web", is_flag=True, help="Also pages for people, at the same address.")
@click.option("--insecure-http", is_flag=True, help="Listen also for other machines without TLS.")
@click.option("--insecure-anonymous-write", is_flag=True, help="Let everybody push, without a password.")
def serve(
    app: App,
    address: str | None,
    peers: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    htpasswd: Path | None,
    anonymous_read: bool,
    write: bool,
    delete: bool,
    names: tuple[str, ...],
    limits: dict[str, Any],
    web: bool,
    insecure_http: bool,
    insecure_anonymous_write: bool,
) -> None:
    """Serve the store as a registry until stopped: the OCI distribution API, for every client that speaks it.

    Each stratum is a repository of its name, each of its tags a tag there. What is pulled is made of the store as it is
    asked for. What is pushed is kept, and where it is a commit, the stratum has it at once.

    With --web, people see in a browser what it holds: strata with their histories, files, differences, what uses the
    disk, who holds what. Who signs in downloads what a commit holds, and sets tags where --write is given.

    Only this machine reaches it, and nobody can push, unless that is asked for. SIGHUP has the certificate read anew;
    changes of the file of users count at once.

    With --peers, hosts that are known by their keys get what is shared with them (stratum share), and nobody else
    anything; who is known, and what is shared, may change while it runs.
    """
    try:
        import uvicorn  # noqa: F401 - what 'run' needs

        from stratum.serve.running import Wanted, run
    except ModuleNotFoundError as exc:
        raise UnsupportedError(
            f"'stratum serve' needs the Python package {exc.name}",
            hint=f"{sys.executable} -m pip install 'stratum-oci[serve]'",
        ) from None
    wanted = Wanted(
        listen=parse_address(address or "127.0.0.1:5000") if address is not None or peers is None else None,
        peers=_peers_address(peers) if peers is not None else None,
        certificate=tls_cert,
        key=tls_key,
        htpasswd=htpasswd,
        anonymous_read=anonymous_read,
        write=write,
        delete=delete,
        names=names,
        web=web,
        insecure_http=insecure_http,
        insecure_anonymous_write=insecure_anonymous_write,
        **limits,
    )
    session = app.session
    if write or peers is not None:
        session.create_store()
    session.store  # noqa: B018 - there must be one
    run(session, wanted, app.out.note, app.out.warn)


def _peers_address(text: str) -> tuple[str, int]:
    address = parse_address(text)
    if isinstance(address, Path):
        raise UsageError("peers come by a network: --peers takes HOST:PORT")
    return address
