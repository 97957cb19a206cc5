"""``login``, ``logout`` and the listing of a repository's tags."""

from __future__ import annotations

import sys

import click

from stratum.cli.app import App, verb
from stratum.cli.output import human_size, safe, short
from stratum.cli.reftype import PATH
from stratum.errors import UsageError

_PASSWORD_MAX = 64 << 10


@verb(
    "login",
    examples=[
        ("With a user name", "stratum login registry.example.com -u alice"),
        ("In a script", "stratum login registry.example.com -u ci --password-stdin < token"),
    ],
)
@click.argument("registry", metavar="[HOST[:PORT]]", required=False)
@click.option("-u", "--user", "--username", metavar="USER", help="User name; asked for on a terminal otherwise.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it.")
@click.option("--plain-http", is_flag=True, help="Use HTTP without TLS. Loopback addresses need no such permission.")
@click.option("--ca-file", metavar="FILE", type=PATH, help="Trust the certificate authorities in FILE.")
def login(
    app: App, registry: str | None, user: str | None, password_stdin: bool, plain_http: bool, ca_file: str | None
) -> None:
    """Log in to a registry: try a user name and password there, and keep them.

    They are kept where podman, skopeo and docker find them, too: in the file that has an entry for the registry
    already, else in $REGISTRY_AUTH_FILE, else in ~/.config/containers/auth.json. HOST defaults to the 'registry' of the
    configuration. A password is never an argument: other users could read it in the list of processes. It is sent to
    the registry only; where its tokens come from another host, the configuration has to name that ('token_realms').
    """
    from stratum.api.remotes import login as run
    from stratum.api.remotes import registry_or_default

    place = registry_or_default(app.session, registry)
    user = user if user is not None else _ask(f"User name for {safe(place)}", "--user")
    if password_stdin:
        password = _read_password()
    else:
        password = _ask(f"Password of {safe(user)} for {safe(place)}", "--password-stdin", hidden=True)
    access = app.session.access(plain_http=plain_http, ca_file=ca_file)
    place, path = run(app.session, place, user, password, access)
    if app.out.json:
        app.out.object({"registry": place, "user": user, "file": safe(str(path))})
        return
    app.out.note(f"logged in to {place} as {user}; kept in {path}")


def _ask(question: str, option: str, *, hidden: bool = False) -> str:
    """Ask on the terminal; where nobody can answer, ``option`` is needed."""
    if not sys.stdin.isatty():
        raise UsageError(f"{option} is needed where nobody can be asked")
    answer: str = click.prompt(question, hide_input=hidden, err=True)
    return answer


def _read_password() -> str:
    """Standard input without the line break at its end."""
    data = sys.stdin.buffer.read(_PASSWORD_MAX + 1)
    if len(data) > _PASSWORD_MAX:
        raise UsageError(f"standard input has more than the {_PASSWORD_MAX} bytes that a password may have")
    try:
        return data.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise UsageError("the password on standard input is not UTF-8") from None


@verb(
    "logout",
    examples=[
        ("Forget the password", "stratum logout registry.example.com"),
    ],
)
@click.argument("registry", metavar="[HOST[:PORT]]", required=False)
def logout(app: App, registry: str | None) -> None:
    """Forget the credentials of a registry, in every file that has them."""
    from stratum.api.remotes import logout as run

    place, paths = run(app.session, registry)
    if app.out.json:
        app.out.object({"registry": place, "files": [safe(str(path)) for path in paths]})
        return
    for path in paths:
        app.out.note(f"the credentials of {place} are gone from {path}")


def list_remote(app: App, target: str, *, plain_http: bool, ca_file: str | None) -> None:
    """Print the tags of the repository ``target`` with what they name, or the repositories of the registry or bucket
    that it is."""
    from stratum.api.remotes import list_remote as run
    from stratum.api.remotes import list_repositories

    access = app.session.access(plain_http=plain_http, ca_file=ca_file)
    repositories = list_repositories(app.session, target, access)
    if repositories is not None:
        if app.out.json:
            app.out.object([{"repository": safe(repository)} for repository in repositories])
            return
        for repository in repositories:
            app.out.line(safe(repository))
        return
    tags = run(app.session, target, access)
    if app.out.json:
        app.out.object(
            [
                {
                    "tag": tag.tag,
                    "commit": tag.commit,
                    "created": tag.created,
                    "size": tag.size,
                    "manifest": tag.manifest_digest,
                    "problem": tag.problem,
                }
                for tag in tags
            ]
        )
        return
    app.out.table(
        ("TAG", "COMMIT", "TIME", "SIZE"),
        [
            (
                tag.tag,
                short(tag.commit) if tag.commit else "-",
                safe(tag.created or "-"),
                human_size(tag.size) if tag.size is not None else "-",
            )
            for tag in tags
        ],
    )
    for tag in tags:
        if tag.problem:
            app.out.note(f"{tag.tag}: {tag.problem}")
