"""Registries themselves: logging in and out, and what their repositories hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.store.metadata import CommitMeta
    from stratum.transfer.listing import RemoteTag


def login(
    session: Session,
    registry: str | None,
    user: str,
    password: str,
    access: Access,
) -> tuple[str, Path]:
    """Try ``user`` and ``password`` at ``registry`` (default: that of the settings) and keep them; (registry, file).

    Raises ``UsageError`` for a malformed registry or user and ``StratumError`` in the registry's words where it does
    not let the user in.
    """
    from stratum.oci.login import login as run

    place = registry_or_default(session, registry)
    return place, run(place, user, password, access, session.config.environment)


def logout(session: Session, registry: str | None) -> tuple[str, list[Path]]:
    """Forget the credentials of ``registry``; it and the files that they were in. ``NotFoundError`` where there are
    none."""
    from stratum.oci.login import logout as run

    place = registry_or_default(session, registry)
    return place, run(place, session.config.environment)


def registry_or_default(session: Session, registry: str | None) -> str:
    """``registry``, or the host of the settings' default registry. ``UsageError`` where there is none, or an object
    store is named, which has no login."""
    from stratum.oci.login import check_registry

    check_registry(registry or session.config.registry or "")
    if registry is not None:
        return registry
    if session.config.registry is None:
        raise UsageError("it is not said which registry", hint="give HOST[:PORT], or set 'registry' in the settings")
    scheme, mark, rest = session.config.registry.rpartition("://")
    return f"{scheme}{mark}{rest.partition('/')[0]}"


def list_remote(session: Session, target: str, access: Access) -> list[RemoteTag]:
    """The tags of a repository or an OCI image layout; ``NotFoundError`` where there are none."""
    from stratum.oci.target import parse_target
    from stratum.transfer.listing import list_remote as run

    return run(parse_target(target, session.config.registry), access)


def list_repositories(session: Session, text: str, access: Access) -> list[str] | None:
    """What the registry, the peer or the bucket that ``text`` names has, each as a target is written; None where
    ``text`` is a repository itself.

    A prefix is one where it has tags, a whole bucket where nothing else in it has some, and both where a tag or digest
    is named or nothing below has tags; a slash at the end says that what is below is meant. Raises as ``oci.catalog``.
    """
    from stratum.oci.catalog import list_prefixes
    from stratum.oci.catalog import list_repositories as run
    from stratum.oci.places import open_source
    from stratum.oci.target import PEER_PREFIX, parse_target, registry_alone

    registry = registry_alone(text, session.config.registry)
    if registry is not None:
        target = parse_target(f"{registry}/repository")
        where = target.host if target.peer is None else f"{PEER_PREFIX}{target.peer}"
        return [f"{where}/{name}" for name in run(target, access)]
    target = parse_target(text, session.config.registry)
    if target.bucket is None or parse_target(text, session.config.registry, default_tag="").tag or target.digest:
        return None
    below = text.partition("?")[0].endswith("/")
    if target.bucket.prefix and not below:
        with open_source(target, access) as place:
            if place.list_tags():
                return None
    found = list_prefixes(target.bucket, access)
    if below or (found and found != [target.bucket]):
        return [f"{bucket}{bucket.query}" for bucket in found]
    return None


def look_up(session: Session, source: str, access: Access) -> CommitMeta:
    """What the registry says about the commit that ``source`` names; ``NotFoundError`` where there is none."""
    from stratum.oci.target import parse_target
    from stratum.transfer.listing import look_up as run

    return run(parse_target(source, session.config.registry), access)
