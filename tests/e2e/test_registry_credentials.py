"""Passwords and tokens: sent where they belong, and nowhere else."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from stratum.errors import DeniedError
from stratum.oci.access import Access, Credentials
from stratum.oci.credentials import find_credentials
from stratum.oci.target import parse_target
from stratum.store import Store
from tests.e2e.hostile_registry import ACCESS, Handler, HostileRegistry, make_certificate, refused
from tests.e2e.registry_artifacts import Artifact, make_artifact
from tests.support.command import Command
from tests.support.descriptors import Watch
from tests.support.pulling import pull


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def from_file(path: Path) -> Credentials:
    return partial(find_credentials, environment={"REGISTRY_AUTH_FILE": str(path), "HOME": str(path.parent)})


def password_for(host: str, tmp_path: Path) -> Access:
    file = tmp_path / "auth.json"
    secret = base64.b64encode(b"user:secret").decode()
    file.write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    return replace(ACCESS, credentials=from_file(file))


def asks_for_password(request: Handler, challenge: str) -> bool:
    if "Authorization" in request.headers:
        return False
    request.send(401, b"", {"WWW-Authenticate": challenge})
    return True


def test_basic_credentials_are_sent_when_asked_for(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    registry = HostileRegistry(artifact, lambda request: asks_for_password(request, 'Basic realm="registry"'))
    with registry:
        pull(store, parse_target(registry.target), password_for(registry.host, tmp_path))
    assert "Authorization" not in registry.seen[0][2]
    assert set(registry.authorizations()) == {"Basic " + base64.b64encode(b"user:secret").decode()}


def test_a_credential_helper_is_given_nothing_else(artifact: Artifact, cli: Command, tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    knows = tmp_path / "knows"
    knows.write_text('#!/bin/sh\ncat > /dev/null\necho \'{"Username": "user", "Secret": "secret"}\'\n')
    knows.chmod(0o755)
    watch.wrap(knows, "docker-credential-watched")
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "watched"}))
    environment = {"PATH": watch.path, "DOCKER_CONFIG": str(tmp_path), "REGISTRY_AUTH_FILE": ""}
    with HostileRegistry(artifact, lambda request: asks_for_password(request, 'Basic realm="registry"')) as registry:
        cli.ok("pull", registry.target, "app:pulled", env=environment)
    assert set(registry.authorizations()) == {"Basic " + base64.b64encode(b"user:secret").decode()}
    assert watch.started
    for helper in watch.started:
        helper.check(cli.store)


def test_no_password_at_hand(artifact: Artifact, store: Store) -> None:
    error = refused(store, HostileRegistry(artifact, lambda request: asks_for_password(request, 'Basic realm="x"')))
    assert "401" in error.message
    assert "stratum login" in error.hint


@pytest.mark.parametrize(("status", "challenge", "asked"), [(403, "Basic", 1), (401, "Digest", 1), (401, "Basic", 2)])
def test_a_refusal_is_asked_about_once(
    artifact: Artifact, store: Store, tmp_path: Path, status: int, challenge: str, asked: int
) -> None:
    registry = HostileRegistry(
        artifact, lambda request: not request.send(status, b"", {"WWW-Authenticate": f'{challenge} realm="x"'})
    )
    assert isinstance(refused(store, registry, password_for(registry.host, tmp_path)), DeniedError)
    assert len(registry.seen) == asked


def test_credentials_do_not_follow_a_redirect(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    with HostileRegistry(artifact) as elsewhere:

        def redirect(request: Handler) -> bool:
            if asks_for_password(request, 'Basic realm="registry"'):
                return True
            if "/blobs/" in request.path:
                request.send(307, b"", {"Location": f"http://{elsewhere.host}{request.path}"})
                return True
            return False

        with HostileRegistry(artifact, redirect) as registry:
            pull(store, parse_target(registry.target), password_for(registry.host, tmp_path))
    assert registry.authorizations()
    assert elsewhere.seen
    assert elsewhere.authorizations() == []


def test_a_redirect_loop(artifact: Artifact, store: Store) -> None:
    def loop(request: Handler) -> bool:
        request.send(302, b"", {"Location": request.path})
        return True

    assert "redirects more than" in refused(store, HostileRegistry(artifact, loop)).message


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://host/x", "http://user:pw@host/", "http://[::1", "//", 'http://a", "b/']
)
def test_a_redirect_to_nonsense(artifact: Artifact, store: Store, place: str) -> None:
    def redirect(request: Handler) -> bool:
        request.send(302, b"", {"Location": place})
        return True

    refused(store, HostileRegistry(artifact, redirect))


def token_server(request: Handler) -> bool:
    if request.path.startswith("/token"):
        request.send(200, b'{"token":"abc.def"}')
        return True
    return False


def test_a_token_from_the_registry_itself(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    def behaviour(request: Handler) -> bool:
        challenge = f'Bearer realm="http://{registry.host}/token",service="s",scope="repository:team/app:pull"'
        return token_server(request) or asks_for_password(request, challenge)

    registry = HostileRegistry(artifact, behaviour)
    with registry:
        pull(store, parse_target(registry.target), password_for(registry.host, tmp_path))
    tokens = [(path, headers) for _, path, headers in registry.seen if path.startswith("/token")]
    assert len(tokens) == 1
    assert tokens[0][0] == "/token?service=s&scope=repository%3Ateam%2Fapp%3Apull"
    assert tokens[0][1]["Authorization"].startswith("Basic ")
    assert registry.authorizations()[-1] == "Bearer abc.def"


def test_a_token_server_elsewhere_gets_no_password(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    with HostileRegistry(behaviour=token_server) as elsewhere:
        challenge = f'Bearer realm="http://{elsewhere.host}/token",service="s"'
        with HostileRegistry(artifact, lambda request: asks_for_password(request, challenge)) as registry:
            pull(store, parse_target(registry.target), password_for(registry.host, tmp_path))
    assert len(elsewhere.seen) == 1
    assert elsewhere.authorizations() == []


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"token":5}', b'{"token":"a\\r\\nX: y"}', b"x" * (2 << 20)])
def test_a_token_that_is_none(artifact: Artifact, store: Store, tmp_path: Path, answer: bytes) -> None:
    def behaviour(request: Handler) -> bool:
        if request.path.startswith("/token"):
            request.send(200, answer)
            return True
        return asks_for_password(request, f'Bearer realm="http://{registry.host}/token"')

    registry = HostileRegistry(artifact, behaviour)
    refused(store, registry, password_for(registry.host, tmp_path))


def test_tls_is_not_left_for_plain_http(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with HostileRegistry(artifact) as plain:

        def redirect(request: Handler) -> bool:
            request.send(307, b"", {"Location": f"http://{plain.host}{request.path}"})
            return True

        def challenge(request: Handler) -> bool:
            return asks_for_password(request, f'Bearer realm="http://{plain.host}/token"')

        for behaviour in (redirect, challenge):
            registry = HostileRegistry(artifact, behaviour, certificate)
            access = replace(password_for(registry.host, tmp_path), ca_file=certificate[0])
            assert "no TLS" in refused(store, registry, access).message
    assert plain.seen == []
    with HostileRegistry(artifact, certificate=certificate) as honest:
        pull(store, parse_target(honest.target), replace(ACCESS, ca_file=certificate[0]))


def identity_for(host: str, tmp_path: Path) -> Access:
    file = tmp_path / "auth.json"
    auth = base64.b64encode(b"user:").decode()
    file.write_text(json.dumps({"auths": {host: {"auth": auth, "identitytoken": "refresh+me"}}}))
    return replace(ACCESS, credentials=from_file(file))


def test_an_identity_token_is_traded_for_an_access_token(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    forms = []

    def behaviour(request: Handler) -> bool:
        if request.path == "/token" and request.command == "POST":
            forms.append(parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode()))
            request.send(200, b'{"access_token":"abc.def"}')
            return True
        challenge = f'Bearer realm="http://{registry.host}/token",service="s",scope="repository:team/app:pull"'
        return asks_for_password(request, challenge)

    registry = HostileRegistry(artifact, behaviour)
    with registry:
        pull(store, parse_target(registry.target), identity_for(registry.host, tmp_path))
    assert forms == [
        {
            "grant_type": ["refresh_token"],
            "refresh_token": ["refresh+me"],
            "client_id": ["stratum"],
            "service": ["s"],
            "scope": ["repository:team/app:pull"],
        }
    ]
    assert set(registry.authorizations()) == {"Bearer abc.def"}


def test_an_identity_token_goes_nowhere_else(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    with HostileRegistry(behaviour=token_server) as elsewhere:
        challenge = f'Bearer realm="http://{elsewhere.host}/token",service="s"'
        with HostileRegistry(artifact, lambda request: asks_for_password(request, challenge)) as registry:
            pull(store, parse_target(registry.target), identity_for(registry.host, tmp_path))
    assert [method for method, _, _ in elsewhere.seen] == ["GET"]
    assert elsewhere.authorizations() == []
    basic = HostileRegistry(artifact, lambda request: asks_for_password(request, 'Basic realm="registry"'))
    assert "401" in refused(Store.create(tmp_path / "other"), basic, identity_for(basic.host, tmp_path)).message
    assert basic.authorizations() == []
