"""Listing what a repository or an OCI image layout holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.errors import DamagedError, DeniedError, NotFoundError, StratumError, UnsupportedError
from stratum.oci.access import Access
from stratum.oci.catalog import list_repositories
from stratum.oci.target import parse_target, registry_alone
from stratum.store import Store
from stratum.transfer.listing import list_remote
from stratum.transfer.push import push
from tests.e2e.hostile_registry import Handler, HostileRegistry
from tests.e2e.registry_artifacts import FILES, make_commit
from tests.e2e.registry_server import registry_server


@pytest.mark.registry
def test_tags_of_a_repository(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    commits = {tag: make_commit(store, {**FILES, "which": tag.encode()}) for tag in ("v1", "v2", "v10")}
    with registry_server(tmp_path / "server") as server:
        pushed = {
            tag: push(store, commit, parse_target(f"{server.host}/a/b:{tag}"), Access())
            for tag, commit in commits.items()
        }
        listed = list_remote(parse_target(f"{server.host}/a/b"), Access())
        with pytest.raises(NotFoundError, match="/a/c does not exist"):
            list_remote(parse_target(f"{server.host}/a/c"), Access())
        push(store, commits["v1"], parse_target(f"{server.host}/other:v1"), Access())
        assert list_repositories(parse_target(f"{server.host}/any"), Access()) == ["a/b", "other"]
    assert {each.tag: each.commit for each in listed} == commits
    assert {each.tag: each.manifest_digest for each in listed} == {tag: p.manifest_digest for tag, p in pushed.items()}
    assert {each.created for each in listed} == {"2024-05-06T07:08:09Z"}
    assert {each.tag: each.size for each in listed}["v1"] == pushed["v1"].bytes_sent


def test_tags_of_a_layout(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    commit = make_commit(store, FILES)
    push(store, commit, parse_target(f"oci:{tmp_path}/layout:v1"), Access())
    (listed,) = list_remote(parse_target(f"oci:{tmp_path}/layout"), Access())
    assert (listed.tag, listed.commit) == ("v1", commit)


def test_tags_that_name_something_else() -> None:
    def behaviour(request: Handler) -> bool:
        if request.path.endswith("/tags/list"):
            request.send(200, b'{"tags":["gone","image","junk"]}')
        elif request.path.endswith("/image"):
            request.send(200, b'{"schemaVersion":2}')
        elif request.path.endswith("/junk"):
            request.send(200, b"junk")
        else:
            return False
        return True

    with HostileRegistry(behaviour=behaviour) as registry:
        listed = list_remote(parse_target(registry.target), Access())
    assert [(each.tag, each.commit) for each in listed] == [("gone", None), ("image", None), ("junk", None)]
    assert "404" in (listed[0].problem or "")
    assert "is an image" in (listed[1].problem or "")
    assert "not JSON" in (listed[2].problem or "")


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"tags":5}', b'{"tags":[5]}', b'{"tags":["../x"]}', b"[" * 99999])
def test_tag_lists_that_are_none(answer: bytes) -> None:
    def behaviour(request: Handler) -> bool:
        request.send(200, answer)
        return True

    with HostileRegistry(behaviour=behaviour) as registry, pytest.raises(StratumError):
        list_remote(parse_target(registry.target), Access())


@pytest.mark.parametrize("following", ["", "http://127.0.0.1:1/v2/team/app/tags/list?last=v1", "file:///etc/passwd"])
def test_a_tag_list_that_goes_on_forever(following: str) -> None:
    def behaviour(request: Handler) -> bool:
        place = following or request.path
        request.send(200, b'{"tags":["v1"]}', {"Link": f'<{place}>; rel="next"'})
        return True

    with HostileRegistry(behaviour=behaviour) as registry, pytest.raises(StratumError):
        list_remote(parse_target(registry.target), Access())


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b"", UnsupportedError),
        (403, b"", DeniedError),
        (200, b'{"repositories":["a b"]}', DamagedError),
        (200, b"[]", DamagedError),
        (200, b"[" * 100_000, DamagedError),
    ],
)
def test_a_registry_that_does_not_tell(status: int, body: bytes, error: type[StratumError]) -> None:
    def behaviour(request: Handler) -> bool:
        if not request.path.startswith("/v2/_catalog?"):
            return False
        request.send(status, body)
        return True

    with HostileRegistry(behaviour=behaviour) as registry, pytest.raises(error):
        list_repositories(parse_target(registry.target), Access())


@pytest.mark.parametrize(
    ("text", "default", "registry"),
    [
        ("registry.example.com", None, "registry.example.com"),
        ("registry.example.com/", "other.example", "registry.example.com"),
        ("http://[::1]:5000/", None, "http://[::1]:5000"),
        ("localhost:5000", None, "localhost:5000"),
        ("localhost:5000", "other.example", None),
        ("db", None, None),
        ("db:v1", "other.example", None),
        ("registry.example.com/db", None, None),
        ("ftp://registry.example.com", None, None),
        ("oci:layout", None, None),
        ("", None, None),
        ("//", None, None),
    ],
)
def test_a_registry_and_no_repository(text: str, default: str | None, registry: str | None) -> None:
    assert registry_alone(text, default) == registry
