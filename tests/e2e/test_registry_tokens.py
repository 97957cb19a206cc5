"""To whom passwords and tokens go when a registry says who gives tokens out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from stratum.errors import DeniedError
from stratum.oci.access import Access
from stratum.oci.credentials import find_credentials
from stratum.oci.login import login
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from tests.e2e.hostile_registry import ACCESS, Handler, HostileRegistry, refused
from tests.e2e.registry_artifacts import Artifact, make_artifact, make_commit
from tests.e2e.registry_server import registry_server
from tests.e2e.token_server import TokenServer
from tests.support.command import Command
from tests.support.pulling import pull

PASSWORD = "Basic " + base64.b64encode(b"user:secret").decode()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def give_token(request: Handler) -> bool:
    if request.path.startswith("/token"):
        request.rfile.read(int(request.headers.get("Content-Length", 0)))
        request.send(200, b'{"token":"abc.def"}')
        return True
    return False


@pytest.fixture
def victim() -> Iterator[HostileRegistry]:
    """A token server that gives whoever asks a token."""
    with HostileRegistry(behaviour=give_token) as running:
        yield running


def thief(artifact: Artifact, victim: HostileRegistry) -> HostileRegistry:
    """A registry that wants a token of the victim's, for a repository there."""
    wanted = f'realm="http://{victim.host}/token",service="victim",scope="repository:victim/private:pull,push,delete"'

    def behaviour(request: Handler) -> bool:
        if "Authorization" in request.headers:
            return False
        request.send(401, b"", {"WWW-Authenticate": f"Bearer {wanted}"})
        return True

    return HostileRegistry(artifact, behaviour)


def configured(tmp_path: Path, config: object, **environment: str) -> Access:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps(config))
    names = {"REGISTRY_AUTH_FILE": str(file), "HOME": str(tmp_path), **environment}
    return replace(ACCESS, credentials=partial(find_credentials, environment=names))


def helper(tmp_path: Path) -> dict[str, str]:
    """The environment with a credential helper that knows every host, and writes down which it was asked for."""
    program = tmp_path / "bin/docker-credential-all"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n(cat; echo) >> {tmp_path}/asked\necho \'{{"Username":"user","Secret":"secret"}}\'\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin"}


@pytest.mark.parametrize("kind", ["password", "identity", "credHelpers", "credsStore"])
def test_another_hosts_credentials_are_not_used_for_a_registry_that_names_it(
    artifact: Artifact, store: Store, victim: HostileRegistry, tmp_path: Path, kind: str
) -> None:
    password = base64.b64encode(b"user:secret").decode()
    config: dict[str, object] = {
        "password": {"auths": {victim.host: {"auth": password}}},
        "identity": {"auths": {victim.host: {"auth": password, "identitytoken": "refresh"}}},
        "credHelpers": {"credHelpers": {victim.host: "all"}},
        "credsStore": {"credsStore": "all"},
    }[kind]
    access = configured(tmp_path, config, **helper(tmp_path))
    with thief(artifact, victim) as registry:
        pull(store, parse_target(registry.target), access)
    assert [method for method, _, _ in victim.seen] == ["GET"]
    assert victim.authorizations() == []
    asked = parse_qs(urlsplit(victim.seen[0][1]).query)
    assert asked == {"service": ["victim"], "scope": ["repository:team/app:pull"]}
    helped = tmp_path / "asked"
    assert victim.host not in (helped.read_text() if helped.exists() else "")


def test_a_registrys_own_password_goes_to_no_other_token_server(
    artifact: Artifact, store: Store, victim: HostileRegistry, tmp_path: Path
) -> None:
    with thief(artifact, victim) as registry:
        pull(store, parse_target(registry.target), configured(tmp_path, auths(registry.host)))
    assert victim.authorizations() == []


def auths(host: str) -> dict[str, object]:
    return {"auths": {host: {"auth": base64.b64encode(b"user:secret").decode()}}}


def test_a_token_server_that_the_settings_name_gets_the_registrys_password(
    artifact: Artifact, store: Store, victim: HostileRegistry, tmp_path: Path
) -> None:
    with thief(artifact, victim) as registry:
        access = configured(tmp_path, auths(registry.host))
        paired = replace(access, token_realms={registry.host: f"http://{victim.host}/any/path"})
        pull(store, parse_target(registry.target), paired)
    assert set(victim.authorizations()) == {PASSWORD}
    assert registry.authorizations()
    assert PASSWORD not in registry.authorizations()


