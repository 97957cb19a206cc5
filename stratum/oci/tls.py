"""Who is trusted to say that a registry is who it says it is."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from urllib3.util.ssl_ import create_urllib3_context

from stratum.oci.deadline import Adapter

_SYSTEM_AUTHORITIES = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))


def system_authorities() -> Path | None:
    """The file with the system's certificate authorities, or None where it has none."""
    return next((path for path in _SYSTEM_AUTHORITIES if path.is_file()), None)


def tls_context() -> ssl.SSLContext:
    """TLS as urllib3 has it by default, and the same on every Python.

    From 3.13 on Python asks that certificates keep to each letter of RFC 5280. An authority that was made by a plain
    ``openssl req -x509`` does not, as it has no key usage; people have such authorities for their own registries, and
    every other client takes them. What is signed, by whom and for which host is checked all the same.
    """
    context = create_urllib3_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class TlsAdapter(Adapter):
    """An adapter whose connections have that context, through proxies too."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=tls_context())

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, **kwargs, ssl_context=tls_context())
