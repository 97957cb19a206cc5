"""From a bucket to obstore's clients: credentials, TLS, proxies, time limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import stratum
from stratum.errors import StratumError, UsageError, os_error_text
from stratum.oci.access import Access
from stratum.oci.bucketerrors import Place, failure
from stratum.oci.bucketname import Bucket
from stratum.oci.bucketremote import Clients, obstore
from stratum.oci.foundkeys import USUAL_REGION, Found, settings_of
from stratum.oci.target import is_loopback

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_RETRIES = 4
_PART_TIMEOUT = 600
"""Seconds in which one part of an upload has to be there."""

_NOWHERE = "http://127.0.0.1:9"
_METADATA_HOSTS = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "metadata.google.internal")


def client_of(bucket: Bucket, access: Access) -> Clients:
    """How ``bucket`` is reached, with the credentials that were found. ``StratumError`` as ``bucket.open_bucket``."""
    obstore()
    found = _found(bucket, access)
    _check_scheme(bucket, found.endpoint, access)
    host = urlsplit(found.endpoint).netloc
    place = Place(str(bucket), host, bucket.scheme, (*found.secrets, *_proxy_secrets(access.proxies)))
    short, long = (_options(found.endpoint, access, long=long) for long in (False, True))

    def make(options: dict[str, Any], **more: Any) -> ObjectStore:
        return _store(bucket, found, options, access, place, more)

    plain = (lambda: make(short, disable_bulk_delete=True)) if bucket.scheme == "s3" else None
    located = _located(bucket, found, access)
    return Clients(make(short), make(long), place, found.endpoint, found.known, located, plain)


def _located(bucket: Bucket, found: Found, access: Access) -> Bucket:
    """The bucket with the endpoint and the region that were found in the environment or in files of other tools."""
    settings = settings_of(bucket, access)
    endpoint, region = bucket.endpoint, bucket.region
    if endpoint is None and not (settings.endpoint or settings.account) and (not found.known or bucket.scheme == "az"):
        endpoint = found.endpoint
    if region is None and bucket.scheme == "s3" and not settings.region and found.config["region"] != USUAL_REGION:
        region = found.config["region"]
    return replace(bucket, endpoint=endpoint, region=region)


def _found(bucket: Bucket, access: Access) -> Found:
    if bucket.scheme == "s3":
        from stratum.oci.awskeys import aws_found

        return aws_found(bucket, access)
    if bucket.scheme == "gs":
        from stratum.oci.gcskeys import gcs_found

        return gcs_found(bucket, access)
    from stratum.oci.azurekeys import azure_found

    return azure_found(bucket, access)


def _check_scheme(bucket: Bucket, endpoint: str, access: Access) -> None:
    """Refuse HTTP without TLS where nobody allowed it."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or access.plain_http or is_loopback(parts.netloc):
        return
    if parts.netloc not in access.insecure_registries:
        raise UsageError(
            f"{bucket.root} is at {endpoint}, which is plain HTTP: everybody on the way could read and change it",
            hint=f"use https://, or allow it with --plain-http or {parts.netloc} in the setting insecure_registries",
        )


def _store(
    bucket: Bucket, found: Found, options: dict[str, Any], access: Access, place: Place, more: Mapping[str, Any]
) -> ObjectStore:
    import obstore.store as stores

    kinds: dict[str, Any] = {"s3": stores.S3Store, "gs": stores.GCSStore, "az": stores.AzureStore}
    retries = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=access.patience)}
    given = {"credential_provider": _renewing(found.provider, place)} if found.provider is not None else {}
    try:
        store: ObjectStore = kinds[bucket.scheme](
            bucket.name, config={**found.config, **more}, client_options=options, retry_config=retries, **given
        )
    except Exception as exc:  # what obstore raises for what it is given is of many kinds
        raise failure(exc, f"use {place.name}", place) from None
    return store


def _renewing(provider: Callable[[], Any], place: Place) -> Callable[[], Any]:
    """``provider``, as obstore calls it: at first, and whenever what it gave is about to end."""

    def provide() -> Any:
        try:
            keys = provider()
        except StratumError as exc:
            place.trouble = exc
            raise
        place.trouble = None
        place.keep((keys.get("secret_access_key"), keys.get("token")))
        return keys

    return provide


def _options(endpoint: str, access: Access, *, long: bool) -> dict[str, Any]:
    """obstore's options of a client. What they do not say it would take from the environment."""
    options: dict[str, Any] = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=access.connect_timeout),
        "timeout": timedelta(seconds=_PART_TIMEOUT if long else access.patience),
        "user_agent": f"stratum/{stratum.__version__}",
        **_proxy(endpoint, access.proxies),
    }
    if not long:
        options["read_timeout"] = timedelta(seconds=access.read_timeout)
    authorities = _authorities(access)
    if authorities:
        options["root_certificate"] = authorities
    return options


def _proxy(endpoint: str, proxies: Mapping[str, str]) -> dict[str, str]:
    proxy = proxies.get(f"{urlsplit(endpoint).scheme}_proxy")
    if not proxy:  # else the variables of the process would count
        return {"proxy_url": _NOWHERE, "proxy_excludes": "*,0.0.0.0/0,::/0"}
    excludes = [each for each in (proxies.get("no_proxy", ""), *_METADATA_HOSTS) if each]
    return {"proxy_url": proxy if "://" in proxy else f"http://{proxy}", "proxy_excludes": ",".join(excludes)}


def _proxy_secrets(proxies: Mapping[str, str]) -> list[str]:
    found = []
    for proxy in proxies.values():
        user, at, _ = proxy.rpartition("://")[2].rpartition("@")
        if at:
            found += [user, user.partition(":")[2]]
    return found


def _authorities(access: Access) -> str:
    """The certificates that count besides the system's, as one PEM text. ``UsageError``, ``StratumError``."""
    if access.ca_file is not None and not access.ca_file.is_file():
        raise UsageError(f"there is no certificate file {access.ca_file}")
    texts = []
    for path in (access.ca_file,) if access.ca_file is not None else access.authorities:
        try:
            texts.append(path.read_text("ascii", "ignore"))
        except OSError as exc:
            raise StratumError(f"cannot read the certificates in {path}: {os_error_text(exc)}") from None
        if "-----BEGIN CERTIFICATE-----" not in texts[-1]:
            raise UsageError(f"{path} has no certificates in it", hint="it is a text with -----BEGIN CERTIFICATE-----")
    return "\n".join(texts)