def test_the_setting_is_read_and_named_where_it_is_missing(artifact: Artifact, cli: Command, tmp_path: Path) -> None:
    def strict(request: Handler) -> bool:
        if request.headers.get("Authorization") != PASSWORD:
            request.send(403, b'{"errors":[{"code":"DENIED","message":"who are you"}]}')
            return True
        return give_token(request)

    (tmp_path / "auth.json").write_text("{}")
    with HostileRegistry(behaviour=strict) as tokens, thief(artifact, tokens) as registry:
        (tmp_path / "auth.json").write_text(json.dumps(auths(registry.host)))
        environment = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
        code, _, err = cli("pull", registry.target, "app:x", env=environment)
        assert code == 1
        assert f'token_realms = {{ "{registry.host}" = "http://{tokens.host}" }}' in err
        environment["STRATUM_TOKEN_REALMS"] = f"{registry.host}=http://{tokens.host}"
        cli.ok("pull", registry.target, "app:x", env=environment)


@pytest.mark.parametrize("realm", ["http://a', b = 'c/", "http://a b/", "http://a\x1b[31m/", "http://u@a/", "a", ""])
def test_a_realm_that_is_no_url_gets_into_no_hint(artifact: Artifact, store: Store, realm: str) -> None:
    registry = HostileRegistry(
        artifact, lambda request: not request.send(401, b"", {"WWW-Authenticate": f'Bearer realm="{realm}"'})
    )
    error = refused(store, registry)
    assert "cannot be used" in error.message
    assert "\x1b" not in error.message
    assert "token_realms" not in error.hint


def test_a_login_that_was_not_tried_is_not_kept(artifact: Artifact, victim: HostileRegistry, tmp_path: Path) -> None:
    access = configured(tmp_path, {})
    with thief(artifact, victim) as registry:
        registry.behaviour = lambda request, thief=registry.behaviour: (
            thief(request) or (request.path == "/v2/" and not request.send(200, b"{}"))
        )
        files = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"), "HOME": str(tmp_path)}
        with pytest.raises(DeniedError, match="was not told the password") as caught:
            login(registry.host, "user", "secret", access, files)
        assert "token_realms" in caught.value.hint
        assert registry.host not in (tmp_path / "auth.json").read_text()
        paired = replace(access, token_realms={registry.host: f"http://{victim.host}"})
        login(registry.host, "user", "secret", paired, files)
        assert registry.host in (tmp_path / "auth.json").read_text()
    assert victim.authorizations() == [PASSWORD]


def test_a_challenge_of_whoever_is_redirected_to_is_not_answered(
    artifact: Artifact, store: Store, tmp_path: Path
) -> None:
    def wants(request: Handler) -> bool:
        request.send(401, b"", {"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token"'})
        return True

    def redirect(request: Handler) -> bool:
        if "/blobs/" in request.path:
            request.send(307, b"", {"Location": f"http://{elsewhere.host}{request.path}"})
            return True
        return give_token(request)

    with HostileRegistry(behaviour=wants) as elsewhere:
        registry = HostileRegistry(artifact, redirect)
        error = refused(store, registry, configured(tmp_path, auths(registry.host)))
    assert isinstance(error, DeniedError)
    assert not [path for _, path, _ in registry.seen if path.startswith("/token")]


@pytest.mark.registry
def test_a_real_registry_with_tokens(tmp_path: Path) -> None:
    """Every request to it gets a token for this repository and this verb, and a mount one that reads the other."""
    origin, store = Store.create(tmp_path / "origin"), Store.create(tmp_path / "store")
    with (
        TokenServer(tmp_path / "tokens", "user", "secret") as tokens,
        registry_server(tmp_path / "registry", tokens=tokens) as registry,
    ):
        access = replace(configured(tmp_path, auths(registry.host)), patience=30, min_rate=1000)
        paired = replace(access, token_realms={registry.host: tokens.url})
        staging, production = (parse_target(f"{registry.host}/team/{name}") for name in ("staging", "production"))
        commit = make_commit(origin, {"file": bytes(range(256)) * 1000, "other": b"x" * 10_000})
        with pytest.raises(DeniedError) as caught:
            push(origin, commit, staging, access)
        assert "token_realms" in caught.value.hint
        push(origin, commit, staging, paired)
        assert pull(store, staging, paired).commit == commit
        assert push(store, commit, production, paired).bytes_sent < 3000
    assert {scopes for user, scopes in tokens.asked if user} == {
        ("repository:team/staging:pull",),
        ("repository:team/staging:pull,push",),
        ("repository:team/production:pull",),
        ("repository:team/production:pull,push",),
        ("repository:team/production:pull,push", "repository:team/staging:pull"),
    }
