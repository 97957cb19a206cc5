"""How a mount's sources are reached: the settings of who mounted it, and the secrets of that mount alone."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from stratum.config import load_config
from stratum.errors import UsageError
from stratum.hydrate.reaching import access_for, keys_to_json
from stratum.oci.target import parse_target


def secret(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """Settings that lead to a password for any repository of two registries."""
    auths = {host: {"auth": secret(f"node:{host}")} for host in ("one.example", "two.example")}
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": auths}))
    return {"REGISTRY_AUTH_FILE": str(path), "STRATUM_INSECURE_REGISTRIES": "one.example", "https_proxy": "http://p"}


def test_the_settings_of_who_mounted_it(settings: dict[str, str]) -> None:
    access = access_for(load_config(settings), {"prefetch": "all"})
    assert access.credentials("one.example", "team/app") == secret("node:one.example")
    assert access.insecure_registries == ("one.example",)
    assert access.proxies == {"https_proxy": "http://p"}
    assert access.authorities == ()


def test_the_secrets_of_the_mount_come_first(settings: dict[str, str]) -> None:
    auths = {"one.example/team/app": {"auth": secret("pod:x")}}
    access = access_for(load_config(settings), {"credentials": json.dumps(auths)})
    assert access.credentials("one.example", "team/app") == secret("pod:x")
    assert access.credentials("one.example", "team/other") == secret("node:one.example")
    assert access.credentials("two.example", "team/app") == secret("node:two.example")
    assert "pod" not in repr(access)


def test_an_isolated_mount_has_none_of_the_nodes(settings: dict[str, str]) -> None:
    auths = {"one.example/team/app": {"auth": secret("pod:x")}}
    access = access_for(load_config(settings), {"credentials": json.dumps(auths), "isolated": "true"})
    assert access.credentials("one.example", "team/app") == secret("pod:x")
    assert access.credentials("two.example", "team/app") is None
    assert access_for(load_config(settings), {"isolated": "true"}).credentials("one.example", "team/app") is None


def test_further_authorities_count_beside_those_that_did(settings: dict[str, str], tmp_path: Path) -> None:
    own = {"authorities": str(tmp_path / "ca.crt")}
    assert access_for(load_config(settings), own).authorities[-1] == tmp_path / "ca.crt"
    named = {**settings, "SSL_CERT_FILE": "/named.crt"}
    assert access_for(load_config(named), own).authorities == (Path("/named.crt"), tmp_path / "ca.crt")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "1"])
def test_credentials_that_are_no_table(settings: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match="credentials of a mount"):
        access_for(load_config(settings), {"credentials": text})


KEYS = {"AWS_ACCESS_KEY_ID": "pod", "AWS_SECRET_ACCESS_KEY": "secret"}
OF_NODE = {
    "AWS_ACCESS_KEY_ID": "node",
    "AWS_SECRET_ACCESS_KEY": "node's",
    "AWS_ENDPOINT_URL": "https://minio.example",
    "HOME": "/root",
    "STRATUM_PLACES": json.dumps({"s3://data": {"region": "eu-1", "profile": "node"}}),
}


@pytest.mark.parametrize(
    ("source", "ours"),
    [
        ("s3://data/app:v1", True),
        ("s3://data/other", True),
        ("s3://data/app?endpoint=https://minio.example", True),
        ("s3://data/app?endpoint=https://evil.example", False),
        ("s3://more/app", False),
        ("gs://data/app", False),
    ],
)
@pytest.mark.parametrize("isolated", [True, False])
def test_keys_of_a_mount_are_for_its_own_bucket(source: str, ours: bool, isolated: bool) -> None:
    """Nothing of the node's comes with them, but where the bucket is; without them an isolated mount has none."""
    options = {"keys": keys_to_json(parse_target("s3://data/app:v1"), KEYS)} | (
        {"isolated": "true"} if isolated else {}
    )
    access = access_for(load_config(OF_NODE), options, parse_target(source))
    where = {"AWS_ENDPOINT_URL": "https://minio.example"}
    if ours or isolated:
        assert access.environment == where | (KEYS if ours else {})
        assert not access.ambient
        assert (access.places["s3://data"].region, access.places["s3://data"].profile) == ("eu-1", None)
    else:
        assert access.environment["AWS_ACCESS_KEY_ID"] == "node"
        assert access.ambient
    assert "secret" not in repr(access)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"place": 1, "environment": {}}', '{"place": "s3://a", "environment": 3}']
)
def test_keys_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        access_for(load_config({}), {"keys": text}, parse_target("s3://data/app"))


@pytest.mark.parametrize(("account", "ours"), [("team", True), ("evil", False)])
def test_keys_of_an_azure_account_are_for_that(account: str, ours: bool) -> None:
    """What is noted of a source there always says the account."""
    keys = {"AZURE_STORAGE_ACCOUNT_NAME": "team", "AZURE_STORAGE_ACCOUNT_KEY": "secret"}
    options = {"keys": keys_to_json(parse_target("az://data/app"), keys), "isolated": "true"}
    source = parse_target(f"az://data/app?endpoint=https://{account}.blob.core.windows.net")
    access = access_for(load_config({"AZURE_STORAGE_ACCOUNT": "node"}), options, source)
    assert access.environment == (keys if ours else {"AZURE_STORAGE_ACCOUNT": "node"})
    assert not access.ambient
