"""What is needed to reach a place besides its name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.peers.link import FindPeer, no_peer

if TYPE_CHECKING:
    from stratum.config import Config, PlaceSettings

Credentials = Callable[[str, str], "str | None"]
"""Finds the base64 ``user:password`` for (host, repository), or None; ``credentials.IDENTITY`` is a user of its own.

It is called when a registry asks for a password and not before, by any thread, perhaps more than once. What it raises
is a ``StratumError``, and ends the request.
"""


def anonymous(_host: str, _repository: str) -> None:
    """No credentials for anybody."""


@dataclass(frozen=True, slots=True)
class Access:
    """How registries, object stores and peers are reached. Nothing else is looked at: no settings, no environment, no
    file of the user's.

    ``plain_http`` is the user's explicit wish for HTTP without TLS. ``ca_file`` has the certificate authorities that
    the user wants to count, else those of all ``authorities`` do, else the system's. ``proxies`` has ``http_proxy``,
    ``https_proxy`` and ``no_proxy``, as far as they are set. ``token_realms`` is HOST[:PORT] of a registry -> URL of
    another host that gives out its tokens and may be sent its passwords. Times are in seconds; ``min_rate``, in bytes a
    second, is what an answer must keep up with in any ``patience`` seconds.

    For object stores: ``places`` is what the settings say of each, by ``Bucket.root``. ``environment`` has variables of
    their own tools (``AWS_...``, ``GOOGLE_...``, ``AZURE_...``; ``HOME`` and ``PATH``). ``ambient`` is whether files
    and programs that it names count besides its keys, and what role this machine has; without it, and without keys,
    requests are anonymous. ``unsafe_concurrent`` is whether a store may be written to that heeds no conditions;
    None: where ``places`` say so.

    ``peer`` finds the peer of a name; by itself nobody is known. ``own_blobs`` is the directory with the blobs of the
    store (``ownblobs``).
    """

    credentials: Credentials = field(default=anonymous, repr=False)
    insecure_registries: tuple[str, ...] = ()
    plain_http: bool = False
    ca_file: Path | None = None
    authorities: tuple[Path, ...] = ()
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    token_realms: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    patience: float = 180.0
    min_rate: int = 4096
    places: Mapping[str, PlaceSettings] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    ambient: bool = False
    unsafe_concurrent: bool | None = None
    peer: FindPeer = field(default=no_peer, repr=False)
    own_blobs: Path | None = None


def proxies_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The ``proxies`` that environment variables, in capitals or not, name."""
    wanted = ("http_proxy", "https_proxy", "no_proxy")
    return {name.lower(): value for name, value in environment.items() if name.lower() in wanted and value}


def access_of(
    config: Config, *, plain_http: bool = False, ca_file: str | Path | None = None, peer: FindPeer = no_peer
) -> Access:
    """How places are reached by the settings, the environment they came with, and a verb's options. ``peer`` finds
    peers: where there may be some, that is ``store.peerbook.finder`` of the store in the settings."""
    from stratum.oci.credentials import find_credentials

    named = config.environment.get("SSL_CERT_FILE")
    return Access(
        credentials=functools.partial(find_credentials, environment=config.environment),
        insecure_registries=config.insecure_registries,
        plain_http=plain_http,
        ca_file=Path(ca_file) if ca_file is not None else None,
        authorities=(Path(named),) if named else (),
        proxies=proxies_in(config.environment),
        token_realms=config.token_realms,
        places=config.places,
        environment=config.environment,
        ambient=True,
        peer=peer,
        own_blobs=config.store / "blobs",
    )
