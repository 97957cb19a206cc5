"""What ``stratum serve`` is asked for, whether that is safe, and the servers for it."""

from __future__ import annotations

import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError, UsageError
from stratum.oci.target import is_loopback
from stratum.serve.app import BLOB_MAX, make_app
from stratum.serve.door import Door
from stratum.serve.passwords import Passwords
from stratum.serve.peerapi import peer_app
from stratum.serve.peerlisten import listening_context
from stratum.serve.visibility import Everywhere
from stratum.serving import Certificate, Limits, listen, passed, serve, serving
from stratum.store.budget import Budget, read_budget
from stratum.store.madepacks import FILES_MAX, MadePacks
from stratum.sys.daemon import Notifier
from stratum.sys.malloc import keep_for_next

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from stratum.api.registry import Registry
    from stratum.api.session import Session

Address = Path | tuple[str, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options. ``listen`` is where everybody is listened to, ``peers`` where those are who are known, None where
    nobody is; one of the two is given. ``requests`` are those of one address in a second, ``names`` those by which
    clients call the server. ``cache`` are the bytes that packs take which several clients ask for, None where nobody
    chose."""

    listen: Address | None
    peers: tuple[str, int] | None = None
    certificate: Path | None = None
    key: Path | None = None
    htpasswd: Path | None = None
    anonymous_read: bool = False
    write: bool = False
    delete: bool = False
    names: tuple[str, ...] = ()
    blob_max: int = BLOB_MAX
    connections: int = 1000
    connections_each: int = 500
    requests: int = 1000
    insecure_http: bool = False
    insecure_anonymous_write: bool = False
    web: bool = False
    cache: int | None = None


def check(wanted: Wanted) -> None:
    """``UsageError`` for options that do not go together."""
    if (wanted.certificate is None) != (wanted.key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    for option, given in (("--web", wanted.web), ("--write", wanted.write), ("--delete", wanted.delete)):
        if given and wanted.listen is None:
            raise UsageError(
                f"{option} is for who comes to --listen, and there is none",
                hint="add --listen 127.0.0.1:5000; peers may push what 'stratum share --write' lets them",
            )
    if (wanted.write or wanted.delete) and wanted.htpasswd is None and not wanted.insecure_anonymous_write:
        raise UsageError(
            "without passwords everybody who reaches the server could push and delete",
            hint="name a file of users by --htpasswd, or say --insecure-anonymous-write",
        )
    if wanted.insecure_anonymous_write and not (wanted.write or wanted.delete):
        raise UsageError("--insecure-anonymous-write needs --write or --delete")


def check_reach(wanted: Wanted, listener: socket.socket) -> bool:
    """Whether only this machine reaches the server; ``UsageError`` where others do, and could read what they should
    not."""
    if listener.family == socket.AF_UNIX or is_loopback(str(listener.getsockname()[0])):
        return True
    where = shown_address(listener)
    if wanted.certificate is None and not wanted.insecure_http:
        raise UsageError(
            f"{where} is reached from other machines, and what goes there could be read and changed on its way",
            hint="give a certificate by --tls-cert and --tls-key, or say --insecure-http",
        )
    if wanted.htpasswd is None and not wanted.anonymous_read:
        raise UsageError(
            f"{where} is reached from other machines, and everybody there could read the whole store",
            hint="name a file of users by --htpasswd, or say --anonymous-read",
        )
    return False


def shown_address(listener: socket.socket) -> str:
    """Where a server listens, as people write it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix://{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def run(session: Session, wanted: Wanted, note: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``note`` is told where, ``warn`` of each failure, a line each."""
    from stratum.api.registry import Registry
    from stratum.api.syncing import Exchanging

    check(wanted)
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
    logging.getLogger("uvicorn.error").propagate = False  # failures are told by the application
    _raise_descriptors(wanted.connections)
    keep_for_next()
    limits = Limits(wanted.connections, wanted.connections_each)
    registry = Registry(session, _made_packs(session, wanted.cache))
    notifier = Notifier(session.config.environment.get("NOTIFY_SOCKET", ""))
    with ExitStack() as stack:
        answer: Callable[[], None] | None = None
        if wanted.peers is not None:
            peers = stack.enter_context(listen(wanted.peers, "server"))
            app = peer_app(session, registry, warn, Exchanging(session), blob_max=wanted.blob_max)
            tls = listening_context(session.store.peers, warn)
            note(f"listening for peers at {shown_address(peers)}")
            if wanted.listen is None:
                answer = partial(serve, app, peers, limits=limits, tls=tls)
            else:
                stack.enter_context(serving(app, peers, limits, tls=tls))
        if wanted.listen is not None:
            answer = _for_everybody(session, registry, wanted, limits, stack, note, warn)
        assert answer is not None
        if notifier.is_heard and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload of the service, where nothing is to be read anew
        notifier.tell("READY=1")
        answer()


def _for_everybody(
    session: Session,
    registry: Registry,
    wanted: Wanted,
    limits: Limits,
    stack: ExitStack,
    note: Callable[[str], None],
    warn: Callable[[str], None],
) -> Callable[[], None]:
    """Listen; what answers."""
    assert wanted.listen is not None
    passwords = Passwords(wanted.htpasswd, warn) if wanted.htpasswd is not None else None
    certificate = Certificate(wanted.certificate, wanted.key) if wanted.certificate and wanted.key else None
    door = Door(
        passwords,
        users=Everywhere(write=wanted.write, delete=wanted.delete),
        anybody=Everywhere(
            read=passwords is None or wanted.anonymous_read,
            write=wanted.write and wanted.insecure_anonymous_write,
            delete=wanted.delete and wanted.insecure_anonymous_write,
        ),
        names=wanted.names,
        each_second=wanted.requests,
    )
    pages = _pages(session, door, warn) if wanted.web else []
    app = make_app(registry, door.who, log=warn, blob_max=wanted.blob_max, web=pages)
    listener = stack.enter_context(passed(session.config.environment) or listen(wanted.listen, "server"))
    door.is_loopback = check_reach(wanted, listener)
    if certificate is not None:
        stack.enter_context(_reloading(certificate, note, warn))
    scheme = "" if listener.family == socket.AF_UNIX else "https://" if certificate else "http://"
    note(f"listening at {scheme}{shown_address(listener)}")
    return partial(serve, app, listener, limits=limits, tls=certificate.context if certificate else None)


def _made_packs(session: Session, most: int | None) -> MadePacks:
    """Where packs are kept, in at most so many bytes: where nobody chose, what is the default for images, too."""
    layout, budget = session.store.layout, read_budget(session.store.layout, session.config)
    return MadePacks(layout, budget, Budget().images_max(layout) if most is None else most)


def _pages(session: Session, door: Door, warn: Callable[[str], None]) -> list[BaseRoute]:
    from stratum.serve.page.routes import routes

    return routes(session, door, warn)


@contextmanager
def _reloading(certificate: Certificate, note: Callable[[str], None], warn: Callable[[str], None]) -> Iterator[None]:
    """Read the certificate anew at SIGHUP."""

    def reload(*_: object) -> None:
        try:
            certificate.reload()
            note("the certificate was read anew")
        except StratumError as exc:
            warn(exc.told)

    before = signal.signal(signal.SIGHUP, reload)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _raise_descriptors(connections: int) -> None:
    """As many open files as connections need that read a file each, where the system gives them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * connections + FILES_MAX + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
