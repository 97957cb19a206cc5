"""The certificate that clients are shown."""

from __future__ import annotations

import ssl
from pathlib import Path

from stratum.errors import StratumError, UsageError, os_error_text


class Certificate:
    """A certificate and its key in files, for TLS 1.2 and later. Both are read again by ``reload``."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises ``UsageError`` where they cannot be read, or do not belong together."""
        self._files = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.reload()

    def reload(self) -> None:
        """Show what the files have now, to who connects from now on. ``UsageError``: the old one stays."""
        certificate, key = self._files
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
            self.context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, StratumError) as exc:  # ssl's own are of OSError
            reason = exc.message if isinstance(exc, StratumError) else os_error_text(exc)
            raise UsageError(f"cannot use the certificate {certificate} with the key {key}: {reason}") from None


def _no_password() -> str:
    """Asked where a key is encrypted: nobody is there to type."""
    raise UsageError("the key has a password")
