"""Credentials of object stores: where they are found, by whom they may be, and that a real server takes them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from stratum.config import PlaceSettings
from stratum.errors import DeniedError, StratumError, UsageError
from stratum.oci import foundkeys
from stratum.oci.access import Access
from stratum.oci.awskeys import aws_found
from stratum.oci.azurekeys import azure_found
from stratum.oci.bucket import BucketStore, open_bucket
from stratum.oci.bucketname import Bucket
from stratum.oci.foundkeys import Found
from stratum.oci.gcskeys import gcs_found
from tests.support.s3server import KEY, SECRET, S3Server

S3, GS, AZ = Bucket("s3", "data"), Bucket("gs", "data"), Bucket("az", "data")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is in no cloud."""
    monkeypatch.setattr(foundkeys, "_METADATA", ("127.0.0.1", 1))


def access_with(environment: Mapping[str, str], *, ambient: bool = True, **places: PlaceSettings) -> Access:
    return Access(
        environment=environment, ambient=ambient, places={f"{scheme}://data": told for scheme, told in places.items()}
    )


def given(found: Found) -> tuple[str, str, str | None]:
    assert found.provider is not None
    keys = found.provider()
    return keys["access_key_id"], keys["secret_access_key"], keys["token"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with files of the AWS tools."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = ds\n\n"
        "[work]\naws_access_key_id = w\naws_secret_access_key = ws=with=signs\naws_session_token = wt\n"
    )
    (tmp_path / ".aws/config").write_text(
        "[default]\nregion = eu-north-1\n[profile work]\nregion = eu-west-3\ns3 =\n  endpoint_url = https://w.example.com\n"
        "[profile bare]\nservices = mine\nrole_arn = arn:x\nweb_identity_token_file = /run/token\n"
        "[services mine]\ns3 =\n  max_attempts = 2\n  endpoint_url = https://m.example.com/\n"
        "[profile sso]\nsso_session = x\n[profile broken]\ncredential_process = 'unclosed\n"
    )
    return tmp_path


def test_keys_of_the_environment_come_first(home: Path) -> None:
    environment = {
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": "e",
        "AWS_SECRET_ACCESS_KEY": "es",
        "AWS_SESSION_TOKEN": "et",
        "AWS_PROFILE": "work",
        "AWS_ENDPOINT_URL": "https://e.example.com",
    }
    found = aws_found(S3, access_with(environment))
    assert given(found) == ("e", "es", "et")
    assert (found.endpoint, found.config["region"], found.known) == ("https://e.example.com", "eu-west-3", False)
    assert set(found.secrets) == {"es", "et"}
    assert "es" not in repr(found)
    ours = aws_found(Bucket("s3", "data", "", "https://r.example.com", "r"), access_with(environment))
    assert (ours.endpoint, ours.config["region"]) == ("https://r.example.com", "r")


def test_profiles(home: Path) -> None:
    found = aws_found(S3, access_with({"HOME": str(home)}))
    assert given(found) == ("d", "ds", None)
    assert (found.endpoint, found.known) == ("https://s3.eu-north-1.amazonaws.com", True)
    found = aws_found(S3, access_with({"HOME": str(home), "AWS_PROFILE": "work"}))
    assert given(found) == ("w", "ws=with=signs", "wt")
    assert found.endpoint == "https://w.example.com"
    found = aws_found(S3, access_with({"HOME": str(home), "AWS_PROFILE": "bare"}))
    assert found.provider is None
    assert found.config["web_identity_token_file"] == "/run/token"
    assert found.endpoint == "https://m.example.com"
    with pytest.raises(StratumError, match="no AWS profile 'gone'"):
        aws_found(S3, access_with({"HOME": str(home), "AWS_PROFILE": "gone"}))
    with pytest.raises(DeniedError, match="only the aws program knows"):
        aws_found(S3, access_with({"HOME": str(home), "AWS_PROFILE": "sso", "PATH": "/nowhere"}))
    with pytest.raises(StratumError, match="is not a command"):
        aws_found(S3, access_with({"HOME": str(home), "AWS_PROFILE": "broken"}))


