"""How the sources of one mount are reached: by the settings of who mounted it, and what was said for this mount.

The options of a gate (``mount.plan``) that count here:

- ``credentials``: the ``auths`` table of a docker configuration, as JSON; asked before what the settings name.
- ``keys``: of one object store, as JSON: ``place``, its reference, and ``environment``, variables with keys. For that
  store they count instead of the environment of who mounted.
- ``isolated``: ``true`` where no others than these count.
- ``authorities``: a file of certificate authorities that count besides the system's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stratum.config import Config
from stratum.errors import UsageError
from stratum.frozen import replace as replace_frozen
from stratum.oci.access import Access, Credentials, access_of
from stratum.oci.bucketname import Bucket
from stratum.oci.target import Target, parse_target
from stratum.peers.link import no_peer
from stratum.store.peerbook import finder

CREDENTIALS = "credentials"
KEYS = "keys"
ISOLATED = "isolated"
AUTHORITIES = "authorities"

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AZURE_STORAGE_SERVICE_ENDPOINT", "STORAGE_EMULATOR_HOST")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")


def access_for(config: Config, options: Mapping[str, str], source: Target | None = None) -> Access:
    """How a mount's ``source`` is reached. The files that it names are read when a source is, not now.

    ``config`` are the settings of who mounted it. ``UsageError`` where the credentials are no such table.
    """
    access = access_of(config, peer=finder(config.store))
    if AUTHORITIES in options:
        from stratum.oci.tls import system_authorities

        known = access.authorities or tuple(filter(None, (system_authorities(),)))
        access = replace(access, authorities=(*known, Path(options[AUTHORITIES])))
    isolated = options.get(ISOLATED) == "true"
    if isolated:
        access = replace(access, peer=no_peer)
    if CREDENTIALS in options or isolated:
        found = _preferring(options.get(CREDENTIALS, "{}"), None if isolated else access.credentials)
        access = replace(access, credentials=found)
    if source is None or source.bucket is None:
        return access
    keys = _keys(options[KEYS], source.bucket, access.environment) if KEYS in options else None
    return with_keys(access, keys or {}) if keys is not None or isolated else access


def with_keys(access: Access, keys: Mapping[str, str]) -> Access:
    """``access`` for whom an object store is reached with these keys alone (variables), or without any. Of what this
    machine has, only where stores are counts."""
    places = {
        root: replace_frozen(place, profile=None, credentials_file=None, unsafe_concurrent=False)
        for root, place in access.places.items()
    }
    names = (*_ENDPOINTS, *_REGIONS, *(() if any(map(keys.get, _ACCOUNTS)) else _ACCOUNTS))
    where = {name: access.environment[name] for name in names if name in access.environment}
    return replace(access, environment={**where, **keys}, ambient=False, places=places)


def keys_to_json(place: Target, keys: Mapping[str, str]) -> str:
    """The option ``keys``."""
    return json.dumps({"place": place.place, "environment": dict(keys)})


def _keys(text: str, bucket: Bucket, environment: Mapping[str, str]) -> dict[str, str] | None:
    """The keys for ``bucket``; None where they are for another store, be it of the same name."""
    try:
        table = json.loads(text)
        place, keys = parse_target(table["place"]).bucket, dict(table["environment"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, UsageError):
        place, keys = None, {}
    if place is None or not all(isinstance(value, str) for value in keys.values()):
        raise UsageError("the keys of a mount are not those of an object store")
    endpoints = {place.endpoint}
    if place.endpoint is None:
        endpoints |= set(map(environment.get, _ENDPOINTS))
        accounts = filter(None, (given.get(name) for given in (keys, environment) for name in _ACCOUNTS))
        endpoints |= {f"https://{account}.blob.core.windows.net" for account in accounts}
    return keys if place.root == bucket.root and bucket.endpoint in endpoints else None


def _preferring(text: str, others: Credentials | None) -> Credentials:
    from stratum.oci.credentials import find_in

    try:
        auths = json.loads(text)
    except (ValueError, RecursionError):
        auths = None
    if not isinstance(auths, dict):
        raise UsageError("the credentials of a mount are no table of a docker configuration")

    def find(host: str, repository: str) -> str | None:
        found = find_in(auths, "what the mount was given", host, repository)
        return found if found is not None or others is None else others(host, repository)

    return find
