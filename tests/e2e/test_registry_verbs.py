"""``login``, ``logout`` and ``list --remote`` as users type them."""

from __future__ import annotations

import json
import os
import pty
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.command import SCRIPT, Command

pytestmark = pytest.mark.registry

PASSWORD = "secret"
HTPASSWD = "user:$2b$05$MQF1YZuZ8sz7DQ2lYV4rKOIN.3NwVIrB6IjmTaxjoxgUe86qhfJZW\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry that wants user:secret."""
    directory = tmp_path_factory.mktemp("verbs")
    (directory / "htpasswd").write_text(HTPASSWD)
    with registry_server(directory / "server", htpasswd=directory / "htpasswd") as running:
        yield running


@pytest.fixture
def at_home(cli: Command, tmp_path: Path) -> Command:
    """The command with a home of its own, so that no file of this machine's user counts."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        cli.environment.pop(name, None)
    cli.environment |= {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    return cli


def auth_file(tmp_path: Path) -> Path:
    return tmp_path / "home/.config/containers/auth.json"


def test_login_push_list_logout(at_home: Command, server: RegistryServer, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("content")
    commit = at_home.ok("import", "--bare", tmp_path / "source", "app")
    assert at_home("push", "app:latest", f"{server.host}/team/app:v1").code == 1
    said = at_home.json("login", server.host, "-u", "user", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert said == {"registry": server.host, "user": "user", "file": str(auth_file(tmp_path))}
    at_home.ok("push", "app:latest", f"{server.host}/team/app:v1")

    (tag,) = at_home.json("list", "--remote", f"{server.host}/team/app")
    assert (tag["tag"], tag["commit"], tag["problem"]) == ("v1", commit, None)
    fields = at_home.ok("list", "--remote", f"{server.host}/team/app").split("\t")
    assert fields[:3] == ["v1", commit[:12], tag["created"]]
    default = {"STRATUM_REGISTRY": f"{server.host}/team"}
    assert at_home.json("list", "--remote", "app", env=default) == [tag]
    assert at_home("list", "--remote", f"{server.host}/team/none").code == 3

    assert at_home.json("logout", env=default) == {"registry": server.host, "files": [str(auth_file(tmp_path))]}
    denied = at_home("--format", "json", "list", "--remote", f"{server.host}/team/app")
    assert (denied.code, json.loads(denied.stderr)["id"]) == (1, "denied")
    assert at_home("logout", server.host).code == 3


def test_a_wrong_password_is_not_kept_or_shown(at_home: Command, server: RegistryServer, tmp_path: Path) -> None:
    done = at_home("login", server.host, "-u", "user", "--password-stdin", stdin="hunter2")
    assert done.code == 1
    assert "does not let this user in" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert not auth_file(tmp_path).exists()


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (("-u", "user"), ""),
        (("--password-stdin",), PASSWORD),
        (("-u", "user", "--password", PASSWORD), ""),
        (("-u", "user", "--password-stdin"), ""),
        (("-u", "user", "--password-stdin"), "x" * 70_000),
        (("-u", "user", "--password-stdin"), "\udcff"),
        (("-u", "us:er", "--password-stdin"), PASSWORD),
    ],
)
def test_logins_that_cannot_be(
    at_home: Command, server: RegistryServer, arguments: tuple[str, ...], stdin: str
) -> None:
    done = at_home("login", server.host, *arguments, stdin=stdin)
    assert done.code == 2
    assert len(done.stderr) < 1000


def test_a_login_without_a_registry(at_home: Command) -> None:
    done = at_home("login", "-u", "user", "--password-stdin", stdin=PASSWORD)
    assert (done.code, done.stdout) == (2, "")


def test_login_on_a_terminal_asks_and_does_not_echo(at_home: Command, server: RegistryServer, tmp_path: Path) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.execve(SCRIPT, ["stratum", "login", server.host], at_home.environment)
    try:
        said = read_until(terminal, f"User name for {server.host}: ".encode())
        os.write(terminal, b"user\n")
        said += read_until(terminal, f"Password of user for {server.host}: ".encode())
        os.write(terminal, PASSWORD.encode() + b"\n")
        said += read_until(terminal, b"logged in")
        with suppress(OSError):  # which is how a terminal ends that nobody has open any more
            while os.read(terminal, 1000):
                pass
    finally:
        os.close(terminal)
        status = os.waitpid(process, 0)[1]
    assert PASSWORD.encode() not in said
    assert os.waitstatus_to_exitcode(status) == 0
    assert server.host in json.loads(auth_file(tmp_path).read_text())["auths"]


def read_until(terminal: int, text: bytes) -> bytes:
    """What the program says up to ``text``."""
    said = b""
    while text not in said:
        assert select.select([terminal], [], [], 30)[0], f"it says nothing more after {said!r}"
        said += os.read(terminal, 1000)
    return said