def test_keys_of_a_session_are_read_again(home: Path) -> None:
    found = aws_found(S3, access_with({"HOME": str(home), "AWS_PROFILE": "work"}))
    assert found.provider is not None
    assert found.provider()["expires_at"] is not None
    path = home / ".aws/credentials"
    path.write_text(path.read_text().replace("= wt", "= renewed"))
    assert given(found)[2] == "renewed"


def test_a_program_that_gives_keys(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    count = tmp_path / "count"
    program.write_text(
        f"#!{sys.executable} -IS\nimport json\nopen({str(count)!r}, 'a').write('x')\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': 'p', 'SecretAccessKey': 'ps', 'SessionToken': 'pt',"
        " 'Expiration': '2030-01-01T00:00:00Z'}))\n"
    )
    program.chmod(0o755)
    with (home / ".aws/config").open("a") as file:
        file.write(f"[profile p]\ncredential_process = '{program}' --arg\n[profile f]\ncredential_process = false\n")
    found = aws_found(S3, access_with({"HOME": str(home), "AWS_PROFILE": "p", "PATH": "/usr/bin:/bin"}))
    assert given(found) == ("p", "ps", "pt")
    assert count.read_text() == "x"
    assert given(found) == ("p", "ps", "pt")
    assert count.read_text() == "xx"
    with pytest.raises(DeniedError, match="credential_process"):
        aws_found(S3, access_with({"HOME": str(home), "AWS_PROFILE": "f", "PATH": "/usr/bin:/bin"}))


def test_settings_come_before_the_environment(home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("[default]\naws_access_key_id = o\naws_secret_access_key = os\n")
    environment = {"HOME": str(home), "AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "es", "AWS_REGION": "x"}
    told = PlaceSettings(endpoint="https://s.example.com", region="y", credentials_file=str(own))
    found = aws_found(S3, access_with(environment, s3=told))
    assert given(found) == ("o", "os", None)
    assert (found.endpoint, found.config["region"]) == ("https://s.example.com", "y")
    assert given(aws_found(S3, access_with(environment, s3=PlaceSettings(profile="work"))))[0] == "w"
    found = aws_found(S3, access_with(environment, s3=PlaceSettings(anonymous=True)))
    assert found.provider is None
    assert found.config["skip_signature"] is True
    with pytest.raises(StratumError, match="cannot read"):
        aws_found(S3, access_with(environment, s3=PlaceSettings(credentials_file=str(tmp_path / "gone"))))


def test_nothing_but_keys_of_who_may_not_name_files(home: Path, tmp_path: Path) -> None:
    """What a pod's author gives names no file of the node, and has not the node's role."""
    spy = tmp_path / "ran"
    (home / ".aws/config").write_text(f"[default]\ncredential_process = touch {spy}\n")
    environment = {
        "HOME": str(home),
        "AWS_PROFILE": "work",
        "AWS_CONFIG_FILE": str(home / ".aws/config"),
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/token",
        "AWS_ROLE_ARN": "arn:x",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/shadow",
        "AZURE_STORAGE_ACCOUNT": "account",
        "AZURE_FEDERATED_TOKEN_FILE": "/var/run/secrets/token",
        "AZURE_CLIENT_ID": "x",
        "AZURE_TENANT_ID": "y",
        "PATH": "/usr/bin:/bin",
    }
    for find, bucket in ((aws_found, S3), (gcs_found, GS), (azure_found, AZ)):
        found = find(bucket, access_with(environment, ambient=False))
        assert found.provider is None or found.provider() == {"token": "anonymous", "expires_at": None}
        assert found.config["skip_signature"] is True
        assert not any("token" in key or "file" in key or "application" in key for key in found.config)
    assert not spy.exists()
    keys = {"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "es"}
    assert given(aws_found(S3, access_with({**environment, **keys}, ambient=False)))[0] == "e"


def test_settings_that_name_files_are_not_for_who_comes_with_keys(home: Path) -> None:
    told = PlaceSettings(region="eu", profile="work", credentials_file="/etc/shadow")
    keys = {"AWS_ACCESS_KEY_ID": "theirs", "AWS_SECRET_ACCESS_KEY": "s", "AWS_PROFILE": "default"}
    found = aws_found(S3, access_with(keys, ambient=False, s3=told))
    assert given(found) == ("theirs", "s", None)
    assert found.config["region"] == "eu"
    google = {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "pk"}'}
    assert gcs_found(GS, access_with(google, ambient=False, gs=told)).secrets == ("pk",)


def test_without_any_credentials(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/nowhere", "AZURE_STORAGE_ACCOUNT": "account"}
    for find, bucket in ((aws_found, S3), (gcs_found, GS), (azure_found, AZ)):
        with pytest.raises(DeniedError, match="no credentials") as caught:
            find(bucket, access_with(environment))
        assert "anonymous = true" in caught.value.hint
    with pytest.raises(UsageError, match="without its secret"):
        aws_found(S3, access_with({"AWS_ACCESS_KEY_ID": "x"}))
    roles = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}
    found = aws_found(S3, access_with({**environment, **roles}))
    assert found.config["container_credentials_full_uri"] == roles["AWS_CONTAINER_CREDENTIALS_FULL_URI"]


def test_google(tmp_path: Path) -> None:
    adc = tmp_path / ".config/gcloud/application_default_credentials.json"
    adc.parent.mkdir(parents=True)
    user = {"type": "authorized_user", "client_id": "i", "client_secret": "cs", "refresh_token": "rt"}
    adc.write_text(json.dumps(user))
    found = gcs_found(GS, access_with({"HOME": str(tmp_path)}))
    assert found.config["application_credentials"] == str(adc)
    assert set(found.secrets) == {"cs", "rt"}
    assert found.known
    service = tmp_path / "service.json"
    service.write_text(json.dumps({"type": "service_account", "private_key": "pk", "client_email": "e"}))
    found = gcs_found(GS, access_with({"HOME": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": str(service)}))
    assert json.loads(found.config["service_account_key"])["private_key"] == "pk"
    found = gcs_found(GS, access_with({"HOME": str(tmp_path)}, gs=PlaceSettings(credentials_file=str(service))))
    assert "service_account_key" in found.config
    found = gcs_found(GS, access_with({"STORAGE_EMULATOR_HOST": "localhost:4443"}))
    assert (found.endpoint, found.config["skip_signature"], found.known) == ("http://localhost:4443", True, False)
    for text, words in (
        ("{}", "the type None"),
        ("no", "not a JSON object"),
        ('{"type":"external_account"}', "external"),
    ):
        service.write_text(text)
        with pytest.raises(StratumError, match=words):
            gcs_found(GS, access_with({"GOOGLE_APPLICATION_CREDENTIALS": str(service)}))


def test_azure(tmp_path: Path) -> None:
    account = {"AZURE_STORAGE_ACCOUNT": "account"}
    found = azure_found(AZ, access_with({**account, "AZURE_STORAGE_KEY": "a2V5"}))
    assert (found.endpoint, found.config["account_key"], found.known) == (
        "https://account.blob.core.windows.net",
        "a2V5",
        True,
    )
    found = azure_found(AZ, access_with({**account, "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=s"}))
    assert found.config["sas_key"] == "sv=1&sig=s"
    string = "DefaultEndpointsProtocol=https;AccountName=other;AccountKey=a2V5==;EndpointSuffix=core.chinacloudapi.cn"
    found = azure_found(AZ, access_with({"AZURE_STORAGE_CONNECTION_STRING": string}))
    assert (found.endpoint, found.config["account_key"]) == ("https://other.blob.core.chinacloudapi.cn", "a2V5==")
    found = azure_found(AZ, access_with({"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}))
    assert (found.endpoint, found.known) == ("http://127.0.0.1:10000/devstoreaccount1", False)
    principal = {"AZURE_CLIENT_ID": "i", "AZURE_TENANT_ID": "t", "AZURE_CLIENT_SECRET": "cs"}
    found = azure_found(Bucket("az", "data", "", "https://named.blob.core.windows.net"), access_with(principal))
    assert (found.config["account_name"], found.config["credential_type"]) == ("named", "client_secret")
    assert "cs" in found.secrets
    (tmp_path / ".azure").mkdir()
    (tmp_path / ".azure/azureProfile.json").write_text("{}")
    (tmp_path / "az").write_text("#!/bin/sh\n")
    (tmp_path / "az").chmod(0o755)
    found = azure_found(AZ, access_with({**account, "HOME": str(tmp_path), "PATH": str(tmp_path)}))
    assert found.config["use_azure_cli"] is True
    for environment, words in (({}, "which storage account"), ({"AZURE_STORAGE_CONNECTION_STRING": "x"}, "is not one")):
        with pytest.raises(UsageError, match=words):
            azure_found(AZ, access_with(environment))


@pytest.mark.parametrize("text", ["https://me:secret@host", "host:9000", "http://host/?sig=secret"])
def test_endpoints_that_are_none(text: str) -> None:
    for found, variable in ((aws_found, "AWS_ENDPOINT_URL_S3"), (gcs_found, "STORAGE_EMULATOR_HOST")):
        bucket = S3 if found is aws_found else GS
        if variable == "STORAGE_EMULATOR_HOST" and "://" not in text:
            continue
        with pytest.raises(UsageError, match="is not a URL") as caught:
            found(bucket, access_with({variable: text, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}))
        assert "secret" not in caught.value.told


def test_a_real_server_takes_them(s3_server: S3Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the process itself has in its environment does not count."""
    s3_server.bucket("data")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody-else",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_SESSION_TOKEN": "nothing",
        "AWS_REGION": "nowhere-1",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    (home / ".aws/credentials").write_text(f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    (home / ".aws/config").write_text("[profile work]\nregion = us-east-1\n")
    told = PlaceSettings(endpoint=s3_server.endpoint, profile="work")
    program = f"echo '{json.dumps({'Version': 1, 'AccessKeyId': KEY, 'SecretAccessKey': SECRET})}'"
    with (home / ".aws/config").open("a") as file:
        file.write(f'[profile program]\ncredential_process = sh -c "{program.replace(chr(34), chr(92) + chr(34))}"\n')
    for profile in ("work", "program"):
        told = PlaceSettings(endpoint=s3_server.endpoint, profile=profile)
        access = access_with({"HOME": str(home), "PATH": "/usr/bin:/bin"}, s3=told)
        with open_bucket(S3, access) as bucket:
            bucket.put("x", profile.encode())
            assert bucket.get("x", 100)[0] == profile.encode()


def write_until(bucket: BucketStore, enough: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not enough() and time.monotonic() < deadline:
        bucket.put("renewed", b"")
        time.sleep(0.2)


def test_keys_are_renewed_while_a_bucket_is_open(s3_server: S3Server, home: Path, tmp_path: Path) -> None:
    """And where that fails, the error says why, without what the program printed of its keys."""
    s3_server.bucket("data")
    answer, count = tmp_path / "answer", tmp_path / "count"
    (tmp_path / "give").write_text(f"#!/bin/sh\necho x >> {count}\nexec cat {answer}\n")
    (tmp_path / "give").chmod(0o755)
    soon = (datetime.now(timezone.utc) + timedelta(seconds=1)).isoformat()
    answer.write_text(json.dumps({"Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET, "Expiration": soon}))
    with (home / ".aws/config").open("a") as file:
        file.write(f"[profile p]\ncredential_process = {tmp_path}/give\n")
    told = PlaceSettings(endpoint=s3_server.endpoint, profile="p", region="us-east-1")
    access = access_with({"HOME": str(home), "PATH": "/usr/bin:/bin"}, s3=told)
    with open_bucket(S3, access) as bucket:
        write_until(bucket, lambda: len(count.read_text().split()) >= 3)
        assert len(count.read_text().split()) >= 3
        answer.write_text(json.dumps({"SecretAccessKey": SECRET}))
        with pytest.raises(DeniedError, match="not credentials") as caught:
            write_until(bucket, lambda: False)
        assert SECRET not in caught.value.told
