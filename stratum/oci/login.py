"""Logging in to a registry and out again: passwords are tried first, then kept in the file that podman reads, too."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from stratum.errors import DeniedError, NotFoundError, UsageError
from stratum.oci.access import Access
from stratum.oci.bucketname import BUCKET_PREFIXES
from stratum.oci.credentials import auth_files, forget, holds, remember
from stratum.oci.target import Target, parse_target


def login(registry: str, user: str, password: str, access: Access, environment: Mapping[str, str]) -> Path:
    """Try ``user`` and ``password`` at ``registry`` ([http(s)://]HOST[:PORT]) and keep them; the file they are in.

    Of the files that ``environment`` names it is the one which has an entry for the registry, else
    ``REGISTRY_AUTH_FILE``, else ``$XDG_CONFIG_HOME/containers/auth.json``. Raises ``UsageError`` for a malformed
    registry or user, ``StratumError`` in the registry's words where it does not let the user in.
    """
    target = _parse(registry)
    if not user or ":" in user or not user.isprintable() or not password:
        raise UsageError("a user name without ':' and a password are needed")
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    _try(target, replace(access, credentials=lambda _host, _repository: secret))
    path = _file_for(target, environment)
    remember(path, _host(target), secret)
    return path


def _try(target: Target, access: Access) -> None:
    """Ask for the registry's base address, which it grants to those that it lets in; ``StratumError`` otherwise."""
    from stratum.oci.carrier import Carrier

    carrier = Carrier(target, access)
    with closing(carrier.transport) as transport:
        response = carrier.send(carrier.base)
        stranger, hint = carrier.auth.stranger, carrier.auth.hint
        if response.status_code in (401, 403):
            words = transport.words(response)
            raise DeniedError(f"{carrier.host} does not let this user in: {words}", hint=hint if stranger else "")
        carrier.expect(response, (200,), f"use {carrier.host} as a registry")
        transport.done(response)
        if stranger is not None:
            raise DeniedError(f"{carrier.host} was not told the password: its tokens come from {stranger}", hint=hint)


def logout(registry: str, environment: Mapping[str, str]) -> list[Path]:
    """Forget the credentials of ``registry`` in the files that ``environment`` names; those that had some.
    ``NotFoundError`` where none had."""
    host = _host(_parse(registry))
    paths = [path for path in auth_files(environment) if forget(path, host)]
    if not paths:
        raise NotFoundError(f"there are no credentials of {host} in any file")
    return paths


def _file_for(target: Target, environment: Mapping[str, str]) -> Path:
    files = auth_files(environment)
    for path in files:
        if holds(path, _host(target)):
            return path
    if environment.get("REGISTRY_AUTH_FILE"):
        return files[0]
    return files[-2]


def _parse(registry: str) -> Target:
    """The registry as a target; its repository has no meaning."""
    place = registry.rpartition("://")[2].rstrip("/")
    check_registry(registry)
    if "/" in place or place.startswith("oci:"):
        raise UsageError(f"{registry!r} is not a registry", hint="write it as [http://|https://]HOST[:PORT]")
    return parse_target(f"{registry.rstrip('/')}/repository")


def check_registry(place: str) -> None:
    """``UsageError`` for an object store, that says what to do instead of logging in."""
    if place.startswith(BUCKET_PREFIXES):
        raise UsageError(
            f"{place!a} is an object store, which has no login: its keys are those of its own tools",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run 'aws configure' ('gcloud auth "
            "application-default login', AZURE_STORAGE_ACCOUNT_KEY for gs:// and az://)",
        )


def _host(target: Target) -> str:
    assert target.host is not None
    return target.host
