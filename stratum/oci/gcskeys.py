"""Credentials of Google Cloud Storage, as Google's tools find them.

In this order: the table of the bucket in the settings; ``GOOGLE_APPLICATION_CREDENTIALS``; what ``gcloud auth
application-default login`` left; the machine's service account. Tokens are got and renewed by obstore.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stratum.errors import StratumError, quoted
from stratum.oci.access import Access
from stratum.oci.bucketname import Bucket
from stratum.oci.foundkeys import (
    Found,
    endpoint_from,
    has_metadata_service,
    home_file,
    json_of,
    keys_file,
    no_keys,
    read_file,
    settings_of,
)

_SERVICE = "https://storage.googleapis.com"
_KINDS = ("service_account", "authorized_user")
_NOBODY = "anonymous"
_ADC = "application_default_credentials.json"


def gcs_found(bucket: Bucket, access: Access) -> Found:
    """How the bucket is reached. ``DeniedError`` where there are no credentials, ``UsageError``, ``StratumError``."""
    settings, environment = settings_of(bucket, access), access.environment
    emulator = environment.get("STORAGE_EMULATOR_HOST")
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    given = endpoint_from(bucket, settings.endpoint, emulator)
    endpoint = given or _SERVICE
    config: dict[str, Any] = {"base_url": endpoint, "skip_signature": False}
    key, own = environment.get("GOOGLE_SERVICE_ACCOUNT_KEY"), keys_file(settings, access)
    if settings.anonymous or (emulator and not own):
        return _anonymous(config, endpoint, given)
    if key and not own:
        config["service_account_key"] = key
        return Found(config, endpoint, given is None, None, _secrets(json_of(key, "GOOGLE_SERVICE_ACCOUNT_KEY")))
    if not access.ambient:
        return _anonymous(config, endpoint, given)
    path = own or _file(access)
    if path is not None:
        return Found(config, endpoint, given is None, None, _from_file(path, config))
    if not has_metadata_service():
        raise no_keys(
            bucket, endpoint, "not in GOOGLE_APPLICATION_CREDENTIALS, and gcloud auth application-default has none"
        )
    return Found(config, endpoint, given is None)


def _anonymous(config: dict[str, Any], endpoint: str, given: str | None) -> Found:
    """Without credentials. obstore would ask the machine for some to write with, also so: it gets a token of nobody."""
    config["skip_signature"] = True
    return Found(config, endpoint, given is None, lambda: {"token": _NOBODY, "expires_at": None})


def _file(access: Access) -> Path | None:
    named = access.environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return Path(named)
    configured = access.environment.get("CLOUDSDK_CONFIG")
    path = Path(configured, _ADC) if configured else home_file(access.environment, ".config", "gcloud", _ADC)
    return path if path is not None and path.is_file() else None


def _from_file(path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """Have ``config`` use the credentials in a file; what of them is secret."""
    text = read_file(path, "Google's credentials", needed=True)
    table = json_of(text or "", str(path))
    kind = table.get("type")
    if kind not in _KINDS:
        raise StratumError(
            f"{path} has credentials of the type {quoted(kind)}, which cannot be used",
            hint=f"those that can: {', '.join(_KINDS)}; 'gcloud auth application-default login' makes some",
        )
    config["service_account_key" if kind == "service_account" else "application_credentials"] = (
        text if kind == "service_account" else str(path)
    )
    return _secrets(table)


def _secrets(table: dict[str, Any]) -> tuple[str, ...]:
    names = ("private_key", "client_secret", "refresh_token", "private_key_id")
    return tuple(value for value in map(table.get, names) if isinstance(value, str))
