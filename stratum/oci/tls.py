"""Who is trusted to say that a registry is who it says it is."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from urllib3.util.ssl_ import create_urllib3_context

from stratum.errors import StratumError, os_error_text
from stratum.oci.deadline import Adapter

_SYSTEM_AUTHORITIES = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))


def system_authorities() -> Path | None:
    """The file with the system's certificate authorities, or None where it has none."""
    return next((path for path in _SYSTEM_AUTHORITIES if path.is_file()), None)


def tls_context(authorities: Sequence[Path] = ()) -> ssl.SSLContext:
    """TLS as urllib3 has it by default, and the same on every Python. ``authorities`` count besides those of requests.

    From 3.13 on Python asks that certificates keep to each letter of RFC 5280. An authority that was made by a plain
    ``openssl req -x509`` does not, as it has no key usage; people have such authorities for their own registries, and
    every other client takes them. What is signed, by whom and for which host is checked all the same.

    Raises ``StratumError`` where a file cannot be read.
    """
    context = create_urllib3_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    path = None
    try:
        for path in authorities:
            context.load_verify_locations(path)
    except OSError as exc:  # also what ssl raises
        raise StratumError(f"cannot read certificate authorities: {path}: {os_error_text(exc)}") from None
    return context


class TlsAdapter(Adapter):
    """An adapter whose connections have that context, through proxies too."""

    def __init__(self, authorities: Sequence[Path], **kwargs: Any) -> None:
        self._context = tls_context(authorities)
        super().__init__(**kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, **kwargs, ssl_context=self._context)
