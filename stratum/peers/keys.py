"""A host's key, Ed25519, and the certificate that shows it to others.

The certificate is signed by the key itself: nobody else vouches for it, and a peer knows it because somebody gave it
the card (``peers.cards``). It follows from the key alone, byte for byte, and is valid from 1970 to the year 9999: no
clock, be it wrong, ends it. A key ends where peers remove it.

The **key ID** is the first 16 hex digits of the SHA-256 of the 32 bytes of the public key.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

CERTIFICATE_MAX = 1024
"""Bytes of a certificate; ours have under 400."""
KEY_FILE_MAX = 8192

_PUBLIC_KEY = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in a certificate (RFC 8410)."""
_BEGIN = datetime(1970, 1, 1)
_END = datetime(9999, 12, 31, 23, 59, 59)
_CERTIFICATE_MARK = "-----BEGIN CERTIFICATE-----"


def make_key_file() -> bytes:
    """A new key with its certificate, as the PEM file that TLS reads both from. ``UnsupportedError`` where
    cryptography is not installed."""
    _check_installed()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + _signed(key).public_bytes(serialization.Encoding.PEM)


def certificate_in(key_file: bytes, where: str) -> bytes:
    """The certificate (DER) in such a file. ``DamagedError`` names ``where``."""
    import ssl  # only who has peers needs it

    try:
        text = key_file.decode("ascii")
        der = ssl.PEM_cert_to_DER_cert(text[text.index(_CERTIFICATE_MARK) :])
        key_id(der)
    except (ValueError, UsageError):
        raise DamagedError(
            f"{where} is not the key of a host",
            hint="bring it back from a backup, or make a new one: stratum peer id --new; peers then need the new card",
        ) from None
    return der


def key_id(certificate: bytes) -> str:
    """The ID of the key that a certificate is for. ``UsageError`` where that is no Ed25519 key."""
    before, mark, after = certificate.partition(_PUBLIC_KEY)
    if not mark or not before or len(after) < 32:
        raise UsageError("the certificate is not that of a peer: it has no Ed25519 key")
    return hashlib.sha256(after[:32]).hexdigest()[:16]


def check_certificate(certificate: bytes) -> None:
    """``UsageError`` for anything but a certificate as ``make_key_file`` makes it: what a card brings is the word of a
    stranger. ``UnsupportedError`` where cryptography is not installed."""
    _check_installed()
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    if len(certificate) > CERTIFICATE_MAX:
        raise UsageError(f"a peer's certificate has at most {CERTIFICATE_MAX} bytes")
    try:
        found = x509.load_der_x509_certificate(certificate)
        public = found.public_key()
        if not isinstance(public, Ed25519PublicKey):
            raise UsageError("the certificate is not that of a peer: its key is not an Ed25519 key")
        public.verify(found.signature, found.tbs_certificate_bytes)
        expected = _builder(public).sign(Ed25519PrivateKey.generate(), None).tbs_certificate_bytes
        whole = found.public_bytes(serialization.Encoding.DER)
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        raise UsageError("the card's certificate is damaged") from None
    if found.tbs_certificate_bytes != expected or whole != certificate:
        raise UsageError("the certificate is not one that 'stratum peer id' makes")


def _signed(key: Ed25519PrivateKey) -> x509.Certificate:
    return _builder(key.public_key()).sign(key, None)


def _builder(public: Ed25519PublicKey) -> x509.CertificateBuilder:
    """All that is signed."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    raw = public.public_bytes_raw()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"stratum-{hashlib.sha256(raw).hexdigest()[:16]}")])
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(int.from_bytes(hashlib.sha256(raw).digest()[:8], "big") >> 1 | 1)
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )


def _check_installed() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise UnsupportedError(
            "peers need the Python package cryptography, which is not installed",
            hint="pip install 'stratum-oci[serve]'",
        ) from None
