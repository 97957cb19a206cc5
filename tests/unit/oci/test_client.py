"""What the registry client shows, and the addresses that it asks."""

from __future__ import annotations

import pytest

from stratum.oci.access import Access
from stratum.oci.client import RegistryClient
from stratum.oci.remote import Sink
from stratum.oci.target import parse_target


def test_the_client_shows_the_contract_and_nothing_of_oras() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    with RegistryClient(parse_target("h.x/a"), Access()) as client:
        assert public(RegistryClient) == public(Sink)
        assert {name for name in vars(client) if not name.startswith("_")} == {"target"}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost/a.b/c", "http://localhost/v2/a.b/c/manifests/v1"),
        ("[::1]:5000/a", "http://[::1]:5000/v2/a/manifests/v1"),
        ("docker.io/library/a", "https://registry-1.docker.io/v2/library/a/manifests/v1"),
        ("h.x:5/a/b/c", "https://h.x:5/v2/a/b/c/manifests/v1"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    with RegistryClient(parse_target(text), Access()) as client:
        assert client._url(client._places.manifest_url("v1")) == url
