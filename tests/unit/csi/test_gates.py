"""What a volume's gate is told: secrets for the places of its commit, and no others."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from stratum.api.session import Session
from stratum.config import load_config
from stratum.csi.attributes import volume_attributes
from stratum.csi.driver import Driver, Options
from stratum.csi.gates import gate_options, origin_of
from stratum.csi.records import VolumeRecord
from stratum.csi.sources import Asker
from stratum.oci.target import parse_target
from tests.support.stores import commit, partial_commit

FILES = {b"one": b"1" * 1000, b"two": b"2" * 1000}


class Caller:
    def is_active(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None


def secret(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def docker(*hosts: str) -> dict[str, str]:
    """A secret of type ``kubernetes.io/dockerconfigjson`` with a password for each host."""
    auths = {host: {"auth": secret(f"user:{host}")} for host in hosts}
    return {".dockerconfigjson": json.dumps({"auths": auths})}


def asker(secrets: dict[str, str], **more: Any) -> Asker:
    return Asker(Caller(), secrets, **more)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    config = load_config({}, store=str(tmp_path / "store"), runtime_dir=str(tmp_path / "run"))
    return Driver(Options("node", tmp_path / "kubelet", ca_file=Path("/ca.crt")), Session(config))


def test_a_commit_that_is_here_whole_has_no_gate(driver: Driver) -> None:
    here = commit(driver.session.store, FILES)
    assert gate_options(driver, here, asker(docker("reg.example")), "all", None) == {}


def test_secrets_go_to_the_places_of_the_commit(driver: Driver) -> None:
    far = partial_commit(driver.session.store, FILES, "reg.example/app")
    secrets = docker("reg.example", "other.example", "https://index.docker.io/v1/")
    options = gate_options(driver, far, asker(secrets), "none", None)
    assert json.loads(options.pop("credentials")) == {"reg.example/app": {"auth": secret("user:reg.example")}}
    assert options == {"prefetch": "none", "authorities": "/ca.crt"}
    assert "credentials" not in gate_options(driver, far, asker(docker("other.example")), None, None)


def test_a_password_without_a_host_is_for_where_the_volume_was_made_from(driver: Driver) -> None:
    far = partial_commit(driver.session.store, FILES, "reg.example/app")
    password = {"username": "user", "password": "secret"}
    assert "credentials" not in gate_options(driver, far, asker(password), None, None)
    origin = parse_target("mine.example/app:v1")
    options = gate_options(driver, far, asker(password), None, origin)
    assert json.loads(options["credentials"]) == {"mine.example/app": {"auth": secret("user:secret")}}
    options = gate_options(driver, far, asker(password), None, parse_target("reg.example/app:v1"))
    assert json.loads(options["credentials"]) == {"reg.example/app": {"auth": secret("user:secret")}}


def test_docker_hub_has_its_own_name_in_secrets(driver: Driver) -> None:
    far = partial_commit(driver.session.store, FILES, "docker.io/team/app")
    options = gate_options(driver, far, asker(docker("https://index.docker.io/v1/")), None, None)
    assert list(json.loads(options["credentials"])) == ["registry-1.docker.io/team/app"]


def test_what_a_pod_names_is_reached_with_its_own_secrets_alone(driver: Driver) -> None:
    far = partial_commit(driver.session.store, FILES)
    assert gate_options(driver, far, asker({}, isolated=True), None, None)["isolated"] == "true"
    assert "isolated" not in gate_options(driver, far, asker({}), None, None)


@pytest.mark.parametrize(
    ("origin", "place"),
    [
        ("source reg.example/app:v1", "reg.example/app"),
        ("snapshot reg.example/app:snap-0123", "reg.example/app"),
        ("snapshot app:snap", None),
        ("source app:v1", None),
        ("volume app+dev", None),
        ("nothing", None),
        ("source /no//place", None),
    ],
)
def test_where_a_volume_was_made_from(driver: Driver, origin: str, place: str | None) -> None:
    store = driver.session.store
    base = commit(store, FILES)
    store.tags.set("app", "v1", base, expected=None, why="test")
    store.worktrees.create("app", "vol", base, why="test")
    driver.volumes.put(VolumeRecord("vol", "vol", "app+vol", "app", base, 0, origin))
    found = origin_of(driver, "app+vol", volume_attributes({}))
    assert (found.place if found is not None else None) == place
    told = origin_of(driver, "app+vol", volume_attributes({"source": "said.example/x"}))
    assert told is not None
    assert told.place == "said.example/x"
