"""Credentials: where they are found, how they are kept, and that they are tried first."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from stratum.errors import NotFoundError, StratumError, UsageError
from stratum.oci.access import Access
from stratum.oci.credentials import find_credentials
from stratum.oci.login import login, logout
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from tests.e2e.registry_artifacts import FILES, make_commit
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.capabilities import program
from tests.support.pulling import pull

SECRET = base64.b64encode(b"user:secret").decode()
OTHER = base64.b64encode(b"other:password").decode()


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
    }


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("path", "variables"),
    [
        ("run/containers/auth.json", {}),
        ("home/.config/containers/auth.json", {}),
        ("config/containers/auth.json", {"XDG_CONFIG_HOME": "config"}),
        ("home/.docker/config.json", {}),
        ("docker/config.json", {"DOCKER_CONFIG": "docker"}),
        ("anywhere.json", {"REGISTRY_AUTH_FILE": "anywhere.json"}),
    ],
)
def test_files(tmp_path: Path, path: str, variables: dict[str, str]) -> None:
    write(tmp_path / path, {"auths": {"h.x:5000": {"auth": SECRET}}})
    env = {**environment(tmp_path), **{name: str(tmp_path / value) for name, value in variables.items()}}
    assert find_credentials("h.x:5000", "a/b", env) == SECRET
    assert find_credentials("h.x", "a/b", env) is None


def test_the_most_specific_entry_wins(tmp_path: Path) -> None:
    auths = {"h.x": {"auth": OTHER}, "h.x/team": {"auth": SECRET}}
    write(tmp_path / "home/.config/containers/auth.json", {"auths": auths})
    env = environment(tmp_path)
    assert find_credentials("h.x", "team/app", env) == SECRET
    assert find_credentials("h.x", "teams/app", env) == OTHER


@pytest.mark.parametrize("config", [{"credHelpers": {"h.x": "test"}}, {"credsStore": "test", "auths": {"h.x": {}}}])
def test_credential_helpers(tmp_path: Path, config: object) -> None:
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(
        '#!/bin/sh\n[ "$1" = get ] && [ "$(cat)" = h.x ] && echo \'{"Username":"user","Secret":"secret"}\'\n'
    )
    write(tmp_path / "home/.docker/config.json", config)
    helper.chmod(0o755)
    assert find_credentials("h.x", "a", environment(tmp_path)) == SECRET
    assert find_credentials("other.x", "a", environment(tmp_path)) is None


@pytest.mark.parametrize("name", ["../evil", "missing", "a b", ""])
def test_helpers_that_cannot_be(tmp_path: Path, name: str) -> None:
    write(tmp_path / "home/.docker/config.json", {"credHelpers": {"h.x": name}})
    with pytest.raises(StratumError, match="credential helper"):
        find_credentials("h.x", "a", environment(tmp_path))


@pytest.mark.parametrize("text", ["", "{", '{"auths":{"h.x":{"auth":"!"}}}', "[" * 99999])
def test_damaged_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "home/.docker/config.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StratumError, match=r"config\.json"):
        find_credentials("h.x", "a", environment(tmp_path))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry that wants user:secret."""
    directory = tmp_path_factory.mktemp("login")
    htpasswd = directory / "htpasswd"
    htpasswd.write_text("user:$2b$05$MQF1YZuZ8sz7DQ2lYV4rKOIN.3NwVIrB6IjmTaxjoxgUe86qhfJZW\n")
    with registry_server(directory / "server", htpasswd=htpasswd) as running:
        yield running


@pytest.mark.registry
def test_login_push_pull_logout(server: RegistryServer, tmp_path: Path) -> None:
    env = environment(tmp_path)
    access = Access(credentials=partial(find_credentials, environment=env))
    path = login(server.host, "user", "secret", access, env)
    assert path == tmp_path / "home/.config/containers/auth.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = Store.create(tmp_path / "first"), Store.create(tmp_path / "second")
    commit = make_commit(first, FILES)
    target = parse_target(f"{server.host}/a/b")
    push(first, commit, target, access)
    assert pull(second, target, access).commit == commit
    assert logout(server.host, env) == [path]
    with pytest.raises(StratumError, match="401 Unauthorized"):
        pull(second, target, access)
    with pytest.raises(NotFoundError):
        logout(server.host, env)


@pytest.mark.registry
def test_a_wrong_password_is_not_kept(server: RegistryServer, tmp_path: Path) -> None:
    with pytest.raises(StratumError, match="does not let this user in: 401") as caught:
        login(server.host, "user", "wrong", Access(), environment(tmp_path))
    assert "wrong" not in caught.value.message
    assert not (tmp_path / "home").exists()


@pytest.mark.registry
def test_our_login_is_skopeos(server: RegistryServer, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    write(file, {"auths": {"other.x": {"auth": OTHER}}, "credHelpers": {"third.x": "some"}})
    env = {**environment(tmp_path), "REGISTRY_AUTH_FILE": str(file)}
    login(f"http://{server.host}", "user", "secret", Access(), env)
    kept = json.loads(file.read_text())
    assert kept["auths"] == {"other.x": {"auth": OTHER}, server.host: {"auth": SECRET}}
    assert kept["credHelpers"] == {"third.x": "some"}
    command = [program("skopeo"), "login", "--get-login", "--authfile", file, server.host]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"user\n"


@pytest.mark.parametrize(
    ("registry", "user", "password"),
    [
        ("h.x/path", "user", "secret"),
        ("oci:/x", "user", "secret"),
        ("ftp://h.x", "user", "secret"),
        ("nohost", "user", "secret"),
        ("h.x", "", "secret"),
        ("h.x", "a:b", "secret"),
        ("h.x", "user", ""),
        ("h.x", "us\ner", "secret"),
    ],
)
def test_logins_that_cannot_be(tmp_path: Path, registry: str, user: str, password: str) -> None:
    with pytest.raises(UsageError):
        login(registry, user, password, Access(), environment(tmp_path))


def test_credentials_of_docker_hub(tmp_path: Path) -> None:
    write(tmp_path / "home/.docker/config.json", {"auths": {"https://index.docker.io/v1/": {"auth": SECRET}}})
    assert find_credentials("registry-1.docker.io", "a/b", environment(tmp_path)) == SECRET


def test_nothing_secret_is_shown() -> None:
    credentials = partial(find_credentials, environment={"PASSWORD": "secret"})
    access = Access(credentials, proxies={"http_proxy": "http://user:secret@proxy"})
    assert "secret" not in repr(access)
