"""Credentials and account of Azure Blob Storage, as the Azure tools find them.

In this order: the table of the container in the settings; ``AZURE_STORAGE_CONNECTION_STRING``, ``AZURE_STORAGE_KEY``,
``AZURE_STORAGE_SAS_TOKEN`` with ``AZURE_STORAGE_ACCOUNT``; a service principal or a workload's identity
(``AZURE_CLIENT_ID``, ``AZURE_TENANT_ID`` ...); the ``az`` program where it is logged in; the machine's identity.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from stratum.errors import UsageError
from stratum.oci.access import Access
from stratum.oci.bucketname import Bucket
from stratum.oci.foundkeys import (
    Found,
    endpoint_from,
    first,
    has_metadata_service,
    home_file,
    keys_file,
    no_keys,
    read_file,
    settings_of,
)

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_DEVELOPMENT = {
    "AccountName": "devstoreaccount1",
    "BlobEndpoint": "http://127.0.0.1:10000/devstoreaccount1",
}
_DEVELOPMENT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The emulator's, which is published."""

_NAMES = {
    "account": "AZURE_STORAGE_ACCOUNT",
    "key": "AZURE_STORAGE_KEY",
    "sas": "AZURE_STORAGE_SAS_TOKEN",
}


def azure_found(bucket: Bucket, access: Access) -> Found:
    """How it is reached. ``DeniedError`` where there are no credentials; ``UsageError``, ``StratumError``."""
    settings, environment = settings_of(bucket, access), access.environment
    path = keys_file(settings, access)
    text = read_file(path, "the connection string", needed=True) if path else None
    string = read_connection(text or environment.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    suffix = string.get("EndpointSuffix", "core.windows.net")
    given = endpoint_from(
        bucket, settings.endpoint, string.get("BlobEndpoint"), environment.get("AZURE_STORAGE_SERVICE_ENDPOINT")
    )
    account = first(settings.account, string.get("AccountName"), _variable(environment, "account"), _account_in(given))
    if account is None or not _ACCOUNT.fullmatch(account):
        raise UsageError(
            f"{bucket.root} does not say which storage account it is in",
            hint=f'set AZURE_STORAGE_ACCOUNT, or account in [places."{bucket.root}"] of the settings',
        )
    endpoint = given or f"https://{account}.blob.{suffix}"
    known = _account_in(endpoint) is not None
    config: dict[str, Any] = {"account_name": account, "endpoint": endpoint, "skip_signature": False}
    key = first(string.get("AccountKey"), _variable(environment, "key"))
    sas = first(string.get("SharedAccessSignature"), _variable(environment, "sas"))
    secret = environment.get("AZURE_CLIENT_SECRET")
    secrets = tuple(filter(None, (key, sas, secret)))
    if settings.anonymous:
        config["skip_signature"] = True
    elif key is not None:
        config |= {"account_key": key, "credential_type": "access_key"}
    elif sas is not None:
        config |= {"sas_key": sas.lstrip("?"), "credential_type": "sas_token"}
    elif not _principal(environment, config, ambient=access.ambient):
        if not access.ambient:
            config["skip_signature"] = True
        elif not _by_machine(environment, config):
            raise no_keys(bucket, endpoint, "not in AZURE_STORAGE_KEY or the like, and az is not logged in")
    return Found(config, endpoint, known, None, secrets)


def _variable(environment: Mapping[str, str], what: str) -> str | None:
    return environment.get(_NAMES[what]) or None


def _account_in(endpoint: str | None) -> str | None:
    """The account of an endpoint of Azure's own."""
    host = urlsplit(endpoint or "").hostname or ""
    name, _, rest = host.partition(".")
    return name if rest.startswith("blob.core.") else None


def read_connection(text: str) -> dict[str, str]:
    """A connection string as a table. ``UsageError``."""
    table = {}
    for part in filter(None, map(str.strip, text.strip().split(";"))):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError("the connection string of Azure is not one", hint="it is KEY=VALUE;KEY=VALUE...")
        table[key] = value
    if table.get("UseDevelopmentStorage", "").lower() == "true":
        return {**_DEVELOPMENT, "AccountKey": _DEVELOPMENT_KEY}
    return table


def _principal(environment: Mapping[str, str], config: dict[str, Any], *, ambient: bool) -> bool:
    """Whether a service principal or a workload's identity is named."""
    client, tenant = environment.get("AZURE_CLIENT_ID"), environment.get("AZURE_TENANT_ID")
    if not client or not tenant:
        return False
    found: dict[str, Any] = {"client_id": client, "tenant_id": tenant}
    if environment.get("AZURE_CLIENT_SECRET"):
        found |= {"client_secret": environment["AZURE_CLIENT_SECRET"], "credential_type": "client_secret"}
    elif ambient and environment.get("AZURE_FEDERATED_TOKEN_FILE"):
        file = environment["AZURE_FEDERATED_TOKEN_FILE"]
        found |= {"federated_token_file": file, "credential_type": "workload_identity"}
    else:
        return False
    if ambient and environment.get("AZURE_AUTHORITY_HOST"):
        found["authority_host"] = environment["AZURE_AUTHORITY_HOST"]
    config |= found
    return True


def _by_machine(environment: Mapping[str, str], config: dict[str, Any]) -> bool:
    """Whether the ``az`` program is logged in, or the machine may have an identity."""
    configured = environment.get("AZURE_CONFIG_DIR")
    profile = home_file({"HOME": configured}, "azureProfile.json") if configured else None
    profile = profile or home_file(environment, ".azure", "azureProfile.json")
    if profile is not None and profile.is_file() and shutil.which("az", path=environment.get("PATH")):
        config |= {"use_azure_cli": True, "credential_type": "azure_cli"}
        return True
    if has_metadata_service():
        config["credential_type"] = "managed_identity"
        if environment.get("AZURE_CLIENT_ID"):
            config["client_id"] = environment["AZURE_CLIENT_ID"]
        return True
    return False
