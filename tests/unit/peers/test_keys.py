"""Keys, certificates and cards: what a host shows, and what nobody takes for it."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stratum.errors import DamagedError, UsageError
from stratum.peers.cards import Card, parse_address, parse_card, peer_name_of
from stratum.peers.keys import certificate_in, check_certificate, key_id, make_key_file

DER = serialization.Encoding.DER


def test_a_certificate_follows_from_its_key_and_no_clock_ends_it(tmp_path: Path) -> None:
    file = make_key_file()
    certificate = certificate_in(file, "a file")
    check_certificate(certificate)
    path = tmp_path / "key.pem"
    path.write_bytes(file)
    for moment in (1, 10**9, 2**31 + 1, 250_000_000_000):  # 1970, 2001, 2038, 9892
        subprocess.run(
            ["openssl", "verify", "-attime", str(moment), "-CAfile", path, path], check=True, capture_output=True
        )
    found = x509.load_der_x509_certificate(certificate)
    assert key_id(certificate) in found.subject.rfc4514_string()
    assert key_id(certificate) != key_id(certificate_in(make_key_file(), "a file"))
    for damaged in (b"", file[:100], file.replace(b"CERT", b"CART")):
        with pytest.raises(DamagedError):
            certificate_in(damaged, "a file")


def test_no_other_certificate_is_one_of_a_peer() -> None:
    key, name = Ed25519PrivateKey.generate(), x509.Name([])
    begin = datetime(2026, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(5).not_valid_before(begin)
    builder = builder.not_valid_after(begin + timedelta(days=9))
    other = ec.generate_private_key(ec.SECP256R1())
    good = certificate_in(make_key_file(), "a file")
    wrong = [
        builder.public_key(key.public_key()).sign(key, None).public_bytes(DER),
        builder.public_key(other.public_key()).sign(other, hashes.SHA256()).public_bytes(DER),
        builder.public_key(key.public_key()).sign(Ed25519PrivateKey.generate(), None).public_bytes(DER),
        good + b"\0",
        good[:-1],
        good[:100] + bytes([good[100] ^ 1]) + good[101:],
        good[:-1] + bytes([good[-1] ^ 1]),
        good * 4,
        b"",
    ]
    for certificate in wrong:
        with pytest.raises(UsageError):
            check_certificate(certificate)


def test_cards_and_addresses() -> None:
    card = Card("attic.home", certificate_in(make_key_file(), "a file"))
    assert parse_card(f" {card}\n") == card
    for text in ("", "x", str(card)[:-1], str(card) + "A", str(card).replace("peer:", "peer::"), f"{card}="):
        with pytest.raises(UsageError):
            check_certificate(parse_card(text).certificate)
    assert parse_address("https://Attic.Example:5443/") == "attic.example:5443"
    assert parse_address("[fe80::1]:1") == "[fe80::1]:1"
    for text in (
        "",
        "attic",
        "attic:0",
        "attic:65536",
        ":5",
        "http://a:1",
        "a:1/x",
        "a b:1",
        "[::x]:1",
        "a@b:1",
        "é:1",
    ):
        with pytest.raises(UsageError):
            parse_address(text)
    assert [peer_name_of(name) for name in ("attic.example", "a b", "", "-", "é", "0" * 64)] == [
        "attic",
        "a-b",
        "host",
        "host",
        "host",
        "0" * 63,
    ]
